"""Figures of features, attention and class activation maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from ...errors import ArgumentError
from .attention import BlockAttention, TokenAttention
from .cam import METHODS, Cam
from .features import Colours, principal_colours
from .observation import Observation, token_sides
from .rollout import Rollout
from .subject import Subject, View

# Of regular and shifted windows; distinct for colour-blind people.
COLOURS = ('#e69f00', '#2f9be0')
WORDS = ('windows', 'shifted windows')
HEAT = 'inferno'
SCALE = "colours: from black, no attention, to pale yellow, the panel's largest"
PADDING = '#dcdcdc'
MARGIN = 1.5  # tokens around the windows in zoomed panels


@dataclass(frozen=True)
class Grid:
    """The positions of a stage's tokens on an image.

    Attributes:
        view: How the image was prepared for the model.
        side: (height, width) of a token in pixels of the input.
    """

    view: View
    side: tuple[int, int]

    def extent(self, rows: int, columns: int) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) in pixels of the image of a map with so many tokens."""
        left, top = self.corner(0, 0)
        right, bottom = self.corner(rows, columns)
        return left, right, bottom, top

    def corner(self, row: float, column: float) -> tuple[float, float]:
        """The top left corner (x, y) of a token in pixels of the image."""
        return self.view.to_image(column * self.side[1], row * self.side[0])

    def token(self, x: float, y: float, grid: tuple[int, int]) -> tuple[int, int]:
        """(row, column) of the token at a point of the image, or of the nearest one."""
        across, down = self.view.to_input(x, y)
        row, column = int(down // self.side[0]), int(across // self.side[1])
        return min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)

    def shown(self) -> tuple[int, int]:
        """The numbers of rows and columns of tokens that contain a part of the image."""
        height, width = (-(-size // s) for size, s in zip(self.view.size, self.side, strict=True))
        return height, width


def grids(subject: Subject, view: View) -> list[Grid]:
    """The grid of each stage."""
    assert subject.backbone is not None
    return [Grid(view, side) for side in token_sides(subject.backbone)]


def feature_colours(subject: Subject, view: View, maps: Mapping[int, Tensor]) -> dict[int, Colours]:
    """The colours of each stage's map, without tokens that contain only padding."""
    found = {}
    for stage, grid in enumerate(grids(subject, view)):
        if stage in maps:
            rows, columns = grid.shown()
            found[stage] = principal_colours(maps[stage][0, :, :rows, :columns])
    return found


def draw_features(
    image: np.ndarray,
    subject: Subject,
    view: View,
    maps: Mapping[int, Tensor],
    colours: Mapping[int, Colours] | None = None,
) -> Figure:
    """The image, and the principal components of each stage's map as colours.

    Args:
        image: uint8 (H, W, 3), RGB.
        subject: The model.
        view: How the image was prepared for the model.
        maps: The map (1, C, h, w) of each stage.
        colours: Their colours, if already computed.
    """
    colours = feature_colours(subject, view, maps) if colours is None else colours
    panels = 1 + len(colours)
    columns = panels if panels <= 3 or _wide(image) < 1.2 else -(-panels // 2)
    figure, axes = _panels(image, panels, columns)
    _show(axes[0], image)
    axes[0].set_title(f'image, {image.shape[1]} × {image.shape[0]}', fontsize=10)
    for axis, (stage, found) in zip(axes[1:], colours.items(), strict=False):
        grid = grids(subject, view)[stage]
        rows, across = found.rgb.shape[:2]
        axis.imshow(found.rgb, extent=grid.extent(rows, across), interpolation='nearest')
        title = (
            f'stage {stage}: {maps[stage].shape[1]} channels, {across} × {rows} tokens\n'
            f'{100 * found.explained:.0f} % of the variance in three components'
        )
        axis.set_title(title, fontsize=10)
    for axis in axes:
        _frame(axis, image)
    _entitle(figure, 'Feature maps', subject)
    return figure


def _wide(image: np.ndarray) -> float:
    return min(max(image.shape[1] / image.shape[0], 0.25), 4)


def _panels(image: np.ndarray, count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of the image's aspect ratio."""
    rows = -(-count // columns)
    wide = _wide(image)
    width = min(3.4, 3.4 * wide**0.5)
    width = max(width, 2.6)
    figure = Figure(
        figsize=(columns * width + 0.3, rows * (width / wide + 0.42) + 0.5), layout='constrained'
    )
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes


def _show(axis: Axes, image: np.ndarray) -> None:
    """Draws an image with its top left corner at (0, 0), not at the center of the first pixel."""
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))


def _frame(axis: Axes, image: np.ndarray) -> None:
    axis.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    axis.set(xticks=(), yticks=())


def _entitle(figure: FigureBase, what: str, subject: Subject) -> None:
    """Sets a title, which warns of random weights: their features may look plausible."""
    weights = subject.weights if subject.random else Path(subject.weights).name
    figure.suptitle(
        f'{what} of {subject.name}, {weights}',
        fontsize=12,
        fontweight='bold' if subject.random else 'normal',
        color='#b00020' if subject.random else 'black',
    )


def attend(
    subject: Subject,
    view: View,
    seen: Observation,
    stage: int,
    blocks: Sequence[int],
    point: tuple[float, float],
) -> list[TokenAttention]:
    """For each of the blocks, the attention of the token at a point of the image.

    Raises:
        ArgumentError: The point is outside the image, or is cropped by the test pipeline.
    """
    assert subject.backbone is not None
    grid = grids(subject, view)[stage]
    check_point(view, point)
    found = []
    for block in blocks:
        tokens, hw = seen.tokens[stage, block]
        attention = BlockAttention(subject.backbone.stages[stage].blocks[block], tokens, hw)
        found.append(attention.at(*grid.token(*point, hw)))
    return found


def check_point(view: View, point: tuple[float, float]) -> None:
    """Raises if a point is not in the part of the image that the model sees."""
    across, down = view.to_input(*point)
    if not (0 <= across < view.size[1] and 0 <= down < view.size[0]):
        left, top = view.to_image(0, 0)
        right, bottom = view.to_image(view.size[1], view.size[0])
        raise ArgumentError(
            f'point={point[0]:g}, {point[1]:g} is not on what the model sees of the image: '
            f'{left:g} to {right:g} across and {top:g} to {bottom:g} down'
        )


def draw_attention(
    image: np.ndarray,
    subject: Subject,
    view: View,
    stage: int,
    blocks: Sequence[int],
    found: Sequence[TokenAttention],
    point: tuple[float, float],
) -> Figure:
    """The attention of a token in its regular and shifted windows: the mean, then each head.

    Args:
        image: uint8 (H, W, 3), RGB.
        subject, view, stage, blocks, point: As for :func:`attend`.
        found: The result of :func:`attend`.
    """
    grid = grids(subject, view)[stage]
    heads = len(found[0].weights)
    columns = next((n for n in (8, 6, 12) if heads % n == 0), min(heads, 8))
    rows = -(-heads // columns)
    wide, small = 11.5, min(11.5 / columns, 2.1)
    top = max(min(3.7 / max(_wide(image), 0.75) + 0.4, 4.7), 3.6)
    heights = [top, *[rows * (small + 0.1) + 0.25] * len(found)]
    figure = Figure(figsize=(wide, sum(heights) + 0.6), layout='constrained')
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    first = parts[0].subplots(1, 1 + len(found), width_ratios=[max(_wide(image), 0.6), 1, 1][
        : 1 + len(found)
    ])  # fmt: skip
    pale = _pale(image)
    _show(first[0], image)
    _frame(first[0], image)
    for one in found:
        _outline(first[0], grid, one, everywhere=True)
    _reach(first[0], image, grid, found)
    _mark(first[0], point)
    row, column = found[0].query
    first[0].set_title(f'token ({row}, {column}) of stage {stage}', fontsize=10)
    zoomed = _zoomed(grid, found)
    for axis, block, one in zip(first[1:], blocks, found, strict=True):
        _heat(axis, pale, grid, one, one.mean, zoomed, point)
        axis.set_title(_described(block, one), fontsize=10)
    for part, block, one in zip(parts[1:], blocks, found, strict=True):
        kind = WORDS[one.shift > 0]
        part.suptitle(f'block {block}, {kind}: every head', fontsize=10, x=0.01, ha='left')
        axes = part.subplots(rows, columns, squeeze=False).flat
        for head, axis in enumerate(axes):
            if head >= heads:
                axis.set_visible(False)
                continue
            _heat(axis, pale, grid, one, one.weights[head], zoomed, point, small=True)
            most = _share(one.weights[head].max())
            axis.set_title(f'{head}: up to {most}', fontsize=8, pad=2)
    figure.legend(
        handles=_legend(found),
        title=SCALE,
        loc='outside lower center',
        ncols=5,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )
    _entitle(parts[0], 'Attention', subject)
    return figure


def draw_cam(image: np.ndarray, subject: Subject, view: View, cam: Cam) -> Figure:
    """The image, with the explained box if any, and the class activation map.

    Args:
        image: uint8 (H, W, 3), RGB.
        subject: The model.
        view: How the image was prepared for the model.
        cam: The class activation map.
    """
    figure, axes = _panels(image, 2, 2)
    grid, target = grids(subject, view)[cam.stage], cam.target
    _show(axes[0], image)
    axes[0].set_title(f'{target.name}: {target.measure} {target.score:.2f}', fontsize=10)
    rows, columns = grid.shown()
    heat = cam.heat[:rows, :columns]
    _tint(axes[1], image, grid, heat, heat.min())
    title = f'stage {cam.stage}: {columns} × {rows} tokens\n'
    if heat.max() > 0:
        title += f'from {_share(heat.min() / heat.max())} of the largest, black, to it, pale yellow'
    else:
        title += 'none of them speaks for it'
    axes[1].set_title(title, fontsize=10)
    for axis in axes:
        if target.box is not None:
            left, top, right, bottom = target.box
            _rectangle(axis, (left, top), (right, bottom), COLOURS[1])
        _frame(axis, image)
    _entitle(figure, METHODS[cam.method] or 'Grad-CAM', subject)
    return figure


def draw_rollout(
    image: np.ndarray,
    subject: Subject,
    view: View,
    place: tuple[int, int],
    query: tuple[int, int],
    found: Sequence[Rollout],
    point: tuple[float, float],
) -> Figure:
    """The image with a token, the token's attention rollout, and the mean rollout of all tokens.

    Args:
        image: uint8 (H, W, 3), RGB.
        subject: The model.
        view: How the image was prepared for the model.
        place: The stage and block of the tokens.
        query: (row, column) of the token.
        found: The rollouts of that token and of the mean of all tokens.
        point: The point (x, y) of the image that selected the token.
    """
    figure, axes = _panels(image, 3, 3)
    stage, block = place
    grid = grids(subject, view)[stage]
    _show(axes[0], image)
    corners = grid.corner(*query), grid.corner(query[0] + 1, query[1] + 1)
    title = f'token {query} of stage {stage}, after block {block}'
    for axis, one, what in zip(axes[1:], found, (title, 'all tokens there, mean'), strict=True):
        _tint(axis, image, grids(subject, view)[0], one.shares)
        lines = [what, f'up to {_share(one.shares.max())} from a token of stage 0']
        if one.padded >= 5e-4:
            lines.append(f'{_share(one.padded)} from padding')
        axis.set_title('\n'.join(lines), fontsize=9)
    for axis in axes[:2]:
        _rectangle(axis, *corners, COLOURS[0])
        _mark(axis, point)
    for axis in axes:
        _frame(axis, image)
    _entitle(figure, 'Attention rollout', subject)
    return figure


def _tint(
    axis: Axes, image: np.ndarray, grid: Grid, values: np.ndarray, lowest: float = 0.0
) -> None:
    """Draws values of tokens as colours, from the lowest to the largest, on the pale image."""
    _show(axis, _pale(image))
    rows, columns = grid.shown()
    values = values[:rows, :columns]
    colours = matplotlib.colormaps[HEAT]((values - lowest) / max(values.max() - lowest, 1e-30))
    colours[..., 3] = 0.75
    axis.imshow(colours, extent=grid.extent(*values.shape), interpolation='nearest')


def _rectangle(
    axis: Axes, first: tuple[float, float], last: tuple[float, float], colour: str
) -> None:
    """Draws a rectangle, given two corners, that is visible on any colour."""
    (left, top), (right, bottom) = first, last
    for line, width in ((to_rgba('k', 0.5), 3.2), (to_rgba(colour), 2.0)):
        axis.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, ec=line, lw=width)
        )


def _reach(axis: Axes, image: np.ndarray, grid: Grid, found: Sequence[TokenAttention]) -> None:
    """Extends the axes to windows that contain padding beyond the image."""
    corners = [(0.0, 0.0), (float(image.shape[1]), float(image.shape[0]))]
    for one in found:
        for top, bottom, left, right in one.pieces():
            corners += [grid.corner(top, left), grid.corner(bottom, right)]
    x, y = np.array(corners).T
    axis.set(xlim=(x.min(), x.max()), ylim=(y.max(), y.min()), facecolor=PADDING)


def _described(block: int, found: TokenAttention) -> str:
    size = f'{found.size} × {found.size}'
    lines = [
        f'block {block}: {WORDS[found.shift > 0]} of {size}',
        f'mean of {len(found.weights)} heads: up to {_share(found.mean.max())} on a token',
    ]
    if found.padded:
        lines.append(f'{_share(found.padded)} on padding')
    return '\n'.join(lines)


def _share(value: float) -> str:
    return f'{100 * value:.0f} %' if value >= 0.1 else f'{100 * value:.1f} %'


def _legend(found: Sequence[TokenAttention]) -> list[Artist]:
    lines: list[Artist] = [
        Line2D([], [], color=COLOURS[one.shift > 0], lw=2.5, label=WORDS[one.shift > 0][:-1])
        for one in found
    ]
    if any(len(one.pieces()) > 1 for one in found):
        masked = 'its parts from across the edge, masked'
        lines.append(Line2D([], [], color=COLOURS[1], lw=1.5, ls=':', label=masked))
    if any(one.padded for one in found):
        lines.append(Patch(color=PADDING, label='padding'))
    return [*lines, Line2D([], [], color='k', marker='+', ls='', ms=11, mew=2, label='the token')]


def _pale(image: np.ndarray) -> np.ndarray:
    """The image in light grey, as a background for colours."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat((255 - 0.65 * (255 - grey)).astype(np.uint8)[..., None], 3, 2)


def _heat(
    axis: Axes,
    pale: np.ndarray,
    grid: Grid,
    found: TokenAttention,
    weights: np.ndarray,
    zoomed: tuple[float, float, float, float],
    point: tuple[float, float],
    small: bool = False,
) -> None:
    """Draws attention as colours on its part of the map."""
    _show(axis, pale)
    field = on_map(found, weights)
    colours = matplotlib.colormaps[HEAT](np.nan_to_num(field / max(weights.max(), 1e-30)))
    colours[..., 3] = np.where(np.isnan(field), 0, 0.85)
    # Tokens outside the window are transparent.
    axis.imshow(colours, extent=grid.extent(*field.shape), interpolation='nearest')
    _outline(axis, grid, found, everywhere=False, width=1.2 if small else 2.5)
    _mark(axis, point, 6 if small else 11)
    left, right, top, bottom = zoomed
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=(), yticks=(), facecolor=PADDING)


def on_map(found: TokenAttention, weights: np.ndarray) -> np.ndarray:
    """The weights (M, M) of a window on the padded map, NaN outside the window."""
    height, width = found.grid
    height, width = max(height, found.rows.max() + 1), max(width, found.columns.max() + 1)
    field = np.full((height, width), np.nan)
    top, bottom, left, right = found.pieces()[0]
    # Only the token's own part: the weights of the others are masked, and almost 0.
    rows = (found.rows >= top) & (found.rows < bottom)
    columns = (found.columns >= left) & (found.columns < right)
    field[top:bottom, left:right] = weights[np.ix_(rows, columns)]
    return field


def _zoomed(grid: Grid, found: Sequence[TokenAttention]) -> tuple[float, float, float, float]:
    """(left, right, top, bottom) of a square around the windows' own parts, with a margin.

    It is within the map, if the map is large enough.
    """
    boxes = np.array([one.pieces()[0] for one in found])
    top, left = boxes[:, 0].min() - MARGIN, boxes[:, 2].min() - MARGIN
    bottom, right = boxes[:, 1].max() + MARGIN, boxes[:, 3].max() + MARGIN
    side = max(bottom - top, right - left)
    height, width = (max(f, s) for f, s in zip(_reached(found), grid.shown(), strict=True))
    top = max(min((top + bottom - side) / 2, height - side), 0)
    left = max(min((left + right - side) / 2, width - side), 0)
    (x0, y0), (x1, y1) = grid.corner(top, left), grid.corner(top + side, left + side)
    return x0, x1, y0, y1


def _reached(found: Sequence[TokenAttention]) -> tuple[int, int]:
    """The numbers of rows and columns up to the end of the windows."""
    return max(int(f.rows.max()) for f in found) + 1, max(int(f.columns.max()) for f in found) + 1


def _outline(
    axis: Axes, grid: Grid, found: TokenAttention, everywhere: bool, width: float = 2.5
) -> None:
    """Draws the edge of a window; dotted for the parts that the cyclic shift brings in."""
    for i, (top, bottom, left, right) in enumerate(found.pieces()):
        if i and not everywhere:
            return
        (x0, y0), (x1, y1) = grid.corner(top, left), grid.corner(bottom, right)
        line, thick = (':', 1.5) if i else ('-', width)
        for colour, more in ((to_rgba('k', 0.5), 1.2), (to_rgba(COLOURS[found.shift > 0]), 0.0)):
            axis.add_patch(
                Rectangle(
                    (x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, ls=line, lw=thick + more
                )
            )


def _mark(axis: Axes, point: tuple[float, float], size: float = 11) -> None:
    for colour, width in (('w', 0.36), ('k', 0.18)):
        axis.plot(*point, '+', color=colour, ms=size, mew=size * width)
