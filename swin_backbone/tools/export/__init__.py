"""Exports models to files that run without this package: ONNX and ``torch.export``."""

from .check import Check, check_file
from .formats import FORMATS, Exported, export
from .parts import PARTS, Part, load_part

__all__ = ['FORMATS', 'PARTS', 'Check', 'Exported', 'Part', 'check_file', 'export', 'load_part']
