"""Window attention with its parameters."""

from __future__ import annotations

import math
import warnings
from numbers import Integral
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError
from ..ops.recording import TORCH, is_hooked, is_hooked_within, observed, recording, tracing
from ..ops.sizes import unflatten
from ..ops.window_attention import shifted_window_attention
from ..ops.window_attention.positions import bias_of_pairs, relative_position_index
from ..ops.window_attention.reference import (
    pad_to_windows,
    shift_mask,
    window_partition,
    window_reverse,
)
from .from_config import build_dropout

# Modules that process the tokens of windows.
_CALLED = ('qkv', 'softmax', 'attn_drop', 'proj', 'proj_drop')
# Methods that partition a map into windows and reverse it.
WINDOWS = frozenset({'window_partition', 'window_reverse'})
# Packages whose adapters and quantized layers map each token on its own, like a linear layer.
_TOKENWISE = ('peft.', 'bitsandbytes.', 'torchao.', 'torch.ao.nn.')
NO_DROP_PATH = dict(type='DropPath', drop_prob=0.0)


class WindowSize(tuple[int, int]):
    """Height and width of a window in tokens, as in OpenMMLab's modules.

    A square window also behaves as its side: it equals that int and converts to it.
    """

    @classmethod
    def of(cls, size: int | tuple[int, int]) -> WindowSize:
        """From a side, or (height, width)."""
        return cls(size if isinstance(size, tuple | list) else (size, size))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Integral):
            return self[0] == self[1] == other
        return tuple(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return tuple(self) < WindowSize.of(other)

    def __gt__(self, other: Any) -> bool:
        return tuple(self) > WindowSize.of(other)

    def __le__(self, other: Any) -> bool:
        return tuple(self) <= WindowSize.of(other)

    def __ge__(self, other: Any) -> bool:
        return tuple(self) >= WindowSize.of(other)

    __hash__ = tuple.__hash__

    def __index__(self) -> int:
        if self[0] != self[1]:
            raise TypeError(f'a window of {self[0]}×{self[1]} tokens has no single side')
        return self[0]

    __int__ = __index__


class WindowAttention(BaseModule):
    """Multi-head self-attention within windows: the common part of V1 and V2.

    Subclasses define the projection, the position bias and the operator on maps.

    Raises:
        ArgumentError: ``num_heads`` does not divide ``embed_dims``.
    """

    # nn.Linear, unless a user replaces them.
    qkv: Any
    proj: Any

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int | tuple[int, int],
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ArgumentError(
                f'num_heads={num_heads} does not divide the width {embed_dims} of its stage'
            )
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.window_size = WindowSize.of(window_size)

    def _add_projections(
        self, qkv_bias: bool, attn_drop_rate: float, proj_drop_rate: float
    ) -> None:
        """Registers the modules that follow the position bias's."""
        self.qkv = nn.Linear(self.embed_dims, 3 * self.embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(self.embed_dims, self.embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.softmax = nn.Softmax(dim=-1)

    def init_weights(self) -> None:
        """Initializes the position bias; the backbone initializes layers."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends within windows, unfused.

        Args:
            x: Tokens of whole windows, (B * windows, N, C), or a map (B, H, W, C), which is
                partitioned into square windows without a shift.
            mask: Added to the scores of each window of an image, (windows, N, N).

        Returns:
            As ``x``.
        """
        if x.dim() == 4:
            return self.attend_on_map(x, 0, int(self.window_size)).view(x.shape)
        q, k, v = self.heads(self._project(x))
        scores = q @ k.transpose(-2, -1) + self._bias_of(x.shape[1])
        if mask is not None:
            split = scores.view(len(scores) // len(mask), len(mask), *scores.shape[1:])
            scores = (split + mask[:, None]).view(scores.shape)
        weights = self.attn_drop(self.softmax(scores))
        return self.proj_drop(self.proj((weights @ v).transpose(1, 2).flatten(2)))

    forward_as_defined = forward  # to detect a subclass or a patch that replaces it

    def _project(self, x: Tensor) -> Tensor:
        """Tokens (…, C) to their queries, keys and values, (…, 3C)."""
        raise NotImplementedError

    def _operator(self, qkv: Tensor, bias: Tensor, padding: Tensor | None, **rest: Any) -> Tensor:
        """Attention on a map: (B, H, W, 3C) to (B, H, W, C)."""
        raise NotImplementedError

    def relative_position_bias(self, window_size: int | None = None) -> Tensor:
        """The bias of every pair of tokens of a window, (heads, N, N)."""
        raise NotImplementedError

    def _padding(self) -> Tensor | None:
        """The result of :meth:`_project` for a zero token if ``qkv`` is a plain linear layer."""
        raise NotImplementedError

    def heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(windows, N, 3C) to queries, keys and values, each (windows, heads, N, C / heads).

        Queries are scaled: their products with the keys are the scores.
        """
        return unflatten(qkv, -1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _bias_of(self, tokens: int) -> Tensor:
        """The position bias of a window of ``tokens`` tokens: the module's own, or a square one."""
        whole = tokens == self.window_size[0] * self.window_size[1]
        return self.relative_position_bias(None if whole else math.isqrt(tokens))

    def attend_on_map(
        self, x: Tensor, shift_size: int, window_size: int, bias: Tensor | None = None
    ) -> Tensor:
        """Attends within the shifted windows of a map without partitioning it.

        Args:
            x: A map (B, H, W, C).
            shift_size: Cyclic shift of the map up and left, below the window's side.
            window_size: Side of the windows.
            bias: The windows' :meth:`relative_position_bias`, if it has been computed before.

        Returns:
            Tokens (B, H * W, C), projected.
        """
        B, H, W, C = x.shape
        qkv, padding = self.project_map(x, window_size)
        x = self._operator(
            qkv,
            self.relative_position_bias(window_size) if bias is None else bias,
            padding,
            window_size=window_size,
            shift_size=shift_size,
            dropout_p=self.attn_drop.p if self.attn_drop.training else 0.0,
        )
        if not recording():  # a recorded graph is never padded, which a compiler cannot infer
            x = x[:, :H, :W]
        return self.proj_drop(self.proj(x.reshape(B, H * W, C)))

    def project_map(self, x: Tensor, window_size: int) -> tuple[Tensor, Tensor | None]:
        """Queries, keys and values of a map (B, H, W, C), and those of a padded token.

        Only a plain linear layer is known to map a zero token to its bias. An adapter gets the
        padded tokens as well, in the same call, because it may count or average; in a recorded
        graph, which must hold for other sizes, it gets one zero token separately.

        Returns:
            qkv (B, H, W, 3C) and (3C,) or None; from another module (B, H', W', 3C), with sides
            that are multiples of ``window_size``, and None.
        """
        padding = None
        if _is_plain(self.qkv):
            padding = self._padding()
        elif recording():
            padding = self._project(x.new_zeros(1, 1, x.shape[-1])).flatten()
        else:
            x = pad_to_windows(x, window_size)
        return unflatten(self._project(x.flatten(1, 2)), 1, (x.shape[1], x.shape[2])), padding


class WindowMSA(WindowAttention):
    """Multi-head self-attention within windows, with relative position bias (equation 4).

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads; must divide ``embed_dims``.
        window_size: (height, width) of a window in tokens, or the side M of a square one.
        qkv_bias: Whether the query, key and value projection has a bias.
        qk_scale: Factor on the queries; (C / heads) ** -0.5 if None.
        attn_drop_rate: Probability of dropping an attention weight.
        proj_drop_rate: Probability of dropping an element of the output.
        init_cfg: mmengine's initialisers.
    """

    _index_is_usual = True  # False if a checkpoint contains another index

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int | tuple[int, int],
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(embed_dims, num_heads, window_size, init_cfg)
        # `or`, as upstream: a scale of 0 would make attention uniform, so it means unset.
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self._sides = height, width = tuple(self.window_size)  # ints, for compilers
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * height - 1) * (2 * width - 1), num_heads)
        )
        self.register_buffer('relative_position_index', relative_position_index(self.window_size))
        self._add_projections(qkv_bias, attn_drop_rate, proj_drop_rate)

    def init_weights(self) -> None:
        """Draws the bias table from a truncated normal of deviation 0.02, as the official code.

        Also sets the index, which has no values if the model was built on the meta device.
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
        """The bias of every pair of tokens of a window, (heads, N, N).

        Args:
            window_size: Side of a square window no larger than the module's; its own if None.
        """
        index, table = self.relative_position_index, self.relative_position_bias_table
        M, width = self._sides
        size = window_size or M
        if width == M and self._index_is_usual and not recording():
            grid = table.t().unflatten(1, (2 * M - 1,) * 2)
            return bias_of_pairs(grid[:, M - size : M + size - 1, M - size : M + size - 1], size)
        if size != M:
            index = index.view([M, width] * 2)[:size, :size, :size, :size].reshape(size**2, size**2)
        return table[index].permute(2, 0, 1).contiguous()

    def _project(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def _padding(self) -> Tensor | None:
        return self.qkv.bias

    def heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        q, k, v = super().heads(qkv)
        return q * self.scale, k, v

    def _operator(self, qkv: Tensor, bias: Tensor, padding: Tensor | None, **rest: Any) -> Tensor:
        return shifted_window_attention(qkv, bias, padding=padding, scale=self.scale, **rest)


class ShiftedWindows(BaseModule):
    """Partitions maps of any size into windows.

    Args:
        window_size: Side M of a window, in tokens.
        shift_size: Cyclic shift of the map up and left, 0 <= shift_size < window_size.
        pad_small_map: Whether a map that is no larger than the window is padded to the window and
            still shifted, as in detection. For False see :meth:`windows`.
        init_cfg: mmengine's initialisers.

    Attributes:
        shrinks: Whether the window shrinks on a smaller map that is not padded to it. Otherwise
            such a map is an error, as in mmpretrain.
    """

    shrinks = True
    w_msa: Any  # a module of windows (B * windows, N, C) and their mask; WindowMSA or a user's

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

        Without ``pad_small_map``, a map whose smaller side is no larger than the window gets
        windows of that side without a shift: the official rule for classification and for V2.

        Raises:
            ArgumentError: The window would shrink, and ``shrinks`` is False.
        """
        if self.pad_small_map or min(hw_shape) > self.window_size:
            return self.window_size, self.shift_size
        if tracing():
            hw_shape = _fixed_in_the_trace(hw_shape, self.window_size)
        if self.shrinks:
            return min(hw_shape), 0
        if min(hw_shape) < self.window_size:
            H, W = hw_shape
            raise ArgumentError(
                f'a map of {H}×{W} tokens is smaller than the window size ({self.window_size}); '
                'set pad_small_map=True, or take a smaller window_size or larger images'
            )
        return self.window_size, 0

    def attend(
        self, query: Tensor, hw_shape: tuple[int, int], bias: Tensor | None = None
    ) -> Tensor:
        """Attention within the windows of a map (H, W): tokens (B, H * W, C) to the same shape.

        ``bias`` is the position bias of the map's windows, if it has been computed before.
        """
        window_size, shift_size = self.windows(hw_shape)
        x = query.view(query.shape[0], *hw_shape, query.shape[-1])
        if why_attend_by_windows(self) is None:
            return self.w_msa.attend_on_map(x, shift_size, window_size, bias)
        return self._attend_by_windows(x, shift_size, window_size)

    def _attend_by_windows(self, x: Tensor, shift_size: int, window_size: int) -> Tensor:
        """As upstream: partitions the map and calls every module on windows."""
        H, W = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -W % window_size, 0, -H % window_size))
        height, width = x.shape[1:3]
        mask = None
        if shift_size:
            x = torch.roll(x, (-shift_size, -shift_size), (1, 2))
            mask = shift_mask(height, width, window_size, shift_size, x)
        # A subclass may override the methods with upstream's signature, without a window size.
        side = () if window_size == self.window_size else (window_size,)
        windows = self.window_partition(x, *side).flatten(1, 2)
        windows = self.w_msa(windows, mask=mask).unflatten(1, (window_size, window_size))
        x = self.window_reverse(windows, height, width, *side)
        if shift_size:
            x = torch.roll(x, (shift_size, shift_size), (1, 2))
        return x[:, :H, :W].flatten(1, 2)

    def window_partition(self, x: Tensor, window_size: int | None = None) -> Tensor:
        """A map (B, H, W, C) of whole windows to (B * windows, M, M, C)."""
        side = window_size or self.window_size
        return window_partition(x, side).unflatten(1, (side, side))

    def window_reverse(
        self, windows: Tensor, H: int, W: int, window_size: int | None = None
    ) -> Tensor:
        """The inverse of :meth:`window_partition`, to a map (B, H, W, C)."""
        side = window_size or self.window_size
        B = len(windows) // (H // side * (W // side))
        return window_reverse(windows.flatten(1, 2), side, (B, H, W))

    partition_as_defined = window_partition, window_reverse


