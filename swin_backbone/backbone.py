"""What the versions of Swin Transformer have in common: everything but the stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from torch import Tensor, nn
from torch.nn import functional as F

from .argument_values import (
    LARGEST_DEPTH,
    LARGEST_SIDE,
    LARGEST_WIDTH,
    choice,
    flag,
    integer,
    integers,
    number,
    rate,
    sequence,
    shown,
)
from .errors import ArgumentError, ArgumentTypeError
from .layers import (
    RECOMPUTABLE,
    GlobalAttentionBlock,
    PatchEmbed,
    PatchMerging,
    Stage,
    WindowMSA,
    WindowMSAV2,
    build_norm,
)
from .ops.recording import recording, refuse_symbolic
from .ops.sizes import unflatten
from .weights import is_pretrained, load_pretrained, register_state_dict_translation


class Backbone(BaseModule):
    """Patch embedding, stages with a patch merging between them, and a norm for each output.

    Args:
        stage: Makes a stage from its number, width of the tokens that it is given, heads, width of
            the hidden layer, depth, the ``drop_path_rate`` of each block and its ``downsample``.
        merging: Makes the patch merging from widths of input and output and the ``stride``.
        global_attention: Makes the block after the last stage from width, heads, width of the
            hidden layer and what all blocks have in common; None for none.

    The others are those of :class:`~swin_backbone.SwinTransformer`, which lists the errors, too.
    """

    version: int  # of Swin Transformer
    # Whether a patch merging opens the stage after it, as in V2, or closes the one before.
    merging_opens_stage: ClassVar[bool] = False

    def __init__(
        self,
        *,
        stage: Callable[..., Stage],
        merging: Callable[..., PatchMerging],
        global_attention: Callable[..., GlobalAttentionBlock] | None,
        pretrain_img_size: int | tuple[int, ...],
        in_channels: int,
        embed_dims: int,
        patch_size: int | tuple[int, int],
        mlp_ratio: float,
        depths: Sequence[int],
        num_heads: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int],
        patch_norm: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        use_abs_pos_embed: bool,
        norm_cfg: dict,
        with_cp: bool | str,
        pretrained: str | None,
        frozen_stages: int,
        init_cfg: dict | list[dict] | None,
        arch: str | dict | None,
    ) -> None:
        super().__init__(_pretrained_init_cfg(pretrained, init_cfg))
        in_channels = integer('in_channels', in_channels, 1)
        depths = integers('depths', depths, 0, LARGEST_DEPTH)
        stages = len(depths)
        embed_dims = integer('embed_dims', embed_dims, 1, LARGEST_WIDTH >> max(stages - 1, 0))
        drop_rate = rate('drop_rate', drop_rate)
        rate('attn_drop_rate', attn_drop_rate)
        drop_path_rate = rate('drop_path_rate', drop_path_rate)
        mlp_ratio = _mlp_ratio(mlp_ratio, embed_dims)
        num_heads = integers('num_heads', num_heads, 1)
        _check_lengths(stages, num_heads, strides)
        out_indices = _out_indices(out_indices, stages)
        frozen_stages = _frozen_stages(frozen_stages, stages)
        patch = _pair('patch_size', patch_size, 1, LARGEST_SIDE)
        merging_strides = _strides(strides, patch)
        # Of each stage, the (height, width) in pixels that a token stands for.
        steps = [math.prod(merging_strides[:i]) for i in range(stages)]
        self.token_sides = [(patch[0] * step, patch[1] * step) for step in steps]
        patch_norm = flag('patch_norm', patch_norm)
        with_cp = choice('with_cp', with_cp, RECOMPUTABLE)
        if not isinstance(norm_cfg, Mapping):
            raise ArgumentError(f"norm_cfg={shown(norm_cfg)} must be a dict, as dict(type='LN')")
        self.arch = arch
        self.use_abs_pos_embed = flag('use_abs_pos_embed', use_abs_pos_embed)
        self.num_heads: Sequence[int] = num_heads
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.num_features = [embed_dims * 2**i for i in range(stages)]

        image_size = _image_size(pretrain_img_size)
        self.patch_embed = PatchEmbed(
            in_channels,
            embed_dims,
            kernel_size=patch,
            stride=patch,
            norm_cfg=norm_cfg if patch_norm else None,
            input_size=image_size,
        )
        if self.use_abs_pos_embed:
            self.pretrain_grid = _grid(image_size, patch)
            tokens = self.pretrain_grid[0] * self.pretrain_grid[1]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        # On the CPU also where the model itself is built on the meta device.
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self.stages = ModuleList()
        for i, channels in enumerate(self.num_features):
            first = i - 1 if self.merging_opens_stage else i  # the merging is from stage `first`
            downsample = None
            if 0 <= first < stages - 1:
                width = self.num_features[first]
                downsample = merging(width, 2 * width, stride=merging_strides[first])
            self.stages.append(
                stage(
                    i,
                    self.num_features[max(first, 0)],
                    num_heads[i],
                    int(mlp_ratio * channels),
                    depths[i],
                    drop_path_rate=rates[sum(depths[:i]) : sum(depths[: i + 1])],
                    downsample=downsample,
                )
            )
        self.global_attention = None
        if global_attention is not None:
            self.global_attention = global_attention(
                self.num_features[-1],
                num_heads[-1],
                int(mlp_ratio * self.num_features[-1]),
                drop_rate=drop_rate,
                drop_path_rate=drop_path_rate,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
            )
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm(norm_cfg, self.num_features[i]))

        register_state_dict_translation(self)
        self._retire_unused()
        self._freeze_stages()

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """An image to its feature maps.

        Args:
            x: (B, in_channels, H, W), of any size from one patch on and any memory format, in the
                dtype of the weights (or any that autocast takes).

        Returns:
            For each stage i of ``out_indices``, in ascending order, a contiguous map
            (B, num_features[i], ceil(H / stride), ceil(W / stride)); in a list, as in mmdet and
            mmseg.

        Raises:
            ArgumentError: An input of another shape, or a proxy of ``torch.fx``.
        """
        refuse_symbolic(x)
        x, hw_shape = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + self._position_embedding(hw_shape)
        x = self.drop_after_pos(x)

        outs = []
        for i, stage in enumerate(self.stages[: max(self.out_indices) + 1]):
            x, hw_shape, *output = stage(x, hw_shape)
            # What goes to the next stage may be the stage's output itself.
            out, out_hw_shape = output or (x, hw_shape)
            if self.global_attention is not None and i == len(self.stages) - 1:
                out = self.global_attention(out)
            if i in self.out_indices:
                out = unflatten(getattr(self, f'norm{i}')(out), 1, out_hw_shape)
                outs.append(out.permute(0, 3, 1, 2).contiguous())
        return outs

    def _position_embedding(self, hw_shape: tuple[int, int]) -> Tensor:
        """The absolute position embedding of a grid (H, W): (1, H * W, C)."""
        # A recorded graph interpolates to any size, its own included, where that changes nothing.
        if not recording() and hw_shape == self.pretrain_grid:
            return self.absolute_pos_embed
        embedding = unflatten(self.absolute_pos_embed, 1, self.pretrain_grid).permute(0, 3, 1, 2)
        embedding = F.interpolate(embedding, size=hw_shape, mode='bicubic')
        return embedding.flatten(2).transpose(1, 2)

    def init_weights(self) -> None:
        """Loads ``init_cfg``'s checkpoint, or draws weights as the official code does.

        Other initialisers of ``init_cfg`` are applied as mmengine applies them. What is no layer's,
        position biases and the absolute position embedding, is drawn all the same.

        Raises:
            CheckpointError: The checkpoint cannot be read or does not fit.
        """
        if is_pretrained(self.init_cfg):
            load_pretrained(self, self.init_cfg)
        elif self.init_cfg:
            if not self.is_init:  # before a checkpoint that a list of initialisers may name
                self._draw_position_embedding()
            super().init_weights()
        else:
            print_log(f'{type(self).__name__} starts from scratch: no init_cfg', logger='current')
            self._init_from_scratch()
        self._is_init = True

    def _init_from_scratch(self) -> None:
        for module in self.modules():
            if isinstance(module, WindowMSA | WindowMSAV2):
                module.init_weights()
            else:
                self._init_layer(module)
        if self.global_attention is not None:
            self.global_attention.init_weights()
        self._draw_position_embedding()

    def _init_layer(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            trunc_normal_init(module, std=0.02, bias=0.0)
        elif isinstance(module, nn.LayerNorm):
            constant_init(module, 1.0)

    def _draw_position_embedding(self) -> None:
        if self.use_abs_pos_embed:
            trunc_normal_(self.absolute_pos_embed, std=0.02)

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode; frozen stages stay in evaluation mode. Returns the module itself."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        frozen: list[nn.Module] = []
        if self.frozen_stages >= 0:
            frozen += [self.patch_embed, self.drop_after_pos]
        if frozen and self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad_(False)
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
        if self.global_attention is not None and self.frozen_stages == len(self.stages):
            frozen.append(self.global_attention)
        for module in frozen:
            module.eval().requires_grad_(False)

    def _retire_unused(self) -> None:
        """Makes buffers of the weights that no output depends on, and marks what does not run.

        The state dict keeps its keys, so checkpoints still fit both ways; optimizers and
        distributed wrappers, which stumble over a parameter without a gradient, do not see them.
        """
        last = max(self.out_indices)
        unused = list(self.stages[last + 1 :])
        if not self.merging_opens_stage:
            self.stages[last].is_last = True
            unused.append(self.stages[last].downsample)
        if last < len(self.stages) - 1:
            unused.append(self.global_attention)
        for root in filter(None, unused):
            for module in root.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach())


def _pretrained_init_cfg(
    pretrained: str | None, init_cfg: dict | list[dict] | None
) -> dict | list[dict] | None:
    if not isinstance(init_cfg, Mapping | list | tuple | None):
        raise ArgumentError(
            f'init_cfg={shown(init_cfg)} must be a dict, '
            "dict(type='Pretrained', checkpoint=…) for one"
        )
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise ArgumentTypeError(f'pretrained must be a str or None, got {shown(pretrained)}')
    if init_cfg:
        raise ArgumentError(
            f'pretrained={shown(pretrained)} contradicts init_cfg: give only init_cfg. Detectors '
            'and segmentors hand their own pretrained to the backbone: where a base config has it, '
            'set model.pretrained=None, as in model=dict(pretrained=None, …)'
        )
    return dict(type='Pretrained', checkpoint=pretrained)


def _image_size(size: Any) -> tuple[int, int]:
    height, width = _pair('pretrain_img_size', size, 0, 2**20, 'one or two numbers')
    return height, width


def _grid(image: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    grid = image[0] // patch[0], image[1] // patch[1]
    if 0 in grid:
        raise ArgumentError(
            f'pretrain_img_size={image} must be a patch of {patch} pixels or more: it is the size '
            'of the absolute position embedding'
        )
    return grid


def _pair(
    name: str, value: Any, least: int, most: int, expected: str | None = None
) -> tuple[int, int]:
    """Height and width, as one number or two."""
    sides = tuple(value) if isinstance(value, list | tuple) else (value,)
    expected = expected or f'one or two ints from {least} on'
    if len(sides) not in (1, 2):
        raise ArgumentError(f'{name} must be {expected}, got {shown(value)}')
    plain = [integer(name, side, least, most, expected) for side in sides]
    return plain[0], plain[-1]


def _mlp_ratio(mlp_ratio: Any, embed_dims: int) -> float:
    """A ratio with which no hidden layer is too wide for a machine."""
    most = LARGEST_WIDTH * 16 / embed_dims
    return number('mlp_ratio', mlp_ratio, 0, most, f'a number from 0 to {most:.6g}')


def _check_lengths(stages: int, num_heads: Sequence[int], strides: Any) -> None:
    if len(num_heads) != stages or len(sequence('strides', strides)) < stages:
        raise ArgumentError(
            f'num_heads={shown(num_heads)} and strides={shown(strides)} must have an entry for '
            f'each of the {stages} stages of depths'
        )


def _out_indices(out_indices: Any, stages: int) -> tuple[int, ...]:
    given = sequence('out_indices', out_indices)
    expected = f'name some of the stages 0 to {stages - 1}, or -1 to {-stages} from the last, each'
    expected += ' once'
    if not given or not stages:
        raise ArgumentError(f'out_indices={shown(out_indices)} must {expected}')
    plain = tuple(
        integer('out_indices', i, -stages, stages - 1, f'an int; they {expected}') % stages
        for i in given
    )
    if len(set(plain)) < len(plain):
        raise ArgumentError(f'out_indices={shown(out_indices)} must {expected}')
    return plain


def _frozen_stages(frozen_stages: Any, stages: int) -> int:
    expected = f'-1 (none), 0 (patch embedding) or the number of frozen stages, up to {stages}'
    return integer('frozen_stages', frozen_stages, -1, stages, expected)


def _strides(strides: Sequence[Any], patch: tuple[int, int]) -> tuple[int, ...]:
    """Of the patch mergings; the first in ``strides``, the patch embedding's, must be the patch."""
    if _pair('strides[0]', strides[0], 1, LARGEST_SIDE) != patch:
        raise ArgumentError(
            f'strides[0]={shown(strides[0])} must equal patch_size={patch}: patches do not overlap'
        )
    mergings = []
    for i, stride in enumerate(strides[1:], 1):
        rows, columns = _pair(f'strides[{i}]', stride, 1, LARGEST_SIDE)
        if rows != columns:
            raise ArgumentError(f'strides[{i}]={shown(stride)} must be the same for both axes')
        mergings.append(rows)
    return tuple(mergings)
