"""What a layout of weights is: its names beside OpenMMLab's, and the way there and back.

OpenMMLab's layout is the neutral one. Beside the backbone's own names (see ``swin.py`` and
``swin_v2.py``) the neutral layout has three that classifiers bring along: ``norm``, the norm before
the classifier, ``head.fc``, the classifier, and ``mask_token``, which masked pretraining learns.
V2's patch mergings open a stage there, as the modules do; V1's close one. There
``absolute_pos_embed`` may be (1, C, H, W), as detection files have it, which says what its
grid is; and V2's ``relative_coords_table`` stays where a file has it, as it says what the file's
windows are (:mod:`..coordinates`).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ...argument_values import LARGEST_WINDOW
from ...errors import CheckpointError
from ...layers.attention import relative_position_index
from .. import coordinates
from ..plain import is_plain
from ..resize import as_map, as_sequence

Value = TypeVar('Value')

# Members of a block: OpenMMLab's names to those of the official code, which most layouts share.
OFFICIAL_BLOCK = {
    'norm1': 'norm1',
    'norm2': 'norm2',
    'attn.w_msa.relative_position_bias_table': 'attn.relative_position_bias_table',
    'attn.w_msa.relative_position_index': 'attn.relative_position_index',
    'attn.w_msa.qkv': 'attn.qkv',
    'attn.w_msa.proj': 'attn.proj',
    'ffn.layers.0.0': 'mlp.fc1',
    'ffn.layers.1': 'mlp.fc2',
    # V2's
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
# Buffers that follow from the configuration; masks depend on the image's size as well.
_DERIVED = re.compile(r'\.(attn_mask|relative_position_index)$')
_V2 = re.compile(r'\.(logit_scale|(cpb|rpe)_mlp\.|continuous_position_bias_mlp\.)')


@dataclass(frozen=True)
class Layout:
    """One row of the table of layouts; this class does for those that differ in names alone.

    Attributes:
        name: What ``convert(…, to=name)`` takes.
        title: Whose it is, for people.
        root: Pattern of a key within a block's attention. Its first group is what stands before
            the layout's own names.
        own: Pattern of the start of the keys that are the backbone's or the classifier's, where the
            layout is that of a larger model; others are left out.
        block: Pattern of a block's keys, with ``{stage}`` and ``{block}``.
        merging: Pattern of a patch merging's keys, with ``{stage}``.
        members: Members of a block, OpenMMLab's name to this layout's.
        stem: Everything outside blocks and mergings, likewise. What has no name here has no place
            in the layout.
        numbering: A stage's number in ``block`` and in ``merging`` of stage i is
            ``step * i + offset``: (step, offset for blocks, offset for mergings).
        output_norm: Pattern of the norms of the outputs, with ``{stage}``, or None without them.
        first_output: Number of the first stage in ``output_norm``.
        embedding: Dimensions of the absolute position embedding: 3, 4, or 0 for either.
        index: Whether files hold ``relative_position_index``, and of V2 ``relative_coords_table``
            as well: as a ``'square'`` matrix, ``'flat'``, or not at all (``''``).
        container: The key under which the owner's files hold the weights, or ``''``.
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

    # Whether merged channels are in nn.Unfold's order already.
    unfolds: ClassVar[bool] = False
    # Whether a file without the norm of an output is incomplete, rather than a classifier's.
    has_output_norms: ClassVar[bool] = False

    def accepts(self, keys: Mapping[str, Any]) -> bool:
        """Whether keys in which ``root`` was found are in this layout and in none that is alike."""
        return True

    def to_openmmlab(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights in the neutral layout; derived buffers are left out.

        A key that the layout does not know keeps its name.
        """
        translated = {}
        version = version_of(state_dict)
        for key, value in self.renamed(state_dict).items():
            if self._reorders(key, version):
                value = to_unfold_order(value)
            translated[key] = value
        return translated

    def renamed(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Neutral names for the values as they are, without derived buffers."""
        named = {
            self._neutral_name(key): value
            for key, value in state_dict.items()
            if self._own_pattern.match(key) and not _DERIVED.search(key)
        }
        return self._with_mergings_as_neutral(named)

    def _with_mergings_as_neutral(self, named: dict[str, Any]) -> dict[str, Any]:
        return with_mergings_moved(named, 1) if version_of(named) == 2 else named

    def _with_mergings_as_own(self, neutral: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return with_mergings_moved(neutral, -1) if version_of(neutral) == 2 else neutral

    def from_openmmlab(
        self, state_dict: Mapping[str, Tensor], dropped: list[str] | None = None
    ) -> dict[str, Tensor]:
        """The weights in this layout, with the position indices that its files hold.

        V2's depend on the window, which is known where there is a ``relative_coords_table``.

        Args:
            state_dict: In the neutral layout.
            dropped: Where to add the names of what has no place in this layout: classifiers,
                norms and masks alone.

        Raises:
            CheckpointError: Something that the features depend on has no place.
        """
        translated = {}
        version = version_of(state_dict)
        for key, value in self._with_mergings_as_own(state_dict).items():
            if _DERIVED.search(key) or (key.endswith(coordinates.TABLE) and not self.index):
                continue
            name = self._own_name(key)
            if name is None:
                self._check_droppable(key)
                if dropped is not None:
                    dropped.append(key)
                continue
            if self._reorders(key, version):
                value = from_unfold_order(value)
            elif key == 'absolute_pos_embed' and self.embedding:
                value = as_sequence(value) if self.embedding == 3 else as_map(value)
            translated[name] = value
            if self.index and (index := self._index(key, value)) is not None:
                beside = self._own_name(re.sub(r'\w+$', 'relative_position_index', key))
                translated |= {beside: index} if beside else {}
        return translated

    def _index(self, key: str, value: Tensor) -> Tensor | None:
        """The position index beside a table, which tells the window; None beside all else."""
        if key.endswith('.relative_position_bias_table'):
            window: int | None = (math.isqrt(len(value)) + 1) // 2
        elif key.endswith(coordinates.TABLE):
            window = coordinates.window_of(value)
        else:
            window = None
        if window is None:
            return None
        if window > LARGEST_WINDOW:  # a small table would make a huge index
            raise CheckpointError(
                f'{key} is for windows of {window} tokens a side, and no index is made of more '
                f'than {LARGEST_WINDOW}'
            )
        index = relative_position_index(window)
        return index.flatten() if self.index == 'flat' else index

    def _reorders(self, key: str, version: int) -> bool:
        """Whether a weight's last dimension is merged channels in another order than here."""
        if self.unfolds or '.downsample.' not in key:
            return False
        return version == 1 or key.endswith('.reduction.weight')  # V2's norm comes after

    def _check_droppable(self, key: str) -> None:
        if key.startswith(('stages.', 'patch_embed.', 'absolute_pos_embed', 'global_attention.')):
            raise CheckpointError(
                f'{key} has no place in the layout {self.name!r} ({self.title}), and the features '
                'depend on it'
            )

    # --- names ------------------------------------------------------------------------------------

    def _neutral_name(self, key: str) -> str:
        step, for_blocks, for_mergings = self.numbering
        if match := self._block_pattern.match(key):
            stage, remainder = divmod(int(match['stage']) - for_blocks, step)
            member = _swapped(match['rest'], self._members_back)
            if remainder == 0 and stage >= 0 and member:
                return f'stages.{stage}.blocks.{match["block"]}.{member}'
        if match := self._merging_pattern.match(key):
            stage, remainder = divmod(int(match['stage']) - for_mergings, step)
            if remainder == 0 and stage >= 0:
                return f'stages.{stage}.downsample.{match["rest"]}'
        if self._norm_pattern and (match := self._norm_pattern.match(key)):
            return f'norm{int(match["stage"]) - self.first_output}.{match["rest"]}'
        return _swapped(key, self._stem_back) or key

    def _own_name(self, key: str) -> str | None:
        step, for_blocks, for_mergings = self.numbering
        if match := re.match(r'stages\.([0-9]{1,4})\.blocks\.([0-9]{1,4})\.(.+)', key):
            block = self.block.format(stage=step * int(match[1]) + for_blocks, block=match[2])
            member = _swapped(match[3], self.members)
            return f'{block}.{member}' if member else None
        if match := re.match(r'stages\.([0-9]{1,4})\.downsample\.(.+)', key):
            return f'{self.merging.format(stage=step * int(match[1]) + for_mergings)}.{match[2]}'
        if match := re.match(r'norm([0-9]{1,4})\.(.+)', key):
            if not self.output_norm:
                return None
            stage = int(match[1]) + self.first_output
            return f'{self.output_norm.format(stage=stage)}.{match[2]}'
        return _swapped(key, self.stem)

    @functools.cached_property
    def root_pattern(self) -> re.Pattern:
        """``root``, compiled."""
        return re.compile(self.root)

    @functools.cached_property
    def _own_pattern(self) -> re.Pattern:
        return re.compile(self.own)

    @functools.cached_property
    def _block_pattern(self) -> re.Pattern:
        return _pattern(self.block)

    @functools.cached_property
    def _merging_pattern(self) -> re.Pattern:
        return _pattern(self.merging)

    @functools.cached_property
    def _norm_pattern(self) -> re.Pattern | None:
        return _pattern(self.output_norm) if self.output_norm else None

    @functools.cached_property
    def _members_back(self) -> dict[str, str]:
        return {theirs: ours for ours, theirs in self.members.items()}

    @functools.cached_property
    def _stem_back(self) -> dict[str, str]:
        return {theirs: ours for ours, theirs in self.stem.items()}


class WithClassifier(Layout):
    """A layout with one norm before a classifier, which OpenMMLab has as the last output's norm."""

    def from_openmmlab(
        self, state_dict: Mapping[str, Tensor], dropped: list[str] | None = None
    ) -> dict[str, Tensor]:
        if 'norm.weight' not in state_dict and (
            'head.fc.weight' in state_dict or not self.output_norm
        ):
            state_dict = with_last_norm_as(state_dict, 'norm.')
        return super().from_openmmlab(state_dict, dropped)


def version_of(keys: Mapping[str, Any]) -> int:
    """1 or 2: whether the attention is V1's or V2's, from the keys of a backbone in any layout."""
    return 2 if any(_V2.search(key) for key in keys) else 1


def with_mergings_moved(named: Mapping[str, Value], by: int) -> dict[str, Value]:
    """Neutral names, with the patch mergings' stages numbered higher by so many."""

    def moved(match: re.Match) -> str:
        return f'stages.{int(match[1]) + by}.downsample.'

    return {re.sub(r'^stages\.([0-9]{1,4})\.downsample\.', moved, k): v for k, v in named.items()}


def last_stage(neutral: Mapping[str, Any]) -> int:
    """The number of the last stage of weights in the neutral layout."""
    return max(
        (int(m[1]) for k in neutral if (m := re.match(r'stages\.([0-9]{1,4})\.', k))), default=0
    )


def with_norm_of_last_output(neutral: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The neutral layout with the norm before a classifier as the last output's, if that has none.

    A backbone whose last output a classifier takes has the one where the other layouts have both.
    """
    last = f'norm{last_stage(neutral)}.'
    if f'{last}weight' in neutral:
        return dict(neutral)
    return {
        last + key.removeprefix('norm.') if key.startswith('norm.') else key: value
        for key, value in neutral.items()
    }


def to_unfold_order(merged: Tensor) -> Tensor:
    """4C merged channels: the official order, (column, row, C), to nn.Unfold's, (C, row, column).

    Args:
        merged: (..., 4C).
    """
    if not is_plain(merged) or not merged.dim() or merged.shape[-1] % 4:
        return merged  # fits nothing; the loader says so with the key's name
    return merged.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)


def from_unfold_order(merged: Tensor) -> Tensor:
    """The inverse of :func:`to_unfold_order`."""
    return merged.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)


def with_last_norm_as(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights in the neutral layout, with ``name`` for the norm of the last output."""
    last = f'norm{last_stage(state_dict)}.'
    return {
        name + key.removeprefix(last) if key.startswith(last) else key: value
        for key, value in state_dict.items()
    }


def _pattern(template: str) -> re.Pattern:
    pattern = re.escape(template).replace(r'\{', '{').replace(r'\}', '}')
    pattern = pattern.replace('{stage}', r'(?P<stage>[0-9]{1,4})').replace(
        '{block}', r'(?P<block>[0-9]{1,4})'
    )
    return re.compile(pattern + r'\.(?P<rest>.+)')


def _swapped(key: str, names: Mapping[str, str]) -> str | None:
    """The key with the whole name that it starts with swapped; None if it is not in ``names``."""
    for old, new in names.items():
        if key == old or key.startswith(f'{old}.'):
            return new + key[len(old) :]
    return None
