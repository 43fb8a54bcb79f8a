"""Models for the page's tests, and the real server as a process."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small import randomized

from swin_backbone.tools.configs import read
from swin_backbone.tools.predictor import build

ROOT = Path(__file__).resolve().parents[3]
DETECTOR, SEGMENTOR = 'demo_mask_rcnn_shapes', 'demo_upernet_shapes'


def written(name: str, folder: Path) -> Path:
    """A checkpoint of a demo model with random weights."""
    torch.manual_seed(3)  # of several, the first whose detector finds masks of two classes
    path = folder / f'{name}.pth'
    weights = randomized(build(read(name), name)).state_dict()
    for key in weights:  # as they are drawn, no mask has a pixel
        if key.startswith('roi_head.mask_head.conv_logits'):
            weights[key] = torch.randn_like(weights[key])
    torch.save(dict(state_dict=weights), path)
    return path


def picture(folder: Path, width: int = 141, height: int = 90) -> Path:
    """A PNG file of noise."""
    path = folder / 'noise.png'
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Served:
    """The command as a process; ``url`` is that of the page."""

    def __init__(self, process: subprocess.Popen, lines: queue.Queue) -> None:
        self.process, self._lines, self.url = process, lines, ''

    def line(self, seconds: float = 120) -> str:
        """The next line of the output."""
        return self._lines.get(timeout=seconds)

    def unread(self) -> list[str]:
        """The remaining lines of the output."""
        return [self._lines.get() for _ in range(self._lines.qsize())]


@contextlib.contextmanager
def serving(*arguments: object, command: tuple[str, ...] | None = None) -> Iterator[Served]:
    """``swin-backbone serve`` on a free port; stopped at the end of the context."""
    command = command or (sys.executable, '-W', 'ignore', '-m', 'swin_backbone.cli', 'serve')
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
    process = subprocess.Popen(
        [*command, '--port', '0', *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [*map(lines.put, process.stdout)], daemon=True).start()
    served, said = Served(process, lines), []
    try:
        while not served.url:
            said.append(served.line())
            found = re.search(r'http://\S+/', said[-1])
            served.url = found[0] if found else ''
        yield served
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    except queue.Empty:
        raise AssertionError(''.join(said)) from None
    finally:
        process.kill()
