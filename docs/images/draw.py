"""Draws the pictures of docs/how_it_works.md: ``python docs/images/draw.py``. Needs no package.

The example is a map of 7 × 11 tokens, windows of 4 × 4, shifted by 2: small enough to see each
token, with padding at both ends and all nine regions of the mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
H, W, WINDOW, SHIFT = 7, 11, 4, 2
ROWS, COLUMNS = -(-H // WINDOW), -(-W // WINDOW)
PADDED_H, PADDED_W = ROWS * WINDOW, COLUMNS * WINDOW

# Of the nine regions, by row and column of regions: light enough for black text.
COLOURS = (
    ('#bcd5ee', '#f7cf9b', '#c9e3b4'),
    ('#f2b8b5', '#d9c8ec', '#f5e79e'),
    ('#b5e0da', '#e9c4dc', '#d6d3c4'),
)
INK, GREY, ACCENT = '#20242a', '#6b7280', '#b3261e'


def region(position: int, length: int) -> int:
    """The region, 0 to 2, of a position of the shifted and padded axis."""
    return (position >= length - WINDOW) + (position >= length - SHIFT)


def source(position: int, length: int) -> int:
    """Where a position of the shifted axis comes from."""
    return (position + SHIFT) % length


def place(window: int, token: int) -> tuple[int, int]:
    """Row and column, in the padded map, of a window's token, as the kernels compute them."""
    y = window // COLUMNS % ROWS * WINDOW + token // WINDOW + SHIFT
    x = window % COLUMNS * WINDOW + token % WINDOW + SHIFT
    return (
        y - PADDED_H if y >= PADDED_H else y,
        x - PADDED_W if x >= PADDED_W else x,
    )


