"""Layer-wise learning-rate decay for Swin: deeper layers have higher rates.

A config of any detector, segmentor or classifier selects it by its import path::

    optim_wrapper = dict(
        constructor='swin_backbone.engine.layer_decay.SwinLayerDecayConstructor',
        paramwise_cfg=dict(decay_rate=0.9),
    )
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..errors import ArgumentError
from ..layers.numbering import layer_id

# Position biases and scales, which have more than one dimension but get no weight decay.
# V2's follow the official code.
SPARED = ('absolute_pos_embed', 'relative_position_bias_table', 'logit_scale', 'cpb_mlp')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SwinLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Multiplies the rate of layer i by ``decay_rate ** (N + 1 - i)``, for a backbone of N blocks.

    N is counted in the model. Layers are numbered as in the official fine-tuning code: 0 for patch
    and position embedding, 1 to N for the blocks, N + 1 for neck and heads, whose rate is
    unchanged. A patch merging has the number of the block before it. The norm of an output, which
    ImageNet checkpoints lack, has one more than the last block of its stage.

    One-dimensional parameters of the whole model (norms and biases) and the backbone's position
    biases and logit scales get no weight decay.

    The other options of mmengine's ``DefaultOptimWrapperConstructor`` apply as well; multipliers of
    ``custom_keys`` and of the layer are multiplied. Frozen parameters are left out. Parameters with
    equal settings share a group.

    Args:
        optim_wrapper_cfg: The optimizer wrapper; its ``optimizer`` needs an ``lr``.
        paramwise_cfg: ``decay_rate`` in (0, 1]. ``decay_type='layer_wise'`` and ``num_layers``,
            which mmdet's and mmseg's constructors require, are allowed.

    Raises:
        ArgumentError: A value is invalid; when called, the model has no Swin backbone, or
            ``num_layers`` is not its number of blocks.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        options = dict(self.paramwise_cfg)
        rate = options.pop('decay_rate', None)
        self.num_layers = options.pop('num_layers', None)
        decay_type = options.pop('decay_type', 'layer_wise')
        if not isinstance(rate, Real) or not 0 < float(rate) <= 1:
            raise ArgumentError(
                f'paramwise_cfg: decay_rate={rate!r} must be a number above 0 and up to '
                '1: the factor from one block to the block before'
            )
        if decay_type != 'layer_wise':
            raise ArgumentError(f"paramwise_cfg: decay_type={decay_type!r} must be 'layer_wise'")
        if self.base_lr is None:
            raise ArgumentError("optim_wrapper: optimizer=dict(…) must have lr=…, the heads' rate")
        self.decay_rate = float(rate)
        # Assigns each parameter its settings without the layer's factor.
        self._layerless = DefaultOptimWrapperConstructor(optim_wrapper_cfg, options)

    def add_params(self, params: list[dict], module: nn.Module, **_: Any) -> None:
        """Appends the parameter groups of a model to ``params``.

        Raises:
            ArgumentError: The model has no Swin backbone, or ``num_layers`` is wrong.
        """
        scales = self._scales(module)
        spared = {id(p) for name, p in module.named_parameters() if p.ndim == 1}
        spared |= {id(p) for p in _spared(module)}
        single: list[dict] = []
        self._layerless.add_params(single, module)
        merged: list[dict] = []
        for group in single:
            parameter = id(group['params'][0])
            rate: Any = group.get('lr', self.base_lr)
            group['lr'] = rate * scales.get(parameter, 1.0)
            if parameter in spared:
                group['weight_decay'] = 0.0
            _merge(merged, group)
        rates = [group['lr'] for group in merged]
        print_log(
            f'Layer-wise decay {self.decay_rate}: {len(merged)} groups of parameters, learning '
            f'rates {min(rates):.3g} to {max(rates):.3g}',
            logger='current',
        )
        params.extend(merged)

    def _scales(self, model: nn.Module) -> dict[int, float]:
        """The factor of each parameter of the model's Swin backbones, by ``id``."""
        backbones = list(_backbones(model))
        if not backbones:
            raise ArgumentError(
                f'{type(model).__name__} has no Swin backbone (patch_embed, and stages of blocks): '
                'layer-wise decay needs one'
            )
        scales = {}
        for backbone in backbones:
            depths, opens = _depths(backbone), _opens_with_merging(backbone)
            if self.num_layers not in (None, sum(depths)):
                raise ArgumentError(
                    f'paramwise_cfg: num_layers={self.num_layers}, but the backbone has '
                    f'{sum(depths)} blocks; leave it out'
                )
            for name, parameter in backbone.named_parameters():
                exponent = sum(depths) + 1 - layer_id(name, depths, opens)
                scales[id(parameter)] = self.decay_rate**exponent
        return scales


def _backbones(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model that have Swin's submodules."""
    for module in model.modules():
        stages = getattr(module, 'stages', None)
        if (
            hasattr(module, 'patch_embed')
            and isinstance(stages, nn.ModuleList)
            and all(hasattr(stage, 'blocks') for stage in stages)
        ):
            yield module


def _depths(backbone: BaseModule) -> list[int]:
    """Blocks of each stage on which an output depends; other stages have no parameters."""
    return [
        len(stage.blocks)
        for stage in backbone.stages
        if next(stage.blocks.parameters(), None) is not None
    ]


def _opens_with_merging(backbone: BaseModule) -> bool:
    """Whether a patch merging belongs to the stage after it."""
    return getattr(backbone.stages[0], 'downsample', None) is None


def _spared(model: nn.Module) -> Iterator[nn.Parameter]:
    for backbone in _backbones(model):
        for name, parameter in backbone.named_parameters():
            if any(key in name for key in SPARED):
                yield parameter


def _merge(groups: list[dict], single: Mapping) -> None:
    """Adds a group's parameters to the group with the same settings, or the group itself."""
    settings = {key: value for key, value in single.items() if key != 'params'}
    for group in groups:
        if {key: value for key, value in group.items() if key != 'params'} == settings:
            group['params'].extend(single['params'])
            return
    groups.append(dict(single))