def _fixed_in_the_trace(hw_shape: tuple[int, int], window_size: int) -> tuple[int, int]:
    """The sides of a small map as constants; warns that the graph holds for this size only."""
    H, W = (int(side) for side in hw_shape)
    warnings.warn(
        f'a map of {H}×{W} tokens is no larger than the window ({window_size}): the traced graph '
        f'has windows of {min(H, W)}×{min(H, W)} tokens without a shift there for every image, and '
        'holds for this height and width only; trace with a larger image to use it on others',
        stacklevel=2,
    )
    return H, W


class ShiftWindowMSA(ShiftedWindows):
    """W-MSA or, if ``shift_size`` is not 0, SW-MSA (section 3.2), with drop path.

    ``w_msa`` is not called itself: its projections run on the whole map, with one attention
    operator between them. With a hook on ``w_msa`` or within it, or with a replaced method or
    function, it is called on windows, as upstream.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        window_size: Side M of a window, in tokens.
        shift_size: Cyclic shift of the map up and left, 0 <= shift_size < window_size.
        qkv_bias, qk_scale, attn_drop_rate, proj_drop_rate: See :class:`WindowMSA`.
        dropout_layer: Applied to the result: drop path, or another registered layer.
        init_cfg: mmengine's initialisers.
        pad_small_map: See :class:`ShiftedWindows`.
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
        dropout_layer: dict | None = NO_DROP_PATH,
        init_cfg: dict | None = None,
        *,
        pad_small_map: bool = True,
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
        self.drop = build_dropout(dropout_layer)

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape."""
        return self.drop(self.attend(query, hw_shape))


