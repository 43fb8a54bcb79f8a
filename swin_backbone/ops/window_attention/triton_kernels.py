"""The Triton kernels of shifted-window attention; `triton.py` launches them. Needs triton.

A program processes one head of a strided group of windows. The stride balances the load, because
the windows that are padded or cut by the shift are neighbours. Token positions are computed, never
stored: padding, cyclic shift, partition into windows and region mask are arithmetic on indices.
Scores stay in registers.

Shapes: a window has M² tokens, in tiles of BLOCK; a head has HEAD_DIM channels, in tiles of D. The
unused lanes of a tile hold finite values: zeros or padding. Keys beyond M² get a score of minus
infinity; queries beyond M² are never stored.
"""
# ruff: noqa: SIM102 (the outer `if` is evaluated at compile time, the inner one at run time)

from __future__ import annotations

import triton
import triton.language as tl

from . import reference

LOG2E = tl.constexpr(1.4426950408889634)
MASKED = tl.constexpr(reference.MASKED)

# Sizes that change between images or stages must not trigger recompilation.
SIZES = (
    *('H', 'W', 'rows', 'columns', 'windows', 'groups', 'heads'),
    *('stride_b', 'stride_h', 'stride_w'),
)
kernel = triton.jit(do_not_specialize=SIZES)


@triton.jit
def locate(window, sizes):
    """The image of a window, and the row and column of the window in it."""
    _H, _W, rows, columns = sizes
    return window // (rows * columns), window // columns % rows, window % columns


@triton.jit
def advance(spot, step, sizes):
    """``locate(window + n)`` without divisions, for ``step = locate(n)``."""
    _H, _W, rows, columns = sizes
    column = spot[2] + step[2]
    over = column >= columns
    column = tl.where(over, column - columns, column)
    row = spot[1] + step[1] + over.to(tl.int32)
    over = row >= rows
    row = tl.where(over, row - rows, row)
    return spot[0] + step[0] + over.to(tl.int32), row, column


@triton.jit
def is_last(spot, sizes):
    """Whether a window is in the last row, and in the last column, which the shift cuts; 0 or 1."""
    _image, row, column = spot
    _H, _W, rows, columns = sizes
    return (row == rows - 1).to(tl.int32), (column == columns - 1).to(tl.int32)


