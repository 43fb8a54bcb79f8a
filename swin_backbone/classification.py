"""Swin Transformer with mmpretrain's arguments, registered as ``SwinTransformer`` there.

Modules and weights are the same. Defaults suit classifiers: only the last stage's output, and the
classification rule for small maps. Arguments have mmpretrain's meaning, including what they freeze
and how weights are initialized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .argument_values import flag, integer, rate, same, shown
from .arguments import by_position
from .errors import ArgumentError, ArgumentTypeError
from .layers import build_norm
from .layers.attention import ShiftedWindows
from .layers.numbering import layer_id
from .options import VARIANTS, VARIANTS_V2
from .swin import SwinTransformer
from .swin_v2 import SwinTransformerV2
from .weights import translate_classifier

_LN = dict(type='LN')
# The arguments in mmpretrain's order, for positional use.
ORDER = (
    *('arch', 'img_size', 'patch_size', 'in_channels', 'window_size', 'drop_rate'),
    *('drop_path_rate', 'out_indices', 'out_after_downsample', 'use_abs_pos_embed'),
    *('interpolate_mode', 'with_cp', 'frozen_stages', 'norm_eval', 'pad_small_map', 'norm_cfg'),
    *('stage_cfgs', 'patch_cfg', 'init_cfg'),
)
ORDER_V2 = (
    *(name for name in ORDER[:-1] if name != 'out_after_downsample'),
    *('pretrained_window_sizes', 'init_cfg'),
)
# Counterparts of mmpretrain's nested settings: the name of an argument, a table for the next level,
# or a tuple of the accepted values, which change nothing.
_PATCH = dict(
    conv_type=('Conv2d',), norm_cfg=(_LN,), padding=('corner',), dilation=(1,), bias=(True,)
)
_SHARED = {name: name for name in ('window_size', 'with_cp', 'pad_small_map')}
_BLOCK = _SHARED | dict(
    ffn_ratio='mlp_ratio',
    norm_cfg='block_norm_cfg',
    attn_cfgs=dict(qkv_bias='qkv_bias', qk_scale='qk_scale', attn_drop='attn_drop_rate'),
    ffn_cfgs=dict(act_cfg='act_cfg', num_fcs=(2,), ffn_drop=(0, 0.0), add_identity=(True,)),
)
_DOWNSAMPLE = dict(
    kernel_size=(2, (2, 2)),
    stride=(None, 2, (2, 2)),
    padding=('corner',),
    dilation=(1,),
    bias=(False,),
    norm_cfg=(_LN,),
)
_STAGE = _SHARED | dict(block_cfgs=_BLOCK, downsample_cfg=_DOWNSAMPLE)
_STAGE_V2 = _SHARED | dict(
    extra_norm_every_n_blocks='extra_norm_every_n_blocks',
    block_cfgs=_BLOCK | dict(attn_cfgs=dict(qkv_bias='qkv_bias', attn_drop='attn_drop_rate')),
    downsample_cfg=_DOWNSAMPLE | dict(use_post_norm=(True,)),
)


def _zoo(variants: Mapping[str, Mapping[str, Any]], **extra: Any) -> dict[str, dict[str, Any]]:
    """Variants in mmpretrain's form."""
    return {
        name: extra | {k: list(v) if isinstance(v, tuple) else v for k, v in variant.items()}
        for name, variant in variants.items()
    }


