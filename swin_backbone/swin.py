"""Swin Transformer (V1): Liu et al., ICCV 2021, arXiv:2103.14030."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn import functional as F

from .arguments import named_arguments
from .errors import ArgumentError
from .layers import RECOMPUTABLE, PatchEmbed, PatchMerging, SwinBlockSequence, WindowMSA
from .ops.sizes import recording
from .weights import is_pretrained, load_pretrained, register_state_dict_translation

# The paper's variants (section 3.3). The 32-wide heads are the same for all of them.
_TINY = dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))
_SMALL = dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))
_BASE = dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
_LARGE = dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
VARIANTS = {
    **{'tiny': _TINY, 'small': _SMALL, 'base': _BASE, 'large': _LARGE},
    **{'t': _TINY, 's': _SMALL, 'b': _BASE, 'l': _LARGE},
}


class SwinTransformer(BaseModule):
    """Swin Transformer backbone: feature maps at strides 4, 8, 16 and 32.

    Takes the arguments of mmdet's and mmseg's classes of that name, and the official release's
    spellings of them (``embed_dim``, ``in_chans``, ``ape``, ``use_checkpoint``, ``img_size``).
    Weights in OpenMMLab's or the official layout load alike (see ``docs/weights.md``).

    Args:
        pretrain_img_size: Side in pixels, or (height, width), of the images it was pretrained on:
            the size of the absolute position embedding's grid.
        in_channels: Channels of the input.
        embed_dims: Width C of the first stage's tokens; each stage doubles it.
        patch_size: Side of a patch in pixels, or (height, width); equals ``strides[0]``.
        window_size: Side M of the attention windows, in tokens.
        mlp_ratio: Width of the feed-forward networks' hidden layer, as a multiple of the stage's.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; must divide the stage's width.
        strides: Stride of the patch embedding, then of the patch merging before each later stage.
        out_indices: Stages whose output is returned. What no output depends on is not run, and
            its weights are buffers: in the state dict, but no parameters.
        qkv_bias: Whether query, key and value projections have a bias.
        qk_scale: Factor on the queries; (head width) ** -0.5 if None.
        patch_norm: Whether patch embedding and merging normalise.
        drop_rate: Probability of dropping an element after position embedding and projections.
        attn_drop_rate: Probability of dropping an attention weight.
        drop_path_rate: Probability of dropping a path for a sample in the last block; it grows
            linearly from 0 in the first.
        use_abs_pos_embed: Whether to add an absolute position embedding, interpolated to the
            input's size, to the patches.
        act_cfg: Activation of the feed-forward networks.
        norm_cfg: Normalisation.
        with_cp: What to recompute in the backward pass, which saves memory: True or ``'block'``,
            each block; ``'attention'`` or ``'mlp'``, that half of each block; ``'stage'``, all
            blocks of a stage together. On CPUs blocks in one piece recompute most of it anyway.
        pretrained: Former spelling of ``init_cfg=dict(type='Pretrained', checkpoint=pretrained)``.
        convert_weights: Has no effect: the layout of a checkpoint is told from its keys.
        frozen_stages: Freezes the patch embedding (0) and the first stages (1 to their number);
            -1 freezes nothing. In force from construction on.
        init_cfg: ``dict(type='Pretrained', checkpoint=path_or_url)`` or an mmengine initialiser.
        arch: A variant, ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dims``,
            ``depths`` and ``num_heads``. Also a dict of the three.
        pad_small_map: Whether a map that is no larger than the window is padded to it and shifted
            all the same, the official rule for detection and segmentation. False is that for
            classification: the window shrinks to the map's smaller side, and is not shifted.

    Raises:
        TypeError: An unknown argument, or ``pretrained`` that is no string.
        ArgumentError: An argument whose value cannot be used, or two that contradict each other.
    """

    @named_arguments(VARIANTS)
    def __init__(
        self,
        pretrain_img_size: int | tuple[int, ...] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | tuple[int, int] = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool | str = False,
        pretrained: str | None = None,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | list[dict] | None = None,
        arch: str | dict | None = None,
        pad_small_map: bool = True,
    ) -> None:
        super().__init__(_pretrained_init_cfg(pretrained, init_cfg))
        _check_counts(embed_dims=embed_dims, in_channels=in_channels)
        _check_lists(depths=depths, num_heads=num_heads, strides=strides, out_indices=out_indices)
        _check_rates(
            drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate
        )
        stages = len(depths)
        _check_stages(stages, num_heads, strides, out_indices, frozen_stages)
        _check_sizes(patch_size, strides, window_size)
        if with_cp not in RECOMPUTABLE:
            raise ArgumentError(f'with_cp={with_cp!r} must be one of {RECOMPUTABLE}')
        self.arch = arch
        self.window_size = window_size
        self.use_abs_pos_embed = use_abs_pos_embed
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.num_features = [embed_dims * 2**i for i in range(stages)]

        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size, norm_cfg=norm_cfg if patch_norm else None
        )
        image_size = _image_size(pretrain_img_size)
        if use_abs_pos_embed:
            self.pretrain_grid = (
                image_size[0] // self.patch_embed.patch_size[0],
                image_size[1] // self.patch_embed.patch_size[1],
            )
            tokens = self.pretrain_grid[0] * self.pretrain_grid[1]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        # On the CPU also where the model itself is built on the meta device.
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self.stages = ModuleList()
        for i, channels in enumerate(self.num_features):
            downsample = None
            if i < stages - 1:
                downsample = PatchMerging(
                    channels,
                    2 * channels,
                    stride=strides[i + 1],
                    norm_cfg=norm_cfg if patch_norm else None,
                )
            stage = SwinBlockSequence(
                channels,
                num_heads[i],
                int(mlp_ratio * channels),
                depths[i],
                window_size=window_size,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                drop_path_rate=rates[sum(depths[:i]) : sum(depths[: i + 1])],
                downsample=downsample,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
                pad_small_map=pad_small_map,
            )
            self.stages.append(stage)
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm_layer(norm_cfg, self.num_features[i])[1])

        register_state_dict_translation(self)
        self._retire_unused()
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """An image to its feature maps.

        Args:
            x: (B, in_channels, H, W), of any size from one patch on and any memory format, in the
                dtype of the weights (or any that autocast takes).

        Returns:
            For each stage i of ``out_indices``, in ascending order, a contiguous map
            (B, num_features[i], ceil(H / stride), ceil(W / stride)).
        """
        x, hw_shape = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + self._position_embedding(hw_shape)
        x = self.drop_after_pos(x)

        outs = []
        last = max(self.out_indices)
        for i, stage in enumerate(self.stages[: last + 1]):
            x, hw_shape, out, out_hw_shape = stage(x, hw_shape, downsample=i < last)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(out).unflatten(1, out_hw_shape)
                outs.append(out.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def _position_embedding(self, hw_shape: tuple[int, int]) -> Tensor:
        """The absolute position embedding of a grid (H, W): (1, H * W, C)."""
        # A recorded graph interpolates to any size, its own included, where that changes nothing.
        if not recording() and hw_shape == self.pretrain_grid:
            return self.absolute_pos_embed
        embedding = self.absolute_pos_embed.unflatten(1, self.pretrain_grid).permute(0, 3, 1, 2)
        embedding = F.interpolate(embedding, size=hw_shape, mode='bicubic')
        return embedding.flatten(2).transpose(1, 2)

    def init_weights(self) -> None:
        """Loads ``init_cfg``'s checkpoint, or draws weights as the official code does.

        Raises:
            CheckpointError: The checkpoint cannot be read or does not fit.
        """
        if is_pretrained(self.init_cfg):
            load_pretrained(self, self.init_cfg)
        elif self.init_cfg:
            super().init_weights()
        else:
            print_log(f'{type(self).__name__} starts from scratch: no init_cfg', logger='current')
            self._init_from_scratch()
        self._is_init = True

    def _init_from_scratch(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02, bias=0.0)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, 1.0)
            elif isinstance(module, WindowMSA):
                module.init_weights()
        if self.use_abs_pos_embed:
            trunc_normal_(self.absolute_pos_embed, std=0.02)

    def train(self, mode: bool = True) -> SwinTransformer:
        """Sets the mode; frozen stages stay in evaluation mode. Returns the module itself."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        frozen = [self.patch_embed, self.drop_after_pos] if self.frozen_stages >= 0 else []
        if frozen and self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad_(False)
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
        for module in frozen:
            module.eval().requires_grad_(False)

    def _retire_unused(self) -> None:
        """Makes buffers of the weights that no output depends on.

        The state dict keeps its keys, so checkpoints still fit both ways; optimizers and
        distributed wrappers, which stumble over a parameter without a gradient, do not see them.
        """
        last = max(self.out_indices)
        unused = [*self.stages[last + 1 :], self.stages[last].downsample]
        for root in filter(None, unused):
            for module in root.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach())


