"""Swin Transformer as mmpretrain means it: what ``type='SwinTransformer'`` is in its registry.

The same modules and the same weights. A classifier's defaults hold (the last stage's output alone,
and small maps by the rule for classification), the arguments are mmpretrain's, and so is what each
of them means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from .argument_values import flag, integer, rate, same, shown
from .backbone import Backbone
from .errors import ArgumentError
from .layers import build_norm
from .swin import SwinTransformer
from .swin_v2 import SwinTransformerV2
from .weights import translate_classifier

_LN = dict(type='LN')
# What mmpretrain's nested settings are here: the name of an argument, the settings one level
# further down, or, in a tuple, the values that change nothing.
_PATCH = dict(
    conv_type=('Conv2d',), norm_cfg=(_LN,), padding=('corner',), dilation=(1,), bias=(True,)
)
_SHARED = {name: name for name in ('window_size', 'with_cp', 'pad_small_map')}
_BLOCK = _SHARED | dict(
    ffn_ratio='mlp_ratio',
    norm_cfg=(_LN,),
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


class ClassificationBackbone(Backbone):
    """Gives a backbone mmpretrain's arguments, and what its classifiers ask of one; a mixin.

    Args:
        arch: As for the backbone.
        out_indices: Stages whose output is returned.
        drop_rate: Probability of dropping an element after the position embedding, and there only.
        frozen_stages: Freezes the patch embedding and the stages up to the one of this number,
            which begins at 0; -1 freezes nothing.
        norm_eval: Has no effect: it is about batch norm, and there is none.
        norm_cfg: Normalisation of the outputs, and of these alone; None for none.
        out_after_downsample: Must be False: outputs are those before the patch merging.
        interpolate_mode: Must be ``'bicubic'``: how position embeddings are resized.
        stage_cfgs: Settings of all stages, or a list of each one's, which have to be alike:
            ``window_size``, ``with_cp``, ``pad_small_map``, and under ``block_cfgs`` also
            ``ffn_ratio``, ``attn_cfgs`` and ``ffn_cfgs``.
        patch_cfg: Settings of the patch embedding; those that change nothing are taken.
        **arguments: As for the backbone, also as mmpretrain spells them (``img_size``).

    Raises:
        ArgumentError: As for the backbone; or a setting that has no counterpart here.
    """

    # A classifier's file has one norm, before the classifier: it is the last output's.
    takes_classifiers_norm: ClassVar[bool] = True

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
        frozen_stages = integer('frozen_stages', frozen_stages, -1)
        # Innermost settings go first in mmpretrain, too.
        arguments |= _translated(stage_cfgs, self._stage_settings(), 'stage_cfgs')
        arguments.setdefault('strides', _strides(arch, arguments))
        super().__init__(
            arch=arch,
            out_indices=out_indices,
            frozen_stages=frozen_stages + 1 if frozen_stages >= 0 else -1,
            **arguments,
        )
        self.drop_after_pos = nn.Dropout(drop_rate)
        if not same(norm_cfg, _LN):
            self._replace_output_norms(norm_cfg)
        self.arch_settings = dict(
            embed_dims=self.num_features[0],
            depths=[len(stage.blocks) for stage in self.stages],
            num_heads=list(self.num_heads),
        )

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """As the backbone's, but the maps are in a tuple, as in mmpretrain."""
        return tuple(super().forward(x))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """How deep a parameter lies, for mmpretrain's layer-wise decay of the learning rate.

        Args:
            param_name: Its name.
            prefix: What stands before the names of the backbone's parameters.

        Returns:
            Its depth and the number of depths: 0 for the patch embedding, then one for each block,
            a patch merging counting to the block before it, and the last for all that follows.
        """
        depths = self.arch_settings['depths']
        last = sum(depths) + 1
        parts = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix):
            return last, last + 1
        if parts[0] in ('patch_embed', 'absolute_pos_embed'):
            return 0, last + 1
        if parts[0] != 'stages':
            return last, last + 1
        stage = int(parts[1])
        before = sum(depths[:stage])
        if parts[2] == 'blocks':
            return before + int(parts[3]) + 1, last + 1
        return before + (0 if self.merging_opens_stage else depths[stage]), last + 1

    def _stage_settings(self) -> Mapping[str, Any]:
        """What is taken within ``stage_cfgs``."""
        return _STAGE

    def _replace_output_norms(self, norm_cfg: dict | None) -> None:
        for i in self.out_indices:
            absent = norm_cfg is None or same(norm_cfg, {})
            norm = None if absent else build_norm(norm_cfg, self.num_features[i])
            self.add_module(f'norm{i}', norm or nn.Identity())
        self._freeze_stages()

    def _checkpoint_filter(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """mmpretrain's classifiers call it before they load, with their own state dict."""
        translate_classifier(state_dict, prefix)


class ClassificationSwinTransformer(ClassificationBackbone, SwinTransformer):
    """:class:`SwinTransformer` with mmpretrain's arguments and defaults.

    A map that is no larger than the window is not shifted, and the window shrinks to it, unless
    ``pad_small_map=True``. All other arguments are those of the two base classes.
    """

    def __init__(self, arch: str | dict | None = None, **arguments: Any) -> None:
        super().__init__(arch, **{'pad_small_map': False, **arguments})


class ClassificationSwinTransformerV2(ClassificationBackbone, SwinTransformerV2):
    """:class:`SwinTransformerV2` with mmpretrain's arguments and defaults.

    Windows have a side of 8, for images of 256 × 256, unless said otherwise. All other arguments
    are those of the two base classes.
    """

    def __init__(self, arch: str | dict | None = None, **arguments: Any) -> None:
        if 'pretrain_img_size' not in arguments:
            arguments.setdefault('img_size', 256)
        super().__init__(arch, **{'window_size': 8, **arguments})

    def _stage_settings(self) -> Mapping[str, Any]:
        return _STAGE_V2


def _translated(settings: Any, table: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The arguments that nested settings amount to, by a table as above.

    Raises:
        ArgumentError: A setting that has no counterpart, or differs between stages or blocks.
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
    """The patch's side, then 2 for each later stage: mmpretrain has no argument for them."""
    depths = arch.get('depths') if isinstance(arch, Mapping) else arguments.get('depths')
    # What is no list is refused later on, by name.
    stages = len(depths) if isinstance(depths, list | tuple | range) else 4
    return (arguments.get('patch_size', 4), *[2] * (stages - 1))


def _is_other(value: Any, meaning: Any) -> bool:
    return isinstance(meaning, tuple) and not any(same(value, one) for one in meaning)


def _choices(table: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{name}={" or ".join(map(repr, meaning))}' if isinstance(meaning, tuple) else name
        for name, meaning in table.items()
    )