class ClassificationBackbone(SwinTransformer):
    """Mixin with mmpretrain's arguments and the attributes that its classifiers use.

    Args:
        arch: As in the backbone.
        out_indices: Stages whose output is returned.
        drop_rate: Probability of dropping an element after the position embedding only.
        frozen_stages: Freezes the patch embedding and the stages 0 to ``frozen_stages`` with the
            norms of their outputs; -1 freezes nothing. The absolute position embedding and the
            dropout after it are never frozen.
        norm_eval: Whether batch norms stay in evaluation mode.
        norm_cfg: Normalisation of the outputs only; None for none. Here and for blocks, a
            normalisation of maps, as batch norm, can be built, but raises when it is called.
        out_after_downsample: Must be False: outputs are those before the patch merging.
        interpolate_mode: Must be ``'bicubic'``: how position embeddings are resized.
        stage_cfgs: Settings of all stages, or a list with one per stage, which must be equal:
            ``window_size``, ``with_cp``, ``pad_small_map``, and under ``block_cfgs`` also
            ``ffn_ratio``, ``norm_cfg``, ``attn_cfgs`` and ``ffn_cfgs``.
        patch_cfg: Settings of the patch embedding; only the defaults are accepted.
        **arguments: As in the backbone, or in mmpretrain's spelling (``img_size``).

    Attributes:
        arch_zoo: The variants by name.
        arch_settings: This model's ``embed_dims``, ``depths`` and ``num_heads``, which are also
            attributes.
        num_layers: Number of stages.
        patch_resolution: (rows, columns) of the patches of an image of ``img_size``.
        num_extra_tokens: 0: all tokens are patches.

    Raises:
        ArgumentError: As in the backbone, or a setting without a counterpart here. In the forward
            pass, a map smaller than the window without ``pad_small_map``.
    """

    # A classifier's checkpoint has one norm, which becomes the last output's.
    takes_classifiers_norm: ClassVar[bool] = True
    arch_zoo: ClassVar[dict[str, dict[str, Any]]]
    num_extra_tokens: ClassVar[int] = 0
    norm_eval = False

    def __init__(
        self,
        arch: str | dict | None = None,
        *,
        out_indices: Sequence[int] = (3,),
        drop_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = _LN,
        out_after_downsample: bool = False,
        interpolate_mode: str = 'bicubic',
        stage_cfgs: dict | Sequence[dict] = {},
        patch_cfg: dict = {},
        **arguments: Any,
    ) -> None:
        _translated(patch_cfg, _PATCH, 'patch_cfg')
        if flag('out_after_downsample', out_after_downsample):
            raise ArgumentError(
                'out_after_downsample=True is not supported: outputs are those before the patch '
                'merging'
            )
        if not same(interpolate_mode, 'bicubic'):
            raise ArgumentError(f"interpolate_mode={shown(interpolate_mode)} must be 'bicubic'")
        drop_rate = rate('drop_rate', drop_rate)
        # Inner settings take precedence, as in mmpretrain.
        arguments |= _translated(stage_cfgs, self._stage_settings(), 'stage_cfgs')
        block_norm_cfg = arguments.pop('block_norm_cfg', _LN)
        arguments.setdefault('strides', _strides(arch, arguments))
        super().__init__(arch=arch, out_indices=out_indices, **arguments)
        self.drop_after_pos = nn.Dropout(drop_rate)
        self._set_position_grid(arguments.get('img_size', arguments.get('pretrain_img_size', 224)))
        for module in self.modules():
            if isinstance(module, ShiftedWindows):
                module.shrinks = False
        self._replace_norms(norm_cfg, block_norm_cfg)
        stages = len(self.stages)
        self.frozen_stages = integer('frozen_stages', frozen_stages, -1, stages - 1)
        self.norm_eval = flag('norm_eval', norm_eval)
        self._freeze_stages()

        self.interpolate_mode = interpolate_mode
        self.out_after_downsample = False
        self.embed_dims = self.num_features[0]
        self.depths = [len(stage.blocks) for stage in self.stages]
        self.num_heads = list(self.num_heads)
        self.num_layers = stages
        self.arch_settings: dict[str, Any] = dict(
            embed_dims=self.embed_dims, depths=self.depths, num_heads=self.num_heads
        )

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """As in the backbone, but returns a tuple, as in mmpretrain."""
        return tuple(super().forward(x))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for mmpretrain's layer-wise learning rate decay.

        Args:
            param_name: Name of the parameter.
            prefix: Prefix of the names of the backbone's parameters.

        Returns:
            The depth and the number of depths: 0 for the patch embedding, then one per block (a
            patch merging belongs to the block before it), and the last one for everything else.
        """
        last = sum(self.depths) + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix) or name.startswith('norm'):
            return last, last + 1
        return layer_id(name, self.depths, self.merging_opens_stage), last + 1

    def _stage_settings(self) -> Mapping[str, Any]:
        """Table of the settings accepted in ``stage_cfgs``."""
        return _STAGE

    def _set_position_grid(self, img_size: Any) -> None:
        """Sets the grid of whole patches; mmpretrain rounds the image size up."""
        size = tuple(img_size) if isinstance(img_size, list | tuple) else (img_size,)
        patch = self.patch_embed.patch_size
        rows, columns = -(-int(size[0]) // patch[0]), -(-int(size[-1]) // patch[1])
        self.patch_resolution = rows, columns
        if self.use_abs_pos_embed and self.patch_resolution != self.pretrain_grid:
            self.pretrain_grid = self.patch_resolution
            embedding = torch.zeros(1, rows * columns, self.num_features[0])
            self.absolute_pos_embed = nn.Parameter(embedding)

    def _replace_norms(self, norm_cfg: Any, block_norm_cfg: Any) -> None:
        """Replaces the norms of outputs and blocks that are not plain layer norms."""
        if not same(norm_cfg, _LN):
            for i in self.out_indices:
                absent = norm_cfg is None or same(norm_cfg, {})
                norm = None if absent else _norm(norm_cfg, self.num_features[i])
                self.add_module(f'norm{i}', norm or nn.Identity())
        if not same(block_norm_cfg, _LN):
            for stage, width in zip(self.stages, self.num_features, strict=True):
                for block in stage.blocks:
                    for name in ('norm1', 'norm2', 'norm3'):
                        if getattr(block, name, None) is not None:
                            block.add_module(name, _norm(block_norm_cfg, width))
            self._retire_unused()

    def _init_layer(self, module: nn.Module) -> None:
        """Does nothing: mmpretrain's classifiers initialize layers by their ``init_cfg``."""

    def _freeze_stages(self) -> None:
        frozen: list[nn.Module] = []
        if self.frozen_stages >= 0:
            frozen = [self.patch_embed, *self.stages[: self.frozen_stages + 1]]
        if self.global_attention is not None and self.frozen_stages == len(self.stages) - 1:
            frozen.append(self.global_attention)
        for module in frozen:
            module.eval().requires_grad_(False)
        for i in self.out_indices:
            if i <= self.frozen_stages:
                getattr(self, f'norm{i}').requires_grad_(False)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _checkpoint_filter(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Called by mmpretrain's classifiers before loading, with their own state dict."""
        translate_classifier(state_dict, prefix)


class ClassificationSwinTransformer(ClassificationBackbone, SwinTransformer):
    """:class:`SwinTransformer` with mmpretrain's arguments, order and defaults.

    Without ``pad_small_map``, a map of the window's size is not shifted and a smaller one is an
    error. The other arguments are those of the two base classes.
    """

    arch_zoo = _zoo(VARIANTS)

    def __init__(self, *positional: Any, **arguments: Any) -> None:
        given = _given(self, ORDER, positional, arguments)
        super().__init__(**{'pad_small_map': False, **given})


class ClassificationSwinTransformerV2(ClassificationBackbone, SwinTransformerV2):
    """:class:`SwinTransformerV2` with mmpretrain's arguments, order and defaults.

    The default window side is 8, for images of 256 × 256. Small maps are as in
    :class:`ClassificationSwinTransformer`. The other arguments are those of the two base classes.

    Attributes:
        window_sizes: The window's side in each stage.
        extra_norm_every_n_blocks: Which blocks have an extra norm; 0 for none.
    """

    arch_zoo = _zoo(VARIANTS_V2, extra_norm_every_n_blocks=0)

    def __init__(self, *positional: Any, **arguments: Any) -> None:
        given = _given(self, ORDER_V2, positional, arguments)
        if 'pretrain_img_size' not in given:
            given.setdefault('img_size', 256)
        super().__init__(**{'window_size': 8, **given})
        windows = self.window_size
        self.window_sizes = (
            list(windows) if isinstance(windows, list | tuple) else [windows] * self.num_layers
        )
        self.arch_settings['extra_norm_every_n_blocks'] = self.extra_norm_every_n_blocks

    def _stage_settings(self) -> Mapping[str, Any]:
        return _STAGE_V2


def _given(
    backbone: nn.Module, order: Sequence[str], values: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments by name, positional ones included."""
    owner = type(backbone).__name__
    found = by_position(owner, order, values)
    if twice := found.keys() & named.keys():
        raise ArgumentTypeError(
            f'{owner} got {", ".join(sorted(twice))} both by position and by name'
        )
    return found | dict(named)


def _norm(norm_cfg: Any, width: int) -> nn.Module:
    return build_norm(norm_cfg, width, of_maps=True)


def _translated(settings: Any, table: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Translates nested settings to arguments by a table as above.

    Raises:
        ArgumentError: A setting without a counterpart, or one that differs between stages or
            blocks.
    """
    if isinstance(settings, list | tuple):
        each = [_translated(one, table, f'{path}[{i}]') for i, one in enumerate(settings)]
        if not all(same(one, each[0]) for one in each):
            raise ArgumentError(f'{path}={shown(settings)}: here all stages and blocks are alike')
        return each[0] if each else {}
    if not isinstance(settings, Mapping):
        raise ArgumentError(f'{path}={shown(settings)} must be a dict, or a list of one a stage')
    found: dict[str, Any] = {}
    for name, value in settings.items():
        meaning = table.get(name)
        if meaning is None or _is_other(value, meaning):
            raise ArgumentError(
                f'{path}: {name}={shown(value)} has no counterpart here; it takes {_choices(table)}'
            )
        if isinstance(meaning, str):
            found[meaning] = value
        elif isinstance(meaning, Mapping):
            found |= _translated(value, meaning, f'{path}.{name}')
    return found


def _strides(arch: str | dict | None, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """The patch size, then 2 for each later stage; mmpretrain has no such argument."""
    depths = arch.get('depths') if isinstance(arch, Mapping) else arguments.get('depths')
    # An invalid value is refused later, by name.
    stages = len(depths) if isinstance(depths, list | tuple | range) else 4
    return (arguments.get('patch_size', 4), *[2] * (stages - 1))


def _is_other(value: Any, meaning: Any) -> bool:
    return isinstance(meaning, tuple) and not any(same(value, one) for one in meaning)


def _choices(table: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{name}={" or ".join(map(repr, meaning))}' if isinstance(meaning, tuple) else name
        for name, meaning in table.items()
    )
