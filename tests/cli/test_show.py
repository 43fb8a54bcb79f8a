"""``swin-backbone show`` and ``plot``: files, JSON and errors."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from small import SMALL, randomized

from swin_backbone import SwinTransformer
from swin_backbone.cli.commands import commands
from swin_backbone.tools.configs import read
from swin_backbone.tools.predictor import build

SEGMENTOR = 'demo_upernet_shapes'


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path / 'checkpoints'))
    monkeypatch.setenv('SWIN_OFFLINE', '1')


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('segmentor') / 'iter_4.pth'
    model = randomized(build(read(SEGMENTOR), SEGMENTOR))
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 141, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    return tmp_path / 'a.png'


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_model_of_a_config(segmentor, image, tmp_path):
    arguments = (image, '--config', SEGMENTOR, '--weights', segmentor, '--point', 100, 50)
    found = json.loads(
        run(
            *('show', *arguments, '--stage', 2, '--cam', 0),
            *('--html', 'out/a.html', '-o', 'out', '--json'),
        ).stdout
    )
    assert found['model'] == SEGMENTOR and found['weights'] == str(segmentor)
    assert found['size'] == [141, 90] and found['missing'] == {}
    assert sum(found['prediction']['shares'].values()) == pytest.approx(1)
    assert [f['stage'] for f in found['features']] == [0, 1, 2]
    blocks = found['attention']['blocks']
    assert [b['token'] for b in blocks] == [[3, 6]] * 2 and [b['shift'] for b in blocks] == [0, 4]
    assert found['rollout']['token'] == [3, 6] and found['rollout']['block'] == 1
    shares = found['prediction']['shares']
    assert found['cam']['class'] == max(shares, key=shares.get) and found['cam']['stage'] == 2
    pictures = ['prediction', 'features', 'attention', 'rollout', 'cam']
    assert list(found['files']) == [*pictures, 'report']
    report = (tmp_path / 'out/a.html').read_text()
    assert '<h2>Attention rollout</h2>' in report and '<h2>Class activation</h2>' in report
    assert all((tmp_path / file).is_file() for file in found['files'].values())
    # The segments that are drawn are those of the JSON.
    with Image.open('out/prediction.png') as drawn:
        assert drawn.width == 768


def test_a_part(segmentor, image, tmp_path):
    done = run('show', image, '--config', SEGMENTOR, '--weights', segmentor, '--what', 'features')
    assert [path.name for path in (tmp_path / 'pictures').iterdir()] == ['features.png']
    assert 'no prediction' not in done.output


def test_without_weights_it_says_so(image, tmp_path):
    done = run('show', image, '--config', SEGMENTOR)
    assert 'random weights, untrained' in done.output
    assert 'no prediction: no weights were given' in done.output
    assert {path.name for path in (tmp_path / 'pictures').iterdir()} == {
        'features.png', 'attention.png', 'rollout.png'
    }  # fmt: skip
    error = run('show', image, '--config', SEGMENTOR, '--what', 'prediction', code=3).stderr
    assert error == 'Error: there is no prediction to show: no weights were given\n'
    error = run('show', image, '--config', SEGMENTOR, '--cam', 0, code=3).stderr
    assert error == 'Error: there is no cam to show: no weights were given\n'


def test_class_activation(segmentor, image, tmp_path, monkeypatch):
    arguments = ('show', image, '--config', SEGMENTOR, '--weights', segmentor)
    assert 'pictures/cam.png' in run(*arguments, '--what', 'cam').output
    error = run(*arguments, '--what', 'cam', '--cam', 'rings', code=3).stderr
    assert "cam='rings' must be the name of a class" in error and "did you mean 'ring'" in error
    monkeypatch.setitem(sys.modules, 'pytorch_grad_cam', None)
    error = run(*arguments, '--cam', '0', '--cam-method', 'hirescam', code=3).stderr
    assert error.startswith('Error: ') and "pip install 'swin_backbone[cam]'" in error


def test_nothing_is_needed(tmp_path):
    done = run('show', '--what', 'features')
    assert 'random weights, untrained' in done.output
    assert 'swin-backbone weights download swin_tiny_in1k' in done.output
    assert (tmp_path / 'pictures/features.png').stat().st_size > 50_000


def test_weights_alone(image, tmp_path):
    torch.save(randomized(SwinTransformer(**SMALL)).state_dict(), tmp_path / 'a.pth')
    found = json.loads(run('show', image, '--weights', tmp_path / 'a.pth', '--json').stdout)
    assert found['model'] == 'Swin' and found['missing'] == {
        'prediction': 'there is a backbone alone'
    }


def test_errors(image, tmp_path):
    torch.save(randomized(SwinTransformer(**SMALL)).state_dict(), tmp_path / 'a.pth')
    small = ('--weights', tmp_path / 'a.pth')
    for arguments, message in (
        (('no.png',), 'no.png is not there'),
        ((tmp_path / 'a.pth',), 'no image that Pillow can read'),
        ((image, *small, '--point', 141, 0), 'point=141, 0 is not on'),
        ((image, *small, '--stage', 4), 'stage=4'),
        ((image, *small, '--block', 2), 'block=2'),
        ((image, *small, '--device', 'nowhere'), "device='nowhere'"),
        ((image, '--weights', 'no.pth'), 'no.pth'),
    ):
        error = run('show', *arguments, code=3).stderr
        assert error.startswith('Error: ') and message in error
    run('show', image, '--score', 2, code=2)
    assert not (tmp_path / 'pictures').exists()


@pytest.mark.parametrize('arguments', [('show',), ('plot', 'a.json')])
def test_without_the_extra(arguments, monkeypatch):
    for name in [name for name in sys.modules if name.startswith('swin_backbone.tools.pictures')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    assert run(*arguments, code=3).stderr == (
        'Error: pictures need matplotlib, which is not installed: '
        "pip install 'swin_backbone[visual]'\n"
    )


def test_plot(tmp_path):
    for name in ('a', 'b'):
        file = tmp_path / name / '20260101_100000/vis_data/scalars.json'
        file.parent.mkdir(parents=True)
        entries = [dict(loss=2.0 / s, iter=s, step=s) for s in (1, 2)]
        entries.append({'coco/bbox_mAP': 0.5, 'step': 2})
        file.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    found = json.loads(run('plot', 'a', 'b', '--html', 'r.html', '--json').stdout)
    last = {'train': {'loss': 1.0}, 'val': {'coco/bbox_mAP': 0.5}}
    assert found['runs'] == {'a': last, 'b': last}
    assert found['files'] == {'curves': 'pictures/curves.png', 'report': 'r.html'}
    with Image.open('pictures/curves.png') as drawn:
        assert drawn.format == 'PNG' and drawn.width > 900
    assert '<td>coco/bbox_mAP</td><td>0.5</td><td>0.5</td>' in (tmp_path / 'r.html').read_text()
    assert 'curves  pictures/curves.png' in run('plot', 'a').output
    assert 'none is not there' in run('plot', 'a', 'none', code=3).stderr
    run('plot', code=2)
