"""What starting costs: which modules are imported, and how long it takes."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from swin_backbone.cli.commands import COMMANDS, commands

# What none of the light commands may import.
HEAVY = {
    *('torch', 'torchvision', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'),
    *('mim', 'matplotlib', 'PIL', 'skimage', 'pooch', 'requests', 'filelock', 'safetensors'),
    *('starlette', 'uvicorn', 'onnx', 'onnxruntime', 'triton', 'pkg_resources', 'transformers'),
}
FRAMEWORKS = {'mmdet', 'mmseg', 'mmpretrain'}
PROCESSOR_SECONDS = 0.5

LIGHT = [
    *(['--help'], ['--version'], ['configs', 'list'], ['weights', 'list']),
    *(['configs', 'show', 'mask_rcnn_swin_t_coco'], ['weights', '--help'], ['configs', '--help']),
    *([name, '--help'] for name in COMMANDS if name not in ('weights', 'configs')),
]


def top_level(*arguments: str) -> set[str]:
    """The packages that a Python imports, by ``-X importtime``."""
    command = [sys.executable, '-X', 'importtime', *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = re.findall(r'^import time:.*\| +(\S+)$', done.stderr, re.MULTILINE)
    return {name.partition('.')[0] for name in lines}


@pytest.mark.parametrize('arguments', LIGHT, ids=' '.join)
def test_light_commands_import_nothing_heavy(arguments):
    imported = top_level('-m', 'swin_backbone.cli', *arguments)
    assert 'swin_backbone' in imported and 'click' in imported
    assert imported & HEAVY == set()


def test_importing_the_package_imports_nothing_heavy():
    imported = top_level('-c', 'import swin_backbone')
    assert 'swin_backbone' in imported and imported & HEAVY == set()


@pytest.mark.parametrize('code', ['from swin_backbone import SwinTransformer'])
def test_the_backbone_imports_no_framework(code):
    imported = top_level('-c', code)
    assert {'torch', 'mmengine', 'mmcv'} <= imported and imported & FRAMEWORKS == set()


@pytest.mark.parametrize(
    'arguments', [['--help'], ['--version'], ['configs', 'list'], ['weights', 'list']], ids=' '.join
)
def test_processor_time(arguments):
    """The least of three, since other work on the machine costs processor time, too."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, '-m', 'swin_backbone.cli', *arguments]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    # A machine with more work than processors slows caches and clocks down.
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert min(times) <= PROCESSOR_SECONDS * busy, times


def test_the_help_says_what_the_commands_do():
    """It is written down beside them, so that they need not be imported."""
    context = commands.make_context('swin-backbone', ['--help'], resilient_parsing=True)
    for name, text in COMMANDS.items():
        command = commands.get_command(context, name)
        assert command is not None and command.name == name
        described = ' '.join((command.help or '').split('\n\n')[0].split())
        assert described.startswith(text.partition(':')[0].rstrip('.')), name
        assert command.get_short_help_str(60)[:40] == shown(name)[:40], name
    assert commands.get_command(context, 'weigths') is None


def shown(name: str) -> str:
    output = CliRunner().invoke(commands, ['--help'], terminal_width=200).output
    return re.search(rf'^  {name} +(.*)$', output, re.MULTILINE)[1]


def test_public_names_are_there_and_listed():
    code = (
        'import swin_backbone\n'
        'assert set(swin_backbone.__all__) <= set(dir(swin_backbone))\n'
        'assert "swin" in dir(swin_backbone)\n'
        'for name in swin_backbone.__all__: getattr(swin_backbone, name)\n'
        'import swin_backbone.weights as weights\n'
        'for name in weights.__all__: getattr(weights, name)\n'
        'assert callable(weights.convert) and swin_backbone.layers.SwinBlock\n'
        'from swin_backbone import *\n'
        'try: swin_backbone.nothing\n'
        'except AttributeError as error: assert "nothing" in str(error)\n'
        'else: raise AssertionError'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_torch_opens_mmengine_checkpoints_before_mmengine_is_imported(tmp_path):
    """The import of the package is all it takes, before torch's or after."""
    code = (
        'import torch\n'
        'from mmengine.logging import HistoryBuffer\n'
        'history = HistoryBuffer([1.0, 2.0], [1, 1])\n'
        'torch.save(dict(message_hub=dict(log_scalars=dict(loss=history))), "a.pth")'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
    for imports in ('import torch, swin_backbone', 'import swin_backbone, torch'):
        code = (
            f'{imports}\n'
            'import sys\n'
            'assert "mmengine" not in sys.modules\n'
            'history = torch.load("a.pth")["message_hub"]["log_scalars"]["loss"]\n'
            'assert type(history).__name__ == "HistoryBuffer" and history.mean() == 1.5'
        )
        environment = {**os.environ, 'PYTHONPATH': os.getcwd()}
        subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path, env=environment)
