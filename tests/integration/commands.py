"""mim's real commands, and the programs that they start, as the integration tests run them."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from fresh import Fresh

from swin_backbone.demo.jobs import mims_name

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
COCO128 = Path(os.environ.get('SWIN_COCO128', ROOT.parent / 'shared/data/coco128')).resolve()


@dataclass
class Outcome:
    """How a command ended, and all it printed."""

    returncode: int
    output: str

    def value(self, name: str) -> float:
        """The metric that was printed last under a name."""
        return float(re.findall(rf'\b{name}: (-?[\d.]+)', self.output)[-1])


def mim(
    *words: str | Path,
    folder: Path,
    options: Sequence[str] = (),
    processes: int = 1,
    fresh: Fresh | None = None,
) -> Outcome:
    """Runs ``mim <words> --cfg-options <options>`` in a folder, to its end whatever that is.

    With ``fresh``, only the framework's program that mim starts, which takes a third of the time.
    """
    verb, framework, *words = words
    settings = dict(SWIN_COCO128=str(COCO128), OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='lo')
    options = [
        '--work-dir',
        str(folder / 'work'),
        *(['--cfg-options', *options] if options else []),
    ]
    if fresh is not None:
        package = Path(find_spec(framework).submodule_search_locations[0])
        program = package / '.mim' / 'tools' / f'{verb}.py'
        words = [word for word in words if word != '--checkpoint']
        launcher = ['--launcher', 'pytorch'] if processes > 1 else []
        outcome = fresh.run(
            *(program, *words, *launcher, *options),
            cwd=folder,
            env=settings,
            merged=True,
            processes=processes,
        )
        return Outcome(outcome.returncode, outcome.stdout)
    command = [Path(sys.executable).with_name('mim'), verb, mims_name(framework), *words]
    if processes > 1:
        command += ['--launcher', 'pytorch', '--gpus', processes, '--port', _free_port()]
    result = subprocess.run(
        [*map(str, command), *options],
        cwd=folder,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return Outcome(result.returncode, result.stdout)


def succeeded(outcome: Outcome) -> Outcome:
    assert outcome.returncode == 0, outcome.output[-8000:]
    return outcome


def logged(folder: Path, *keys: str) -> list[list[tuple]]:
    """What each training run in a folder logged, oldest first: the keys' values, line by line."""
    runs = []
    for file in sorted((folder / 'work').glob('*/vis_data/scalars.json')):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        runs.append([tuple(line[key] for key in keys) for line in lines if 'loss' in line])
    return runs


def read(checkpoint: Path) -> dict:
    """A checkpoint of mmengine's."""
    return torch.load(checkpoint, map_location='cpu', weights_only=True)


def detections(folder: Path, *words, **keywords) -> list[dict]:
    """What ``mim test mmdet <words> --out …`` predicts, by image; see :func:`mim`."""
    out = folder / 'predictions.pkl'
    outcome = mim('test', 'mmdet', *words, '--out', out, folder=folder, **keywords)
    assert 0 <= succeeded(outcome).value('coco/bbox_mAP') <= 1
    assert 0 <= outcome.value('coco/segm_mAP') <= 1
    samples = pickle.loads(out.read_bytes())
    return sorted(samples, key=lambda sample: sample['img_id'])


def assert_same_detections(ours: list[dict], theirs: list[dict]) -> None:
    assert [s['img_id'] for s in ours] == [s['img_id'] for s in theirs]
    for own, their in zip(ours, theirs, strict=True):
        own, their = own['pred_instances'], their['pred_instances']
        assert len(own['scores']) > 0
        torch.testing.assert_close(own['labels'], their['labels'])
        torch.testing.assert_close(own['scores'], their['scores'], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own['bboxes'], their['bboxes'], rtol=1e-4, atol=1e-2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]
