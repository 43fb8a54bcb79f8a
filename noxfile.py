"""The suite on either stack and each Python: ``make test-matrix``, ``nox -s onedl-3.11 -- TESTS``.

``requirements/set_up.sh`` fills each session's environment with the pinned versions. A combination
that cannot be had is skipped, with the reason: there is no such interpreter, or no torch for it.
The sessions ``cuda-…`` and ``newest-…`` have a torch of gigabytes, and ``compiled-…`` an mmcv that
may have to be built: they run only if they are named.
"""

import os
import platform

import nox
from nox.command import CommandFailed

PYTHONS = ('3.10', '3.11', '3.12', '3.13')
# A build without CUDA; where CPUs are all that torch is built for, its version does not say so.
_NAMED = (platform.system(), platform.machine()) == ('Linux', 'x86_64')
TORCH = os.environ.get('TORCH', 'torch==2.13.0+cpu' if _NAMED else 'torch==2.13.0')

nox.needs_version = '>=2025.2.9'
nox.options.error_on_missing_interpreters = False
matrix = nox.session(python=PYTHONS, venv_backend='venv', reuse_venv=True)


@matrix
def openmmlab(session: nox.Session) -> None:
    """The suite on OpenMMLab's own releases."""
    run_suite(session, 'openmmlab', TORCH)


@matrix
def onedl(session: nox.Session) -> None:
    """The suite on OneDL's maintained forks of them."""
    run_suite(session, 'onedl', TORCH)


named = nox.session(python=PYTHONS, venv_backend='venv', reuse_venv=True, default=False)


@named
def compiled(session: nox.Session) -> None:
    """The suite with mmcv's compiled operators."""
    run_suite(session, 'openmmlab', TORCH, mmcv='compiled')


@named
def cuda(session: nox.Session) -> None:
    """The suite on OpenMMLab's releases with a CUDA build of torch, which needs no GPU."""
    if not _NAMED:
        session.skip("the index's torch is known to have CUDA on x86-64 Linux alone")
    # The index's own, where pip knows others, too: `==2.13.0` is also `2.13.0+cpu`.
    run_suite(session, 'openmmlab', 'torch===2.13.0')


@named
def newest(session: nox.Session) -> None:
    """The suite on the newest torch, with torchvision's operators."""
    run_suite(session, 'openmmlab', 'torch===2.14.1', 'torchvision===0.29.1')


def run_suite(session: nox.Session, stack: str, *torch: str, mmcv: str = 'plain') -> None:
    """Sets up what is missing, and runs pytest with the given arguments, or the quick tests."""
    try:
        session.run('python', '-m', 'pip', 'install', '-q', *torch, silent=True)
    except CommandFailed:
        whichever = '; TORCH=torch==2.13.0 takes whichever' if torch == (TORCH,) else ''
        session.skip(
            f'pip cannot install {" ".join(torch)} for Python {session.python}: PIP_FIND_LINKS or '
            f'PIP_EXTRA_INDEX_URL may name a place that has it{whichever}'
        )
    environment = dict(STACK=stack, MMCV=mmcv, VENV=session.virtualenv.location)
    session.run('bash', 'requirements/set_up.sh', env=environment, external=True)
    workers = (
        '-n',
        os.environ.get('PYTEST_WORKERS', '2'),
        '--dist',
        'loadgroup',
        '--no-loadscope-reorder',
    )
    session.run('python', '-m', 'pytest', *workers, *(session.posargs or ('-m', 'not slow')))
