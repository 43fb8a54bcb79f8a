"""A Swin block for CPUs: one pass over the map, which takes each tile through all layers.

Except for the output, no tensor is larger than a tile, so that intermediate results stay in the
cache. The backward pass saves the input of the block and, unless it is recomputed, the output of
attention. It computes the other intermediate results of each tile again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..linear import linear, linear_backward
from ..tiles import Tile, edge_masks, window_tiles
from ..window_attention.cpu import attend, attend_backward
from ..window_attention.reference import MASKED
from .parameters import Options, Parameters


def can_run(x: Tensor) -> str | None:
    """Why this backend cannot run on a map ``x``; None if it can."""
    if x.device.type != 'cpu':
        return f'for CPU tensors, got {x.device.type}'
    if torch.is_autocast_enabled('cpu'):
        return 'autocast is on'
    if x.dtype not in (torch.float32, torch.float64):
        return f'for float32 and float64, got {x.dtype}'
    return None


def swin_block(
    x: Tensor,
    parameters: Parameters,
    options: Options,
    factors: Tensor | None = None,
    recompute: bool | str = False,
) -> Tensor:
    """:func:`.reference.swin_block`, fused; differentiable once.

    The output of attention, which is as large as ``x``, is saved for the backward pass. If
    ``recompute`` is True, ``'block'`` or ``'attention'``, it is computed again instead.
    """
    keep_attended = recompute not in (True, 'block', 'attention')
    trained = any(t is not None and t.requires_grad for t in (x, *parameters))
    if trained and torch.is_grad_enabled():
        return _Block.apply(x, factors, options, keep_attended, *parameters)
    return _forward(x, parameters, options, factors)


def _forward(
    x: Tensor, p: Parameters, o: Options, factors: Tensor | None, kept: list[Tensor] | None = None
) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    table, out_table = x.reshape(-1, x.shape[-1]), out.view(-1, x.shape[-1])
    for tile, real, scales in _tiles(x, p, o, factors):
        tokens = table.index_select(0, tile.rows)
        normed = F.layer_norm(tokens, x.shape[-1:], p.norm1_weight, p.norm1_bias, o.eps1)
        qkv = linear(_without_padding(normed, tile), p.qkv_weight, p.qkv_bias)
        attended = attend(_windows(qkv, o), p.bias, tile.mask, o.scale).flatten(0, 1)
        # The remaining layers act on each token alone, so that padded tokens are dropped.
        tokens, attended = real.of(tokens), real.of(attended)
        if kept is not None:
            kept.append(attended)
        tokens = _add(tokens, linear(attended, p.proj_weight, p.proj_bias), scales, 0)
        normed = F.layer_norm(tokens, x.shape[-1:], p.norm2_weight, p.norm2_bias, o.eps2)
        hidden = linear(normed, p.fc1_weight, p.fc1_bias, gelu=True)
        tokens = _add(tokens, linear(hidden, p.fc2_weight, p.fc2_bias), scales, 1)
        out_table.index_copy_(0, real.rows, tokens)
    return out


class _Norm(NamedTuple):
    """Input, output, statistics and parameters of a layer norm."""

    x: Tensor
    out: Tensor
    mean: Tensor
    rstd: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> _Norm:
        return cls(x, *torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps), weight, bias)

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of input, weight and bias."""
        x, _, mean, rstd, weight, bias = self
        return torch.ops.aten.native_layer_norm_backward(
            grad, x, x.shape[-1:], mean, rstd, weight, bias, [True, True, True]
        )


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factors: Tensor | None,
        options: Options,
        keep_attended: bool,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.options = options
        attended: list[Tensor] | None = [] if keep_attended else None
        out = _forward(x, Parameters(*parameters), options, factors, attended)
        ctx.save_for_backward(x, factors, *parameters, *(attended or ()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factors, *saved = ctx.saved_tensors
        count = len(Parameters._fields)
        p, o, kept = Parameters(*saved[:count]), ctx.options, saved[count:]
        needed = Parameters(*ctx.needs_input_grad[-count:])
        sums = _Sums(p, needed)
        grad = grad.reshape(-1, x.shape[-1])
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        table, d_table = x.reshape(grad.shape), d_x.view(grad.shape)
        tiles = _tiles(x, p, o, factors)
        for (tile, real, scales), attended in zip_longest(tiles, kept):
            tokens, d_out = table.index_select(0, tile.rows), grad.index_select(0, real.rows)
            d_out[real.length :] = 0
            d_tokens = _tile_backward(d_out, tokens, attended, tile, real, scales, p, o, sums)
            d_table.index_copy_(0, real.rows[: real.length], d_tokens[: real.length])
        return d_x, None, None, None, *sums.result()


class _Sums:
    """Sums over tiles of the gradients of those parameters that require one."""

    def __init__(self, parameters: Parameters, needed: Parameters) -> None:
        self.sums = {
            name: torch.zeros_like(tensor)
            for name, tensor in parameters._asdict().items()
            if tensor is not None and getattr(needed, name)
        }

    def needs(self, name: str) -> bool:
        """Whether the weight or bias of the linear layer of that name requires a gradient."""
        return f'{name}_weight' in self.sums or f'{name}_bias' in self.sums

    def add(self, **gradients: Tensor | None) -> None:
        for name, gradient in gradients.items():
            if gradient is not None and name in self.sums:
                self.sums[name] += gradient

    def result(self) -> Iterator[Tensor | None]:
        return (self.sums.get(name) for name in Parameters._fields)


def _tile_backward(
    grad: Tensor,
    tokens: Tensor,
    attended: Tensor | None,
    tile: Tile,
    real: _Real,
    scales: Tensor | None,
    p: Parameters,
    o: Options,
    sums: _Sums,
) -> Tensor:
    """The gradient of a tile's real tokens. Adds the gradients of the parameters to ``sums``."""
    # Recompute the forward pass up to the hidden layer.
    norm1 = _Norm.of(tokens, p.norm1_weight, p.norm1_bias, o.eps1)
    normed = _without_padding(norm1.out, tile)
    qkv = linear(normed, p.qkv_weight, p.qkv_bias)
    if attended is None:
        attended = attend(_windows(qkv, o), p.bias, tile.mask, o.scale).flatten(0, 1)
        attended = real.of(attended)
    middle = _add(real.of(tokens), linear(attended, p.proj_weight, p.proj_bias), scales, 0)
    norm2 = _Norm.of(middle, p.norm2_weight, p.norm2_bias, o.eps2)
    hidden = linear(norm2.out, p.fc1_weight, p.fc1_bias)

    def through(d_out: Tensor, x: Tensor, name: str) -> Tensor:
        """The input gradient of the linear layer of that name."""
        weight = getattr(p, f'{name}_weight')
        d_x, d_weight, d_bias = linear_backward(d_out, x, weight, sums.needs(name))
        sums.add(**{f'{name}_weight': d_weight, f'{name}_bias': d_bias})
        return d_x

    # The feed-forward network.
    d_path = grad if scales is None else grad * scales[1]
    d_hidden = torch.ops.aten.gelu_backward(through(d_path, F.gelu(hidden), 'fc2'), hidden)
    d_middle, d_weight, d_bias = norm2.backward(through(d_hidden, norm2.out, 'fc1'))
    sums.add(norm2_weight=d_weight, norm2_bias=d_bias)
    d_middle += grad

    # The attention.
    d_path = d_middle if scales is None else d_middle * scales[0]
    d_attended = _padded(through(d_path, attended, 'proj'), tile)
    d_qkv, d_bias = attend_backward(
        _windows(d_attended, o), _windows(qkv, o), p.bias, tile.mask, o.scale
    )
    sums.add(bias=d_bias)
    d_normed = _without_padding(through(d_qkv.flatten(0, 1), normed, 'qkv'), tile)
    d_tokens, d_weight, d_bias = norm1.backward(d_normed)
    sums.add(norm1_weight=d_weight, norm1_bias=d_bias)
    return real.of(d_tokens).add_(d_middle)


def _tiles(
    x: Tensor, p: Parameters, o: Options, factors: Tensor | None
) -> Iterator[tuple[Tile, _Real, Tensor | None]]:
    """Yields each tile, its real tokens, and the factors (2, tokens, 1) of their paths or None."""
    B, H, W = x.shape[:3]
    masks = edge_masks(o.window_size, o.shift_size, MASKED, p.bias)
    for tile in window_tiles((B, H, W), o.window_size, o.shift_size, masks):
        real = _Real.tokens(tile)
        scales = None if factors is None else factors[:, real.rows // (H * W), None]
        yield tile, real, scales


class _Real(NamedTuple):
    """The tokens of a tile that are not padded. The last one is repeated up to a round number.

    oneDNN compiles a program of about half a megabyte for each number of rows, and caches a
    thousand of them. Rounding keeps the number of different programs small.

    Attributes:
        rows: int64 (L,), the row of each token in the map.
        places: int64 (L,), its index in the tile; None if no token of the tile is padded.
        length: Number of tokens without repetitions.
    """

    rows: Tensor
    places: Tensor | None
    length: int

    @classmethod
    def tokens(cls, tile: Tile) -> _Real:
        if tile.real is None:
            return cls(tile.rows, None, len(tile.rows))
        places = tile.real.nonzero()[:, 0]
        count = len(places)
        # At most 16 different numbers between two powers of two.
        step = max((1 << (count - 1).bit_length()) // 32, 8)
        places = torch.cat((places, places[-1:].expand(-count % step)))
        return cls(tile.rows[places], places, count)

    def of(self, table: Tensor) -> Tensor:
        """Selects their rows of a table of the tile, (n * M², channels)."""
        return table if self.places is None else table.index_select(0, self.places)


def _add(x: Tensor, path: Tensor, scales: Tensor | None, which: int) -> Tensor:
    """``x + scales[which] * path``; overwrites ``path``."""
    return path.add_(x) if scales is None else path.mul_(scales[which]).add_(x)


def _windows(rows: Tensor, o: Options) -> Tensor:
    """(n * M², channels) to (n, M², channels)."""
    return rows.unflatten(0, (-1, o.window_size**2))


def _padded(rows: Tensor, tile: Tile) -> Tensor:
    """The inverse of :meth:`_Real.of`: padded tokens get zero rows."""
    if tile.real is None:
        return rows
    return rows.new_zeros(len(tile.real), rows.shape[1]).masked_scatter_(tile.real[:, None], rows)


def _without_padding(rows: Tensor, tile: Tile) -> Tensor:
    """Sets padded tokens to zero in-place."""
    return rows if tile.real is None else rows.masked_fill_(~tile.real[:, None], 0)
