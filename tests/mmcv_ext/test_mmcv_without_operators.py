"""The package as ``mmcv._ext`` of an mmcv that was not compiled, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STARTUP = ROOT / 'swin_backbone' / 'mmcv_ext' / 'startup.py'

# What the wheel's .pth file does when Python starts.
START = f"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location('startup', {str(STARTUP)!r})
spec.loader.exec_module(module_from_spec(spec))
"""

USE = """
import torch
from mmcv.ops import RoIAlign, batched_nms, box_iou_rotated, nms
import mmcv._ext

assert 'not compiled' in mmcv._ext.get_compiler_version(), mmcv._ext
boxes = torch.tensor([[0., 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]])
scores = torch.tensor([0.1, 0.9, 0.5])
assert nms(boxes, scores, 0.5)[1].tolist() == [1, 2]
assert batched_nms(boxes, scores, torch.tensor([0, 1, 1]), dict(iou_threshold=0.5))[1].tolist()
x = torch.ones(1, 2, 8, 8, requires_grad=True)
out = RoIAlign(2)(x, torch.tensor([[0., 1, 1, 5, 5]]))
out.sum().backward()
assert out.unique().tolist() == [1] and x.grad.sum() == 8
rotated = torch.tensor([[4., 4, 2, 2, 0.1]])
assert abs(box_iou_rotated(rotated, rotated).item() - 1) < 1e-6
try:
    mmcv._ext.no_such_operator(x)
except NotImplementedError as error:
    assert 'no_such_operator' in str(error)
else:
    raise AssertionError
loaded = [name for name in sys.modules if name.split('.')[0] in ('swin_backbone', 'torchvision')]
assert not loaded, loaded
"""


def run(code: str, *folders: Path) -> None:
    """Runs code in a new process, with folders in which modules are found first."""
    path = os.pathsep.join(map(str, folders))
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def not_compiled(tmp_path: Path) -> Path:
    """A folder with the installed mmcv, without its compiled operators."""
    spec = find_spec('mmcv')
    assert spec is not None and spec.submodule_search_locations
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    for entry in Path(spec.submodule_search_locations[0]).iterdir():
        if not entry.name.startswith('_ext'):
            (folder / entry.name).symlink_to(entry)
    return tmp_path


def test_it_is_found_and_loads_alone(not_compiled: Path):
    run(START + USE, not_compiled, ROOT)


@pytest.mark.parametrize('library', ['_C.so', '_C_stable.so'])
def test_torchvision_stays_importable(library: str, tmp_path: Path):
    """With a library that does not load: torchvision registers shape functions without it, too."""
    folder = tmp_path / 'torchvision'
    folder.mkdir()
    (folder / library).write_bytes(b'a library of another build')
    (folder / '__init__.py').write_text(
        'import torch\n'
        'for name in ("nms", "qnms"):\n'
        '    torch.library.register_fake(f"torchvision::{name}")(lambda a, b, c: a)\n'
    )
    with pytest.raises(AssertionError, match='torchvision::nms'):
        run('import torchvision', tmp_path)
    package = f'sys.path.append({str(ROOT / "swin_backbone")!r}); '
    code = 'import sys; ' + package + 'import torch, mmcv_ext; import torchvision\n'
    code += 'boxes = torch.tensor([[0., 0, 1, 1]]).repeat(2, 1)\n'
    code += 'assert mmcv_ext.nms(boxes, boxes[:, 2], 0.5, 0).tolist() == [0]'
    run(code, tmp_path)


@pytest.mark.skipif(not Path(sys.prefix, 'peers', 'torchvision').is_dir(), reason='not set up')
def test_the_real_torchvision_is_importable():
    package = f'sys.path.append({str(ROOT / "swin_backbone")!r}); '
    run('import sys; ' + package + 'import mmcv_ext; import torchvision', Path(sys.prefix, 'peers'))