@triton.jit
def is_cut_off(tokens, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Whether a token is below, and right of, the cut through its window; 0 or 1."""
    below = (tokens // WINDOW >= WINDOW - SHIFT).to(tl.int32)
    return below, (tokens % WINDOW >= WINDOW - SHIFT).to(tl.int32)


@triton.jit
def region(tokens, last, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """The region of a token within its window, as the official mask separates them."""
    below, right = is_cut_off(tokens, WINDOW, SHIFT)
    return 2 * (below & last[0]) + (right & last[1])


@triton.jit
def place(spot, tokens, sizes, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Row and column of the tokens of a window on the map; padded tokens are outside it."""
    _image, row, column = spot
    _H, _W, rows, columns = sizes
    y = row * WINDOW + SHIFT + tokens // WINDOW
    x = column * WINDOW + SHIFT + tokens % WINDOW
    if SHIFT > 0:  # tokens behind the cut come from the opposite side of the map
        below, right = is_cut_off(tokens, WINDOW, SHIFT)
        last = is_last(spot, sizes)
        y -= below * (last[0] * rows * WINDOW)
        x -= right * (last[1] * columns * WINDOW)
    return y, x


@triton.jit
def lanes(tokens, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """Which lanes of a tile are tokens of the window, that is, below M²."""
    if TOKENS % BLOCK == 0:
        return tl.full([BLOCK], True, tl.int1)
    return tokens < TOKENS


@triton.jit
def on_map(tokens, at, sizes, PADDED: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """Whether tokens are on the map, and whether they are padding; lanes beyond M² are neither."""
    H, W, _rows, _columns = sizes
    token = lanes(tokens, WINDOW * WINDOW, BLOCK)
    if PADDED:
        inside = (at[0] < H) & (at[1] < W)
        return token & inside, token & (inside == 0)
    return token, token == 0


@triton.jit
def may_be_padded(spot, sizes, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """False if a window has no padding. A cheap test that skips most windows."""
    _image, row, column = spot
    H, W, _rows, _columns = sizes
    return (row * WINDOW + WINDOW + SHIFT > H) | (column * WINDOW + WINDOW + SHIFT > W)


@triton.jit
def qkv_at(
    qkv,
    padding,
    image,
    at,
    padded,
    strides,
    PADDED: tl.constexpr,
    ALIGN: tl.constexpr,
    D: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Pointers (tokens, D) to the channels of tokens in qkv; of padded tokens, in ``padding``."""
    stride_b, stride_h, stride_w = strides
    token = at[0].to(INDEX) * stride_h + at[1].to(INDEX) * stride_w
    first = qkv + image.to(tl.int64) * stride_b * ALIGN + tl.arange(0, D)
    pointers = first[None, :] + token.to(tl.int64)[:, None] * ALIGN
    if PADDED:
        pointers = tl.where(padded[:, None], (padding + tl.arange(0, D))[None, :], pointers)
    return pointers


@triton.jit
def map_at(
    table, image, at, sizes, heads, HEAD_DIM: tl.constexpr, D: tl.constexpr, INDEX: tl.constexpr
):
    """Pointers (tokens, D) into a contiguous table (B, H, W, heads * HEAD_DIM)."""
    H, W, _rows, _columns = sizes
    token = at[0].to(INDEX) * W * heads + at[1].to(INDEX) * heads
    first = table + image.to(tl.int64) * H * W * heads * HEAD_DIM + tl.arange(0, D)
    return first[None, :] + token.to(tl.int64)[:, None] * HEAD_DIM


@triton.jit
def load(pointers, tokens, HEAD_DIM: tl.constexpr, D: tl.constexpr):
    """Loads a tile (tokens, D); zero where the mask ``tokens`` is False."""
    mask = tokens[:, None] & (tl.arange(0, D) < HEAD_DIM)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store(pointers, tokens, tile, HEAD_DIM: tl.constexpr, D: tl.constexpr):
    """Stores the rows of a tile (tokens, D) where the mask ``tokens`` is True."""
    tl.store(pointers, tile, mask=tokens[:, None] & (tl.arange(0, D) < HEAD_DIM)[None, :])


@triton.jit
def load_bias(
    bias, head, queries, keys, TOKENS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr
):
    """Loads a tile of the position bias. For windows of one tile, keys beyond M² get -inf."""
    at = bias + (head * TOKENS + queries)[:, None] * TOKENS + keys[None, :]
    mask = lanes(queries, TOKENS, BLOCK)[:, None] & lanes(keys, TOKENS, BLOCK)[None, :]
    # Cached in L1, because every window reads it.
    tile = tl.load(at, mask=mask, other=0.0, cache_modifier='.ca').to(ACC)
    if TOKENS < BLOCK:
        tile = tl.where((keys < TOKENS)[None, :], tile, float('-inf'))
    return tile


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a @ b with float32 sums. Triton's interpreter does not support bfloat16 products."""
    if PRECISION == 'widened':
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision='ieee')
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def score(
    q,
    k,
    bias,
    queries,
    keys,
    first_key,
    last,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores (queries, keys) of a tile whose first key is ``first_key``."""
    TOKENS: tl.constexpr = WINDOW * WINDOW
    s = product(q, tl.trans(k), PRECISION) * SCALE + bias
    if TOKENS > BLOCK and TOKENS % BLOCK != 0:
        if first_key + BLOCK > TOKENS:
            s = tl.where((keys < TOKENS)[None, :], s, float('-inf'))
    if SHIFT > 0:
        if (last[0] | last[1]) > 0:  # the shift cuts few windows
            query_region = region(queries, last, WINDOW, SHIFT)[:, None]
            key_region = region(keys, last, WINDOW, SHIFT)[None, :]
            s = tl.where(query_region == key_region, s, s + MASKED)
    return s


@triton.jit
def dropout(seed, window, head, queries, keys, TOKENS: tl.constexpr, DROPOUT: tl.constexpr):
    """Dropout factors (queries, keys) of the weights: 0 or 1 / (1 - p).

    They are Philox of the seed and the index of the weight, so forward and backward agree.
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
    """The weights of a tile after dropout, and the gradient of its scores."""
    p = tl.exp2(s * LOG2E - row_lse[:, None])
    kept = p
    if DROPOUT > 0:
        kept = p * dropout(seed, window, head, queries, keys, TOKENS, DROPOUT)
    dp = product(do, tl.trans(v), PRECISION)
    return kept, kept * dp - p * row_delta[:, None]


@triton.jit
def store_bias(grad_bias, part, queries, keys, tile, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    """Stores a tile of one partial gradient (M², M²) of the bias."""
    mask = lanes(queries, TOKENS, BLOCK)[:, None] & lanes(keys, TOKENS, BLOCK)[None, :]
    row = part.to(tl.int64) * TOKENS + queries
    tl.store(grad_bias + row[:, None] * TOKENS + keys[None, :], tile, mask=mask)


@triton.jit
def store_padding(grad_padding, part, k, v, HEAD_DIM: tl.constexpr, D: tl.constexpr):
    """Stores one partial gradient (2, HEAD_DIM) of the keys and values of padding."""
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
    groups,
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
    INDEX: tl.constexpr,
):
    """Computes out for one head, one tile of queries and a group of windows; online softmax.

    If a window is one tile, the bias stays in registers for the whole group. Otherwise the
    logarithm of the sum of each row is stored for backward, (windows, heads, M²).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns)
    strides = (stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    queries = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    first = pid // (heads * TILES)
    q_at = head * HEAD_DIM
    k_at = heads * HEAD_DIM + q_at
    v_at = heads * HEAD_DIM + k_at
    if TILES == 1:
        table = load_bias(bias, head, queries, queries, TOKENS, BLOCK, ACC)

    step = locate(groups, sizes)
    image, row, column = locate(first, sizes)
    for window in range(first, windows, groups):
        spot = (image, row, column)
        last = is_last(spot, sizes)
        at = place(spot, queries, sizes, WINDOW, SHIFT)
        inside, padded = on_map(queries, at, sizes, PADDED, WINDOW, BLOCK)
        here = qkv_at(qkv, padding, image, at, padded, strides, PADDED, ALIGN, D, INDEX)
        q = load(here + q_at, lanes(queries, TOKENS, BLOCK), HEAD_DIM, D)
        top = tl.full([BLOCK], float('-inf'), ACC)
        total = tl.zeros([BLOCK], ACC)
        sums = tl.zeros([BLOCK, D], ACC)
        for start in range(0, TOKENS, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            at_k = place(spot, keys, sizes, WINDOW, SHIFT)
            _inside, padded = on_map(keys, at_k, sizes, PADDED, WINDOW, BLOCK)
            there = qkv_at(qkv, padding, image, at_k, padded, strides, PADDED, ALIGN, D, INDEX)
            k = load(there + k_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
            v = load(there + v_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
            if TILES > 1:
                table = load_bias(bias, head, queries, keys, TOKENS, BLOCK, ACC)
            s = score(
                q, k, table, queries, keys, start, last, WINDOW, SHIFT, SCALE, BLOCK, PRECISION
            )
            before = top
            top = tl.max(s, 1)
            if TILES > 1:
                top = tl.maximum(before, top)
                shrink = tl.exp2((before - top) * LOG2E)
                total *= shrink
                sums *= shrink[:, None]
            p = tl.exp2(s * LOG2E - (top * LOG2E)[:, None])
            total += tl.sum(p, 1)
            if DROPOUT > 0:
                p *= dropout(seed, window, head, queries, keys, TOKENS, DROPOUT)
            sums += product(p.to(v.dtype), v, PRECISION)
        there = map_at(out, image, at, sizes, heads, HEAD_DIM, D, INDEX)
        store(there + q_at, inside, sums * (1.0 / total)[:, None], HEAD_DIM, D)
        if TILES > 1:
            logs = lse + (window * heads.to(tl.int64) + head) * TOKENS + queries
            tl.store(logs, top * LOG2E + tl.log2(total), mask=lanes(queries, TOKENS, BLOCK))
        image, row, column = advance(spot, step, sizes)


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
    groups,
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
    INDEX: tl.constexpr,
):
    """Computes all gradients for one head and a group of windows of one tile each.

    The softmax is recomputed from the inputs. The gradients of bias and padding are summed over the
    group in registers and stored as partial gradients of the program, (groups, heads, M², M²) and
    (groups, heads, 2, HEAD_DIM).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    sizes = (H, W, rows, columns)
    strides = (stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    first = pid // heads
    tokens = tl.arange(0, BLOCK)
    q_at = head * HEAD_DIM
    k_at = heads * HEAD_DIM + q_at
    v_at = heads * HEAD_DIM + k_at
    table = load_bias(bias, head, tokens, tokens, TOKENS, BLOCK, ACC)
    sum_bias = tl.zeros([BLOCK, BLOCK], ACC)
    sum_k = tl.zeros([D], ACC)
    sum_v = tl.zeros([D], ACC)

    step = locate(groups, sizes)
    image, row, column = locate(first, sizes)
    for window in range(first, windows, groups):
        spot = (image, row, column)
        last = is_last(spot, sizes)
        at = place(spot, tokens, sizes, WINDOW, SHIFT)
        inside, padded = on_map(tokens, at, sizes, PADDED, WINDOW, BLOCK)
        here = qkv_at(qkv, padding, image, at, padded, strides, PADDED, ALIGN, D, INDEX)
        q = load(here + q_at, lanes(tokens, TOKENS, BLOCK), HEAD_DIM, D)
        k = load(here + k_at, lanes(tokens, TOKENS, BLOCK), HEAD_DIM, D)
        v = load(here + v_at, lanes(tokens, TOKENS, BLOCK), HEAD_DIM, D)
        # Zero for padded queries, whose output is dropped.
        here = map_at(grad_out, image, at, sizes, heads, HEAD_DIM, D, INDEX)
        do = load(here + q_at, inside, HEAD_DIM, D)
        s = score(q, k, table, tokens, tokens, 0, last, WINDOW, SHIFT, SCALE, BLOCK, PRECISION)
        p = tl.exp2(s * LOG2E - (tl.max(s, 1) * LOG2E)[:, None])
        p *= (1.0 / tl.sum(p, 1))[:, None]
        kept = p
        if DROPOUT > 0:
            kept = p * dropout(seed, window, head, tokens, tokens, TOKENS, DROPOUT)
        there = map_at(grad_qkv, image, at, sizes, 3 * heads, HEAD_DIM, D, INDEX)
        dv = product(tl.trans(kept.to(do.dtype)), do, PRECISION)
        store(there + v_at, inside, dv, HEAD_DIM, D)
        if PADDED:
            if may_be_padded(spot, sizes, WINDOW, SHIFT):
                sum_v += tl.sum(tl.where(padded[:, None], dv, 0.0), 0)
        dp = product(do, tl.trans(v), PRECISION) * kept
        ds = dp - p * tl.sum(dp, 1)[:, None]
        sum_bias += ds
        ds = ds.to(k.dtype)
        dq = product(ds, k, PRECISION) * SCALE
        store(there + q_at, inside, dq, HEAD_DIM, D)
        dk = product(tl.trans(ds), q, PRECISION) * SCALE
        store(there + k_at, inside, dk, HEAD_DIM, D)
        if PADDED:
            if may_be_padded(spot, sizes, WINDOW, SHIFT):
                sum_k += tl.sum(tl.where(padded[:, None], dk, 0.0), 0)
        image, row, column = advance(spot, step, sizes)

    store_bias(grad_bias, pid, tokens, tokens, sum_bias, TOKENS, BLOCK)
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
    groups,
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
    INDEX: tl.constexpr,
):
    """Computes the gradient of queries for one head, one tile of queries and a group of windows.

    Stores the dot product of each row of out and its gradient in ``delta``, (windows, heads, M²),
    for the kernels below.
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns)
    strides = (stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    queries = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    first = pid // (heads * TILES)
    q_at = head * HEAD_DIM
    k_at = heads * HEAD_DIM + q_at
    v_at = heads * HEAD_DIM + k_at

    step = locate(groups, sizes)
    image, row, column = locate(first, sizes)
    for window in range(first, windows, groups):
        spot = (image, row, column)
        last = is_last(spot, sizes)
        at = place(spot, queries, sizes, WINDOW, SHIFT)
        inside, padded = on_map(queries, at, sizes, PADDED, WINDOW, BLOCK)
        here = qkv_at(qkv, padding, image, at, padded, strides, PADDED, ALIGN, D, INDEX)
        q = load(here + q_at, lanes(queries, TOKENS, BLOCK), HEAD_DIM, D)
        here = map_at(out, image, at, sizes, heads, HEAD_DIM, D, INDEX)
        o = load(here + q_at, inside, HEAD_DIM, D)
        here = map_at(grad_out, image, at, sizes, heads, HEAD_DIM, D, INDEX)
        do = load(here + q_at, inside, HEAD_DIM, D)
        row_delta = tl.sum(o.to(ACC) * do.to(ACC), 1)
        of_row = (window * heads.to(tl.int64) + head) * TOKENS + queries
        tl.store(delta + of_row, row_delta, mask=lanes(queries, TOKENS, BLOCK))
        row_lse = tl.load(lse + of_row, mask=lanes(queries, TOKENS, BLOCK), other=0.0)
        dq = tl.zeros([BLOCK, D], ACC)
        for start in range(0, TOKENS, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            at_k = place(spot, keys, sizes, WINDOW, SHIFT)
            _inside, padded = on_map(keys, at_k, sizes, PADDED, WINDOW, BLOCK)
            there = qkv_at(qkv, padding, image, at_k, padded, strides, PADDED, ALIGN, D, INDEX)
            k = load(there + k_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
            v = load(there + v_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
            table = load_bias(bias, head, queries, keys, TOKENS, BLOCK, ACC)
            s = score(
                q, k, table, queries, keys, start, last, WINDOW, SHIFT, SCALE, BLOCK, PRECISION
            )
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
        there = map_at(grad_qkv, image, at, sizes, 3 * heads, HEAD_DIM, D, INDEX)
        store(there + q_at, inside, dq * SCALE, HEAD_DIM, D)
        image, row, column = advance(spot, step, sizes)


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
    groups,
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
    INDEX: tl.constexpr,
):
    """Computes the gradients of keys and values for one head, one tile of keys and a group.

    The gradient of padding is summed over the group, (groups * tiles, heads, 2, HEAD_DIM).
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns)
    strides = (stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    first_key = pid // heads % TILES * BLOCK
    keys = first_key + tl.arange(0, BLOCK)
    first = pid // (heads * TILES)
    q_at = head * HEAD_DIM
    k_at = heads * HEAD_DIM + q_at
    v_at = heads * HEAD_DIM + k_at
    sum_k = tl.zeros([D], ACC)
    sum_v = tl.zeros([D], ACC)

    step = locate(groups, sizes)
    image, row, column = locate(first, sizes)
    for window in range(first, windows, groups):
        spot = (image, row, column)
        last = is_last(spot, sizes)
        at_k = place(spot, keys, sizes, WINDOW, SHIFT)
        inside_k, padded_k = on_map(keys, at_k, sizes, PADDED, WINDOW, BLOCK)
        there = qkv_at(qkv, padding, image, at_k, padded_k, strides, PADDED, ALIGN, D, INDEX)
        k = load(there + k_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
        v = load(there + v_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
        dk = tl.zeros([BLOCK, D], ACC)
        dv = tl.zeros([BLOCK, D], ACC)
        for start in range(0, TOKENS, BLOCK):
            queries = start + tl.arange(0, BLOCK)
            at = place(spot, queries, sizes, WINDOW, SHIFT)
            inside, padded = on_map(queries, at, sizes, PADDED, WINDOW, BLOCK)
            here = qkv_at(qkv, padding, image, at, padded, strides, PADDED, ALIGN, D, INDEX)
            q = load(here + q_at, lanes(queries, TOKENS, BLOCK), HEAD_DIM, D)
            here = map_at(grad_out, image, at, sizes, heads, HEAD_DIM, D, INDEX)
            do = load(here + q_at, inside, HEAD_DIM, D)
            of_row = (window * heads.to(tl.int64) + head) * TOKENS + queries
            row_lse = tl.load(lse + of_row, mask=lanes(queries, TOKENS, BLOCK), other=0.0)
            row_delta = tl.load(delta + of_row, mask=lanes(queries, TOKENS, BLOCK), other=0.0)
            table = load_bias(bias, head, queries, keys, TOKENS, BLOCK, ACC)
            s = score(
                q, k, table, queries, keys, first_key, last, WINDOW, SHIFT, SCALE, BLOCK, PRECISION
            )
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
        there = map_at(grad_qkv, image, at_k, sizes, 3 * heads, HEAD_DIM, D, INDEX)
        store(there + k_at, inside_k, dk, HEAD_DIM, D)
        store(there + v_at, inside_k, dv, HEAD_DIM, D)
        if PADDED:
            if may_be_padded(spot, sizes, WINDOW, SHIFT):
                sum_k += tl.sum(tl.where(padded_k[:, None], dk, 0.0), 0)
                sum_v += tl.sum(tl.where(padded_k[:, None], dv, 0.0), 0)
        image, row, column = advance(spot, step, sizes)

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
    groups,
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
    INDEX: tl.constexpr,
):
    """Computes the gradient of the bias for one head and one tile of scores, summed over a group.

    The scores are recomputed, so that the sum, (groups, heads, M², M²), stays in registers. Its
    order is fixed, and the memory traffic is far below that of adding the scores of each window to
    memory.
    """
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = (TOKENS + BLOCK - 1) // BLOCK
    sizes = (H, W, rows, columns)
    strides = (stride_b, stride_h, stride_w)
    pid = tl.program_id(0)
    head = pid % heads
    queries = pid // heads % TILES * BLOCK + tl.arange(0, BLOCK)
    first_key = pid // (heads * TILES) % TILES * BLOCK
    keys = first_key + tl.arange(0, BLOCK)
    first = pid // (heads * TILES * TILES)
    q_at = head * HEAD_DIM
    k_at = heads * HEAD_DIM + q_at
    v_at = heads * HEAD_DIM + k_at
    table = load_bias(bias, head, queries, keys, TOKENS, BLOCK, ACC)
    sum_bias = tl.zeros([BLOCK, BLOCK], ACC)

    step = locate(groups, sizes)
    image, row, column = locate(first, sizes)
    for window in range(first, windows, groups):
        spot = (image, row, column)
        last = is_last(spot, sizes)
        at = place(spot, queries, sizes, WINDOW, SHIFT)
        inside, padded = on_map(queries, at, sizes, PADDED, WINDOW, BLOCK)
        here = qkv_at(qkv, padding, image, at, padded, strides, PADDED, ALIGN, D, INDEX)
        q = load(here + q_at, lanes(queries, TOKENS, BLOCK), HEAD_DIM, D)
        here = map_at(grad_out, image, at, sizes, heads, HEAD_DIM, D, INDEX)
        do = load(here + q_at, inside, HEAD_DIM, D)
        at_k = place(spot, keys, sizes, WINDOW, SHIFT)
        _inside, padded = on_map(keys, at_k, sizes, PADDED, WINDOW, BLOCK)
        there = qkv_at(qkv, padding, image, at_k, padded, strides, PADDED, ALIGN, D, INDEX)
        k = load(there + k_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
        v = load(there + v_at, lanes(keys, TOKENS, BLOCK), HEAD_DIM, D)
        of_row = (window * heads.to(tl.int64) + head) * TOKENS + queries
        row_lse = tl.load(lse + of_row, mask=lanes(queries, TOKENS, BLOCK), other=0.0)
        row_delta = tl.load(delta + of_row, mask=lanes(queries, TOKENS, BLOCK), other=0.0)
        s = score(
            q, k, table, queries, keys, first_key, last, WINDOW, SHIFT, SCALE, BLOCK, PRECISION
        )
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
        image, row, column = advance(spot, step, sizes)

    store_bias(grad_bias, first * heads + head, queries, keys, sum_bias, TOKENS, BLOCK)
