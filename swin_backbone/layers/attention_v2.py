"""Window attention of Swin V2 with its parameters: cosine scores and a computed position bias."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.recording import TORCH, compiling, is_hooked_within, observed
from ..ops.sizes import unflatten
from ..ops.window_attention import MAX_LOGIT_SCALE, cosine, shifted_window_cosine_attention
from ..ops.window_attention.positions import (
    bias_of_pairs,
    log_spaced_coordinates,
    relative_position_index,
)
from .attention import NO_DROP_PATH, ShiftedWindows, WindowAttention
from .from_config import build_dropout
from .tensor_cache import TensorCache, may_be_cached

HIDDEN = 512  # width of the position bias's network


class WindowMSAV2(WindowAttention):
    """Multi-head self-attention by scaled cosines within windows, with continuous position bias.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads; must divide ``embed_dims``.
        window_size: Side M of a window, in tokens.
        pretrained_window_size: Side of the windows in pretraining, which sets the coordinates'
            scale; 0 if it is the same.
        qkv_bias: Whether the queries' and the values' projection have a bias.
        attn_drop_rate: Probability of dropping an attention weight.
        proj_drop_rate: Probability of dropping an element of the output.
        init_cfg: mmengine's initialisers.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        pretrained_window_size: int = 0,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(embed_dims, num_heads, window_size, init_cfg)
        self.pretrained_window_size = pretrained_window_size
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        for name in ('q_bias', 'v_bias'):  # softmax cancels a bias of the keys
            bias = nn.Parameter(torch.zeros(embed_dims)) if qkv_bias else None
            self.register_parameter(name, bias)
        # Unused here, in the state dict for other implementations: the bias is computed from fresh
        # coordinates, which are not rounded to a lower precision.
        for name, buffer in self._derived(self.logit_scale.device).items():
            self.register_buffer(name, buffer)
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, num_heads, bias=False)
        )
        self._add_projections(False, attn_drop_rate, proj_drop_rate)
        self._bias_cache = TensorCache()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.__dict__.pop('_kept', None)  # the cache in a pickle of version 0.2
        self.__dict__.setdefault('_bias_cache', TensorCache())

    def _derived(self, device: torch.device) -> dict[str, Tensor]:
        """The buffers, computed from the window size: coordinates of offsets, index of pairs.

        Returns:
            ``relative_coords_table``, float32 (1, 2M - 1, 2M - 1, 2), and
            ``relative_position_index``, int64 (M², M²).
        """
        window_size = int(self.window_size)
        table = log_spaced_coordinates(window_size, self.pretrained_window_size, device)
        return dict(
            relative_coords_table=table.unflatten(0, (2 * window_size - 1,) * 2)[None],
            relative_position_index=relative_position_index(window_size).to(device),
        )

    def init_weights(self) -> None:
        """Initializes temperature and biases as the official code does.

        Also sets the buffers, which have no values if the model was built on the meta device.
        """
        for name, buffer in self._derived(self.logit_scale.device).items():
            getattr(self, name).copy_(buffer)
        nn.init.constant_(self.logit_scale, math.log(10))
        for bias in (self.q_bias, self.v_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # A file's buffers may belong to other windows or be absent; the model's own have no values
        # if it was built on the meta device.
        for name, buffer in self._derived(torch.device('cpu')).items():
            own = getattr(self, name)
            device = buffer.device if own.is_meta else own.device
            state_dict[prefix + name] = buffer.to(device, own.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def train(self, mode: bool = True) -> WindowMSAV2:
        """Sets the mode, and forgets the position bias of former weights."""
        self._bias_cache.clear()
        return super().train(mode)

    def relative_position_bias(self, window_size: int | None = None) -> Tensor:
        """The bias of every pair of tokens (equation 3), (heads, M², M²), of a window of any size.

        Without gradients and in evaluation it is computed once, for as long as its network stays as
        it is.
        """
        window_size = window_size or int(self.window_size)
        if compiling():
            return self._computed_bias(window_size)
        sources = [*self.cpb_mlp.parameters(), *self.cpb_mlp.buffers()]
        if self.training or not (self._network_is_usual() and may_be_cached(sources)):
            self._bias_cache.clear()
            return self._computed_bias(window_size)
        return self._bias_cache.get(window_size, sources, lambda: self._computed_bias(window_size))

    def _network_is_usual(self) -> bool:
        """Whether the position bias depends on the network's parameters only, without hooks."""
        network = self.cpb_mlp
        return (
            type(network) is nn.Sequential
            and tuple(map(type, network)) == (nn.Linear, nn.ReLU, nn.Linear)
            and not is_hooked_within(network)
            and observed() is None
        )

    def _computed_bias(self, window_size: int) -> Tensor:
        like = self.logit_scale  # a user's network may have no weight
        coordinates = log_spaced_coordinates(window_size, self.pretrained_window_size, like.device)
        # The bias reaches 16: autocast's precision would be too low.
        with _without_autocast(like.device.type):
            table = 16 * self.cpb_mlp(coordinates.to(like.dtype)).sigmoid()
        table = unflatten(table.t(), 1, (2 * window_size - 1,) * 2)
        return bias_of_pairs(table, window_size)

    def _project(self, x: Tensor) -> Tensor:
        bias = self._padding()
        if TORCH.is_as_defined(self.qkv, nn.Linear):
            return F.linear(x, self.qkv.weight, bias)
        return self.qkv(x) if bias is None else self.qkv(x) + bias

    def _padding(self) -> Tensor | None:
        if self.q_bias is None:
            return None
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))

    def heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        scale = self.logit_scale.flatten()
        scale = scale.to(torch.promote_types(scale.dtype, torch.float32))
        return super().heads(cosine.reference(qkv, scale.clamp(max=MAX_LOGIT_SCALE).exp()))

    def _operator(self, qkv: Tensor, bias: Tensor, padding: Tensor | None, **rest: Any) -> Tensor:
        return shifted_window_cosine_attention(qkv, bias, self.logit_scale, padding=padding, **rest)


