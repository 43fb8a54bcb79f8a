"""A program of test_gradients.py: in two processes, gradients of a batch against those of one.

Each process computes first, alone, the gradients of the whole batch of two images; then, wrapped
as `_base_/runtime/ddp.py` has it, those of its own image, which DDP averages. Prints a line of
JSON: for each case the largest difference, relative to each parameter's largest gradient.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from mmdet.models.dense_heads import rpn_head
from mmdet.models.losses import utils as losses
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from torch import distributed, nn

import swin_backbone  # noqa: F401

CONFIGS = Path(__file__).parents[2] / 'configs'
WRAPPER = Config.fromfile(CONFIGS / '_base_/runtime/ddp.py').model_wrapper_cfg


def nms_of_any_type(boxes, scores, *rest):
    """mmcv's NMS, which on CPUs takes float32 alone; it chooses boxes, and makes none."""
    _, kept = batched_nms(boxes.float(), scores.float(), *rest)
    return torch.cat([boxes[kept], scores[kept, None]], 1), kept


class NoEpsilon:
    """In place of ``torch`` where mmdet adds float32's epsilon to the numbers of boxes.

    Of twice as many boxes it is half as much: a relative difference of 4e-9, and of nothing else.
    """

    float32 = torch.float32

    @staticmethod
    def finfo(dtype):
        return SimpleNamespace(eps=0.0)


batched_nms, rpn_head.batched_nms = rpn_head.batched_nms, nms_of_any_type


@TASK_UTILS.register_module()
class EvenSampler(RandomSampler):
    """Takes boxes at even distances, not random ones, which two processes would draw otherwise."""

    def random_choice(self, gallery, num):
        return gallery[:: len(gallery) // num][:num]


def mask_rcnn(**backbone) -> nn.Module:
    """The demo detector, sampling as many boxes of every image, as it does on large data.

    Mask R-CNN's losses are means over a process's sampled boxes: with other numbers of them, the
    mean over processes is not the mean over all boxes, whoever computes it.
    """
    cfg = Config.fromfile(CONFIGS / 'demo_mask_rcnn_shapes.py').model
    cfg.backbone.update(backbone)
    for stage, num in ((cfg.train_cfg.rpn, 64), (cfg.train_cfg.rcnn, 16)):
        stage.sampler.update(type='EvenSampler', num=num, pos_fraction=1 / num)
    return MODELS.build(cfg)


def atss(**backbone) -> nn.Module:
    """ATSS, which divides its losses by numbers that all processes agree on."""
    cfg = Config.fromfile(CONFIGS / 'atss_swin_t_coco.py').model
    cfg.backbone.update(init_cfg=None, drop_path_rate=0.0, **backbone)
    return MODELS.build(cfg)


CASES = {
    'as it is': (mask_rcnn, {}),
    'frozen stages': (mask_rcnn, dict(frozen_stages=1)),
    'recomputed blocks': (mask_rcnn, dict(with_cp=True)),
    'recomputed stages': (mask_rcnn, dict(with_cp='stage')),
    'drop path': (mask_rcnn, dict(drop_path_rate=0.2)),
}
# Its targets are of float32 whatever the model is of.
FLOAT32_CASES = {'ATSS, other numbers of boxes': (atss, {})}


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group('gloo')
    init_default_scope('mmdet')
    with mock.patch.object(losses, 'torch', NoEpsilon):
        result = {name: error(*case, torch.float64) for name, case in CASES.items()}
    few = {'as it is': CASES['as it is'], **FLOAT32_CASES}
    result |= {f'{name}, float32': error(*case, torch.float32) for name, case in few.items()}
    if distributed.get_rank() == 0:
        print(json.dumps(result))
    distributed.destroy_process_group()


def error(build: Callable, backbone: dict, dtype: torch.dtype) -> float:
    """The largest difference of any gradient, relative to that parameter's largest."""
    torch.manual_seed(0)
    model = build(**backbone)
    model.init_weights()
    model.to(dtype)
    batch = inputs(model, dtype, [2, 2] if build is mask_rcnn else [1, 4])
    expected = alone(copy.deepcopy(model), batch, separately='drop_path_rate' in backbone)
    wrapped = MMDistributedDataParallel(training(model), **without_type(WRAPPER))
    rank = distributed.get_rank()
    for _ in range(2):  # an unused parameter would stop the second
        wrapped.zero_grad()
        torch.manual_seed(rank)
        own = dict(inputs=batch['inputs'][rank][None], data_samples=[batch['data_samples'][rank]])
        loss(wrapped, own).backward()
    found = {k: p.grad for k, p in wrapped.module.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys() and len(found) > 50
    assert sum(bool(gradient.any()) for gradient in expected.values()) > 50
    return max(
        float((found[k] - g).abs().max() / (g.abs().max() or 1)) for k, g in expected.items()
    )


def inputs(model: nn.Module, dtype: torch.dtype, boxes: list[int]) -> dict:
    """Two images, with these numbers of boxes."""
    torch.manual_seed(1)
    data = demo_mm_inputs(2, [(3, 64, 96)] * 2, num_items=boxes, num_classes=4, with_mask=True)
    data = model.data_preprocessor(data, training=True)
    data['inputs'] = data['inputs'].to(dtype)
    for sample in data['data_samples']:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.to(dtype)
    return data


def alone(model: nn.Module, batch: dict, separately: bool) -> dict:
    """Gradients of the batch in one process; or of each image by itself, seeded as its process is.

    Drop path draws for each image, and two processes cannot draw what one would.
    """
    training(model)
    if separately:
        for rank, sample in enumerate(batch['data_samples']):
            torch.manual_seed(rank)
            own = dict(inputs=batch['inputs'][rank][None], data_samples=[sample])
            (loss(model, own) / len(batch['data_samples'])).backward()
    else:
        loss(model, batch).backward()
    return {k: p.grad for k, p in model.named_parameters() if p.requires_grad}


def loss(model: nn.Module, batch: dict) -> torch.Tensor:
    inner = getattr(model, 'module', model)
    return inner.parse_losses(model(**copy.deepcopy(batch), mode='loss'))[0]


def training(model: nn.Module) -> nn.Module:
    """In training, with batch norm as it is: over a process's own images it is another function."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def without_type(cfg: dict) -> dict:
    assert cfg['type'] == 'MMDistributedDataParallel' and not cfg['find_unused_parameters']
    return {key: value for key, value in cfg.items() if key != 'type'}


if __name__ == '__main__':
    main()
