"""Patch embeddings for another number of input channels."""

from __future__ import annotations

from torch import Tensor

from ..argument_values import same, shown
from ..errors import ArgumentError, CheckpointError
from .plain import form, is_plain

KEY = 'patch_embed.projection.weight'
RULES = ('mean', 'repeat', 'zeros')


def adapt_input_channels(weight: Tensor, channels: int, rule: str) -> Tensor:
    """The weight W' of a patch embedding for ``channels`` inputs C' from one W for C.

    Rules:
        ``'mean'``: W'[:, c] = (C / C') · mean over k of W[:, k]. All channels count alike. For one
        channel W' is the sum of W, so a grey image gives what its copy in every channel gave.

        ``'repeat'``: W'[:, c] = (C / C') · W[:, c mod C]. Channels take the old ones' weights in
        turn; the scale keeps the size of the sum.

        ``'zeros'``: W'[:, c] = W[:, c] for c < C, and 0 for the others, so the first channels mean
        what they did, and the further ones nothing until they are trained. C' must not be below C.

    Args:
        weight: (embed_dims, C, height, width).
        channels: C'.
        rule: One of ``RULES``.

    Returns:
        (embed_dims, C', height, width), in the dtype of ``weight``; ``weight`` itself if C' is C.

    Raises:
        ArgumentError: An unknown rule, or ``'zeros'`` for fewer channels.
        CheckpointError: It is no such weight.
    """
    if not any(same(rule, known) for known in RULES):
        raise ArgumentError(
            f'unknown rule in_channels={shown(rule)}; it is one of {", ".join(RULES)}'
        )
    if not is_plain(weight) or weight.dim() != 4 or not weight.numel():
        raise CheckpointError(f'{KEY}: found {form(weight)}, not (embed_dims, C, height, width)')
    if not weight.is_floating_point():
        raise CheckpointError(f'{KEY}: found {weight.dtype}, not floating point')
    old = weight.shape[1]
    if channels == old:
        return weight
    if rule == 'mean':
        mean = weight.mean(dim=1, keepdim=True) * (old / channels)
        return mean.repeat(1, channels, 1, 1)
    if rule == 'repeat':
        order = [c % old for c in range(channels)]
        return weight[:, order] * (old / channels)
    if channels < old:
        raise ArgumentError(
            f"in_channels='zeros' adds channels, but the model has {channels} and the file {old}; "
            "use 'mean' or 'repeat'"
        )
    extended = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    extended[:, :old] = weight
    return extended


def check_input_channels(weight: Tensor, wanted: tuple[int, ...]) -> None:
    """Refuses a patch embedding that differs from a model's in its input channels alone.

    Args:
        weight: (embed_dims, C, height, width).
        wanted: The shape of the model's.

    Raises:
        CheckpointError: The message names the option that adapts it.
    """
    found = tuple(weight.shape)
    if len(found) == 4 and found[1] != wanted[1] and found == (wanted[0], found[1], *wanted[2:]):
        rules = ', '.join(repr(rule) for rule in RULES)
        raise CheckpointError(
            f'{KEY} is for {found[1]} input channels, the model has {wanted[1]}; adapt it '
            f"with init_cfg=dict(type='Pretrained', checkpoint=…, in_channels=…), one of {rules}"
        )
