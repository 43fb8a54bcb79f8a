"""``swin-backbone data``: tables, JSON, pictures and exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from own_data import coco, dataset, label_maps, run_config, segmentation, segmented
from PIL import Image

from swin_backbone.cli.commands import commands


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '200')


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, ['data', *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def written(tmp_path: Path, content) -> Path:
    from mmengine.config import Config

    Config(content).dump(tmp_path / 'mine.py')
    return tmp_path / 'mine.py'


def test_what_is_right(tmp_path):
    coco(tmp_path / 'd', ('lid', 'plate', 'ring'), images=6)
    config = written(tmp_path, run_config(tmp_path, dataset(tmp_path / 'd'), dataset('d')))
    lines = run(config, '--only', 'train', '--pictures', 2).stdout.splitlines()
    told = {line.split('  ')[0]: line.split('  ')[-1].strip() for line in lines if line}
    assert told['data'] == 'train_dataloader.dataset' and told['images'] == told['opened'] == '6'
    assert told['sizes'] == '48 × 48' and told['modes'] == 'RGB 6'
    assert told['objects'] == '4, 4 with a mask' and told['left out'] == 'ring 2'
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in lines if '│' in line]
    assert rows == [['0', 'lid', '2', '2'], ['1', 'plate', '2', '2']]
    assert lines[-1] == 'nothing is wrong'
    files = sorted(Path('pictures').iterdir())
    assert [file.name for file in files] == ['train_0.png', 'train_5.png']
    with Image.open(files[0]) as picture:
        assert picture.width == 768
        red = picture.getpixel((768 * 16 // 48, 768 * 16 // 48))
        assert len(set(red)) == 3  # a mask's colour, on grey


def test_what_is_wrong(tmp_path):
    coco(tmp_path / 'd')
    config = written(tmp_path, run_config(tmp_path, dataset('d'), classes=80))
    lines = run(config, '--pictures', 0, code=1).stdout.splitlines()
    wrong = lines[lines.index('wrong:') + 1 :]
    assert wrong == [
        'train_dataloader.dataset has 2 classes (lid, plate), but',
        '  model.bbox_head.num_classes = 80, not 2',
        'in the config:',
        '  model = dict(bbox_head=dict(num_classes=2))',
        'or on the command line:',
        '  --cfg-options model.bbox_head.num_classes=2',
    ]
    assert not Path('pictures').exists()


def test_masks_of_two_classes(tmp_path):
    label_maps(tmp_path / 'd', inside=255)
    config = written(tmp_path, segmentation(segmented('d')))
    output = run(config, '-o', 'out', code=1).stdout
    assert 'the maps hold 0 and 255 alone' in output and '255   │ ignored' in output
    assert {file.name for file in Path('out').iterdir()} == {f'train_{i}.png' for i in range(3)}


def test_json(tmp_path):
    coco(tmp_path / 'd')
    config = written(tmp_path, run_config(tmp_path, dataset('d', ('lids', 'plate'))))
    found = json.loads(run(config, '--json', '--images', 2, code=1).stdout)
    (one,) = found['data']
    assert one['images'] == 4 and one['opened'] == 2 and one['sizes'] == [[48, 48, 2]]
    assert one['objects'] == {'lids': 2} and one['classes'] == ['lids', 'plate']
    assert "'lids'" in found['problems'][0] and found['options'] == {}
    assert found['remarks'] == ['train_dataloader.dataset: nothing is plate']
    assert found['files'] == [f'pictures/train_{i}.png' for i in range(4)]
    config = written(tmp_path, run_config(tmp_path, dataset('d'), classes=80))
    found = json.loads(run(config, '--json', '--pictures', 0, code=1).stdout)
    assert found['options'] == {'model.bbox_head.num_classes': 2}


def test_many_classes_are_cut_short(tmp_path):
    names = tuple(f'kind {i}' for i in range(40))
    coco(tmp_path / 'd', names, images=50)
    config = written(tmp_path, run_config(tmp_path, dataset('d', names), classes=40))
    output = run(config, '--pictures', 0).stdout
    assert 'and 10 classes with fewer: --json has all' in output
    assert 'kind 29' in output and 'kind 30' not in output and '│ 2         │ 2' in output
    found = json.loads(run(config, '--pictures', 0, '--json').stdout)
    assert len(found['data'][0]['objects']) == 40


def test_without_the_extra(tmp_path, monkeypatch):
    """Everything but pictures works."""
    for name in [name for name in sys.modules if name.startswith('swin_backbone.tools.pictures')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    coco(tmp_path / 'd')
    output = run(written(tmp_path, run_config(tmp_path, dataset('d')))).stdout
    assert 'note: pictures need matplotlib, which is not installed: pip install' in output
    assert 'nothing is wrong' in output


def test_a_sample_that_cannot_be_drawn(tmp_path):
    coco(tmp_path / 'd')
    (tmp_path / 'd/images/1.png').write_text('')
    output = run(written(tmp_path, run_config(tmp_path, dataset('d'))), code=1).stdout
    assert 'note: train_dataloader.dataset: sample 1 cannot be drawn' in output
    assert len(list(Path('pictures').iterdir())) == 3


def test_errors(tmp_path):
    coco(tmp_path / 'd')
    config = written(tmp_path, run_config(tmp_path, dataset('nowhere')))
    for arguments, message in (
        (('no_such_config',), 'no config is called'),
        ((config,), "train_dataloader.dataset.data_root = 'nowhere'"),
        ((config, '--only', 'test'), 'has no test_dataloader.dataset'),
    ):
        error = run(*arguments, code=3).stderr
        assert error.startswith('Error: ') and message in error
    run(config, '--only', 'training', code=2)
    run(code=2)