def _pretrained_init_cfg(pretrained: str | None, init_cfg: dict | None) -> dict | None:
    if not isinstance(init_cfg, Mapping | list | tuple | None):
        raise ArgumentError(
            f"init_cfg={init_cfg!r} must be a dict, dict(type='Pretrained', checkpoint=…) for one"
        )
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise TypeError(f'pretrained must be a str or None, got {pretrained!r}')
    if init_cfg:
        raise ArgumentError('pretrained contradicts init_cfg: give only init_cfg')
    return dict(type='Pretrained', checkpoint=pretrained)


def _image_size(size: int | Sequence[int]) -> tuple[int, int]:
    size = tuple(size) if isinstance(size, list | tuple) else (size,)
    if len(size) not in (1, 2) or not all(isinstance(side, int) for side in size):
        raise ArgumentError(f'pretrain_img_size must be one or two numbers, got {size}')
    return size[0], size[-1]


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ArgumentError(f'{name}={count!r} must be a positive int')


def _check_lists(**lists: Sequence[int]) -> None:
    for name, values in lists.items():
        if not isinstance(values, list | tuple | range):
            raise ArgumentError(f'{name}={values!r} must be a list or tuple, for several stages')


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ArgumentError(f'{name}={rate} must be a probability, 0 to 1')


