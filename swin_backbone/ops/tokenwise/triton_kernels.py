"""The Triton kernels of token-wise operations; `triton.py` launches them. Needs triton.

Every tensor is a contiguous table (tokens, width). Kernels of norms hold whole rows in registers,
so that statistics need not be stored; the others process tiles of columns. Sums over tokens are
computed first within the group of rows of a program, then over groups.

A path is a residual branch. It is multiplied by the drop path factor of its image before it is
added. Sums are rounded to the dtype that they have in memory even if they are not stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes that change between images must not trigger recompilation.
SIZES = ('tokens', 'images', 'per_image', 'group', 'H', 'W')
kernel = triton.jit(do_not_specialize=SIZES)


@triton.jit
def place(tile, columns, tokens, width, ROWS: tl.constexpr):
    """The rows of a tile, the mask of its elements in the table, and their int64 offsets."""
    rows = tile * ROWS + tl.arange(0, ROWS)
    inside = (rows < tokens)[:, None] & (columns < width)[None, :]
    return rows, inside, rows.to(tl.int64)[:, None] * width + columns[None, :]


@triton.jit
def load(table, at, inside, ACC: tl.constexpr):
    """Loads a tile; zero outside the table."""
    return tl.load(table + at, mask=inside, other=0.0).to(ACC)


@triton.jit
def load_row(parameter, columns, width, ACC: tl.constexpr):
    """Loads weight or bias of a norm, (1, columns)."""
    return tl.load(parameter + columns, mask=columns < width, other=0.0).to(ACC)[None, :]


@triton.jit
def store_sum(sums, row, tile, columns, width):
    """Stores the sum of a tile over its rows as one row of the table ``sums``."""
    at = sums + row.to(tl.int64) * width + columns
    tl.store(at, tl.sum(tile, 0), mask=columns < width)


@triton.jit
def load_factor(factors, which, rows, sizes, ACC: tl.constexpr):
    """Loads the drop path factor of each row, (rows, 1)."""
    tokens, images, per_image = sizes
    at = factors + which * images + rows // per_image
    return tl.load(at, mask=rows < tokens, other=0.0).to(ACC)[:, None]


@triton.jit
def add(
    total,
    path,
    factors,
    which,
    rows,
    at,
    inside,
    sizes,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
):
    """``total + factor * path``, rounded to DTYPE."""
    value = load(path, at, inside, ACC)
    if factors is not None:
        value *= load_factor(factors, which, rows, sizes, ACC)
    return (total + value).to(DTYPE).to(ACC)


@triton.jit
def normalize(total, inside, width, EPS: tl.constexpr):
    """Rows with mean 0 and variance 1, and the inverse of their standard deviation, (rows, 1)."""
    mean = tl.sum(total, 1, keep_dims=True) / width
    centred = tl.where(inside, total - mean, 0.0)
    variance = tl.sum(centred * centred, 1, keep_dims=True) / width
    inverse = 1.0 / tl.sqrt(variance + EPS)
    return tl.where(inside, centred * inverse, 0.0), inverse


@triton.jit
def normalize_backward(g, unit, inverse, width):
    """The gradient of the input of :func:`normalize`, from the gradient ``g`` of ``unit``."""
    along = tl.sum(g * unit, 1, keep_dims=True) / width
    return (g - tl.sum(g, 1, keep_dims=True) / width - unit * along) * inverse


@kernel
def add_norm(
    x,
    path,
    other,
    factors,
    weight,
    bias,
    total,
    normed,
    tokens,
    images,
    per_image,
    width,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """``total = x + factors[0] * path + factors[1] * other``, and its layer norm.

    Tensors that are None are skipped.
    """
    columns = tl.arange(0, BLOCK)
    rows, inside, at = place(tl.program_id(0), columns, tokens, width, ROWS)
    sizes = tokens, images, per_image
    result = load(x, at, inside, ACC)
    if path is not None:
        result = add(result, path, factors, 0, rows, at, inside, sizes, x.dtype.element_ty, ACC)
    if other is not None:
        result = add(result, other, factors, 1, rows, at, inside, sizes, x.dtype.element_ty, ACC)
    if total is not None:
        tl.store(total + at, result, mask=inside)
    if normed is not None:
        result, _ = normalize(result, inside, width, EPS)
        w, b = load_row(weight, columns, width, ACC), load_row(bias, columns, width, ACC)
        tl.store(normed + at, result * w + b, mask=inside)


@kernel
def norm_backward(
    grad,
    onward,
    x,
    path,
    factors,
    weight,
    bias,
    d_x,
    d_path,
    normed,
    sums,
    tokens,
    images,
    per_image,
    group,
    width,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """The backward pass of the norm of ``x + factors[0] * path``.

    Args:
        grad: Gradient of the output of the norm.
        onward: Gradient that reaches the sum not through the norm.
        d_x: Gradient of ``x``; output.
        d_path: Gradient of ``path``; output, None without a path.
        normed: Output of the norm; output, None if it is not needed.
        sums: Gradients of weight and bias and, with a path, the sum of ``d_path``, for each group,
            (groups, 2 or 3, width); output.
    """
    columns = tl.arange(0, BLOCK)
    w, b = load_row(weight, columns, width, ACC), load_row(bias, columns, width, ACC)
    sizes = tokens, images, per_image
    d_weight = tl.zeros([ROWS, BLOCK], ACC)
    d_bias = tl.zeros([ROWS, BLOCK], ACC)
    d_path_sum = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows, inside, at = place(tl.program_id(0) * group + i, columns, tokens, width, ROWS)
        total = load(x, at, inside, ACC)
        if path is not None:
            total = add(total, path, factors, 0, rows, at, inside, sizes, x.dtype.element_ty, ACC)
        unit, inverse = normalize(total, inside, width, EPS)
        g = load(grad, at, inside, ACC)
        d_weight += g * unit
        d_bias += g
        if normed is not None:
            tl.store(normed + at, unit * w + b, mask=inside)
        g = normalize_backward(g * w, unit, inverse, width)
        g += load(onward, at, inside, ACC)
        tl.store(d_x + at, g, mask=inside)
        if path is not None:
            if factors is not None:
                g *= load_factor(factors, 0, rows, sizes, ACC)
            tl.store(d_path + at, g, mask=inside)
            d_path_sum += tl.where(inside, g, 0.0)
    PARTS: tl.constexpr = 2 if path is None else 3
    first = tl.program_id(0) * PARTS
    store_sum(sums, first, d_weight, columns, width)
    store_sum(sums, first + 1, d_bias, columns, width)
    if path is not None:
        store_sum(sums, first + 2, d_path_sum, columns, width)


@kernel
def norm_add(
    x,
    path,
    factors,
    weight,
    bias,
    total,
    tokens,
    images,
    per_image,
    width,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """``total = x + factors[0] * norm(path)``."""
    columns = tl.arange(0, BLOCK)
    rows, inside, at = place(tl.program_id(0), columns, tokens, width, ROWS)
    value = load(path, at, inside, ACC)
    unit, _ = normalize(value, inside, width, EPS)
    value = unit * load_row(weight, columns, width, ACC) + load_row(bias, columns, width, ACC)
    if factors is not None:
        value *= load_factor(factors, 0, rows, (tokens, images, per_image), ACC)
    tl.store(total + at, load(x, at, inside, ACC) + value, mask=inside)


@kernel
def norm_add_backward(
    grad,
    path,
    factors,
    weight,
    d_path,
    sums,
    tokens,
    images,
    per_image,
    group,
    width,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """The backward pass of :func:`norm_add` for its path.

    Args:
        grad: Gradient of ``total``, and so of ``x``.
        d_path: Gradient of ``path``; output.
        sums: Gradients of weight and bias, and the sum of ``d_path``, for each group,
            (groups, 3, width); output.
    """
    columns = tl.arange(0, BLOCK)
    w = load_row(weight, columns, width, ACC)
    d_weight = tl.zeros([ROWS, BLOCK], ACC)
    d_bias = tl.zeros([ROWS, BLOCK], ACC)
    d_path_sum = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows, inside, at = place(tl.program_id(0) * group + i, columns, tokens, width, ROWS)
        value = load(path, at, inside, ACC)
        unit, inverse = normalize(value, inside, width, EPS)
        g = load(grad, at, inside, ACC)
        if factors is not None:
            g *= load_factor(factors, 0, rows, (tokens, images, per_image), ACC)
        d_weight += g * unit
        d_bias += g
        g = normalize_backward(g * w, unit, inverse, width)
        tl.store(d_path + at, g, mask=inside)
        d_path_sum += tl.where(inside, g, 0.0)
    first = tl.program_id(0) * 3
    store_sum(sums, first, d_weight, columns, width)
    store_sum(sums, first + 1, d_bias, columns, width)
    store_sum(sums, first + 2, d_path_sum, columns, width)


@kernel
def path_backward(
    grad,
    factors,
    d_path,
    sums,
    tokens,
    images,
    per_image,
    group,
    width,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """``d_path = factors[1] * grad`` in its dtype, and its sum for each group, (groups, width)."""
    tiles = (width + BLOCK - 1) // BLOCK
    program = tl.program_id(0) // tiles
    columns = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    sizes = tokens, images, per_image
    total = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows, inside, at = place(program * group + i, columns, tokens, width, ROWS)
        g = load(grad, at, inside, ACC)
        if factors is not None:
            g *= load_factor(factors, 1, rows, sizes, ACC)
        tl.store(d_path + at, g, mask=inside)
        total += g
    store_sum(sums, program, total, columns, width)


@triton.jit
def normal_cdf(h, DTYPE: tl.constexpr):
    """The cumulative distribution function of the normal distribution, to the precision of DTYPE.

    For 16-bit types an error function would take longer than the memory access. The tail beyond |h|
    is approximated by 2 to the power of a minimax polynomial for |h| < 6, with a relative error of
    7e-6. The tail beyond 6 is negligible.
    """
    if DTYPE == tl.float32 or DTYPE == tl.float64:  # noqa: SIM300 (no constants)
        below = 0.5 + 0.5 * tl.erf(h * 0.7071067811865476)
    else:
        x = tl.abs(h)
        log2 = 6.15982619e-05 - 1.83481000e-06 * x
        log2 = -9.30524569e-04 + log2 * x
        log2 = 8.50788970e-03 + log2 * x
        log2 = -5.39600663e-02 + log2 * x
        log2 = -4.58464397e-01 + log2 * x
        log2 = -1.15125104 + log2 * x
        log2 = -9.99995295e-01 + log2 * x
        beyond = tl.exp2(log2)
        below = tl.where(h < 0, beyond, 1.0 - beyond)
    return below


@kernel
def gelu(hidden, active, count, ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """Stores GELU of the ``count`` elements of ``hidden`` in ``active``; both may be the same."""
    at = tl.program_id(0).to(tl.int64) * (ROWS * BLOCK) + tl.arange(0, ROWS * BLOCK)
    h = load(hidden, at, at < count, ACC)
    h *= normal_cdf(h, hidden.dtype.element_ty)
    tl.store(active + at, h, mask=at < count)


@kernel
def gelu_backward(
    hidden,
    grad,
    active,
    d_hidden,
    sums,
    tokens,
    group,
    width,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """The backward pass of GELU, which also recomputes its output.

    Args:
        hidden: Input of GELU.
        grad: Gradient of the output.
        active: Output of GELU; output, may be ``hidden``.
        d_hidden: Gradient of ``hidden``; output, may be ``grad``.
        sums: Sum of ``d_hidden`` for each group, (groups, width); output.
    """
    tiles = (width + BLOCK - 1) // BLOCK
    program = tl.program_id(0) // tiles
    columns = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        _rows, inside, at = place(program * group + i, columns, tokens, width, ROWS)
        h = load(hidden, at, inside, ACC)
        g = load(grad, at, inside, ACC)
        below = normal_cdf(h, hidden.dtype.element_ty)
        density = 0.3989422804014327 * tl.exp2(-0.7213475204444817 * h * h)
        g *= below + h * density
        tl.store(active + at, h * below, mask=inside)
        tl.store(d_hidden + at, g, mask=inside)
        total += g
    store_sum(sums, program, total, columns, width)


@triton.jit
def neighbours(rows, columns, inside, H, W, width):
    """Offsets in the map of the channels of merged tokens, and the mask of those not padded.

    A merged token has the channels of 2×2 tokens in the order of ``nn.Unfold``: input channel, row,
    column.
    """
    across = (W + 1) // 2
    per_image = (H + 1) // 2 * across
    image = (rows // per_image).to(tl.int64)[:, None]
    y = (rows % per_image // across * 2)[:, None] + (columns % 4 // 2)[None, :]
    x = (rows % across * 2)[:, None] + (columns % 2)[None, :]
    at = ((image * H + y) * W + x) * (width // 4) + (columns // 4)[None, :]
    return at, inside & (y < H) & (x < W)


@kernel
def merge_norm(
    x,
    weight,
    bias,
    normed,
    tokens,
    H,
    W,
    width,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """Stores the layer norm of merged tokens, (tokens, width), of a map (B, H, W, width / 4)."""
    columns = tl.arange(0, BLOCK)
    rows, inside, at = place(tl.program_id(0), columns, tokens, width, ROWS)
    source, on_map = neighbours(rows, columns, inside, H, W, width)
    unit, _ = normalize(load(x, source, on_map, ACC), inside, width, EPS)
    w, b = load_row(weight, columns, width, ACC), load_row(bias, columns, width, ACC)
    tl.store(normed + at, unit * w + b, mask=inside)


@kernel
def merge_norm_backward(
    grad,
    x,
    weight,
    bias,
    d_x,
    normed,
    sums,
    tokens,
    group,
    H,
    W,
    width,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """The backward pass of :func:`merge_norm`, which also recomputes its output.

    Args:
        grad: Gradient of the output.
        d_x: Gradient of the map; output. Each token is stored once.
        normed: Output of the norm; output.
        sums: Gradients of weight and bias for each group, (groups, 2, width); output.
    """
    columns = tl.arange(0, BLOCK)
    w, b = load_row(weight, columns, width, ACC), load_row(bias, columns, width, ACC)
    d_weight = tl.zeros([ROWS, BLOCK], ACC)
    d_bias = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows, inside, at = place(tl.program_id(0) * group + i, columns, tokens, width, ROWS)
        source, on_map = neighbours(rows, columns, inside, H, W, width)
        unit, inverse = normalize(load(x, source, on_map, ACC), inside, width, EPS)
        g = load(grad, at, inside, ACC)
        d_weight += g * unit
        d_bias += g
        tl.store(normed + at, unit * w + b, mask=inside)
        tl.store(d_x + source, normalize_backward(g * w, unit, inverse, width), mask=on_map)
    first = tl.program_id(0) * 2
    store_sum(sums, first, d_weight, columns, width)
    store_sum(sums, first + 1, d_bias, columns, width)
