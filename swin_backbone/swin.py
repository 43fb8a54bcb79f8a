"""Swin Transformer (V1): Liu et al., ICCV 2021, arXiv:2103.14030."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from torch import Tensor, nn
from torch.nn import functional as F

from .arguments import declares_arguments
from .layers import (
    GlobalAttentionBlock,
    PatchEmbed,
    PatchMerging,
    SwinBlockSequence,
    WindowAttention,
    build_norm,
)
from .ops.recording import recording, refuse_symbolic
from .ops.sizes import unflatten
from .options import CHECKS, VARIANTS, BlockOptions, BlockOptionsV1
from .weights import is_pretrained, load_pretrained, register_state_dict_translation

__all__ = ['VARIANTS', 'SwinTransformer']


class SwinTransformer(BaseModule):
    """Swin Transformer backbone: feature maps at strides 4, 8, 16 and 32.

    Takes the arguments of mmdet's and mmseg's classes of the same name, and the official release's
    spellings of them (``embed_dim``, ``in_chans``, ``ape``, ``use_checkpoint``, ``img_size``).
    Weights in OpenMMLab's or the official layout load alike (see ``docs/weights.md``).

    Args:
        pretrain_img_size: Side in pixels, or (height, width), of the pretraining images. Sets the
            grid of the absolute position embedding.
        in_channels: Channels of the input.
        embed_dims: Width C of the first stage's tokens; each stage doubles it.
        patch_size: Side of a patch in pixels, or (height, width); equals ``strides[0]``.
        window_size: Side M of the attention windows in tokens, or (M, M); at most 128, because the
            index of token pairs takes 8 M⁴ bytes in each block.
        mlp_ratio: Width of the feed-forward networks' hidden layer, as a multiple of the stage's.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; must divide the stage's width.
        strides: Stride of the patch embedding, then of the patch merging before each later stage.
        out_indices: Stages whose output is returned; -1 is the last one. Modules that no output
            depends on do not run; their weights are buffers, in the state dict but not parameters.
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
            blocks of a stage together. Fused blocks recompute most of it anyway.
        pretrained: Former spelling of ``init_cfg=dict(type='Pretrained', checkpoint=pretrained)``.
        convert_weights: Has no effect: the layout of a checkpoint is detected from its keys.
        frozen_stages: Freezes the patch embedding (0) and the first stages (1 to their number);
            -1 freezes nothing. Applied in the constructor, not only by ``train()``.
        init_cfg: ``dict(type='Pretrained', checkpoint=path_or_url)`` or an mmengine initialiser.
        arch: A variant, ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``: sets ``embed_dims``,
            ``depths`` and ``num_heads``. Also a dict of the three.
        pad_small_map: Whether a map that is no larger than the window is padded to the window and
            still shifted, the official rule for detection and segmentation. False is the rule for
            classification: the window shrinks to the map's smaller side and is not shifted.
        global_attention: Whether a block of global self-attention follows the last stage, as in
            HTC++ (:class:`~swin_backbone.layers.GlobalAttentionBlock`). It starts as the identity,
            and checkpoints without it load.

    Raises:
        ArgumentTypeError: An unknown argument, or ``pretrained`` that is not a string; also a
            TypeError.
        ArgumentError: An argument with an invalid value, or two that contradict each other.
    """

    version: ClassVar[int] = 1  # of Swin Transformer
    merging_opens_stage: ClassVar[bool] = False  # a patch merging closes the stage before it

    @declares_arguments(VARIANTS, CHECKS)
    def __init__(
        self,
        pretrain_img_size: int | tuple[int, ...] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int | tuple[int, int] = 4,
        window_size: int | Sequence[int] = 7,
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
        global_attention: bool = False,
    ) -> None:
        pass  # the decorator checks the arguments and calls _build

    def _build(self, arguments: Any) -> None:
        """Builds the modules from checked arguments."""
        super().__init__(arguments.init_cfg)
        stages = len(arguments.depths)
        self.arch = arguments.arch
        self.use_abs_pos_embed = arguments.use_abs_pos_embed
        self.num_heads: Sequence[int] = arguments.num_heads
        self.out_indices = arguments.out_indices
        self.frozen_stages = arguments.frozen_stages
        self.window_size = arguments.window_size
        self.num_features = [arguments.embed_dims * 2**i for i in range(stages)]
        patch, *strides = arguments.strides
        # For each stage, the (height, width) in pixels that a token covers.
        steps = [math.prod(strides[:i]) for i in range(stages)]
        self.token_sides = [(patch[0] * step, patch[1] * step) for step in steps]

        self.patch_embed = PatchEmbed(
            arguments.in_channels,
            arguments.embed_dims,
            kernel_size=patch,
            stride=patch,
            norm_cfg=arguments.norm_cfg if arguments.patch_norm else None,
            input_size=arguments.pretrain_img_size,
        )
        if self.use_abs_pos_embed:
            height, width = arguments.pretrain_img_size
            self.pretrain_grid = height // patch[0], width // patch[1]
            tokens = math.prod(self.pretrain_grid)
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, tokens, arguments.embed_dims))
        self.drop_after_pos = nn.Dropout(arguments.drop_rate)

        # On the CPU even where the model itself is built on the meta device.
        rates = torch.linspace(0, arguments.drop_path_rate, sum(arguments.depths), device='cpu')
        drop_path_rates = rates.tolist()
        self.stages = ModuleList()
        for i, depth in enumerate(arguments.depths):
            merged = i - 1 if self.merging_opens_stage else i  # the stage whose tokens are merged
            downsample = None
            if 0 <= merged < stages - 1:
                downsample = self._merging(merged, strides[merged], arguments)
            first = sum(arguments.depths[:i])
            self.stages.append(
                self._stage(
                    i,
                    arguments,
                    embed_dims=self.num_features[max(merged, 0)],
                    num_heads=self.num_heads[i],
                    feedforward_channels=int(arguments.mlp_ratio * self.num_features[i]),
                    depth=depth,
                    drop_path_rate=drop_path_rates[first : first + depth],
                    downsample=downsample,
                )
            )
        self.global_attention = None
        if arguments.global_attention:
            self.global_attention = GlobalAttentionBlock(
                self.num_features[-1],
                self.num_heads[-1],
                int(arguments.mlp_ratio * self.num_features[-1]),
                drop_path_rate=arguments.drop_path_rate,
                **self._block_options(arguments).accepted_by(GlobalAttentionBlock),
            )
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm(arguments.norm_cfg, self.num_features[i]))

        register_state_dict_translation(self)
        self._retire_unused()
        self._freeze_stages()

    def _block_options(self, arguments: Any) -> BlockOptions:
        return BlockOptionsV1.of(vars(arguments))

    def _stage(self, i: int, arguments: Any, **own: Any) -> SwinBlockSequence:
        """Stage ``i``, with the arguments of its own and those that blocks share."""
        return SwinBlockSequence(**own, **vars(self._block_options(arguments)))

    def _merging(self, i: int, stride: int, arguments: Any) -> PatchMerging:
        """The patch merging of stage ``i``'s tokens."""
        width = self.num_features[i]
        norm_cfg = arguments.norm_cfg if arguments.patch_norm else None
        return PatchMerging(width, 2 * width, stride=stride, norm_cfg=norm_cfg)

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

        Other initialisers of ``init_cfg`` are applied as mmengine applies them. Position biases and
        the absolute position embedding, which belong to no layer, are drawn in any case.

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
            if isinstance(module, WindowAttention):
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

    def train(self, mode: bool = True) -> SwinTransformer:
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
        """Turns the weights that no output depends on into buffers, and marks what does not run.

        The state dict keeps its keys, so checkpoints still fit. Optimizers and distributed wrappers
        do not see parameters that never get a gradient.
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
