"""What somebody gets who installs the wheel into an environment that has nothing yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_packaging import built, wheel  # noqa: F401 (fixtures)

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('packaging')]

BACKBONE = """
import torch
from swin_backbone import SwinTransformer

model = SwinTransformer(embed_dims=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)).eval()
image = torch.randn(1, 3, 75, 101)
torch.save(model.state_dict(), 'little.pth')
loaded = SwinTransformer(
    embed_dims=24,
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 4, 8),
    init_cfg=dict(type='Pretrained', checkpoint='little.pth'),
).eval()
loaded.init_weights()
for ours, theirs in zip(model(image), loaded(image), strict=True):
    assert torch.equal(ours, theirs)
print([tuple(out.shape) for out in model(image)])
"""

# What a type checker makes of the package from outside: the last lines are wrong.
TYPED = """
from pathlib import Path

from swin_backbone import CheckpointError, SwinTransformer, configs_dir
from swin_backbone.weights import convert_file

folder: Path = configs_dir()
layout: str = convert_file('a.pth', 'b.pth', to='timm').source
error: RuntimeError = CheckpointError('')
reveal_type(SwinTransformer.forward)
tensors: str = convert_file('a.pth', 'b.pth', to='timm').tensors
convert_file('a.pth', 'b.pth', towards='timm')
"""


class Environment:
    """A virtual environment, and a folder that its commands run in."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / 'venv', folder / 'work'
        self.folder.mkdir()
        subprocess.run([sys.executable, '-m', 'venv', str(self.home)], check=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment, which sees nothing of ours, and no compiler."""
        ours = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'SWIN_CHECKPOINTS')
        env = {name: value for name, value in os.environ.items() if name not in ours}
        env['COLUMNS'] = '200'
        env['PATH'] = str(self.home / 'bin')
        command = (str(self.home / 'bin' / command[0]), *command[1:])
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=env)

    def install(self, *arguments: str) -> None:
        """With the versions that the suite runs with, for what is not named."""
        constraints = ['-c', str(ROOT / 'requirements' / 'constraints.txt')]
        result = self.run('pip', 'install', '-q', *constraints, *arguments)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope='module')
def environment(tmp_path_factory, wheel) -> Environment:  # noqa: F811
    """With torch, and the wheel with mmcv as a wheel, which bring no more than what is needed."""
    made = Environment(tmp_path_factory.mktemp('newcomer'))
    made.install(f'torch=={torch.__version__.partition("+")[0]}')
    made.install(f'{wheel}[lite]')
    return made


def test_the_backbone_needs_mmcv_alone(environment):
    result = environment.run('python', '-c', BACKBONE)
    assert result.returncode == 0, result.stderr
    assert '(1, 24, 19, 26)' in result.stdout
    listed = environment.run('pip', 'list').stdout
    assert not {'click', 'mmdet', 'pooch', 'safetensors'} & set(listed.split())
    assert environment.run('pip', 'check').returncode == 0


@pytest.mark.parametrize(
    ('command', 'extra'),
    [
        (('swin-backbone', '--help'), '[cli]'),
        (('python', '-W', 'ignore', '-m', 'swin_backbone.demo'), '[demo]'),
    ],
)
def test_commands_say_which_extra_they_need(environment, command, extra):
    result = environment.run(*command)
    assert result.returncode in (1, 3)
    assert f"pip install 'swin_backbone{extra}'" in result.stdout + result.stderr
    assert 'Traceback' not in result.stderr


def test_a_type_checker_sees_the_types(environment):
    environment.install('mypy')
    (environment.folder / 'typed.py').write_text(TYPED)
    result = environment.run('mypy', 'typed.py')
    assert 'Tensor' in result.stdout.partition('Revealed type')[2].partition('\n')[0]
    lines = [line for line in result.stdout.splitlines() if ' error: ' in line]
    assert [line.split(':')[1] for line in lines] == ['11', '12'], result.stdout


# The last ones, since they add to the environment.
def test_the_command_line_with_its_extra(environment, wheel):  # noqa: F811
    environment.install(f'{wheel}[cli]')
    for command in ('doctor', 'configs list', 'configs show swin_t_imagenet', 'weights list'):
        result = environment.run('swin-backbone', *command.split())
        assert result.returncode == 0, f'{command}: {result.stdout}{result.stderr}'
    assert environment.run('swin-backbone', 'weights', 'info', 'little.pth').returncode == 0
    # A detector's model is mmdet's.
    result = environment.run('swin-backbone', 'complexity', 'mask_rcnn_swin_t_coco')
    assert result.returncode == 3
    assert 'mmdet' in result.stderr


def test_from_plain_wheels_to_training_and_testing(environment, wheel):  # noqa: F811
    """``mim train`` and ``mim test`` of a detector and a segmentor, where nothing was compiled."""
    environment.install(f'{wheel}[det,seg,lite]')
    where = environment.run(
        'python', '-W', 'ignore', '-c', 'import mmcv._ext as e; print(e.__file__)'
    )
    assert Path(where.stdout.strip()).parts[-3:] == ('swin_backbone', 'mmcv_ext', '__init__.py')
    doctor = environment.run('swin-backbone', 'doctor')
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    # Four iterations of each, by mim's commands.
    demo = environment.run('python', '-m', 'swin_backbone.demo', '--quick')
    assert demo.returncode == 0, demo.stdout + demo.stderr
    results = json.loads((environment.folder / 'work_dirs/demo-quick/results.json').read_text())
    assert {'box AP', 'mask AP', 'mIoU'} <= set(results)


def test_uninstalling_leaves_nothing(environment):
    environment.run('pip', 'uninstall', '-q', '-y', 'swin_backbone')
    result = environment.run('python', '-c', 'import mmcv.ops')
    assert "No module named 'mmcv._ext'" in result.stderr
    assert not list(environment.home.rglob('*swin_backbone*'))
