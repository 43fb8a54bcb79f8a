"""Window attention with its parameters."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from ..errors import ArgumentError
from ..ops.window_attention import shifted_window_attention


def relative_position_index(window_size: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window (section 3.2, after equation 4).

    Returns:
        int64 (window_size², window_size²): for query i and key j, their offset in rows and in
        columns, each shifted to start at 0, as one raster index.
    """
    axis = torch.arange(window_size)
    row, column = axis.repeat_interleave(window_size), axis.repeat(window_size)
    rows = row[:, None] - row + window_size - 1
    columns = column[:, None] - column + window_size - 1
    return rows * (2 * window_size - 1) + columns


def bias_of_pairs(table: Tensor, window_size: int) -> Tensor:
    """The bias of every pair of tokens of a window, (heads, M², M²), for that of every offset.

    What indexing with :func:`relative_position_index` gives, bit for bit, but its gradient is the
    sum of a few diagonals instead of a sorted scatter.

    Args:
        table: (heads, 2M - 1, 2M - 1).
        window_size: M.
    """
    # (heads, rows, columns, M, M) is the table as seen from a window's last token backwards; the
    # flip makes the one copy that is needed.
    pairs = table.unfold(1, window_size, 1).unfold(2, window_size, 1).flip(3, 4)
    return pairs.reshape(len(table), window_size**2, window_size**2)


class WindowMSA(BaseModule):
    """Multi-head self-attention within windows, with relative position bias (equation 4).

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads; must divide ``embed_dims``.
        window_size: Side M of a window, in tokens.
        qkv_bias: Whether the query, key and value projection has a bias.
        qk_scale: Factor on the queries; (C / heads) ** -0.5 if None.
        attn_drop_rate: Probability of dropping an attention weight.
        proj_drop_rate: Probability of dropping an element of the output.
        init_cfg: As for every mmengine module.
    """

    _index_is_usual = True  # a checkpoint may bring another

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ArgumentError(
                f'num_heads={num_heads} does not divide the width {embed_dims} of its stage'
            )
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.window_size = window_size
        # `or`, as upstream: a scale of 0 would make attention uniform and is taken for unset.
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        self.register_buffer('relative_position_index', relative_position_index(window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def init_weights(self) -> None:
        """Draws the bias table from a truncated normal of deviation 0.02, as the official code.

        Also sets the index, which has no values where the model was built on the meta device.
        """
        self.relative_position_index.copy_(relative_position_index(self.window_size))
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        index = self.relative_position_index
        if prefix + 'relative_position_index' in state_dict and not index.is_meta:
            usual = relative_position_index(self.window_size)
            self._index_is_usual = torch.equal(index.cpu(), usual)

    def relative_position_bias(self, window_size: int | None = None) -> Tensor:
        """The bias of every pair of tokens, (heads, M², M²), of a window no larger than its own."""
        M, table = self.window_size, self.relative_position_bias_table
        size = window_size or M
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if self._index_is_usual and not traced:
            grid = table.t().unflatten(1, (2 * M - 1,) * 2)
            return bias_of_pairs(grid[:, M - size : M + size - 1, M - size : M + size - 1], size)
        index = self.relative_position_index
        if size != M:
            index = index.view([M] * 4)[:size, :size, :size, :size].reshape(size**2, size**2)
        return table[index].permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor, shift_size: int = 0, window_size: int | None = None) -> Tensor:
        """Attends within shifted windows.

        Args:
            x: A map (B, H, W, C).
            shift_size: Cyclic shift of the map up and left, below the window's side.
            window_size: Side of the window, up to the module's, which it is if None.

        Returns:
            (B, H, W, C).
        """
        x = shifted_window_attention(
            self.qkv(x),
            self.relative_position_bias(window_size),
            window_size=window_size or self.window_size,
            shift_size=shift_size,
            scale=self.scale,
            padding=self.qkv.bias,
            dropout_p=self.attn_drop.p if self.attn_drop.training else 0.0,
        )
        return self.proj_drop(self.proj(x))


class ShiftedWindows(BaseModule):
    """The windows that maps of any size are cut into.

    Args:
        window_size: Side M of a window, in tokens.
        shift_size: Cyclic shift of the map up and left, 0 <= shift_size < window_size.
        pad_small_map: Whether a map that is no larger than the window is padded to it and shifted
            all the same, as in detection; else see :meth:`windows`.
        init_cfg: As for every mmengine module.

    Attributes:
        shrinks: Whether a map that is smaller than the window, and not padded to it, gets a smaller
            window; else it is an error, as in mmpretrain.
    """

    shrinks = True

    def __init__(
        self, window_size: int, shift_size: int, pad_small_map: bool, init_cfg: dict | None
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= shift_size < window_size:
            raise ArgumentError(
                f'shift_size={shift_size} must be at least 0 and below window_size={window_size}'
            )
        self.window_size = window_size
        self.shift_size = shift_size
        self.pad_small_map = pad_small_map

    def windows(self, hw_shape: tuple[int, int]) -> tuple[int, int]:
        """Side and shift of the windows on a map (H, W).

        Without ``pad_small_map`` a map whose smaller side is not larger than the window gets
        windows of that side, and no shift: the official rule for classification, and for V2.

        Raises:
            ArgumentError: The window would shrink, and ``shrinks`` is False.
        """
        if self.pad_small_map or min(hw_shape) > self.window_size:
            return self.window_size, self.shift_size
        if self.shrinks:
            return min(hw_shape), 0
        if min(hw_shape) < self.window_size:
            H, W = hw_shape
            raise ArgumentError(
                f'a map of {H}×{W} tokens is smaller than the window size ({self.window_size}); '
                'set pad_small_map=True, or take a smaller window_size or larger images'
            )
        return self.window_size, 0


class ShiftWindowMSA(ShiftedWindows):
    """W-MSA or, where ``shift_size`` is not 0, SW-MSA (section 3.2), with drop path.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        window_size, shift_size, pad_small_map: As for :class:`ShiftedWindows`.
        qkv_bias, qk_scale, attn_drop_rate, proj_drop_rate: As for :class:`WindowMSA`.
        drop_path: Probability of dropping the whole path for a sample.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shift_size: int = 0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path: float = 0.0,
        pad_small_map: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(window_size, shift_size, pad_small_map, init_cfg)
        self.w_msa = WindowMSA(
            embed_dims,
            num_heads,
            window_size,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=proj_drop_rate,
        )
        self.drop = DropPath(drop_path)

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        window_size, shift_size = self.windows(hw_shape)
        x = query.view(query.shape[0], *hw_shape, query.shape[-1])
        x = self.w_msa(x, shift_size, window_size)
        return self.drop(x.flatten(1, 2))