def _check_stages(
    stages: int,
    num_heads: Sequence[int],
    strides: Sequence[int],
    out_indices: Sequence[int],
    frozen_stages: int,
) -> None:
    if len(num_heads) != stages or len(strides) < stages:
        raise ArgumentError(
            f'num_heads={num_heads} and strides={strides} must have an entry for each of the '
            f'{stages} stages of depths'
        )
    wrong = [i for i in out_indices if i not in range(stages)]
    if wrong or not out_indices or len(set(out_indices)) < len(out_indices):
        raise ArgumentError(
            f'out_indices={out_indices} must name some of the stages 0 to {stages - 1}, each once'
        )
    if frozen_stages not in range(-1, stages + 1):
        raise ArgumentError(
            f'frozen_stages={frozen_stages} must be -1 (none), 0 (patch embedding) or the number '
            f'of frozen stages, up to {stages}'
        )


def _check_sizes(
    patch_size: int | tuple[int, int], strides: Sequence[int], window_size: int
) -> None:
    if to_2tuple(strides[0]) != to_2tuple(patch_size):
        raise ArgumentError(
            f'strides[0]={strides[0]} must equal patch_size={patch_size}: patches do not overlap'
        )
    if not isinstance(window_size, int) or window_size < 1:
        raise ArgumentError(f'window_size={window_size!r} must be a positive int')
