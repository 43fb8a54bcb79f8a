"""Runs the Triton kernels on a GPU if there is one, else under Triton's interpreter.

Triton decides when it is imported whether it interprets: what needs it gets a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swin_backbone.ops import gpu
from swin_backbone.ops.backends import Problem
from swin_backbone.ops.window_attention import triton

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec('triton') is None, reason='triton is not installed'
)


def run(*command: str, **environment: str) -> str:
    """Output of a Python process that does not inherit Triton's environment variables."""
    inherited = {name: value for name, value in os.environ.items() if 'TRITON' not in name}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *command],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    return done.stdout


def run_checks(*arguments: str) -> None:
    """Runs tests on the GPU or under the interpreter; all of them must pass."""
    interpret = {} if torch.cuda.is_available() else {'TRITON_INTERPRET': '1'}
    options = ('-q', '-p', 'no:cacheprovider', '-p', 'no:xdist')
    output = run('-m', 'pytest', *options, *arguments, **interpret)
    assert ' passed' in output and 'skipped' not in output


# One process for each, so that two workers have about equal work.
CHECKS = {
    'attention': ('triton_checks', 'triton_merging_checks'),
    'block': ('triton_block_checks', 'triton_operator_checks', 'triton_post_norm_checks'),
}


@needs_triton
@pytest.mark.parametrize(
    'marks', ['not slow', pytest.param('slow', marks=pytest.mark.slow)], ids=['quick', 'slow']
)
@pytest.mark.parametrize('kernels', CHECKS)
def test_kernels(kernels, marks):
    """Runs all files named ``triton_…_checks.py``."""
    run_checks('-m', marks, *(str(HERE / f'{name}.py') for name in CHECKS[kernels]))


def test_no_file_of_checks_is_forgotten():
    named = [name for names in CHECKS.values() for name in names]
    assert sorted(named) == sorted(path.stem for path in HERE.glob('triton_*checks.py'))


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason='GPUs have no float64 kernels')
def test_backbone_fused_is_openmmlabs():
    """In float64, outputs and all gradients."""
    run_checks(str(HERE.parent / 'test_swin.py'), '-k', 'under_every_backend and triton and mmdet')


def test_says_that_triton_is_absent():
    """The package must be importable without triton."""
    script = (
        'import sys; sys.modules["triton"] = None; import torch;'
        'from swin_backbone.ops.window_attention import explain_backend;'
        'print(explain_backend("cuda", torch.float32).rejected["triton"])'
    )
    assert 'triton is not installed' in run('-c', script)


@needs_triton
def test_says_what_else_it_needs(monkeypatch):
    problem = Problem(torch.device('cpu'), torch.float32, window_size=7, head_dim=32)
    assert triton.can_run(problem) == 'cpu tensors are not on a GPU'
    assert 'float64' in triton.can_run(problem._replace(dtype=torch.float64))
    with monkeypatch.context() as older:
        older.setattr(gpu, 'triton_version', lambda: (3, 2))
        assert 'triton 3.2 is older than 3.3' in triton.can_run(problem)
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.setenv('PATH', '')
    assert 'C compiler' in triton.can_run(problem._replace(device=torch.device('cuda')))


def test_tf32_follows_either_setting_of_torch():
    """In a process of its own, because the settings are global."""
    script = (
        'import torch; from swin_backbone.ops.gpu import allows_tf32;'
        'matmul, allowed = torch.backends.cuda.matmul, [allows_tf32()];'
        'torch.set_float32_matmul_precision("high"); allowed.append(allows_tf32());'
        'torch.set_float32_matmul_precision("highest"); allowed.append(allows_tf32());'
        'newer = hasattr(matmul, "fp32_precision"); matmul.allow_tf32 = True;'
        'newer and setattr(matmul, "fp32_precision", "tf32"); allowed.append(allows_tf32());'
        'print(allowed)'
    )
    assert run('-c', script).split('\n')[0] == '[False, True, False, True]'