class Drawing:
    """SVG elements on a white ground."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.size, self.title, self.parts = (width, height), title, []

    def add(self, element: str, content: str | None = None, **attributes: object) -> None:
        """An element; underscores of attribute names stand for hyphens."""
        given = ''.join(f' {name.replace("_", "-")}="{v}"' for name, v in attributes.items())
        end = '/>' if content is None else f'>{escape(content)}</{element}>'
        self.parts.append(f'<{element}{given}{end}')

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str = 'none', **more: object
    ) -> None:
        self.add('rect', x=x, y=y, width=w, height=h, fill=fill, **more)

    def text(self, x: float, y: float, text: str, size: int = 13, **more: object) -> None:
        self.add('text', text, x=x, y=y, font_size=size, **{'fill': INK, **more})

    def lines(
        self, x: float, y: float, lines: Iterable[str], size: int = 13, **more: object
    ) -> None:
        for i, line in enumerate(lines):
            self.text(x, y + i * size * 1.45, line, size, **more)

    def arrow(self, *points: tuple[float, float]) -> None:
        path = 'M' + ' L'.join(f'{x} {y}' for x, y in points)
        self.add('path', d=path, fill='none', stroke=INK, stroke_width=1.5, marker_end='url(#head)')

    def write(self, path: Path) -> None:
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif" '
            f'role="img">\n<title>{escape(self.title)}</title>\n<defs>\n'
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker>\n'
            '<pattern id="padding" width="6" height="6" patternUnits="userSpaceOnUse">'
            f'<path d="M-1 7 L7 -1" stroke="{GREY}" stroke-width="1"/></pattern>\n</defs>\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n'
        )
        path.write_text(head + '\n'.join(self.parts) + '\n</svg>\n')


def token_map(
    d: Drawing, x: float, y: float, cell: float, shifted: bool, only: set | None = None
) -> None:
    """The padded map, regions in colour, padding hatched; shifted, or as its tokens lie."""
    for row in range(PADDED_H):
        for column in range(PADDED_W):
            at = (source(row, PADDED_H), source(column, PADDED_W)) if shifted else (row, column)
            back = ((at[0] - SHIFT) % PADDED_H, (at[1] - SHIFT) % PADDED_W)
            colour = COLOURS[region(back[0], PADDED_H)][region(back[1], PADDED_W)]
            box = (x + column * cell, y + row * cell, cell, cell)
            shown = only is None or at in only
            d.rect(*box, colour if shown else '#f1f2f4', stroke='white')
            if at[0] >= H or at[1] >= W:
                d.rect(*box, 'url(#padding)')


def window_frames(d: Drawing, x: float, y: float, cell: float, **more: object) -> None:
    side = WINDOW * cell
    for window in range(ROWS * COLUMNS):
        at = (x + window % COLUMNS * side, y + window // COLUMNS * side)
        d.rect(*at, side, side, stroke=INK, stroke_width=1.6, **more)


def partition() -> Drawing:
    d = Drawing(960, 366, 'Padding, cyclic shift, windows and the nine regions of the mask')
    cell, top = 22, 92
    left, middle, right = 24, 330, 676
    d.lines(left, 28, ['1. The map, padded', 'to whole windows'], 15, font_weight='bold')
    token_map(d, left, top, cell, shifted=False)
    d.rect(left, top, W * cell, H * cell, stroke=ACCENT, stroke_width=2.2)
    d.text(left, top + PADDED_H * cell + 20, f'{H} × {W} tokens (red), hatched: padding')
    d.lines(
        middle, 28, ['2. Shifted up and left by 2;', 'windows of 4 × 4'], 15, font_weight='bold'
    )
    token_map(d, middle, top, cell, shifted=True)
    window_frames(d, middle, top, cell)
    for row in range(3):
        for column in range(3):
            ends = [
                [i for i in range(n) if region(i, n) == r]
                for n, r in ((PADDED_H, row), (PADDED_W, column))
            ]
            y, x = ((e[0] + e[-1] + 1) / 2 * cell for e in ends)
            d.add('circle', cx=middle + x, cy=top + y, r=9, fill='white')
            d.text(middle + x, top + y + 5, str(3 * row + column), text_anchor='middle')
    d.text(middle, top + PADDED_H * cell + 20, 'regions 0 to 8, cut at 4 and at 2 from the ends')

    d.lines(
        right, 28, ['3. Who sees whom in the', 'last window: 16 × 16 pairs'], 15, font_weight='bold'
    )
    small = 13
    window = ROWS * COLUMNS - 1
    for query in range(WINDOW**2):
        for key in range(WINDOW**2):
            regions = [token_region(window, token) for token in (query, key)]
            same = regions[0] == regions[1]
            colour = COLOURS[regions[0][0]][regions[0][1]] if same else '#f1f2f4'
            at = (right + key * small, top + query * small)
            d.rect(*at, small, small, colour, stroke='white', stroke_width=0.7)
    d.rect(right, top, 16 * small, 16 * small, stroke=INK, stroke_width=1.6)
    d.lines(
        right,
        top + 16 * small + 20,
        ['grey: of two regions, −100 is', 'added to the score'],
    )
    return d


def token_region(window: int, token: int) -> tuple[int, int]:
    y = window // COLUMNS * WINDOW + token // WINDOW
    x = window % COLUMNS * WINDOW + token % WINDOW
    return region(y, PADDED_H), region(x, PADDED_W)


def fused_kernel() -> Drawing:
    d = Drawing(1000, 530, 'How one program of the fused kernel reads and writes the map')
    cell, top = 19, 84
    window = ROWS * COLUMNS - 1
    tokens = [place(window, token) for token in range(WINDOW**2)]
    left, right = 24, 744
    for x, title in (
        (left, ['qkv in memory: (B, H, W, 3C),', 'never padded, rolled or cut up']),
        (right, ['out in memory: (B, H, W, C),', 'each row at its token’s place']),
    ):
        d.lines(x, 28, title, 15, font_weight='bold')
        token_map(d, x, top, cell, shifted=False, only=set(tokens))
        d.rect(x, top, W * cell, H * cell, stroke=ACCENT, stroke_width=2.2)
        for token, (row, column) in enumerate(tokens):
            if row < H and column < W:
                at = (x + (column + 0.5) * cell, top + (row + 0.5) * cell + 4)
                d.text(*at, str(token), 11, text_anchor='middle')
    below = top + PADDED_H * cell + 18
    d.lines(
        left,
        below,
        [
            f'Window {window} (the last): its 16 tokens lie at',
            'the four corners. Outside the red frame',
            'there is no memory: tokens that are',
            'padding are computed, not read.',
        ],
    )
    d.lines(right, below, ['Padded tokens are not stored:', 'nothing has to be cropped.'])

    x, w = 300, 396
    d.rect(x, 14, w, 412, '#f6f8fb', stroke=INK, rx=8)
    d.text(x + 16, 40, 'One program: one head, a group of windows', 15, font_weight='bold')
    code = dict(font_family='monospace', **{'xml:space': 'preserve'})
    d.text(x + 16, 66, 'for each token t of window w, on registers:', fill=GREY)
    d.lines(
        x + 16,
        88,
        [
            'y = w // columns % rows · M + t // M + S',
            'x = w % columns · M + t % M + S',
            'y −= rows · M     where y ≥ rows · M',
            'x −= columns · M  where x ≥ columns · M',
            'offset = b·stride_b + y·stride_h + x·stride_w',
            'inside = y < H and x < W',
        ],
        12,
        **code,
    )
    d.text(x + 16, 208, 'padding, shift and partition: these six lines', fill=GREY)
    d.lines(
        x + 16,
        232,
        [
            'region = two bits: is t behind the cuts in',
            '         the last row, the last column?',
            'q, k, v = qkv[offset + …], where inside',
            'k, v = padding             elsewhere',
            's = q·kᵀ·scale + bias[head]',
            's −= 100 where regions differ',
            'out[y, x] = softmax(s)·v, where inside',
        ],
        12,
        **code,
    )
    d.lines(
        x + 16,
        364,
        [
            'The bias tile stays in registers for the whole group of',
            'windows (M² ≤ 64). Scores never reach memory. The',
            'backward pass computes them once more.',
        ],
        fill=GREY,
    )
    d.arrow((left + PADDED_W * cell + 4, 150), (x - 4, 150))
    d.arrow((x + w + 4, 150), (right - 6, 150))

    bar, y = 24, 466
    d.text(
        bar,
        y - 10,
        'The channels of one token, 3C of them, here of 3 heads; the program of head 1 reads:',
    )
    width = 70
    for part, name in enumerate('qkv'):
        for head in range(3):
            at = bar + (3 * part + head) * width
            mine = head == 1
            fill = COLOURS[0][part] if mine else '#f1f2f4'
            d.rect(at, y, width, 30, fill, stroke='white')
            d.text(
                at + width / 2,
                y + 20,
                f'{name}, {head}',
                text_anchor='middle',
                fill=INK if mine else GREY,
            )
        d.text(bar + (3 * part + 1) * width, y + 48, ('d', 'C + d', '2C + d')[part], 12)
    d.text(bar + 9 * width + 18, y + 20, 'd = C / heads: where head 1 begins')
    return d


def cpu_tiles() -> Drawing:
    d = Drawing(1000, 400, 'How a block runs fused on a CPU, tile by tile')
    cell, top, left = 20, 84, 24
    d.lines(left, 28, ['The map as a table of', 'B · H · W rows'], 15, font_weight='bold')
    tile = {place(window, token) for window in (0, 1) for token in range(WINDOW**2)}
    token_map(d, left, top, cell, shifted=False, only=tile)
    d.rect(left, top, W * cell, H * cell, stroke=ACCENT, stroke_width=2.2)
    for row in range(H):
        d.text(left + 3, top + row * cell + 14, str(row * W), 9, fill=GREY)
    d.lines(
        left,
        top + PADDED_H * cell + 20,
        [
            'Windows in raster order, cut into runs:',
            'a tile is at most 2048 tokens, which is',
            '41 windows of 7 × 7. Here the first tile',
            'is windows 0 and 1, in colour.',
        ],
    )
    x, w = 330, 380
    d.rect(x, 14, w, 372, '#f6f8fb', stroke=INK, rx=8)
    d.text(x + 16, 40, 'One tile, from first to last layer', 15, font_weight='bold')
    steps = [
        ('gather rows by index', 'shift and partition are in the index'),
        ('norm 1', ''),
        ('zero the padded rows, qkv', 'so they hold the projection’s bias'),
        ('attention of each window', '+ bias, + mask where the shift cuts'),
        ('drop the padded rows, project, + x', ''),
        ('norm 2', ''),
        ('fc 1 with GELU, fc 2, + x', 'the 4C wide map is a tile’s alone'),
        ('write rows by the same index', 'unshifted, uncropped'),
    ]
    for i, (step, why) in enumerate(steps):
        y = 56 + i * 40
        d.rect(x + 16, y, w - 32, 32, COLOURS[0][0] if i in (0, 7) else 'white', stroke=GREY, rx=4)
        d.text(x + 26, y + (14 if why else 20), step)
        d.text(x + 26, y + 27, why, 10.5, fill=GREY)
    d.arrow((left + PADDED_W * cell + 6, 150), (x - 4, 150))
    right = 756
    d.lines(
        right, 28, ['The output, the one new', 'tensor of the map’s size'], 15, font_weight='bold'
    )
    small = 17
    token_map(
        d, right, top, small, shifted=False, only={at for at in tile if at[0] < H and at[1] < W}
    )
    d.rect(right, top, W * small, H * small, stroke=ACCENT, stroke_width=2.2)
    d.arrow((x + w + 4, 150), (right - 6, 150))
    d.lines(
        right,
        top + PADDED_H * small + 20,
        ['Every token is in exactly one', 'tile, so tiles write to', 'different rows.'],
    )
    return d


DRAWINGS = {'window_partition': partition, 'fused_kernel': fused_kernel, 'cpu_tiles': cpu_tiles}

if __name__ == '__main__':
    for name, draw in DRAWINGS.items():
        draw().write(HERE / f'{name}.svg')
