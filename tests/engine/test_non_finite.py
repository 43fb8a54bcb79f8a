"""Where the first NaN or infinity of a run comes from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from torch import nn

from swin_backbone.engine.non_finite import NonFiniteError, NonFiniteHook, finite
from swin_backbone.engine.resume import ResumingRunner


class Bad(torch.autograd.Function):
    """The identity, with NaN in its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float('nan')


class Layer(nn.Linear):
    fault = None

    def forward(self, x):
        x = super().forward(x)
        if self.fault == 'forward':
            return x / 0.0
        return Bad.apply(x) if self.fault == 'backward' else x


class Chain(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(3, 3) for _ in range(3))
        self.times, self.faults = 0, {}

    def forward(self, inputs, mode='tensor'):
        self.times += 1
        self.layers[1].fault = self.faults.get(self.times)
        for layer in self.layers:
            inputs = layer(inputs)
        return dict(loss_a=inputs.square().mean(), loss_b=inputs.abs().mean())


class Points(torch.utils.data.Dataset):
    value = 1.0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.full((3,), self.value * (index + 1)))


def runner_in(folder: Path, **settings) -> ResumingRunner:
    return ResumingRunner(
        model=Chain(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=Points(),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        experiment_name=folder.name,
        randomness=dict(seed=0),
        log_level='WARNING',
        **settings,
    )


@pytest.mark.parametrize(
    'fault, words',
    [
        ('forward', ['in the forward pass', 'module layers.1 (Layer)', 'torch.float32']),
        ('backward', ['in the backward pass', 'gradient of parameter layers.1.']),
    ],
)
def test_the_layer_is_named_and_the_weights_are_untouched(tmp_path, fault, words):
    runner = runner_in(tmp_path)
    runner.model.faults = {2: fault, 3: fault}  # the second iteration, and its second run
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    message = str(caught.value)
    assert all(word in message for word in ['iteration 1, rank 0', *words]), message
    assert finite(list(runner.model.parameters()))


def test_bad_data_and_bad_weights_are_named(tmp_path):
    (tmp_path / 'a').mkdir()
    runner = runner_in(tmp_path / 'a')
    with torch.no_grad():
        runner.model.layers[2].weight[0, 0] = float('inf')
    with pytest.raises(NonFiniteError, match=r'parameter layers\.2\.weight is not finite already'):
        runner.train()
    runner = runner_in(tmp_path / 'b')
    runner._train_dataloader['dataset'].value = float('nan')
    with pytest.raises(NonFiniteError, match='the data, after preprocessing'):
        runner.train()


def test_can_be_left_out(tmp_path):
    runner = runner_in(tmp_path, default_hooks=dict(non_finite=None, throughput=None))
    runner.model.faults = {2: 'forward'}
    runner.train()
    assert not finite(list(runner.model.parameters()))
    assert not any(isinstance(hook, NonFiniteHook) for hook in runner.hooks)


def test_throughput_is_logged(tmp_path):
    runner = runner_in(tmp_path)
    runner.train()
    assert runner.message_hub.get_scalar('train/images_per_second').current() > 0


def with_scaler() -> SimpleNamespace:
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0)
    optim_wrapper = SimpleNamespace(loss_scaler=scaler)
    return SimpleNamespace(optim_wrapper=optim_wrapper, model=nn.Identity())


def test_steps_that_the_scaler_skips_are_no_error(monkeypatch):
    hook, runner = HOOKS.build(dict(type='NonFiniteHook', patience=3)), with_scaler()
    monkeypatch.setattr('swin_backbone.engine.non_finite.report', lambda *words: words[2])
    bad, good = dict(loss=torch.tensor(torch.inf)), dict(loss=torch.tensor(1.0))
    for outputs in (bad, bad, good, bad, bad):
        hook.after_train_iter(runner, 0, outputs=outputs)
    with pytest.raises(NonFiniteError, match='the loss is inf'):
        hook.after_train_iter(runner, 0, outputs=bad)


def test_a_skipped_step_never_reaches_the_check():
    """torch's scaler calls no optimizer whose gradients overflow."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    called = []
    optimizer.register_step_pre_hook(lambda *ignored: called.append(True))
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0)
    scaler.scale((parameter * torch.inf).sum()).backward()
    scaler.step(optimizer)
    assert not called and torch.equal(parameter, torch.ones(2))
