"""A layout of weights: its names and channel order, and the translation to and from OpenMMLab's.

OpenMMLab's layout is the neutral one. Beside the backbone's own names (see ``swin.py`` and
``swin_v2.py``) the neutral layout has three of classifiers and masked pretraining: ``norm``, the
norm before the classifier, ``head.fc``, the classifier, and ``mask_token``. A V1 patch merging
belongs to the stage before it, a V2 patch merging to the stage after it. ``absolute_pos_embed`` may
be (1, C, H, W), which preserves the grid. V2's ``relative_coords_table`` is kept, because it tells
the window sizes of the file (:mod:`..coords_table`).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ...argument_values import LARGEST_WINDOW
from ...errors import CheckpointError
from ...ops.window_attention.positions import relative_position_index
from .. import coords_table
from ..resize import as_map, as_sequence
from ..tensors import is_dense

Value = TypeVar('Value')

# OpenMMLab's names of a block's members, and those of the official code, which most layouts share.
OFFICIAL_BLOCK = {
    'norm1': 'norm1',
    'norm2': 'norm2',
    'attn.w_msa.relative_position_bias_table': 'attn.relative_position_bias_table',
    'attn.w_msa.relative_position_index': 'attn.relative_position_index',
    'attn.w_msa.qkv': 'attn.qkv',
    'attn.w_msa.proj': 'attn.proj',
    'ffn.layers.0.0': 'mlp.fc1',
    'ffn.layers.1': 'mlp.fc2',
    # V2
    'attn.w_msa.relative_coords_table': 'attn.relative_coords_table',
    'attn.w_msa.logit_scale': 'attn.logit_scale',
    'attn.w_msa.q_bias': 'attn.q_bias',
    'attn.w_msa.v_bias': 'attn.v_bias',
    'attn.w_msa.cpb_mlp': 'attn.cpb_mlp',
}
OFFICIAL_STEM = {
    'patch_embed.projection': 'patch_embed.proj',
    'patch_embed.norm': 'patch_embed.norm',
    'absolute_pos_embed': 'absolute_pos_embed',
}
# Buffers that follow from the configuration and, for masks, from the image size.
_DERIVED = re.compile(r'\.(attn_mask|relative_position_index)$')
_V2 = re.compile(r'\.(logit_scale|(cpb|rpe)_mlp\.|continuous_position_bias_mlp\.)')


@dataclass(frozen=True)
class Layout:
    """A layout. Layouts that differ in more than names are subclasses.

    Attributes:
        name: Name, as in ``convert(…, to=name)``.
        title: The layout's owners.
        root: Pattern that matches the keys of attention modules. Its first group is the prefix
            before the layout's own names.
        own: Pattern of the start of the backbone's and the classifier's keys, if the layout is that
            of a larger model; other keys are left out.
        block: Template of a block's keys, with ``{stage}`` and ``{block}``.
        merging: Template of a patch merging's keys, with ``{stage}``.
        members: Members of a block: OpenMMLab's names and this layout's.
        stem: Names outside of blocks and mergings, likewise. Other neutral names have no place in
            the layout.
        numbering: (step, offset of blocks, offset of mergings). Stage i has the number
            ``step * i + offset`` in ``block`` and ``merging``.
        output_norm: Template of the output norms' keys, with ``{stage}``; None if there are none.
        first_output: Number of the first stage in ``output_norm``.
        embedding: Dimensions of the absolute position embedding: 3, 4, or 0 for either.
        index: How files hold ``relative_position_index``: as a ``'square'`` matrix, ``'flat'``, or
            not at all (``''``). Files of V2 hold ``relative_coords_table`` if they hold the index.
        container: The key of the weights in the owner's files, or ``''``.
        aliases: (pattern, replacement) of keys in files that have other names than the layout's.
    """

    name: str
    title: str
    root: str
    own: str = ''
    block: str = 'layers.{stage}.blocks.{block}'
    merging: str = 'layers.{stage}.downsample'
    members: Mapping[str, str] = field(default_factory=lambda: OFFICIAL_BLOCK)
    stem: Mapping[str, str] = field(default_factory=lambda: OFFICIAL_STEM)
    numbering: tuple[int, int, int] = (1, 0, 0)
    output_norm: str | None = 'norm{stage}'
    first_output: int = 0
    embedding: int = 0
    index: str = 'square'
    container: str = ''
    aliases: tuple[tuple[str, str], ...] = ()

    # Whether merged channels are in nn.Unfold's order, as in the neutral layout.
    unfolds: ClassVar[bool] = False
    # Whether missing output norms are an error; files of classifiers never have them.
    has_output_norms: ClassVar[bool] = False

    def accepts(self, keys: Mapping[str, Any]) -> bool:
        """Whether keys that match ``root`` are in this layout and not in a similar one."""
        return True

    def to_openmmlab(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights in the neutral layout, without derived buffers.

        Keys that the layout does not know keep their names.
        """
        version = version_of(state_dict)
        return {
            key: to_unfold_order(value) if self._reorders(key, version) else value
            for key, value in self.renamed(state_dict).items()
        }

    def renamed(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Unchanged values by neutral names, without derived buffers."""
        for pattern, name in self.aliases:
            state_dict = {re.sub(pattern, name, key): v for key, v in state_dict.items()}
        named = {
            self._neutral_name(key): value
            for key, value in self._merged(state_dict).items()
            if re.match(self.own, key) and not _DERIVED.search(key)
        }
        return self._with_neutral_mergings(named)

    def _merged(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """Weights in own names, with those concatenated that the neutral layout has as one."""
        return own

    def _with_neutral_mergings(self, named: dict[str, Any]) -> dict[str, Any]:
        return with_mergings_moved(named, 1) if version_of(named) == 2 else named

    def _with_own_mergings(self, neutral: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return with_mergings_moved(neutral, -1) if version_of(neutral) == 2 else neutral

    def from_openmmlab(
        self, state_dict: Mapping[str, Tensor], dropped: list[str] | None = None
    ) -> dict[str, Tensor]:
        """The weights in this layout, with the position indices that its files hold.

        V2's indices are only added to a ``relative_coords_table``, which tells the window size.

        Args:
            state_dict: Weights in the neutral layout.
            dropped: List to which the names of weights without a place in this layout are added:
                of classifiers, norms and mask tokens.

        Raises:
            CheckpointError: Weights that the features depend on have no place in this layout.
        """
        dropped = [] if dropped is None else dropped
        translated = {}
        version = version_of(state_dict)
        neutral = self._prepared(state_dict, dropped)
        for key, value in self._with_own_mergings(neutral).items():
            if _DERIVED.search(key) or (key.endswith(coords_table.TABLE) and not self.index):
                continue
            name = self._own_name(key)
            if name is None:
                self._check_droppable(key)
                dropped.append(key)
                continue
            if self._reorders(key, version):
                value = from_unfold_order(value)
            elif key == 'absolute_pos_embed' and self.embedding:
                value = as_sequence(value) if self.embedding == 3 else as_map(value)
            translated[name] = value
            if self.index and (index := self._index(key, value)) is not None:
                index_name = self._own_name(re.sub(r'\w+$', 'relative_position_index', key))
                translated |= {index_name: index} if index_name else {}
        return translated

    def _prepared(self, neutral: Mapping[str, Tensor], dropped: list[str]) -> Mapping[str, Tensor]:
        """Weights in the neutral layout before they are renamed.

        Layouts with a norm before the classifier get the last output's norm as this one.
        """
        wants_norm = 'head.fc.weight' in neutral or not self.output_norm
        if 'norm' in self.stem and wants_norm and 'norm.weight' not in neutral:
            return with_last_norm_as_norm(neutral)
        return neutral

    def _index(self, key: str, value: Tensor) -> Tensor | None:
        """The position index for the window of a bias or coordinates table; None for other keys."""
        window = None
        if key.endswith('.relative_position_bias_table'):
            window = (math.isqrt(len(value)) + 1) // 2
        elif key.endswith(coords_table.TABLE):
            window = coords_table.window_of(value)
        if window is None:
            return None
        if window > LARGEST_WINDOW:  # the index of a small table could be huge
            raise CheckpointError(
                f'{key} is for windows of {window} tokens a side; an index is made for at most '
                f'{LARGEST_WINDOW}'
            )
        index = relative_position_index(window)
        return index.flatten() if self.index == 'flat' else index

    def _reorders(self, key: str, version: int) -> bool:
        """Whether a weight's last dimension is merged channels, not in the neutral order."""
        if self.unfolds or '.downsample.' not in key:
            return False
        return version == 1 or key.endswith('.reduction.weight')  # V2's norm follows the reduction

    def _check_droppable(self, key: str) -> None:
        if key.startswith(('stages.', 'patch_embed.', 'absolute_pos_embed', 'global_attention.')):
            raise CheckpointError(
                f'{key} has no place in the layout {self.name!r} ({self.title}), and the features '
                'depend on it'
            )

    # --- names ------------------------------------------------------------------------------------

    def _neutral_name(self, key: str) -> str:
        step, for_blocks, for_mergings = self.numbering
        if match := _pattern(self.block).match(key):
            stage, remainder = divmod(int(match['stage']) - for_blocks, step)
            member = _renamed(match['rest'], _inverse(self.members))
            if remainder == 0 and stage >= 0 and member:
                return f'stages.{stage}.blocks.{match["block"]}.{member}'
        if match := _pattern(self.merging).match(key):
            stage, remainder = divmod(int(match['stage']) - for_mergings, step)
            if remainder == 0 and stage >= 0:
                return f'stages.{stage}.downsample.{match["rest"]}'
        if self.output_norm and (match := _pattern(self.output_norm).match(key)):
            return f'norm{int(match["stage"]) - self.first_output}.{match["rest"]}'
        return _renamed(key, _inverse(self.stem)) or key

    def _own_name(self, key: str) -> str | None:
        step, for_blocks, for_mergings = self.numbering
        if match := re.match(r'stages\.([0-9]{1,4})\.blocks\.([0-9]{1,4})\.(.+)', key):
            block = self.block.format(stage=step * int(match[1]) + for_blocks, block=match[2])
            member = _renamed(match[3], self.members.items())
            return f'{block}.{member}' if member else None
        if match := re.match(r'stages\.([0-9]{1,4})\.downsample\.(.+)', key):
            return f'{self.merging.format(stage=step * int(match[1]) + for_mergings)}.{match[2]}'
        if match := re.match(r'norm([0-9]{1,4})\.(.+)', key):
            if not self.output_norm:
                return None
            stage = int(match[1]) + self.first_output
            return f'{self.output_norm.format(stage=stage)}.{match[2]}'
        return _renamed(key, self.stem.items())


def version_of(keys: Iterable[str]) -> int:
    """1 or 2: the version of Swin, detected from a backbone's keys in any layout."""
    return 2 if any(_V2.search(key) for key in keys) else 1


def with_mergings_moved(named: Mapping[str, Value], by: int) -> dict[str, Value]:
    """Weights in neutral names, with ``by`` added to the stages of the patch mergings."""

    def moved(match: re.Match) -> str:
        return f'stages.{int(match[1]) + by}.downsample.'

    return {re.sub(r'^stages\.([0-9]{1,4})\.downsample\.', moved, k): v for k, v in named.items()}


def with_norm_of_last_output(neutral: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the neutral layout, with ``norm`` renamed to the last output's norm if missing.

    It is for backbones with a classifier after their last output: they have this norm only.
    """
    last = _last_norm(neutral)
    return dict(neutral) if f'{last}weight' in neutral else _with_prefix(neutral, 'norm.', last)


def with_last_norm_as_norm(neutral: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the neutral layout, with the last output's norm renamed to ``norm``."""
    return _with_prefix(neutral, _last_norm(neutral), 'norm.')


def _last_norm(neutral: Mapping[str, Any]) -> str:
    stages = (int(m[1]) for k in neutral if (m := re.match(r'stages\.([0-9]{1,4})\.', k)))
    return f'norm{max(stages, default=0)}.'


def _with_prefix(weights: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in weights.items()}


def to_unfold_order(merged: Tensor) -> Tensor:
    """Reorders merged channels from the official (column, row, C) to nn.Unfold's (C, row, column).

    Args:
        merged: (..., 4C).
    """
    if not is_dense(merged) or not merged.dim() or merged.shape[-1] % 4:
        return merged  # invalid; the caller reports the key
    return merged.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)


def from_unfold_order(merged: Tensor) -> Tensor:
    """The inverse of :func:`to_unfold_order`."""
    return merged.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)


@functools.cache
def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template).replace(r'\{', '{').replace(r'\}', '}')
    pattern = pattern.replace('{stage}', r'(?P<stage>[0-9]{1,4})').replace(
        '{block}', r'(?P<block>[0-9]{1,4})'
    )
    return re.compile(pattern + r'\.(?P<rest>.+)')


def _inverse(names: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    return ((theirs, ours) for ours, theirs in names.items())


def _renamed(key: str, names: Iterable[tuple[str, str]]) -> str | None:
    """The key with the old name that it starts with replaced by the new one; None without one."""
    for old, new in names:
        if key == old or key.startswith(f'{old}.'):
            return new + key[len(old) :]
    return None
