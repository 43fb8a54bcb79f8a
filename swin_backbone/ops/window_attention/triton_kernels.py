"""The Triton kernels of shifted-window attention; `triton.py` launches them. Needs triton.

Every program works on one head. A token's place in the map is computed, never stored: the padding,
the cyclic shift, the partition into windows and the region mask are all arithmetic on its index.
Scores live in registers alone, in units of log 2, as the hardware's exponential is that of 2.

Shapes: M² tokens a window, in tiles of BLOCK; heads of HEAD_DIM channels, in tiles of D. The lanes
that fill a tile up hold zeros or padding, finite in any case; a key's lane beyond M² scores minus
infinity, a query's lane is never stored.
"""
# ruff: noqa: SIM102 (an outer `if` is decided when a kernel is compiled, the inner when it runs)

from __future__ import annotations

import triton
import triton.language as tl

from . import reference

LOG2E = tl.constexpr(1.4426950408889634)
MASKED = tl.constexpr(reference.MASKED * 1.4426950408889634)

# Sizes that change from image to image or stage to stage: a kernel must not be compiled for each.
SIZES = (
    *('H', 'W', 'rows', 'columns', 'windows', 'group', 'heads'),
    *('stride_b', 'stride_h', 'stride_w'),
)
kernel = triton.jit(do_not_specialize=SIZES)


