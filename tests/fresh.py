"""Fresh Python processes that start with the slow libraries already imported.

A test of imports or of a training program needs a process of its own, most of whose time goes to
importing torch and transformers. ``Fresh`` forks one that has imported those libraries and neither
a framework of OpenMMLab's nor this package.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings as filters
from collections.abc import Mapping
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
    """How a process ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Fresh:
    """Runs code and programs in forks of one process, which ends with the block."""

    def __enter__(self) -> Fresh:
        self.process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(60)

    def run(
        self,
        *command: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        warnings: str = 'ignore',
        merged: bool = False,
        processes: int = 1,
        timeout: float = 300,
    ) -> Outcome:
        """``python <command>``, where the command is ``-c code``, ``-m module`` or a file.

        Args:
            env: What to add to the environment.
            warnings: The action that ``-W`` sets.
            merged: Standard error goes where standard output does.
            processes: With more than one, all find each other as ``torchrun`` makes them do, and
                the first failure ends all.
            timeout: In seconds; what runs longer is killed.
        """
        command = tuple(map(str, command))
        cwd, environment = str(cwd or Path.cwd()), dict(env or {})
        job = dict(command=command, cwd=cwd, env=environment, warnings=warnings)
        jobs = [job]
        if processes > 1:
            common = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(_free_port()))
            common |= dict.fromkeys(('WORLD_SIZE', 'LOCAL_WORLD_SIZE'), str(processes))
            jobs = [
                job | dict(env=environment | common | dict(RANK=str(i), LOCAL_RANK=str(i)))
                for i in range(processes)
            ]
        request = dict(jobs=jobs, merged=merged, timeout=timeout)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return Outcome(**json.loads(self.process.stdout.readline()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _serve() -> None:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    ours = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'swin_backbone')
    assert not {name.partition('.')[0] for name in sys.modules} & set(ours)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
            to = out if request['merged'] else err
            children = [_fork(out.fileno(), to.fileno(), **job) for job in request['jobs']]
            code = _wait(children, request['timeout'])
            out.seek(0)
            err.seek(0)
            outcome = Outcome(code, out.read(), err.read())
        print(json.dumps(outcome._asdict()), flush=True)


def _wait(children: list[int], timeout: float) -> int:
    """The first exit status other than 0, upon which all that still run are killed."""
    running, code, end = set(children), 0, time.monotonic() + timeout
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        running.discard(child)
        code = code or (os.waitstatus_to_exitcode(status) if child else 0)
        if code or time.monotonic() > end:
            for other in running:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            return code or -signal.SIGKILL
        if not child:
            time.sleep(0.01)
    return code


def _fork(out: int, err: int, **job) -> int:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os._exit(_run(**job))
    return child


def _run(command: list[str], cwd: str, env: dict[str, str], warnings: str) -> int:
    os.chdir(cwd)
    os.environ.update(env)
    filters.resetwarnings()
    filters.simplefilter(warnings)
    first, *arguments = command
    sys.path[0] = ''
    try:
        if first == '-m':
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name='__main__', alter_sys=True)
        elif first == '-c':
            sys.argv = ['-c', *arguments[1:]]
            main = sys.modules['__main__'] = type(sys)('__main__')
            exec(compile(arguments[0], '<string>', 'exec'), main.__dict__)
        else:
            sys.argv, sys.path[0] = command, str(Path(first).parent)
            main = sys.modules['__main__'] = type(sys)('__main__')
            main.__file__ = first
            exec(compile(Path(first).read_bytes(), first, 'exec'), main.__dict__)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return int(end.code or 0) if not isinstance(end.code, str) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == '__main__':
    _serve()
