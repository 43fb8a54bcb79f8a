"""Compiles every kernel for a Hopper GPU, which needs none, and prints what test_triton.py checks.

The interpreter forgives what the compiler does not: types that change in a loop, for one.
"""

from __future__ import annotations

import json

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from swin_backbone.ops.window_attention import triton_kernels

FLOATS = {'bias', 'lse', 'delta', 'grad_bias', 'grad_padding'}


def source(kernel, window: int, dropout_p: float) -> ASTSource:
    """bfloat16, shifted, padded, 32 wide heads; pointers known to be aligned, sizes unknown."""
    constants = dict(ALIGN=16, WINDOW=window, SHIFT=window // 2, HEAD_DIM=32, SCALE=32**-0.5)
    constants |= dict(DROPOUT=dropout_p, PADDED=True, BLOCK=64, D=32, PRECISION='ieee')
    constants |= dict(ACC=tl.float32)
    signature, values, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(index,)] = 'constexpr', constants[name]
        elif name in triton_kernels.SIZES:
            assert kernel.params[index].do_not_specialize
            signature[name] = 'i32'
        else:
            signature[name] = '*i64' if name == 'seed' else '*fp32' if name in FLOATS else '*bf16'
            attributes[(index,)] = [['tt.divisibility', 16]]
    return ASTSource(kernel, signature, values, attributes)


def main() -> None:
    report = {}
    for name, window, dropout_p in (
        ('forward', 7, 0.0),
        ('forward', 12, 0.1),
        ('backward_window', 7, 0.0),
        ('backward_queries', 12, 0.1),
        ('backward_keys', 12, 0.1),
        ('backward_bias', 12, 0.1),
    ):
        kernel = getattr(triton_kernels, name)
        target = GPUTarget('cuda', 90, 32)
        code = compile(source(kernel, window, dropout_p), target=target, options={'num_warps': 4})
        ptx = code.asm['ptx']
        report[f'{name} {window}'] = dict(
            matrix_units='wgmma.mma' in ptx,
            # Halves moved one by one, where 8 fit in a load: the strides' alignment was lost.
            single_halves=ptx.count('ld.global.b16') + ptx.count('st.global.b16'),
            shared_bytes=code.metadata.shared,
        )
    print(json.dumps(report))


if __name__ == '__main__':
    main()
