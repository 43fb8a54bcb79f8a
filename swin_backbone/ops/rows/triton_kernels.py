"""The Triton kernels of what lies between products; `triton.py` launches them. Needs triton.

Every tensor is a table of tokens (tokens, width), row after row. Kernels of norms hold whole rows
in registers, so that statistics need not be kept; the others work on tiles of columns. What is
summed over tokens is summed over a program's group of rows, and over groups afterwards.

A path is what is added to the identity, times a factor of its image that drop path draws. Sums are
rounded as they would be in memory, whether they are written there or not.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes that change from image to image: a kernel must not be compiled for each.
SIZES = ('tokens', 'images', 'per_image', 'group', 'H', 'W')
kernel = triton.jit(do_not_specialize=SIZES)


@triton.jit
def factor_of(factors, which, rows, sizes, ACC: tl.constexpr):
    """The factor on each row's path, (rows, 1)."""
    tokens, images, per_image = sizes
    at = factors + which * images + rows // per_image
    return tl.load(at, mask=rows < tokens, other=0.0).to(ACC)[:, None]


@triton.jit
def added(
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
    value = tl.load(path + at, mask=inside, other=0.0).to(ACC)
    if factors is not None:
        value *= factor_of(factors, which, rows, sizes, ACC)
    return (total + value).to(DTYPE).to(ACC)


@triton.jit
def standardized(total, inside, width, EPS: tl.constexpr):
    """Rows less their mean, over their deviation; and the deviation's inverse, (rows, 1)."""
    mean = tl.sum(total, 1, keep_dims=True) / width
    centred = tl.where(inside, total - mean, 0.0)
    variance = tl.sum(centred * centred, 1, keep_dims=True) / width
    inverse = 1.0 / tl.sqrt(variance + EPS)
    return tl.where(inside, centred * inverse, 0.0), inverse


@triton.jit
def through_norm(g, unit, inverse, width):
    """The gradient of rows for that of ``unit``; see :func:`standardized`."""
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

    Tensors that are None are not read or not written.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < tokens)[:, None] & (columns < width)[None, :]
    at = rows.to(tl.int64)[:, None] * width + columns[None, :]
    sizes = tokens, images, per_image
    result = tl.load(x + at, mask=inside, other=0.0).to(ACC)
    if path is not None:
        result = added(result, path, factors, 0, rows, at, inside, sizes, x.dtype.element_ty, ACC)
    if other is not None:
        result = added(result, other, factors, 1, rows, at, inside, sizes, x.dtype.element_ty, ACC)
    if total is not None:
        tl.store(total + at, result, mask=inside)
    if normed is not None:
        result, _ = standardized(result, inside, width, EPS)
        w = tl.load(weight + columns, mask=columns < width, other=0.0).to(ACC)
        b = tl.load(bias + columns, mask=columns < width, other=0.0).to(ACC)
        tl.store(normed + at, result * w[None, :] + b[None, :], mask=inside)


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
    """Back through the norm of ``x + factors[0] * path``, to which another gradient is added.

    Args:
        grad: Gradient of the norm's output.
        onward: Gradient of the sum from elsewhere.
        d_x: Gradient of ``x``, written.
        d_path: Gradient of ``path``, written; None without a path.
        normed: The norm's output, written once more; None where nobody needs it.
        sums: Each group's gradients of weight and bias and, with a path, its sum of ``d_path``,
            (groups, 2 or 3, width), written.
    """
    columns = tl.arange(0, BLOCK)
    within = columns < width
    w = tl.load(weight + columns, mask=within, other=0.0).to(ACC)[None, :]
    b = tl.load(bias + columns, mask=within, other=0.0).to(ACC)[None, :]
    sizes = tokens, images, per_image
    d_weight = tl.zeros([ROWS, BLOCK], ACC)
    d_bias = tl.zeros([ROWS, BLOCK], ACC)
    d_path_sum = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows = (tl.program_id(0) * group + i) * ROWS + tl.arange(0, ROWS)
        inside = (rows < tokens)[:, None] & within[None, :]
        at = rows.to(tl.int64)[:, None] * width + columns[None, :]
        total = tl.load(x + at, mask=inside, other=0.0).to(ACC)
        if path is not None:
            total = added(total, path, factors, 0, rows, at, inside, sizes, x.dtype.element_ty, ACC)
        unit, inverse = standardized(total, inside, width, EPS)
        g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
        d_weight += g * unit
        d_bias += g
        if normed is not None:
            tl.store(normed + at, unit * w + b, mask=inside)
        g = through_norm(g * w, unit, inverse, width)
        g += tl.load(onward + at, mask=inside, other=0.0).to(ACC)
        tl.store(d_x + at, g, mask=inside)
        if path is not None:
            if factors is not None:
                g *= factor_of(factors, 0, rows, sizes, ACC)
            tl.store(d_path + at, g, mask=inside)
            d_path_sum += tl.where(inside, g, 0.0)
    PARTS: tl.constexpr = 2 if path is None else 3
    at = sums + tl.program_id(0).to(tl.int64) * PARTS * width + columns
    tl.store(at, tl.sum(d_weight, 0), mask=within)
    tl.store(at + width, tl.sum(d_bias, 0), mask=within)
    if path is not None:
        tl.store(at + 2 * width, tl.sum(d_path_sum, 0), mask=within)


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
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    within = columns < width
    inside = (rows < tokens)[:, None] & within[None, :]
    at = rows.to(tl.int64)[:, None] * width + columns[None, :]
    value = tl.load(path + at, mask=inside, other=0.0).to(ACC)
    unit, _ = standardized(value, inside, width, EPS)
    w = tl.load(weight + columns, mask=within, other=0.0).to(ACC)
    b = tl.load(bias + columns, mask=within, other=0.0).to(ACC)
    value = unit * w[None, :] + b[None, :]
    if factors is not None:
        value *= factor_of(factors, 0, rows, (tokens, images, per_image), ACC)
    tl.store(total + at, tl.load(x + at, mask=inside, other=0.0).to(ACC) + value, mask=inside)


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
    """Back through :func:`norm_add` to its path.

    Args:
        grad: Gradient of ``total``, which is that of ``x`` too.
        d_path: Gradient of ``path``, written.
        sums: Each group's gradients of weight and bias, and its sum of ``d_path``,
            (groups, 3, width), written.
    """
    columns = tl.arange(0, BLOCK)
    within = columns < width
    w = tl.load(weight + columns, mask=within, other=0.0).to(ACC)[None, :]
    d_weight = tl.zeros([ROWS, BLOCK], ACC)
    d_bias = tl.zeros([ROWS, BLOCK], ACC)
    d_path_sum = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows = (tl.program_id(0) * group + i) * ROWS + tl.arange(0, ROWS)
        inside = (rows < tokens)[:, None] & within[None, :]
        at = rows.to(tl.int64)[:, None] * width + columns[None, :]
        value = tl.load(path + at, mask=inside, other=0.0).to(ACC)
        unit, inverse = standardized(value, inside, width, EPS)
        g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
        if factors is not None:
            g *= factor_of(factors, 0, rows, (tokens, images, per_image), ACC)
        d_weight += g * unit
        d_bias += g
        g = through_norm(g * w, unit, inverse, width)
        tl.store(d_path + at, g, mask=inside)
        d_path_sum += tl.where(inside, g, 0.0)
    at = sums + tl.program_id(0).to(tl.int64) * 3 * width + columns
    tl.store(at, tl.sum(d_weight, 0), mask=within)
    tl.store(at + width, tl.sum(d_bias, 0), mask=within)
    tl.store(at + 2 * width, tl.sum(d_path_sum, 0), mask=within)


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
    """``d_path = factors[1] * grad``, in its dtype, and each group's sum, (groups, width)."""
    tiles = (width + BLOCK - 1) // BLOCK
    program = tl.program_id(0) // tiles
    columns = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    within = columns < width
    sizes = tokens, images, per_image
    total = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows = (program * group + i) * ROWS + tl.arange(0, ROWS)
        inside = (rows < tokens)[:, None] & within[None, :]
        at = rows.to(tl.int64)[:, None] * width + columns[None, :]
        g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
        if factors is not None:
            g *= factor_of(factors, 1, rows, sizes, ACC)
        tl.store(d_path + at, g, mask=inside)
        total += g
    tl.store(sums + program.to(tl.int64) * width + columns, tl.sum(total, 0), mask=within)


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
    """Back through exact GELU, whose output is computed once more.

    Args:
        hidden: What GELU was given.
        grad: Gradient of its output.
        active: Its output, written; may be ``hidden``.
        d_hidden: Gradient of ``hidden``, written; may be ``grad``.
        sums: Each group's sum of ``d_hidden``, (groups, width), written.
    """
    tiles = (width + BLOCK - 1) // BLOCK
    program = tl.program_id(0) // tiles
    columns = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    within = columns < width
    total = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows = (program * group + i) * ROWS + tl.arange(0, ROWS)
        inside = (rows < tokens)[:, None] & within[None, :]
        at = rows.to(tl.int64)[:, None] * width + columns[None, :]
        h = tl.load(hidden + at, mask=inside, other=0.0).to(ACC)
        g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
        below = 0.5 + 0.5 * tl.erf(h * 0.7071067811865476)  # of a normal distribution
        density = 0.3989422804014327 * tl.exp(-0.5 * h * h)
        g *= below + h * density
        tl.store(active + at, h * below, mask=inside)
        tl.store(d_hidden + at, g, mask=inside)
        total += g
    tl.store(sums + program.to(tl.int64) * width + columns, tl.sum(total, 0), mask=within)


