"""Command lines: good ones with arguments left out, doubled or replaced, of good and bad files."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import hostile_files
import torch
from click.testing import CliRunner
from harness import Target
from hypothesis import strategies as st

from swin_backbone import SwinTransformer
from swin_backbone.cli.commands import commands
from swin_backbone.weights.formats import FORMATS

CONFIGS = {
    'config.py': "model = dict(type='SwinBackbone', embed_dims=4, depths=(1,), num_heads=(1,), "
    'strides=(4,), out_indices=(0,), window_size=2, mlp_ratio=1)\n',
    'nested.py': "model = dict(detector=dict(backbone=dict(type='SwinTransformer', embed_dims=4, "
    'depths=(1,), num_heads=(1,), strides=(4,), out_indices=(0,), window_size=2, mlp_ratio=1)))\n',
    'wrong.py': "model = dict(backbone=dict(type='SwinTransformer', embed_dims='4'))\n",
    'misspelt.py': "model = dict(backbone=dict(type='SwinTransformer', embed_dmis=4))\n",
    'unknown.py': "model = dict(type='NoSuchModel')\n",
    'raises.py': 'raise KeyError(3)\n',
    'exits.py': 'import sys\nsys.exit(7)\n',
    'syntax.py': 'model = dict(\n',
    'text.py': '\x00\xff',
    'empty.py': '',
    'number.py': 'model = 3\n',
    'based.py': "_base_ = './nowhere.py'\n",
    'itself.py': "_base_ = './itself.py'\n",
    'config.txt': 'model = 3\n',
    'config.json': '{"model": [1, 2]}',
    'config.yaml': 'model: {backbone: {type: SwinTransformer, depths: 3}}\n',
}
FILES = (
    *('good.pth', 'official.pth', 'good.safetensors', 'embedding.pth', 'v2.pth', 'classifier.pth'),
    *('cut.pth', 'empty.pth', 'text.pth', 'other.pth', 'nan.pth', 'a folder', 'ranks'),
)
# Nothing absolute, as commands write where they are told to.
ODD = (
    *('', ' ', '-', '--', '-x', '--no-such', '.', '..', 'nowhere', 'no/where.pth', '~no/x'),
    *('0', '-1', '1', '3', '7', '999999999999999999999', '1e400', 'nan', 'inf', '1.5', '٣', '0x10'),
    *('a' * 300, 'x/' * 300, 'ünï', '\udcff', '\n', '*', '%s', '{}', "'", '[red]', '\x1b[0m'),
    *('swin_tiny', 'http://', 'https://127.0.0.1:9/x.pth', 'http:///', 'http://[', 'ftp://a/b'),
)


@functools.cache
def folder() -> Path:
    """A folder of files for the commands."""
    root = Path(tempfile.mkdtemp(dir=hostile_files.FOLDER))
    good = hostile_files.good()
    for name, text in CONFIGS.items():
        (root / name).write_text(text)
    (root / 'good.pth').write_bytes(good['zip'])
    (root / 'official.pth').write_bytes(good['official'])
    (root / 'good.safetensors').write_bytes(good['safetensors'])
    (root / 'cut.pth').write_bytes(good['zip'][:-100])
    (root / 'empty.pth').touch()
    (root / 'text.pth').write_text('text')
    (root / 'a folder').mkdir()
    (root / 'ranks').mkdir()
    (root / 'ranks' / 'rank0.pth').write_bytes(good['rank'])
    torch.save({'other.weight': torch.ones(2)}, root / 'other.pth')
    _save_models(root)
    return root


def _save_models(root: Path) -> None:
    from hostile_checkpoints import good

    embedding = SwinTransformer(**hostile_files.SMALL, use_abs_pos_embed=True, pretrain_img_size=16)
    torch.save(embedding.state_dict(), root / 'embedding.pth')
    torch.save({'model': good('microsoft', 2, False, True)}, root / 'v2.pth')
    classifier = good('timm', 1, False, True)
    torch.save(classifier, root / 'classifier.pth')
    torch.save(
        {k: torch.full_like(v, float('nan')) for k, v in classifier.items()}, root / 'nan.pth'
    )


COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ('weights', 'info', '<file>'): ('--config <config>', '--prefix <odd>', '--ema', '--no-ema'),
    ('weights', 'diff', '<file>', '<file>'): ('--tolerance <odd>', '--prefix <odd>'),
    ('weights', 'convert', '<file>', '--to', '<layout>', '-o', '<out>'): (
        *('--window <number>', '--grid <number> <number>', '--prefix <odd>', '--ema', '--no-ema'),
    ),
    ('weights', 'verify', '<file>'): ('<file>',),
    ('weights', 'list', '<odd>'): ('--task <odd>', '--version <number>'),
    ('weights', 'join', '<file>', '<out>'): ('--weights-only',),
    ('weights', 'download', '<odd>'): ('<odd>',),
    ('complexity', '<config>'): ('--shape 3 <number> <number>', '--shape <number> 8 8'),
    ('configs', 'show', '<odd>'): ('--resolved',),
    ('configs', 'show', 'atss_swin_t_coco'): (),
    ('configs', 'copy', '<shipped>', '<out>'): ('--force',),
    ('configs', 'copy', '<odd>'): ('<out>', '--force'),
}
_MEANS = {
    '<file>': [*FILES, *FILES, '/dev/null', *ODD],
    '<config>': [*CONFIGS, *CONFIGS, *ODD],
    '<layout>': [*(layout.name for layout in FORMATS)] * 3 + ['no', ''],
    '<out>': [
        'out.pth',
        'out.safetensors',
        'out.py',
        'a folder',
        'no/out.pth',
        'a folder/x.pth',
        *ODD,
    ],
    '<number>': ['1', '2', '3', '8', '33', *ODD],
    '<odd>': ODD,
    '<shipped>': ['atss_swin_t_coco', 'atss_swin_t_coco.py', 'mask-rcnn'],
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Arguments for the command line; names of files are within :func:`folder`."""
    command = draw(st.sampled_from(list(COMMANDS)))
    given = list(command)
    for option in draw(st.lists(st.sampled_from([*COMMANDS[command], '--json']), max_size=3)):
        given += option.split(' ')
    given = [draw(st.sampled_from(_MEANS[word])) if word in _MEANS else word for word in given]
    if draw(st.integers(0, 5)) == 5:
        at = draw(st.integers(0, len(given) - 1))
        given[at : at + draw(st.integers(0, 1))] = [
            draw(
                st.sampled_from(ODD)
                | st.text(max_size=4).filter(lambda text: not {*text} & {*'\0/~'})
            )
        ]
    if draw(st.integers(0, 9)) == 9:
        del given[draw(st.integers(0, len(given) - 1))]
    return given


def run(arguments: list[str]) -> str:
    """Runs the command in the folder of files; its exit code must be one of those documented."""
    before = Path.cwd()
    os.chdir(folder())
    try:
        environment = {'SWIN_CHECKPOINTS': 'published', 'SWIN_OFFLINE': '1'}
        result = CliRunner(env=environment).invoke(commands, arguments)
    finally:
        os.chdir(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in range(4), f'exit code {result.exit_code}'
    assert 'Traceback (most recent' not in result.output, result.output
    # What an error that nobody foresaw ends with.
    assert 'shows the traceback' not in result.output, result.output
    return f'exit code {result.exit_code}'


TARGET = Target(command_lines(), run)
