"""docs/fine_tune.md, from an empty folder, as it stands there.

``python tests/docs/test_fine_tuning.py FOLDER`` runs the page in a folder that is not there yet,
and prints what each command took and gave. The test runs it with few images and iterations.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import DOCS, Block, blocks
from mmengine.config import Config
from shell import Shell

PAGE = DOCS / 'fine_tune.md'
# What makes it short, wherever it stands in the page. Each of them has to be there.
SHORT = {
    'training=600, validation=100': 'training=16, validation=4',
    'train_cfg.max_iters=500 train_cfg.val_interval=500': (
        'train_cfg.max_iters=2 train_cfg.val_interval=2 param_scheduler=[] '
        'train_dataloader.dataset.scenes.training=16 val_dataloader.dataset.scenes.training=16 '
        'train_dataloader.dataset.scenes.validation=4 val_dataloader.dataset.scenes.validation=4'
    ),
    'iter_500.pth': 'iter_2.pth',
    'iterations, warm_up = 400, 50': 'iterations, warm_up = 2, 1',
    'iter_400.pth': 'iter_2.pth',
}


def steps() -> list[Block]:
    """The blocks to run, in order: those before the results."""
    before, found, _ = PAGE.read_text().partition('\n## Results\n')
    assert found
    end = before.count('\n')
    return [block for block in blocks(PAGE) if block.line <= end and block.language != 'text']


def write(block: Block, folder: Path, text: str) -> None:
    """Writes a file of the page, or adds to it if it is there."""
    file = folder / block.title.split(',')[0]
    assert file.exists() == ('below' in block.title), block
    with file.open('a') as opened:
        opened.write('\n' + text if 'below' in block.title else text)


def follow(
    folder: Path, commands: Path, replaced: dict[str, str], **variables: str
) -> Iterator[tuple[str, float, str]]:
    """Runs the page in an empty folder: each command, the seconds it took and what it printed."""
    shell = Shell(folder, commands, **variables)
    for block in steps():
        text = block.text
        for old, new in replaced.items():
            text = text.replace(old, new)
        if block.language == 'python':
            write(block, folder, text)
            continue
        for command in Block(block.page, block.line, 'bash', '', text).commands:
            start = time.monotonic()
            done = shell.run(command)
            assert done.returncode == 0, f'{block}: {command}\n{done.stdout[-6000:]}'
            yield command, time.monotonic() - start, done.stdout


def metrics(output: str) -> dict[str, float]:
    """What mmengine printed last of the two kinds of AP."""
    names = {'box AP': 'bbox_mAP', 'mask AP': 'segm_mAP'}
    found = {name: re.findall(rf'coco/{key}: (-?[\d.]+)', output) for name, key in names.items()}
    return {name: float(values[-1]) for name, values in found.items() if values}


def test_what_makes_it_short_is_in_the_page():
    text = '\n'.join(block.text for block in steps())
    assert [old for old in SHORT if old not in text] == []


def test_the_page_says_the_numbers_of_images():
    text = PAGE.read_text()
    training, validation = re.search(r'training=(\d+), validation=(\d+)', text).groups()
    assert re.search(rf'train\.json +{training} images', text)
    assert re.search(rf'val\.json +{validation} images', text)


@pytest.mark.slow
def test_the_page_from_an_empty_folder(tmp_path):
    folder = tmp_path / 'empty'
    folder.mkdir()
    outputs = {}
    for command, _, output in follow(folder, tmp_path / 'bin', SHORT, OMP_NUM_THREADS='1'):
        outputs[command] = output

    coco = json.loads((folder / 'data/annotations/train.json').read_text())
    assert len(coco['images']) == 16
    # mmdet numbers classes as the file lists them, whatever the order in the config.
    names = [category['name'] for category in coco['categories']]
    assert names == list(Config.fromfile(folder / 'my_config.py').classes)
    (tested,) = (output for command, output in outputs.items() if command.startswith('mim test'))
    assert metrics(tested).keys() == {'box AP', 'mask AP'}
    # The checkpoint is what the training started from, and not so without it.
    trained = [output for command, output in outputs.items() if command.startswith('mim train')]
    assert ['starts from scratch' in output for output in trained[1:]] == [False, True]
    assert (folder / 'predicted/vis/00000.jpg').stat().st_size > 0


def main(folder: Path) -> None:
    """Runs the whole page and prints its table."""
    folder.mkdir(parents=True)
    total, rows = 0.0, []
    for command, seconds, output in follow(folder, folder / '.bin', {}):
        total += seconds
        found = metrics(output) if command.startswith('mim') else {}
        rows.append((command, seconds, found))
        print(f'{seconds:6.1f} s  {command}', *(f'{k} {v:.3f}' for k, v in found.items()), sep='  ')
        if command == 'python predict.py':
            print(output)
    print(f'\n{total / 60:.1f} minutes in all\n')
    print('| command | seconds | box AP | mask AP |\n|---|---|---|---|')
    for command, seconds, found in rows:
        values = [f'{found[name]:.3f}' if name in found else '' for name in ('box AP', 'mask AP')]
        print(f'| `{command}` | {seconds:.0f} | {" | ".join(values)} |')


if __name__ == '__main__':
    main(Path(sys.argv[1]).resolve())
