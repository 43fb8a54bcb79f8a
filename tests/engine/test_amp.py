"""Mixed precision where there is an accelerator, full precision elsewhere, from one config."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

import swin_backbone.engine.amp as module

CONFIG = dict(
    type='swin_backbone.engine.amp.amp_where_possible',
    optimizer=dict(type='AdamW', lr=0.1),
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=2,
)


def without_accelerator(monkeypatch) -> None:
    monkeypatch.setattr(module, 'get_device', lambda: 'cpu')


def test_full_precision_without_an_accelerator(monkeypatch):
    without_accelerator(monkeypatch)
    model = nn.Linear(2, 2)
    wrapper = build_optim_wrapper(model, dict(CONFIG, loss_scale=512.0, dtype='float16'))
    assert type(wrapper) is OptimWrapper
    assert wrapper.clip_grad_kwargs == dict(max_norm=1.0) and wrapper._accumulative_counts == 2
    with wrapper.optim_context(model):
        assert model(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize('device', ['mps', 'dipu', 'cpu'])
def test_devices_that_mmengines_amp_refuses(monkeypatch, device):
    monkeypatch.setattr(module, 'get_device', lambda: device)
    assert type(build_optim_wrapper(nn.Linear(2, 2), dict(CONFIG))) is OptimWrapper


@pytest.mark.parametrize('device', ['cuda', 'npu', 'mlu', 'musa'])
def test_mmengines_amp_with_an_accelerator(monkeypatch, device):
    asked = {}
    monkeypatch.setattr(module, 'get_device', lambda: device)
    monkeypatch.setattr(module, 'AmpOptimWrapper', lambda **kwargs: asked.update(kwargs))
    build_optim_wrapper(nn.Linear(2, 2), dict(CONFIG, dtype='bfloat16'))
    assert isinstance(asked.pop('optimizer'), torch.optim.AdamW)
    assert asked == dict(
        loss_scale=dict(enabled=False),
        dtype='bfloat16',
        use_fsdp=False,
        clip_grad=dict(max_norm=1.0),
        accumulative_counts=2,
    )


@pytest.mark.parametrize(
    'device, native, dtype',
    [('cuda', True, 'bfloat16'), ('cuda', False, 'float16'), ('npu', True, None)],
)
def test_bfloat16_wherever_the_device_has_it(monkeypatch, device, native, dtype):
    asked = {}
    monkeypatch.setattr(module, 'get_device', lambda: device)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: native)
    monkeypatch.setattr(module, 'AmpOptimWrapper', lambda **kwargs: asked.update(kwargs))
    build_optim_wrapper(nn.Linear(2, 2), dict(CONFIG))
    assert asked['dtype'] == dtype


def test_resumes_what_mixed_precision_saved(monkeypatch):
    without_accelerator(monkeypatch)
    first, second = (build_optim_wrapper(nn.Linear(2, 2), dict(CONFIG)) for _ in range(2))
    first.optimizer.param_groups[0]['lr'] = 0.025
    saved = dict(first.state_dict(), loss_scaler=torch.amp.GradScaler('cpu').state_dict())
    second.load_state_dict(saved)
    assert second.get_lr()['lr'] == [0.025]
    assert 'loss_scaler' not in second.state_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_trains_in_half_precision_on_cuda():
    model = nn.Linear(8, 8).cuda()
    wrapper = build_optim_wrapper(model, dict(CONFIG, accumulative_counts=1))
    before = model.weight.clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 8, device='cuda'))
    assert out.dtype == getattr(torch, module.best_dtype('cuda'))
    wrapper.update_params(out.float().square().mean())
    assert not torch.equal(model.weight, before)
