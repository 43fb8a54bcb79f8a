"""Registers, spills and instructions of the kernels' machine code. No GPU is needed.

    python benchmarks/gpu_instructions.py [--out FOLDER] [--capability 90]

Records the kernel launches of forward and backward passes in bfloat16, compiles these kernels, and
counts registers, spilled bytes, and the instructions of one iteration of the loop over windows or
tokens, without branches that few windows take. A kernel is memory-bound only if issuing its
instructions takes less time than moving its bytes. The reported ratio of both is for an H200 that
issues four instructions per multiprocessor and clock, an upper bound. It is not a timing. Writes
gpu_instructions.json and gpu_instructions.md. Needs torch and triton (with cuobjdump).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import measure
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from swin_backbone.ops import gpu
from swin_backbone.ops.tokenwise import triton as tokenwise
from swin_backbone.ops.tokenwise import triton_kernels as tokenwise_kernels
from swin_backbone.ops.window_attention import triton as attention
from swin_backbone.ops.window_attention import triton_kernels as attention_kernels

HALF = torch.bfloat16
# From NVIDIA's data sheet of the H200; the clock follows from its 989 TFLOP/s.
BANDWIDTH, MULTIPROCESSORS, CLOCK, ISSUED = 4.8e12, 132, 1.83e9, 4
TYPES = {torch.float32: '*fp32', HALF: '*bf16', torch.int64: '*i64', torch.bool: '*i1'}


# --- recorded launches ---------------------------------------------------------------------------


class Launch(NamedTuple):
    """A recorded launch.

    Attributes:
        kernel: The Triton kernel.
        arguments: Arguments by name.
        machine: Number of warps and stages, and the limit of registers.
    """

    kernel: Any
    arguments: dict[str, Any]
    machine: dict[str, int]


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Records launches instead of making them."""
    launches = []

    def of_attention(
        name: str, grid: Any, tensors: tuple, options: dict, tuning: attention.Tuning
    ) -> None:
        kernel = getattr(attention_kernels, name)
        arguments = dict(zip(kernel.arg_names, tensors, strict=False))
        machine = {k: v for k, v in tuning._asdict().items() if k != 'programs' and v is not None}
        launches.append(Launch(kernel, arguments | options | dict(groups=grid.groups), machine))

    def of_rows(name: str, programs: int, tensors: tuple, layout: Any, **options: Any) -> None:
        kernel = getattr(tokenwise_kernels, name)
        arguments = dict(zip(kernel.arg_names, tensors, strict=False))
        constants = tokenwise.constants(layout, tensors[0])
        launches.append(Launch(kernel, arguments | options | constants, dict(num_warps=4)))

    with (
        mock.patch.object(attention, '_launch', of_attention),
        mock.patch.object(tokenwise, '_launch', of_rows),
    ):
        yield launches


class Counted(NamedTuple):
    """A launch and its memory traffic.

    Attributes:
        name: Name in the report.
        launch: The launch.
        elements: Elements that an iteration of its loop, or a program without a loop, processes.
        moved: Bytes read and written per element.
    """

    name: str
    launch: Launch
    elements: float
    moved: int


