"""Learning rates, iteration by iteration, against the official recipes' formulas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS
from recipes import DETECTORS, HTC, RECIPES, SEGMENTORS, load

# Configs and models are kept for the process: one worker shall make them all.
pytestmark = pytest.mark.xdist_group('configs')

EPOCH = 600  # iterations; longer than the warm-up, and short for the test's sake


def learning_rates(config, iterations: int) -> Iterator[float]:
    """The rate of each iteration, as mmengine's loops and hook step the schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config.optim_wrapper.optimizer.lr)
    schedulers = [
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=optimizer))
        for scheduler in config.param_scheduler
    ]
    for iteration in range(1, iterations + 1):
        yield optimizer.param_groups[0]['lr']
        for scheduler in schedulers:
            if not scheduler.by_epoch or iteration % EPOCH == 0:
                scheduler.step()


def warm_up(iteration: int, length: int, start: float) -> float:
    return 1 - (1 - min(iteration / length, 1)) * (1 - start)


@pytest.mark.filterwarnings('ignore:Detected call of')
@pytest.mark.parametrize('name', ['mask_rcnn_swin_t_coco', 'cascade_swin_t_1x_coco', *HTC[1:]])
def test_detectors_rates(name):
    config = load(name)
    epochs, steps = (12, (8, 11)) if '1x' in name else (36, (27, 33))
    if name == 'htcpp_swin_l_coco':
        epochs, steps = 72, (63, 69)
    assert config.train_cfg.max_epochs == epochs
    for iteration, rate in enumerate(learning_rates(config, epochs * EPOCH)):
        passed = sum(iteration // EPOCH >= step for step in steps)
        wanted = 1e-4 * warm_up(iteration, 500, 0.001) * 0.1**passed
        # mmengine reaches the full rate one iteration sooner than the official code.
        assert rate == pytest.approx(wanted, rel=2.1e-3), iteration


@pytest.mark.filterwarnings('ignore:Detected call of')
def test_segmentors_rates():
    config = load('upernet_swin_t_ade20k')
    assert config.train_cfg.max_iters == 160_000
    assert config.train_cfg.type == 'IterBasedTrainLoop'
    for iteration, rate in enumerate(learning_rates(config, 160_000)):
        wanted = 6e-5 * (1 - iteration / 160_000) * warm_up(iteration, 1500, 1e-6)
        assert rate == pytest.approx(wanted, rel=1e-3, abs=1e-9), iteration


@pytest.mark.parametrize('name', RECIPES)
def test_schedule_and_batch_are_its_familys(name):
    config = load(name)
    family = 'upernet_swin_t_ade20k' if name in SEGMENTORS else 'mask_rcnn_swin_t_coco'
    if name in HTC and '3x' not in name:
        family = 'htcpp_swin_b_coco'
    if '1x' in name:
        family = 'cascade_swin_t_1x_coco'
    assert config.param_scheduler == load(family).param_scheduler
    assert config.train_cfg == load(family).train_cfg
    assert config.auto_scale_lr.base_batch_size == 8 * config.train_dataloader.batch_size == 16
    mixed = config.optim_wrapper.type == 'swin_backbone.engine.amp.amp_where_possible'
    assert mixed == (name in DETECTORS)
