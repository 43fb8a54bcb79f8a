"""Multi-scale and flip testing of segmentors, ``mim test mmseg … --tta``: sizes and numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from little import LITTLE_SWIN, SIDE, WIDTHS, shrink_segmentor
from mmengine.dataset import Compose
from mmengine.registry import MODELS
from mmengine.runner import Runner
from recipes import RECIPES, SEGMENTORS, load, path
from torch.nn import functional as F

IMAGES = 2
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize('name', [*SEGMENTORS, 'demo_upernet_shapes'])
def test_sizes_are_ratios_of_the_test_size(name, tmp_path):
    """Of 512 or 640 pixels (the demo's 128), where mmseg's pipeline has ratios of the image's."""
    height, width = 300, 400
    image, labels = tmp_path / 'image.png', tmp_path / 'labels.png'
    cv2.imwrite(str(image), np.zeros((height, width, 3), dtype=np.uint8))
    left = np.zeros((height, width), dtype=np.uint8)
    left[:, :100] = 2
    cv2.imwrite(str(labels), left)
    config = load(name)
    assert config.tta_model.type == 'SegTTAModel'
    result = Compose(config.tta_pipeline)(
        dict(
            img_path=str(image),
            seg_map_path=str(labels),
            seg_fields=[],
            reduce_zero_label=False,
            label_map=None,
        )
    )
    shapes = [tuple(inputs.shape[1:]) for inputs in result['inputs']]
    if name in SEGMENTORS:
        sides = [int(RECIPES[name].size * ratio) for ratio in RATIOS]
        wanted = [(side, int(side * width / height + 0.5)) for side in sides]
    else:
        wanted = [(int(128 * ratio),) * 2 for ratio in RATIOS]
    assert shapes == [shape for shape in wanted for _ in range(2)]
    flips = [sample.metainfo['flip'] for sample in result['data_samples']]
    assert flips == [False, True] * len(RATIOS)
    for sample in result['data_samples']:  # labels are of the image as it lies
        assert torch.equal(sample.gt_sem_seg.data[0], torch.from_numpy(left).long())


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """A little segmentor's weights, large enough that sizes and flips change its mind."""
    config = load('upernet_swin_t_ade20k')
    shrink_segmentor(config)
    torch.manual_seed(1)
    model = MODELS.build(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3 if name.startswith('backbone') else 0.1)
    file = tmp_path_factory.mktemp('checkpoint') / 'segmentor.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), file)
    return file


def run_test(ade20k: Path, checkpoint: Path, folder: Path, augmented: dict | None) -> tuple:
    """The Runner after its test, built as mmseg's script builds it, and the metrics."""
    config = load('upernet_swin_t_ade20k')
    shrink_segmentor(config)
    config.merge_from_dict(dict(load_from=str(checkpoint), work_dir=str(folder), launcher='none'))
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_dataloader.dataset.update(data_root=str(ade20k), indices=IMAGES)
    if augmented is not None:
        config.test_dataloader.dataset.pipeline = augmented
        config.tta_model.module = config.model
        config.model = config.tta_model
    runner = Runner.from_cfg(config)
    return runner, runner.test()


def augmentation(*ratios: float, flips: tuple[float, ...]) -> list[dict]:
    """The config's pipeline with other ratios (of SIDE) and flips."""
    pipeline = deepcopy(load('upernet_swin_t_ade20k').tta_pipeline)
    transforms = pipeline[1].transforms
    transforms[0] = [
        dict(transforms[0][0], scale=(int(SIDE * ratio), int(SIDE * ratio))) for ratio in ratios
    ]
    transforms[1] = [dict(transforms[1][0], prob=prob) for prob in flips]
    return pipeline


def predicted(runner: Runner) -> list[torch.Tensor]:
    """The map of labels of each image."""
    batches = runner.test_loop.dataloader
    samples = [sample for data in batches for sample in runner.model.test_step(data)]
    assert len(samples) == IMAGES
    return [sample.pred_sem_seg.data.squeeze(0) for sample in samples]


def test_one_size_without_flip_is_the_plain_test(ade20k, checkpoint, tmp_path):
    plain, metrics = run_test(ade20k, checkpoint, tmp_path, None)
    augmented, same = run_test(ade20k, checkpoint, tmp_path, augmentation(1.0, flips=(0.0,)))
    assert metrics == same
    for ours, theirs in zip(predicted(plain), predicted(augmented), strict=True):
        assert torch.equal(ours, theirs)


def test_sizes_and_flips_are_averaged(ade20k, checkpoint, tmp_path):
    ratios = (0.5, 1.0)
    runner, metrics = run_test(
        ade20k, checkpoint, tmp_path, augmentation(*ratios, flips=(0.0, 1.0))
    )
    model, shape = runner.model.module, (SIDE, SIDE)
    assert 0 <= metrics['mIoU'] <= 100
    single_differs = False
    for i, found in enumerate(predicted(runner)):
        image = mmcv.imread(str(ade20k / f'images/validation/{i}.jpg'))
        chances = []
        for ratio in ratios:
            small = mmcv.imrescale(image, (int(SIDE * ratio), int(SIDE * ratio)))
            for flipped in (False, True):
                pixels = np.ascontiguousarray(small[:, ::-1] if flipped else small)
                chances.append(by_hand(model, pixels, flipped, shape))
        wanted = torch.stack(chances).mean(0)
        top, second = wanted.topk(2, dim=0).values
        certain = top - second > 1e-5
        assert certain.float().mean() > 0.9
        assert torch.equal(found[certain], wanted.argmax(0)[certain])
        single_differs |= not torch.equal(found, chances[2].argmax(0))
    assert single_differs  # or else the average says nothing


def by_hand(model, pixels: np.ndarray, flipped: bool, shape: tuple[int, int]) -> torch.Tensor:
    """The chances of each class (150, H, W) for an image (h, w, BGR)."""
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    inputs = (torch.from_numpy(pixels[..., ::-1].copy()).float() - mean) / std
    with torch.no_grad():
        features = model.backbone(inputs.permute(2, 0, 1)[None])
        logits = model.decode_head(features)
    for size in (pixels.shape[:2], shape):
        logits = F.interpolate(logits, size=size, mode='bilinear', align_corners=False)
    return (logits.flip(3) if flipped else logits)[0].softmax(0)


@pytest.mark.slow
def test_command(ade20k, checkpoint, tmp_path):
    """mim's own command, from one of our configs."""
    file = tmp_path / 'little.py'
    file.write_text(
        f'_base_ = {str(path("upernet_swin_t_ade20k"))!r}\n'
        f'model = dict(backbone=dict({", ".join(f"{k}={v}" for k, v in LITTLE_SWIN.items())}, '
        f'init_cfg=None), decode_head=dict(in_channels={WIDTHS}, channels=16), '
        f'auxiliary_head=dict(in_channels={WIDTHS[2]}, channels=16))\n'
        'test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(indices=1))\n'
    )
    mim = Path(sys.executable).with_name('mim')
    words = ['test', 'mmseg', file, '--checkpoint', checkpoint, '--work-dir', 'work', '--tta']
    done = subprocess.run(
        [mim, *words],
        cwd=tmp_path,
        env=dict(os.environ, ADE20K_ROOT=str(ade20k), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=600,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    assert 0 <= float(re.findall(r'\bmIoU: ([\d.]+)', output)[-1]) <= 100
