"""Reports: single HTML files that load nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image

from ...version import __version__
from .attention import BlockAttention
from .curves import Run, last_values
from .figures import COLOURS, HEAT, WORDS, grids
from .observation import Place
from .show import Pictures
from .subject import Subject

# Bytes of attention weights in a report, over all stages; base64 encoding adds a third.
MOST_BYTES = 3_000_000
PICTURE_SIDE = 1024  # longer side of the picture to click on, in pixels
TITLES = {
    'prediction': 'Prediction',
    'features': 'Feature maps',
    'attention': 'Attention',
    'rollout': 'Attention rollout',
    'cam': 'Class activation',
}


def show_report(name: str, image: np.ndarray, subject: Subject, pictures: Pictures) -> str:
    """The HTML of a report on an image and a model; a click shows the attention of any token.

    Args:
        name: The name of the image.
        image: uint8 (H, W, 3), RGB.
        subject: The model.
        pictures: The result of :func:`~swin_backbone.tools.pictures.show.look` with
            ``everywhere=True``.
    """
    untrained = '<p class="warn">The weights are random: nothing was learnt.</p>'
    parts = [untrained] if subject.random else []
    for what, png in pictures.png.items():
        parts.append(f'<h2>{TITLES[what]}</h2>')
        if what == 'attention':
            data = attention_data(image, subject, pictures)
            filled = _text('attention.html').replace('{data}', _json(data))
            parts.append(filled.replace('{script}', _text('attention.js')))
        parts.append(_picture(png, f'{TITLES[what]} of {name}'))
    parts += [
        f'<p class="note">No {what}: {html.escape(why)}</p>'
        for what, why in pictures.missing.items()
    ]
    facts = {
        'image': f'{name}, {image.shape[1]} × {image.shape[0]} pixels',
        'model': subject.name,
        'weights': subject.weights,
        'input': ' × '.join(str(side) for side in reversed(pictures.view.inputs.shape[2:]))
        + ' pixels',
    }
    return _page(f'{name} seen by {subject.name}', facts, parts)


def plot_report(runs: Sequence[Run], png: bytes) -> str:
    """The HTML of a report on training runs: their curves, and the last values in their logs."""
    names = [run.name for run in runs]
    parts = ['<h2>Curves</h2>', _picture(png, 'curves'), '<h2>Last values</h2>']
    lasts = [last_values(run) for run in runs]
    for mode, title in (('val', 'Validation'), ('train', 'Training')):
        keys = list(dict.fromkeys(key for last in lasts for key in last[mode]))
        if keys:
            rows = [[key, *(_number(last[mode].get(key, '')) for last in lasts)] for key in keys]
            parts.append(_table([title, *names], rows))
    return _page('Training: ' + ', '.join(names), {'runs': ', '.join(names)}, parts)


def _number(value: float | str | None) -> str:
    if value is None:
        return 'not finite'
    return value if isinstance(value, str) else f'{value:.5g}'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return f'<tr>{"".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)}</tr>'

    body = ''.join(row(cells, 'td') for cells in rows)
    return f'<div class="scroll"><table>{row(head, "th")}{body}</table></div>'


def _page(title: str, facts: Mapping[str, str], parts: Sequence[str]) -> str:
    listed = ''.join(
        f'<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>' for k, v in facts.items()
    )
    fields = {
        '{title}': html.escape(title),
        '{facts}': listed,
        '{version}': __version__,
        '{parts}': '\n'.join(parts),  # last, because they may contain the names of other fields
    }
    page = _text('report.html')
    for field, value in fields.items():
        page = page.replace(field, value)
    return page


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding='utf-8')


def _picture(png: bytes, alternative: str) -> str:
    return f'<figure><img alt="{html.escape(alternative)}" src="{_data_url(png, "png")}"></figure>'


def _data_url(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _json(value: Any) -> str:
    """JSON that is safe within a script element."""
    return json.dumps(value, separators=(',', ':')).replace('<', '\\u003c')


def attention_data(image: np.ndarray, subject: Subject, pictures: Pictures) -> dict[str, Any]:
    """The data for showing the attention of the token at any point, as a mean over the heads.

    For each stage: its ``grid``, the ``side`` of a token in pixels of the input, and the ``step``
    between the included tokens. For each block: ``window``, ``shift``, ``padded_grid``, and, as
    base64, ``weights``, uint8 (tokens, M²), relative to the largest weight of each token; ``most``,
    that largest weight, float32 (tokens,); and ``padded``, the share on padding, float32 (tokens,).
    """
    assert subject.backbone is not None and pictures.seen is not None
    view, seen = pictures.view, pictures.seen
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, 'jpeg', quality=88)
    places: dict[int, list[int]] = {}
    for stage, block in seen.tokens:
        places.setdefault(stage, []).append(block)
    share = MOST_BYTES // max(len(places), 1)
    stages = []
    for stage, blocks in sorted(places.items()):
        kept = [_kept(subject, seen.tokens, (stage, block)) for block in sorted(blocks)]
        stages.append(_stage(stage, sorted(blocks), kept, share))
        stages[-1]['side'] = list(grids(subject, view)[stage].side)
    heat = matplotlib.colormaps[HEAT](np.arange(256), bytes=True)[:, :3]
    return {
        'picture': _data_url(buffer.getvalue(), 'jpeg'),
        'size': list(image.shape[1::-1]),
        'scale': list(view.scale),
        'offset': list(view.offset),
        'seen': list(view.size[::-1]),
        'heat': base64.b64encode(heat.tobytes()).decode(),
        'colours': COLOURS,
        'words': WORDS,
        'stages': stages,
        'stage': pictures.stage,
        'point': list(pictures.point),
    }


def _kept(subject: Subject, tokens: Mapping[Place, Any], place: Place) -> BlockAttention:
    assert subject.backbone is not None
    stage, block = place
    return BlockAttention(subject.backbone.stages[stage].blocks[block], *tokens[place])


def _stage(
    stage: int, blocks: Sequence[int], attentions: Sequence[BlockAttention], share: int
) -> dict[str, Any]:
    grid = attentions[0].grid
    each = sum(a.window_size**2 + 8 for a in attentions)
    step = 1
    while -(-grid[0] // step) * -(-grid[1] // step) * each > share:
        step += 1
    found = []
    for block, attention in zip(blocks, attentions, strict=True):
        weights, most, padded = quantised(attention, step)
        found.append(
            {
                'block': block,
                'window': attention.window_size,
                'shift': attention.shift,
                'padded_grid': list(attention.padded_grid),
                'weights': base64.b64encode(weights.tobytes()).decode(),
                'most': base64.b64encode(most.astype('<f4').tobytes()).decode(),
                'padded': base64.b64encode(padded.astype('<f4').tobytes()).decode(),
            }
        )
    return {'stage': stage, 'grid': list(grid), 'step': step, 'blocks': found}


def quantised(
    attention: BlockAttention, step: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The attention, as a mean over heads, of every ``step``-th token of every ``step``-th row.

    Returns:
        The weights relative to the largest of each token, uint8 (tokens, M²); the largest weights,
        float32 (tokens,); and the shares on padding, float32 (tokens,). The error of a weight is at
        most 1 / 510 of the largest one.
    """
    rows, columns = (range(0, length, step) for length in attention.grid)
    count, size = len(rows) * len(columns), attention.window_size
    weights = np.zeros((count, size**2), np.uint8)
    most, padded = np.zeros(count, np.float32), np.zeros(count, np.float32)
    wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window, query = attention.window_of(row, column)
            wanted.setdefault(window, []).append((i * len(columns) + j, query))
    for window, members in wanted.items():  # one at a time, to save memory
        places = [place for place, _ in members]
        mean = attention.weights(window)[:, [query for _, query in members]].mean(0)
        most[places] = mean.amax(1).cpu().numpy()
        levels = (mean / mean.amax(1, keepdim=True) * 255).round()
        weights[places] = levels.to(torch.uint8).cpu().numpy()
        down, across = attention.places(window)
        outside = (down[:, None] >= attention.grid[0]) | (across >= attention.grid[1])
        padded[places] = mean[:, torch.from_numpy(outside.flatten())].sum(1).cpu().numpy()
    return weights, most, padded
