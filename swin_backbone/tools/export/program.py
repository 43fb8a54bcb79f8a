"""Traces a part with ``torch.export``, for one size or for all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from ...errors import ArgumentError
from ...ops.backends import use_backend
from .parts import Part, example

# Any size for which no two sizes within a model are equal by chance.
TRACED = (2, (453, 331))
_LAYOUT = re.compile(r'for expression Ne\(.*on node')


def record(part: Part, dynamic: bool, batch: int, size: tuple[int, int]) -> ExportedProgram:
    """Traces a part into plain ATen operators.

    Args:
        part: What to trace.
        dynamic: Whether the program accepts any batch size, height and width.
        batch: The batch size, if not dynamic.
        size: Height and width in pixels, if not dynamic.

    Raises:
        ArgumentError: The model's operations depend on sizes, so that no graph is valid for all.
    """
    shapes = None
    if dynamic:
        batch, (rows, columns) = TRACED
        size = max(rows, part.least[0]), max(columns, part.least[1])
        height, width = Dim('height', min=part.least[0]), Dim('width', min=part.least[1])
        shapes = ({0: Dim('batch', min=1), 2: height, 3: width},)
    image = example(part, batch, size)
    with recording_settings():
        program = torch.export.export(
            part,
            (image,),
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=dynamic,
        )
    if dynamic:
        _forget_layouts(program)
    return program


@contextlib.contextmanager
def recording_settings() -> Iterator[None]:
    """Does not specialise on sizes of 0 and 1, and runs window attention in plain operators.

    The cache of fake tensors is off: with symbolic sizes, it costs five times what it saves.
    """
    if not hasattr(symbolic_shapes, 'backed_size_oblivious'):
        raise ArgumentError(f'export needs torch 2.9 or newer, this is {torch.__version__}')
    with (
        use_backend('indexed'),
        torch.no_grad(),
        symbolic_shapes.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]  # set later
        torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
    ):
        yield


def _forget_layouts(program: ExportedProgram) -> None:
    """Removes assumptions about memory layouts, and raises on assumptions about sizes.

    If a tensor's layout depends on whether an axis has one element, the tracer assumes that it has
    several, makes a copy, and asserts ``Ne(size, 1)``. The copy is also right for one element.
    """
    graph = program.graph_module.graph
    assumed = []
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._assert_scalar.default:
            continue
        if _LAYOUT.search(node.args[1]):
            graph.erase_node(node)
        elif 'for expression Eq(' in node.args[1]:
            assumed.append(node.args[1])
    if assumed:
        raise ArgumentError(
            f'no one graph of this model holds for all sizes: it assumes {assumed[0]}; '
            'export it for one size instead'
        )
    graph.eliminate_dead_code()
    program.graph_module.recompile()