@triton.jit
def place(window, tokens, sizes, ALIGN: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Where a window's tokens come from; ``sizes`` are the map's and qkv's, as below.

    Returns:
        offset: Of the token in qkv, in elements, int64.
        position: Raster index of the token in a contiguous (B, H, W), int64.
        region: Which of the shift's cuts through the window the token is behind: two bits, which
            tell apart, within one window, the regions of the official mask. Only the last row and
            column of windows are cut.
        inside: Whether the token is one of the map's.
        padded: Whether the token is padding. Lanes beyond M² are neither.
    """
    H, W, rows, columns, stride_b, stride_h, stride_w = sizes
    image = (window // (rows * columns)).to(tl.int64)
    y = window // columns % rows * WINDOW + tokens // WINDOW + SHIFT
    x = window % columns * WINDOW + tokens % WINDOW + SHIFT
    wraps_y = y >= rows * WINDOW
    wraps_x = x >= columns * WINDOW
    y = tl.where(wraps_y, y - rows * WINDOW, y).to(tl.int64)
    x = tl.where(wraps_x, x - columns * WINDOW, x).to(tl.int64)
    offset = (image * stride_b + y * stride_h + x * stride_w) * ALIGN
    position = (image * H + y) * W + x
    last_y = (window // columns % rows == rows - 1).to(tl.int32)
    last_x = (window % columns == columns - 1).to(tl.int32)
    cut_y = (tokens // WINDOW >= WINDOW - SHIFT).to(tl.int32)
    cut_x = (tokens % WINDOW >= WINDOW - SHIFT).to(tl.int32)
    region = (2 * cut_y + cut_x) & (2 * last_y + last_x)
    token = tokens < WINDOW * WINDOW
    on_map = (y < H) & (x < W)
    return offset, position, region, token & on_map, token & (on_map == 0)


@triton.jit
def is_cut(window, rows, columns):
    """Whether the shift's cuts go through a window."""
    return (window // columns % rows == rows - 1) | (window % columns == columns - 1)


@triton.jit
def may_be_padded(window, sizes, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """False only for a window without padding; cheap, as most are."""
    H, W, rows, columns, _b, _h, _w = sizes
    below = window // columns % rows * WINDOW + WINDOW + SHIFT > H
    return below | (window % columns * WINDOW + WINDOW + SHIFT > W)


@triton.jit
def load(pointer, offsets, inside, other, HEAD_DIM: tl.constexpr, D: tl.constexpr):
    """The rows (tokens, D) at ``offsets``; ``other`` for tokens that are not inside."""
    channels = tl.arange(0, D)
    mask = inside[:, None] & (channels < HEAD_DIM)[None, :]
    return tl.load(pointer + offsets[:, None] + channels[None, :], mask=mask, other=other)


@triton.jit
def store(pointer, offsets, inside, tile, HEAD_DIM: tl.constexpr, D: tl.constexpr):
    """Writes the rows (tokens, D) that are inside."""
    channels = tl.arange(0, D)
    mask = inside[:, None] & (channels < HEAD_DIM)[None, :]
    tl.store(pointer + offsets[:, None] + channels[None, :], tile, mask=mask)


@triton.jit
def load_padding(
    qkv, padding, channel, PADDED: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr
):
    """What a padded token holds from ``channel`` on, (1, D), in the dtype of qkv."""
    if PADDED:
        channels = tl.arange(0, D)
        row = tl.load(padding + channel + channels, mask=channels < HEAD_DIM, other=0.0)
    else:
        row = tl.zeros([D], tl.float32)
    return row.to(qkv.dtype.element_ty)[None, :]


@triton.jit
def load_bias(bias, head, queries, keys, TOKENS: tl.constexpr, ACC: tl.constexpr):
    """Tile of a head's position bias, in units of log 2; minus infinity for keys beyond M²."""
    mask = (queries < TOKENS)[:, None] & (keys < TOKENS)[None, :]
    at = bias + (head * TOKENS + queries)[:, None] * TOKENS + keys[None, :]
    tile = tl.load(at, mask=mask, other=0.0).to(ACC) * LOG2E
    return tl.where((keys < TOKENS)[None, :], tile, float('-inf'))


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a @ b with float32 sums. Triton's interpreter cannot multiply bfloat16: see `triton.py`."""
    if PRECISION == 'widened':
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision='ieee')
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def score(
    q,
    k,
    bias,
    query_region,
    key_region,
    cut,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores (queries, keys) of a tile, in units of log 2; ``cut``: whether of several regions."""
    s = product(q, tl.trans(k), PRECISION) * (SCALE * LOG2E) + bias
    if SHIFT > 0:
        if cut:  # few windows are
            s = tl.where(query_region[:, None] == key_region[None, :], s, s + MASKED)
    return s


@triton.jit
def dropout(seed, window, head, queries, keys, TOKENS: tl.constexpr, DROPOUT: tl.constexpr):
    """Factors (queries, keys) on the weights: 0 where dropped, else 1 / (1 - p).

    Philox of the seed and the weight's own index, so that backward draws what forward drew.
    """
    weight = queries[:, None] * TOKENS + keys[None, :]
    zero = weight * 0
    draw, _, _, _ = tl.philox(tl.load(seed), weight, zero + head, zero + window, zero)
    return tl.where(tl.uint_to_uniform_float(draw) >= DROPOUT, 1.0 / (1.0 - DROPOUT), 0.0)


@triton.jit
def grad_score(
    s,
    row_lse,
    row_delta,
    v,
    do,
    seed,
    window,
    head,
    queries,
    keys,
    TOKENS: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile's weights, after dropout, and the gradient of its scores plus bias."""
    p = tl.exp2(s - row_lse[:, None])
    kept = p
    if DROPOUT > 0:
        kept = p * dropout(seed, window, head, queries, keys, TOKENS, DROPOUT)
    dp = product(do, tl.trans(v), PRECISION)
    return kept, kept * dp - p * row_delta[:, None]


@triton.jit
def store_bias(grad_bias, part, queries, keys, tile, TOKENS: tl.constexpr):
    """Writes a tile of the part (M², M²) of the bias's gradient."""
    mask = (queries < TOKENS)[:, None] & (keys < TOKENS)[None, :]
    row = part.to(tl.int64) * TOKENS + queries
    tl.store(grad_bias + row[:, None] * TOKENS + keys[None, :], tile, mask=mask)


@triton.jit
def store_padding(grad_padding, part, k, v, HEAD_DIM: tl.constexpr, D: tl.constexpr):
    """Writes the part (2, HEAD_DIM) of the gradient of padding's keys and values."""
    channels = tl.arange(0, D)
    at = grad_padding + part.to(tl.int64) * (2 * HEAD_DIM) + channels
    tl.store(at, k, mask=channels < HEAD_DIM)
    tl.store(at + HEAD_DIM, v, mask=channels < HEAD_DIM)


@kernel
def forward(
    qkv,
    bias,
    padding,
    seed,
    out,
    lse,
    H,
    W,
    rows,
    columns,
    windows,
    group,
    heads,
    stride_b,
    stride_h,
    stride_w,
    ALIGN: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """out for one head, one tile of queries and a group of windows, by online softmax.

    Where a window is one tile, its bias stays in registers for the whole group. Where it is not,
    the logarithm of each row's sum is kept for backward, (windows, heads, M²).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns, stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    queries = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    first = pid // (heads * TILES) * group
    C = heads * HEAD_DIM
    q_at = head * HEAD_DIM
    k_at = C + q_at
    v_at = C + k_at
    pad_k = load_padding(qkv, padding, k_at, PADDED, HEAD_DIM, D)
    pad_v = load_padding(qkv, padding, v_at, PADDED, HEAD_DIM, D)
    if TILES == 1:
        table = load_bias(bias, head, queries, queries, TOKENS, ACC)

    for window in range(first, tl.minimum(first + group, windows)):
        cut = is_cut(window, rows, columns)
        offset, position, region, inside, _ = place(window, queries, sizes, ALIGN, WINDOW, SHIFT)
        q = load(qkv + q_at, offset, inside, 0.0, HEAD_DIM, D)
        top = tl.full([BLOCK], float('-inf'), ACC)
        total = tl.zeros([BLOCK], ACC)
        sums = tl.zeros([BLOCK, D], ACC)
        for start in range(0, TOKENS, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            offset_k, _, region_k, inside_k, _ = place(window, keys, sizes, ALIGN, WINDOW, SHIFT)
            k = load(qkv + k_at, offset_k, inside_k, pad_k, HEAD_DIM, D)
            v = load(qkv + v_at, offset_k, inside_k, pad_v, HEAD_DIM, D)
            if TILES > 1:
                table = load_bias(bias, head, queries, keys, TOKENS, ACC)
            s = score(q, k, table, region, region_k, cut, SHIFT, SCALE, PRECISION)
            new_top = tl.maximum(top, tl.max(s, 1))
            p = tl.exp2(s - new_top[:, None])
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(p, 1)
            if DROPOUT > 0:
                p *= dropout(seed, window, head, queries, keys, TOKENS, DROPOUT)
            sums = sums * shrink[:, None] + product(p.to(v.dtype), v, PRECISION)
            top = new_top
        store(out + q_at, position * C, inside, sums / total[:, None], HEAD_DIM, D)
        if TILES > 1:
            at = lse + (window * heads.to(tl.int64) + head) * TOKENS + queries
            tl.store(at, top + tl.log2(total), mask=queries < TOKENS)


@kernel
def backward_window(
    qkv,
    bias,
    padding,
    seed,
    grad_out,
    grad_qkv,
    grad_bias,
    grad_padding,
    H,
    W,
    rows,
    columns,
    windows,
    group,
    heads,
    stride_b,
    stride_h,
    stride_w,
    ALIGN: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """Every gradient for one head and a group of windows of one tile each.

    The softmax is computed anew, which needs nothing of forward. The gradients of the bias and of
    the padding are summed over the group in registers and written as this program's part,
    (groups, heads, M², M²) and (groups, heads, 2, HEAD_DIM).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    sizes = (H, W, rows, columns, stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    first = pid // heads * group
    tokens = tl.arange(0, BLOCK)
    C = heads * HEAD_DIM
    q_at = head * HEAD_DIM
    k_at = C + q_at
    v_at = C + k_at
    pad_k = load_padding(qkv, padding, k_at, PADDED, HEAD_DIM, D)
    pad_v = load_padding(qkv, padding, v_at, PADDED, HEAD_DIM, D)
    table = load_bias(bias, head, tokens, tokens, TOKENS, ACC)
    sum_bias = tl.zeros([BLOCK, BLOCK], ACC)
    sum_k = tl.zeros([D], ACC)
    sum_v = tl.zeros([D], ACC)

    for window in range(first, tl.minimum(first + group, windows)):
        cut = is_cut(window, rows, columns)
        offset, position, region, inside, padded = place(
            window, tokens, sizes, ALIGN, WINDOW, SHIFT
        )
        q = load(qkv + q_at, offset, inside, 0.0, HEAD_DIM, D)
        k = load(qkv + k_at, offset, inside, pad_k, HEAD_DIM, D)
        v = load(qkv + v_at, offset, inside, pad_v, HEAD_DIM, D)
        # Zero for queries that are padding: their output is dropped, and sends no gradient.
        do = load(grad_out + q_at, position * C, inside, 0.0, HEAD_DIM, D)
        s = score(q, k, table, region, region, cut, SHIFT, SCALE, PRECISION)
        p = tl.exp2(s - tl.max(s, 1)[:, None])
        p = p / tl.sum(p, 1)[:, None]
        kept = p
        if DROPOUT > 0:
            kept = p * dropout(seed, window, head, tokens, tokens, TOKENS, DROPOUT)
        dv = product(tl.trans(kept.to(do.dtype)), do, PRECISION)
        store(grad_qkv + v_at, position * (3 * C), inside, dv, HEAD_DIM, D)
        if PADDED:
            if may_be_padded(window, sizes, WINDOW, SHIFT):
                sum_v += tl.sum(tl.where(padded[:, None], dv, 0.0), 0)
        dp = product(do, tl.trans(v), PRECISION) * kept
        ds = dp - p * tl.sum(dp, 1)[:, None]
        sum_bias += ds
        ds = ds.to(k.dtype)
        dq = product(ds, k, PRECISION) * SCALE
        store(grad_qkv + q_at, position * (3 * C), inside, dq, HEAD_DIM, D)
        dk = product(tl.trans(ds), q, PRECISION) * SCALE
        store(grad_qkv + k_at, position * (3 * C), inside, dk, HEAD_DIM, D)
        if PADDED:
            if may_be_padded(window, sizes, WINDOW, SHIFT):
                sum_k += tl.sum(tl.where(padded[:, None], dk, 0.0), 0)

    store_bias(grad_bias, pid, tokens, tokens, sum_bias, TOKENS)
    if PADDED:
        store_padding(grad_padding, pid, sum_k, sum_v, HEAD_DIM, D)


@kernel
def backward_queries(
    qkv,
    bias,
    padding,
    seed,
    out,
    lse,
    grad_out,
    delta,
    grad_qkv,
    H,
    W,
    rows,
    columns,
    windows,
    group,
    heads,
    stride_b,
    stride_h,
    stride_w,
    ALIGN: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The queries' gradient for one head, one tile of queries and a group of windows.

    Leaves each row's product of out and its gradient in ``delta``, (windows, heads, M²), for the
    kernels below.
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns, stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    queries = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    first = pid // (heads * TILES) * group
    C = heads * HEAD_DIM
    q_at = head * HEAD_DIM
    k_at = C + q_at
    v_at = C + k_at
    pad_k = load_padding(qkv, padding, k_at, PADDED, HEAD_DIM, D)
    pad_v = load_padding(qkv, padding, v_at, PADDED, HEAD_DIM, D)

    for window in range(first, tl.minimum(first + group, windows)):
        cut = is_cut(window, rows, columns)
        offset, position, region, inside, _ = place(window, queries, sizes, ALIGN, WINDOW, SHIFT)
        q = load(qkv + q_at, offset, inside, 0.0, HEAD_DIM, D)
        o = load(out + q_at, position * C, inside, 0.0, HEAD_DIM, D)
        do = load(grad_out + q_at, position * C, inside, 0.0, HEAD_DIM, D)
        row_delta = tl.sum(o.to(ACC) * do.to(ACC), 1)
        row = (window * heads.to(tl.int64) + head) * TOKENS + queries
        tl.store(delta + row, row_delta, mask=queries < TOKENS)
        row_lse = tl.load(lse + row, mask=queries < TOKENS, other=0.0)
        dq = tl.zeros([BLOCK, D], ACC)
        for start in range(0, TOKENS, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            offset_k, _, region_k, inside_k, _ = place(window, keys, sizes, ALIGN, WINDOW, SHIFT)
            k = load(qkv + k_at, offset_k, inside_k, pad_k, HEAD_DIM, D)
            v = load(qkv + v_at, offset_k, inside_k, pad_v, HEAD_DIM, D)
            table = load_bias(bias, head, queries, keys, TOKENS, ACC)
            s = score(q, k, table, region, region_k, cut, SHIFT, SCALE, PRECISION)
            _kept, ds = grad_score(
                s,
                row_lse,
                row_delta,
                v,
                do,
                seed,
                window,
                head,
                queries,
                keys,
                TOKENS,
                DROPOUT,
                PRECISION,
            )
            dq += product(ds.to(k.dtype), k, PRECISION)
        store(grad_qkv + q_at, position * (3 * C), inside, dq * SCALE, HEAD_DIM, D)


@kernel
def backward_keys(
    qkv,
    bias,
    padding,
    seed,
    lse,
    grad_out,
    delta,
    grad_qkv,
    grad_padding,
    H,
    W,
    rows,
    columns,
    windows,
    group,
    heads,
    stride_b,
    stride_h,
    stride_w,
    ALIGN: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The keys' and values' gradients for one head, one tile of keys and a group of windows.

    Padding's is summed over the group: (groups * tiles, heads, 2, HEAD_DIM).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns, stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    keys = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    first = pid // (heads * TILES) * group
    C = heads * HEAD_DIM
    q_at = head * HEAD_DIM
    k_at = C + q_at
    v_at = C + k_at
    pad_k = load_padding(qkv, padding, k_at, PADDED, HEAD_DIM, D)
    pad_v = load_padding(qkv, padding, v_at, PADDED, HEAD_DIM, D)
    sum_k = tl.zeros([D], ACC)
    sum_v = tl.zeros([D], ACC)

    for window in range(first, tl.minimum(first + group, windows)):
        cut = is_cut(window, rows, columns)
        offset_k, position_k, region_k, inside_k, padded = place(
            window, keys, sizes, ALIGN, WINDOW, SHIFT
        )
        k = load(qkv + k_at, offset_k, inside_k, pad_k, HEAD_DIM, D)
        v = load(qkv + v_at, offset_k, inside_k, pad_v, HEAD_DIM, D)
        dk = tl.zeros([BLOCK, D], ACC)
        dv = tl.zeros([BLOCK, D], ACC)
        for start in range(0, TOKENS, BLOCK):
            queries = start + tl.arange(0, BLOCK)
            offset, position, region, inside, _ = place(
                window, queries, sizes, ALIGN, WINDOW, SHIFT
            )
            q = load(qkv + q_at, offset, inside, 0.0, HEAD_DIM, D)
            do = load(grad_out + q_at, position * C, inside, 0.0, HEAD_DIM, D)
            row = (window * heads.to(tl.int64) + head) * TOKENS + queries
            row_lse = tl.load(lse + row, mask=queries < TOKENS, other=0.0)
            row_delta = tl.load(delta + row, mask=queries < TOKENS, other=0.0)
            table = load_bias(bias, head, queries, keys, TOKENS, ACC)
            s = score(q, k, table, region, region_k, cut, SHIFT, SCALE, PRECISION)
            kept, ds = grad_score(
                s,
                row_lse,
                row_delta,
                v,
                do,
                seed,
                window,
                head,
                queries,
                keys,
                TOKENS,
                DROPOUT,
                PRECISION,
            )
            dk += product(tl.trans(ds.to(q.dtype)), q, PRECISION)
            dv += product(tl.trans(kept.to(do.dtype)), do, PRECISION)
        dk *= SCALE
        store(grad_qkv + k_at, position_k * (3 * C), inside_k, dk, HEAD_DIM, D)
        store(grad_qkv + v_at, position_k * (3 * C), inside_k, dv, HEAD_DIM, D)
        if PADDED:
            if may_be_padded(window, sizes, WINDOW, SHIFT):
                sum_k += tl.sum(tl.where(padded[:, None], dk, 0.0), 0)
            sum_v += tl.sum(tl.where(padded[:, None], dv, 0.0), 0)

    if PADDED:
        store_padding(grad_padding, pid, sum_k, sum_v, HEAD_DIM, D)


@kernel
def backward_bias(
    qkv,
    bias,
    padding,
    seed,
    lse,
    grad_out,
    delta,
    grad_bias,
    H,
    W,
    rows,
    columns,
    windows,
    group,
    heads,
    stride_b,
    stride_h,
    stride_w,
    ALIGN: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The bias's gradient for one head and one tile of scores, summed over a group of windows.

    Scores are computed once more, so that the sum stays in registers: it is exact in its order, and
    reads far less than adding each window's scores to memory would. (groups, heads, M², M²).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns, stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    queries = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    keys = pid // (heads * TILES) % TILES * BLOCK + tl.arange(0, BLOCK)
    part = pid // (heads * TILES * TILES)
    C = heads * HEAD_DIM
    q_at = head * HEAD_DIM
    k_at = C + q_at
    v_at = C + k_at
    pad_k = load_padding(qkv, padding, k_at, PADDED, HEAD_DIM, D)
    pad_v = load_padding(qkv, padding, v_at, PADDED, HEAD_DIM, D)
    table = load_bias(bias, head, queries, keys, TOKENS, ACC)
    sum_bias = tl.zeros([BLOCK, BLOCK], ACC)

    for window in range(part * group, tl.minimum(part * group + group, windows)):
        cut = is_cut(window, rows, columns)
        offset, position, region, inside, _ = place(window, queries, sizes, ALIGN, WINDOW, SHIFT)
        offset_k, _, region_k, inside_k, _ = place(window, keys, sizes, ALIGN, WINDOW, SHIFT)
        q = load(qkv + q_at, offset, inside, 0.0, HEAD_DIM, D)
        k = load(qkv + k_at, offset_k, inside_k, pad_k, HEAD_DIM, D)
        v = load(qkv + v_at, offset_k, inside_k, pad_v, HEAD_DIM, D)
        do = load(grad_out + q_at, position * C, inside, 0.0, HEAD_DIM, D)
        row = (window * heads.to(tl.int64) + head) * TOKENS + queries
        row_lse = tl.load(lse + row, mask=queries < TOKENS, other=0.0)
        row_delta = tl.load(delta + row, mask=queries < TOKENS, other=0.0)
        s = score(q, k, table, region, region_k, cut, SHIFT, SCALE, PRECISION)
        _kept, ds = grad_score(
            s,
            row_lse,
            row_delta,
            v,
            do,
            seed,
            window,
            head,
            queries,
            keys,
            TOKENS,
            DROPOUT,
            PRECISION,
        )
        sum_bias += ds

    store_bias(grad_bias, part * heads + head, queries, keys, sum_bias, TOKENS)
