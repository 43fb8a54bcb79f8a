"""Builds layers from configs; errors name the config."""

from __future__ import annotations

import math
from typing import Any

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks.drop import build_dropout as _build_dropout
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..argument_values import shown
from ..errors import ArgumentError

_OF_MAPS = (
    "normalises maps (B, C, H, W), but these are tokens (B, L, C); dict(type='LN') normalises those"
)


def build_norm(norm_cfg: Any, width: int, *, of_maps: bool = False) -> Any:
    """The normalisation layer of a config, for tokens (B, L, ``width``).

    Args:
        norm_cfg: The config.
        width: Channels of a token.
        of_maps: Whether a normalisation of maps, e.g. batch norm, may be built. It raises when it
            is called.

    Raises:
        ArgumentError: The type is unknown, does not accept the settings, or normalises maps.
    """
    try:
        norm = build_norm_layer(norm_cfg, width)[1]
    except Exception as error:  # whatever a registered class may raise
        raise ArgumentError(_cannot('norm_cfg', norm_cfg, "dict(type='LN')", error)) from error
    if isinstance(norm, _BatchNorm | nn.GroupNorm):
        if not of_maps:
            raise ArgumentError(f'norm_cfg={shown(norm_cfg)} {_OF_MAPS}')
        norm.register_forward_pre_hook(_refuse_tokens)
    if isinstance(norm, nn.LayerNorm) and not _is_small(norm.eps):
        raise ArgumentError(f'norm_cfg={shown(norm_cfg)}: eps must be a number from 0 on')
    return norm


def build_activation(act_cfg: Any) -> nn.Module:
    """The activation layer of a config.

    Raises:
        ArgumentError: The type is unknown or does not accept the settings.
    """
    try:
        activation = build_activation_layer(act_cfg)
    except Exception as error:  # whatever a registered class may raise
        raise ArgumentError(_cannot('act_cfg', act_cfg, "dict(type='GELU')", error)) from error
    if not isinstance(activation, nn.Module):
        raise ArgumentError(f'act_cfg={shown(act_cfg)} is not a module')
    return activation


def _refuse_tokens(norm: nn.Module, _: Any) -> None:
    raise ArgumentError(f'{type(norm).__name__} {_OF_MAPS}')


def _cannot(name: str, config: Any, example: str, error: Exception) -> str:
    cause = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f'{name}={shown(config)} cannot be built, as {example} can: {cause}'


def _is_small(eps: Any) -> bool:
    return isinstance(eps, int | float) and 0 <= eps < math.inf


def build_dropout(dropout_layer: Any) -> nn.Module:
    """The layer of a ``dropout_layer`` config, e.g. drop path; the identity if it is None.

    Raises:
        ArgumentError: The type is unknown or does not accept the settings.
    """
    if dropout_layer is None:
        return nn.Identity()
    try:
        return _build_dropout(dropout_layer)
    except Exception as error:  # whatever a registered class may raise
        example = "dict(type='DropPath', drop_prob=0.1)"
        raise ArgumentError(_cannot('dropout_layer', dropout_layer, example, error)) from error