@triton.jit
def neighbours(rows, columns, inside, H, W, width):
    """Where merged tokens' channels come from, and which of them are on the map and not padding.

    A merged token has the channels of 2×2 tokens, in the order of ``nn.Unfold``: by input channel
    first, then by row, then by column.
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
    """The layer norm of merged tokens, (tokens, width), of a map (B, H, W, width / 4)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    within = columns < width
    inside = (rows < tokens)[:, None] & within[None, :]
    at, on_map = neighbours(rows, columns, inside, H, W, width)
    merged = tl.load(x + at, mask=on_map, other=0.0).to(ACC)
    unit, _ = standardized(merged, inside, width, EPS)
    w = tl.load(weight + columns, mask=within, other=0.0).to(ACC)
    b = tl.load(bias + columns, mask=within, other=0.0).to(ACC)
    at = rows.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(normed + at, unit * w[None, :] + b[None, :], mask=inside)


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
    """Back through :func:`merge_norm`, whose output is written once more.

    Args:
        grad: Gradient of the output.
        d_x: Gradient of the map, written, each token once.
        normed: The output.
        sums: Each group's gradients of weight and bias, (groups, 2, width), written.
    """
    columns = tl.arange(0, BLOCK)
    within = columns < width
    w = tl.load(weight + columns, mask=within, other=0.0).to(ACC)[None, :]
    b = tl.load(bias + columns, mask=within, other=0.0).to(ACC)[None, :]
    d_weight = tl.zeros([ROWS, BLOCK], ACC)
    d_bias = tl.zeros([ROWS, BLOCK], ACC)
    for i in range(group):
        rows = (tl.program_id(0) * group + i) * ROWS + tl.arange(0, ROWS)
        inside = (rows < tokens)[:, None] & within[None, :]
        at, on_map = neighbours(rows, columns, inside, H, W, width)
        merged = tl.load(x + at, mask=on_map, other=0.0).to(ACC)
        unit, inverse = standardized(merged, inside, width, EPS)
        out_at = rows.to(tl.int64)[:, None] * width + columns[None, :]
        g = tl.load(grad + out_at, mask=inside, other=0.0).to(ACC)
        d_weight += g * unit
        d_bias += g
        tl.store(normed + out_at, unit * w + b, mask=inside)
        tl.store(d_x + at, through_norm(g * w, unit, inverse, width), mask=on_map)
    at = sums + tl.program_id(0).to(tl.int64) * 2 * width + columns
    tl.store(at, tl.sum(d_weight, 0), mask=within)
    tl.store(at + width, tl.sum(d_bias, 0), mask=within)