def why_attend_by_windows(attention: ShiftedWindows) -> str | None:
    """Why ``attention.w_msa`` must be called on windows; None if it need not be."""
    kind, msa = type(attention), attention.w_msa
    msa_kind = type(msa)
    partition = kind.window_partition, kind.window_reverse
    if partition != ShiftedWindows.partition_as_defined or attention.__dict__.keys() & WINDOWS:
        return 'a method that partitions windows is replaced'
    if (
        not isinstance(msa, WindowAttention)
        or msa_kind.forward is not msa_kind.forward_as_defined
        or msa_kind.__call__ is not nn.Module.__call__
    ):
        return f'w_msa is {msa_kind.__name__}, which has another forward'
    if not isinstance(getattr(msa, 'scale', 1.0), int | float):
        return 'w_msa.scale is not a number'
    if is_hooked(msa) or any(is_hooked_within(getattr(msa, name)) for name in _CALLED):
        return 'w_msa or a module within it has a hook'
    for name, usual in (('softmax', nn.Softmax), ('attn_drop', nn.Dropout)):
        if not TORCH.is_as_defined(getattr(msa, name), usual):
            return f'w_msa.{name} is another module'
    if msa.softmax.dim != -1:
        return 'w_msa.softmax normalises another dimension'
    if not recording():  # a graph of windows would hold for one size only
        for name in ('qkv', 'proj', 'proj_drop'):
            if not _is_tokenwise(getattr(msa, name)):
                return f'w_msa.{name} is another module, which may see which tokens are a window'
    return observed()


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a linear layer without hooks, subclass or tensor subclass."""
    return TORCH.is_as_defined(module, nn.Linear) and type(module.weight) in (Tensor, nn.Parameter)


def _is_tokenwise(module: nn.Module) -> bool:
    """Whether a module is known to map each token independently of the others."""
    known = isinstance(module, nn.Linear | nn.Dropout | nn.Identity)
    return known or type(module).__module__.startswith(_TOKENWISE)
