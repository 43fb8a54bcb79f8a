"""Fresh Python processes that start with the slow libraries already imported.

A test of imports needs a process of its own, most of whose time goes to torch and transformers.
``Fresh.run(code)`` is ``python -c code`` in a fork of a process that has imported those libraries
and neither a framework of OpenMMLab's nor this package.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Those that mmengine, mmcv, mmdet and mmseg import; what is not installed is left out.
LIBRARIES = (
    *('torch', 'torch._dynamo', 'torch.distributed.fsdp', 'torch.distributed.optim'),
    *('torch.utils.data', 'torch.utils.tensorboard', 'torch.utils.model_zoo'),
    *('transformers.models.bert.modeling_bert', 'transformers.generation'),
    *('cv2', 'matplotlib.pyplot', 'mpl_toolkits.mplot3d', 'pycocotools.coco', 'rich.progress'),
    *('scipy.optimize', 'scipy.stats', 'scipy.interpolate', 'scipy.ndimage', 'scipy.io'),
    *('skimage', 'shapely.geometry', 'terminaltables', 'yapf.yapflib.yapf_api', 'prettytable'),
    *('tqdm', 'requests', 'ftfy', 'regex'),
)


class Outcome(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Fresh:
    """Runs code in forks of one process, which ends with the block.

    Args:
        left_out: The beginnings of the names of libraries not to import beforehand.
    """

    def __init__(self, left_out: Sequence[str] = ()) -> None:
        self.left_out = tuple(left_out)

    def __enter__(self) -> Fresh:
        command = [sys.executable, '-W', 'ignore', __file__, *self.left_out]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(60)

    def run(self, code: str, *arguments: str, cwd: Path | None = None) -> Outcome:
        """``python -W always -c code arguments``, in ``cwd``."""
        request = dict(code=code, arguments=arguments, cwd=str(cwd or Path.cwd()))
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return Outcome(**json.loads(self.process.stdout.readline()))


def _serve(left_out: tuple[str, ...]) -> None:
    for name in LIBRARIES:
        if not left_out or not name.startswith(left_out):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    ours = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'swin_backbone')
    assert not {name.partition('.')[0] for name in sys.modules} & set(ours)
    for line in sys.stdin:
        with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
            child = os.fork()
            if child == 0:
                os._exit(_run(out.fileno(), err.fileno(), **json.loads(line)))
            _, status = os.waitpid(child, 0)
            out.seek(0), err.seek(0)
            outcome = Outcome(os.waitstatus_to_exitcode(status), out.read(), err.read())
        print(json.dumps(outcome._asdict()), flush=True)


def _run(out: int, err: int, code: str, arguments: list[str], cwd: str) -> int:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(cwd)
    sys.argv = ['-c', *arguments]
    sys.path[0] = ''
    warnings.resetwarnings()
    warnings.simplefilter('always')
    main = type(sys)('__main__')
    sys.modules['__main__'] = main
    try:
        exec(compile(code, '<string>', 'exec'), main.__dict__)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == '__main__':
    _serve(tuple(sys.argv[1:]))