def attentions() -> Iterator[Counted]:
    """Shifted, padded attention with 32-wide heads; windows of one or several tiles of tokens."""
    for window, C in ((7, 96), (8, 96), (12, 192)):
        qkv, grad = torch.zeros(1, 15, 15, 3 * C, dtype=HALF), torch.zeros(1, 15, 15, C, dtype=HALF)
        bias, padding = torch.zeros(C // 32, window**2, window**2), torch.zeros(3 * C)
        options = dict(window_size=window, shift_size=window // 2)
        with recorded() as launches:
            results = attention.forward_kernel(qkv, bias, padding, None, **options)
            attention.backward_kernel(grad, qkv, bias, padding, None, *results, **options)
        tiles, each = attention._tiles(window), 32 * window**2
        if tiles == 1:
            known = [('forward', each, 8), ('backward', each, 14)]
        else:
            known = [
                ('forward, a tile', each / tiles, 8),
                ('queries back, a tile', each / tiles, 12),
                ('keys back, a tile', each / tiles, 12),
                ('bias back, a tile', each / tiles**2, 8),
            ]
        for (name, *facts), launch in zip(known, launches, strict=True):
            yield Counted(f'attention {name}, windows of {window}', launch, *facts)


def between_products() -> Iterator[Counted]:
    """Kernels on float32 maps with drop path, of Swin-T's first and Swin-L's last stage."""
    for C in (96, 1536):
        x, weight, bias = torch.zeros(2, 4, 4, C), *torch.zeros(2, C)
        path, factors, norm = x.to(HALF), torch.ones(2, 2), (weight, bias, 1e-5)
        hidden, grad = torch.zeros(2, 2, 4, 4, 4 * C, dtype=HALF)
        with recorded() as launches:
            tokenwise.add_norm(x, None, None, *norm, HALF)
            tokenwise.add_norm(x, path, factors, *norm, HALF)
            tokenwise.add(x, path, path, factors)
            tokenwise.norm_backward(path, x, x, path, factors, *norm)
            tokenwise.norm_add(x, path, factors[0], *norm)
            tokenwise.norm_add_backward(x, path, factors[0], weight, 1e-5)
            tokenwise.path_backward(x, factors, HALF)
            tokenwise.gelu(hidden, keep=True)
            tokenwise.gelu_backward(hidden, grad)
        whole, tile = tokenwise._whole_rows(C), tokenwise._tiles(C)
        of_rows, of_tile = whole.rows * C, tile.rows * min(tile.block, C)
        known = (
            ('norm', of_rows, 6),
            ('residual and norm', of_rows, 8),
            ('two residuals', of_rows, 12),
            ('back through residual and norm', of_rows, 20),
            ("V2's norm and residual", of_rows, 10),
            ("back through V2's norm", of_rows, 8),
            ('back through a path', of_tile, 6),
            ('GELU', tokenwise.TILE, 4),
            ('back through GELU', tokenwise.TILE, 8),
        )
        for (name, *facts), launch in zip(known, launches, strict=True):
            yield Counted(f'{name}, {C} wide', launch, *facts)


def mergings() -> Iterator[Counted]:
    """Mergings from float32 to bfloat16; Swin-T's first and Swin-L's last."""
    for C in (384, 3072):
        x, weight, bias = torch.zeros(2, 8, 8, C // 4), *torch.zeros(2, C)
        grad, norm = torch.zeros(2, 4, 4, C, dtype=HALF), (weight, bias, 1e-5)
        with recorded() as launches:
            tokenwise.merge_norm(x, *norm, HALF)
            tokenwise.merge_norm_backward(grad, x, *norm)
        elements = tokenwise._whole_rows(C).rows * C
        names = 'merging and norm', 'back through merging and norm'
        for name, moved, launch in zip(names, (6, 12), launches, strict=True):
            yield Counted(f'{name}, {C} wide', launch, elements, moved)


# --- compiled code ------------------------------------------------------------------------------


def compiled(launch: Launch, capability: int) -> CompiledKernel:
    """Compiles a kernel like Triton does for pointers that are aligned to 16 bytes."""
    kernel, arguments = launch.kernel, launch.arguments
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(index,)] = 'constexpr', value
            continue
        signature[parameter.name] = TYPES[value.dtype] if isinstance(value, Tensor) else 'i32'
        aligned = isinstance(value, Tensor) or value % 16 == 0
        if aligned and not parameter.do_not_specialize:
            attributes[(index,)] = [['tt.divisibility', 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget('cuda', capability, 32), options=launch.machine)


CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
INSTRUCTION = re.compile(r'^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);', re.MULTILINE)
BRANCH = re.compile(r'^(@\S+ )?BRA\b.*?0x([0-9a-f]+)')


def disassembled(code: CompiledKernel) -> tuple[list[tuple[int, str]], dict[str, int]]:
    """Addresses and texts of the instructions; registers and spilled bytes per thread."""
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(code.asm['cubin'])
        file.flush()
        texts = [
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True).stdout
            for option in ('-sass', '-res-usage')
        ]
    registers, spilled = re.search(r'REG:(\d+) STACK:(\d+)', texts[1]).groups()
    instructions = [(int(address, 16), text) for address, text in INSTRUCTION.findall(texts[0])]
    return instructions, dict(registers=int(registers), spilled_bytes=int(spilled))


def issued(instructions: list[tuple[int, str]], turns: int) -> int:
    """Instructions of a warp in one iteration of the outermost loop, or all if there is no loop.

    Conditional forward branches are assumed taken: they skip code for few windows. Inner loops are
    counted ``turns`` times.
    """
    loops = []
    for address, text in instructions:
        if (found := BRANCH.match(text)) and int(found[2], 16) < address:
            loops.append((int(found[2], 16), address))
    start, end = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, instructions[-1][0]))
    inner = [loop for loop in loops if loop != (start, end) and start <= loop[0] <= loop[1] <= end]
    count = skip_to = 0
    for address, text in instructions:
        if not start <= address <= end or address < skip_to or text == 'NOP':
            continue
        count += turns if any(low <= address <= high for low, high in inner) else 1
        if (found := BRANCH.match(text)) and found[1] and address < int(found[2], 16) <= end:
            skip_to = int(found[2], 16)
        if text == 'EXIT' and not loops:
            break
    return count


def counted(of: Counted, capability: int) -> dict[str, float]:
    """The reported values of a kernel."""
    code = compiled(of.launch, capability)
    instructions, facts = disassembled(code)
    constants, ptx = of.launch.arguments, code.asm['ptx']
    tiles = attention._tiles(constants['WINDOW']) if 'WINDOW' in constants else 1
    of_warp = issued(instructions, tiles)
    seconds = of_warp * of.launch.machine['num_warps'] / ISSUED / CLOCK / MULTIPROCESSORS
    return facts | {
        'shared_bytes': code.metadata.shared,
        'matrix_units': 'wgmma.mma' in ptx or 'mma.sync' in ptx,
        # Loads and stores of one value instead of 8, due to unknown alignment of strides.
        'single_halves': ptx.count('ld.global.b16') + ptx.count('st.global.b16'),
        'instructions': of_warp,
        'issue_over_memory': seconds / (of.elements * of.moved / BANDWIDTH),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--capability', type=int, default=90, help='of the target GPU')
    parser.add_argument('--out', type=Path, default=measure.OUT)
    options = parser.parse_args()
    report = {}
    with mock.patch.object(gpu, 'is_hopper', lambda device: options.capability // 10 == 9):
        for of in itertools.chain(attentions(), between_products(), mergings()):
            report[of.name] = counted(of, options.capability)
            print(of.name, report[of.name], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'gpu_instructions.json').write_text(json.dumps(report, indent=1) + '\n')
    columns = {
        'registers': 'registers',
        'bytes spilled': 'spilled_bytes',
        'instructions': 'instructions',
        "issue / memory's time": 'issue_over_memory',
    }
    table = {name: {k: row[v] for k, v in columns.items()} for name, row in report.items()}
    title = f'Kernels for capability {options.capability / 10}, by triton {triton.__version__}'
    text = '\n'.join([f'**{title}**', '', *measure.table(table)])
    (options.out / 'gpu_instructions.md').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    main()
