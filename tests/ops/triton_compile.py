"""Compiles every kernel for a Hopper GPU, which needs none, and prints what test_triton.py checks.

The interpreter forgives what the compiler does not: types that change in a loop, for one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from swin_backbone.ops.rows import triton as rows
from swin_backbone.ops.rows import triton_kernels as rows_kernels
from swin_backbone.ops.window_attention import triton_kernels

FLOATS = {'bias', 'lse', 'delta', 'grad_bias', 'grad_padding'}
# Those of rows in float32, where products are in bfloat16.
ROW_FLOATS = {'x', 'factors', 'weight', 'bias', 'total', 'onward', 'd_x', 'sums'}
GRADIENTS_OF_SUMS = ('path_backward', 'norm_add_backward')


def source(kernel, constants: dict, sizes: tuple, floats: set) -> ASTSource:
    """Pointers are known to be aligned, sizes unknown; what is in neither set is in bfloat16."""
    signature, values, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(index,)] = 'constexpr', constants[name]
        elif name in sizes:
            assert kernel.params[index].do_not_specialize
            signature[name] = 'i32'
        else:
            types = {'seed': '*i64', 'width': 'i32'} | dict.fromkeys(floats, '*fp32')
            signature[name] = types.get(name, '*bf16')
            attributes[(index,)] = [['tt.divisibility', 16]]
    return ASTSource(kernel, signature, values, attributes)


def attention() -> Iterator[tuple[str, ASTSource]]:
    """bfloat16, shifted, padded, 32 wide heads."""
    for name, window, dropout_p in (
        ('forward', 7, 0.0),
        ('forward', 12, 0.1),
        ('backward_window', 7, 0.0),
        ('backward_queries', 12, 0.1),
        ('backward_keys', 12, 0.1),
        ('backward_bias', 12, 0.1),
    ):
        constants = dict(ALIGN=16, WINDOW=window, SHIFT=window // 2, HEAD_DIM=32, SCALE=32**-0.5)
        constants |= dict(DROPOUT=dropout_p, PADDED=True, BLOCK=64, D=32, PRECISION='ieee')
        constants |= dict(ACC=tl.float32)
        kernel = getattr(triton_kernels, name)
        yield f'{name} {window}', source(kernel, constants, triton_kernels.SIZES, FLOATS)


def between_products() -> Iterator[tuple[str, ASTSource]]:
    """Rows in float32, 96 to 1536 wide, products in bfloat16, drop path."""
    for name, widths, layout_of, unused in (
        ('add_norm', (96, 1536), rows._whole_rows, dict(other=None, total=None)),
        ('norm_backward', (96, 1536), rows._whole_rows, {}),
        ('norm_add', (96, 1536), rows._whole_rows, {}),
        ('norm_add_backward', (96, 1536), rows._whole_rows, {}),
        ('merge_norm', (384, 1536), rows._whole_rows, {}),
        ('merge_norm_backward', (384, 1536), rows._whole_rows, {}),
        ('path_backward', (96, 1536), rows._tiles, {}),
        ('gelu_backward', (384, 6144), rows._tiles, {}),
    ):
        for width in widths:
            layout = layout_of(width)
            constants = dict(EPS=1e-5, ROWS=layout.rows, BLOCK=layout.block, ACC=tl.float32)
            floats = ROW_FLOATS | ({'grad'} if name in GRADIENTS_OF_SUMS else set())
            kernel = getattr(rows_kernels, name)
            yield (
                f'{name} {width}',
                source(kernel, constants | unused, rows_kernels.SIZES, floats),
            )


def main() -> None:
    report = {}
    for name, kernel in (*attention(), *between_products()):
        target = GPUTarget('cuda', 90, 32)
        code = compile(kernel, target=target, options={'num_warps': 4})
        ptx = code.asm['ptx']
        report[name] = dict(
            matrix_units='wgmma.mma' in ptx,
            # Halves moved one by one, where 8 fit in a load: the strides' alignment was lost.
            single_halves=ptx.count('ld.global.b16') + ptx.count('st.global.b16'),
            shared_bytes=code.metadata.shared,
        )
    print(json.dumps(report))


if __name__ == '__main__':
    main()