def _without_autocast(device: str) -> contextlib.AbstractContextManager:
    if device == 'meta' or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


class ShiftWindowMSAV2(ShiftedWindows):
    """W-MSA or, if ``shift_size`` is not 0, SW-MSA of V2.

    The block applies ``drop``, drop path, after its norm; this module does not.

    Args:
        embed_dims: Width C of a token.
        num_heads: Attention heads.
        window_size: Side M of a window, in tokens.
        shift_size: Cyclic shift of the map up and left, 0 <= shift_size < window_size.
        pretrained_window_size, qkv_bias, attn_drop_rate, proj_drop_rate: See
            :class:`WindowMSAV2`.
        dropout_layer: Applied by the block to the normalised result, e.g. drop path.
        init_cfg: mmengine's initialisers.
        pad_small_map: See :class:`ShiftedWindows`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        shift_size: int = 0,
        pretrained_window_size: int = 0,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        dropout_layer: dict | None = NO_DROP_PATH,
        init_cfg: dict | None = None,
        *,
        pad_small_map: bool = False,
    ) -> None:
        super().__init__(window_size, shift_size, pad_small_map, init_cfg)
        self.w_msa = WindowMSAV2(
            embed_dims,
            num_heads,
            window_size,
            pretrained_window_size=pretrained_window_size,
            qkv_bias=qkv_bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=proj_drop_rate,
        )
        self.drop = build_dropout(dropout_layer)

    def relative_position_bias(self, hw_shape: tuple[int, int]) -> Tensor:
        """The bias of the windows on a map (H, W): (heads, M², M²)."""
        return self.w_msa.relative_position_bias(self.windows(hw_shape)[0])

    def forward(
        self, query: Tensor, hw_shape: tuple[int, int], bias: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, H * W, C) of a map (H, W) to the same shape.

        ``bias`` is :meth:`relative_position_bias`, if it has been computed before.
        """
        return self.attend(query, hw_shape, bias)

    forward_as_defined = forward
