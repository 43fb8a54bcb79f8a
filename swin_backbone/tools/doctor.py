"""Checks of the installation. They are independent: a failing check does not hide others.

Only the standard library is imported before the checks run, because torch, mmengine or mmcv may be
broken.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .operators import PROBLEMS, Problem, try_out

# Requirements by import name. OneDL's maintained forks of OpenMMLab's packages have other names and
# the same import names.
REQUIRED = {
    'torch': ('torch>=2.6',),
    'mmengine': ('mmengine>=0.10.4', 'onedl-mmengine>=0.10.12'),
    'mmcv': ('mmcv>=2.0.0,<2.2.0', 'mmcv-lite>=2.0.1,<2.2.0', 'onedl-mmcv>=2.3.0'),
}
OPTIONAL = {
    'mmdet': ('mmdet>=3.0.0', 'onedl-mmdetection>=3.5.0'),
    'mmseg': ('mmsegmentation>=1.0.0', 'onedl-mmsegmentation>=1.4.0'),
    'mmpretrain': ('mmpretrain>=1.0.0', 'onedl-mmpretrain>=1.3.0'),
    'triton': ('triton',),
}
NEED_OPERATORS = ('mmdet', 'mmseg')
# mmcv without compiled operators, which swin_backbone.mmcv_ext replaces.
LITE = "pip install 'swin_backbone[lite]'"
VARIABLES = ('SWIN_BACKEND', 'SWIN_CHECKPOINTS', 'SWIN_COCO128', 'SWIN_MIRROR', 'SWIN_OFFLINE')


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: The group of the check.
        name: What was checked.
        ok: False if it is wrong, None if something optional is missing, else True.
        detail: A description of the result.
        fix: The command that fixes the problem, or None.
    """

    check: str
    name: str
    ok: bool | None
    detail: str
    fix: str | None = None


def examine(plugins: Iterable[str] = ()) -> list[Finding]:
    """Runs all checks; see the functions below.

    Args:
        plugins: Modules to import before the registries are checked: the other modules in a
            config's ``custom_imports``.
    """
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        'versions': versions,
        'mmcv operators': mmcv_operators,
        'registries': lambda: registries(plugins),
        'configs': inherited_configs,
        'GPU': gpus,
        'backends': backends,
        'checkpoints': checkpoints,
        'environment': environment,
    }
    return [finding for name, check in checks.items() for finding in _apart(name, check)]


def _apart(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an exception becomes another finding."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the frameworks warn when they are imported
        try:
            yield from check()
        except Exception as error:  # a broken installation may raise anything
            yield Finding(name, 'the check itself', False, _said(error), _fix_of(error))


def versions() -> Iterator[Finding]:
    """Whether Python and required and optional packages are installed, recent and importable."""
    from ..version import __version__

    number = '.'.join(map(str, sys.version_info[:3]))
    yield Finding('versions', 'python', sys.version_info >= (3, 10), f'{number} ({sys.executable})')
    yield Finding('versions', 'swin_backbone', True, f'{__version__} ({Path(__file__).parents[1]})')
    for module in {**REQUIRED, **OPTIONAL}:
        yield _version(module)


def _version(module: str) -> Finding:
    distribution, released, wanted = _source(module)
    install = _install(module)
    both = _overwritten(module)
    if both is not None:
        return both
    if not _installed(module):
        needed = module in REQUIRED
        detail = 'not installed' if needed else 'not installed, and not needed by the backbone'
        return Finding('versions', module, False if needed else None, detail, install)
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a broken installation may raise anything
        detail = f'{released or "it"} cannot be imported: {_said(error)}'
        return Finding('versions', module, False, detail, _fix_of(error, install))
    version = released or str(getattr(imported, '__version__', 'of unknown version'))
    if _unfit(version, wanted):
        return Finding('versions', module, False, f'{version}, but it must be {wanted}', install)
    named = distribution.startswith(('onedl-', 'mmcv-'))  # not OpenMMLab's own distribution
    detail = f'{version} ({distribution})' if named else version
    return Finding('versions', module, True, detail)


def _overwritten(module: str) -> Finding | None:
    """Whether two installed distributions contain the same module."""
    names = [_name(wanted) for wanted in {**REQUIRED, **OPTIONAL}[module]]
    found = {name: version for name in names if (version := _distributed(name))}
    if len(found) < 2:
        return None
    # Keep the later one: the user chose it, and the other is usually installed as a dependency.
    kept = list(found)[-1]
    detail = ' and '.join(f'{name} {version}' for name, version in found.items())
    return Finding(
        *('versions', module, False, f'{detail} are both installed, and overwrite each other'),
        f"pip uninstall -y {' '.join(found)} && pip install --no-deps '{kept}=={found[kept]}'",
    )


def mmcv_operators() -> Iterator[Finding]:
    """Which operators mmcv's functions call, whether their results are right, and how fast."""
    import torch

    try:
        operators = importlib.import_module('mmcv._ext')
        importlib.import_module('mmcv.ops')
    except Exception as error:  # a broken installation may raise anything
        yield _not_loading(error)
        return
    stand_in = hasattr(operators, '__path__')  # a package instead of a compiled library
    whose = 'of swin_backbone.mmcv_ext' if stand_in else f'compiled: {operators.__file__}'
    yield Finding('mmcv operators', 'in use', True, whose)
    for name, (size, faster, problem) in PROBLEMS.items():
        by = ''
        if stand_in:
            by = ", torchvision's" if _by_torchvision(faster, 'cpu') else ', ours'
        yield _tried(name, f'{size} on the CPU{by}', problem, LITE if stand_in else _compile())
    yield from (_stands_in() if stand_in else _compiled_for(torch.version.cuda))


def _not_loading(error: Exception) -> Finding:
    import torch

    needed = any(_installed(name) for name in NEED_OPERATORS)
    missing = isinstance(error, ModuleNotFoundError) and error.name == 'mmcv._ext'
    fix: str | None
    if missing:
        reason, fix = _without_hook()
        why = f'mmcv has no compiled operators, and ours are not found: {reason}'
    else:
        why = (
            f'they do not load: {_said(error)}; they must be compiled for the installed torch '
            f'{torch.__version__}, or replaced: pip uninstall -y {_source("mmcv")[0]} && {LITE}'
        )
        fix = _fix_of(error, _compile())
    if not needed:
        why += ' (the backbone alone does without)'
    return Finding('mmcv operators', 'loading', False if needed else None, why, fix)


def _tried(name: str, where: str, problem: Callable[[], Problem], fix: str) -> Finding:
    try:
        right, milliseconds = try_out(problem)
    except Exception as error:
        # mmcv compiles some operators only for GPUs; the frameworks have other code for CPUs.
        lacking = 'implementation for device cpu' in str(error)
        detail = 'has no kernel for CPUs' if lacking else _said(error)
        result = None if lacking else False
        return Finding('mmcv operators', name, result, detail, None if lacking else fix)
    detail = f'{where}: {milliseconds:.1f} ms' if right else f'{where}: the result is wrong'
    return Finding('mmcv operators', name, right, detail, None if right else fix)


def _compiled_for(cuda: str | None) -> Iterator[Finding]:
    """Whether mmcv's operators are compiled for GPUs."""
    import torch
    from mmcv.ops import get_compiling_cuda_version

    built = get_compiling_cuda_version()
    lacking = torch.cuda.is_available() and built == 'not available'
    detail = f'built for CUDA: {built}; torch: {cuda or "not available"}'
    yield Finding('mmcv operators', 'CUDA', not lacking, detail, _compile() if lacking else None)


def _stands_in() -> Iterator[Finding]:
    """Whether the start-up hook of our operators works, and torchvision's are available."""
    import torch

    if HOOK not in sys.modules:
        why, fix = _without_hook()
        detail = f'{why}; `mim train` imports mmcv.ops before swin_backbone, and does not find them'
        yield Finding('mmcv operators', 'start-up hook', False, detail, fix)
    if not _installed('torchvision'):
        return
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    lacking = [device for device in devices if not _by_torchvision('roi_align', device)]
    detail = 'its operators are used where they are faster'
    if lacking:
        why = _torchvision_error() or 'it was built without them'
        detail = f'its operators for {" and ".join(lacking)} do not load, and are not used: {why}'
    fix = 'pip install --force-reinstall --no-deps torchvision  # the one for this torch'
    yield Finding(
        'mmcv operators', 'torchvision', None if lacking else True, detail, fix if lacking else None
    )


HOOK = '_swin_backbone_startup'  # the module that the wheel's .pth file imports


def _without_hook() -> tuple[str, str]:
    """Why Python did not run the start-up hook, and the command that installs it."""
    package = Path(__file__).parents[1]
    if _distributed('swin_backbone') is None:
        checkout = (package.parent / 'pyproject.toml').exists()
        fix = f"pip install '{package.parent}[lite]'" if checkout else LITE
        return f'swin_backbone is imported from {package}, but not installed', fix
    why = 'Python did not process the .pth file that pip installs with swin_backbone'
    return f'{why}{" (it was started with -S)" if sys.flags.no_site else ""}', LITE


def _by_torchvision(name: str | None, device: str) -> bool:
    """Whether our operator calls torchvision's on a device."""
    import torch

    if name is None or (name, device) == ('nms', 'cpu'):  # ours is faster
        return False
    found = importlib.import_module('mmcv._ext.torchvision_ops')
    return found.operator(name, torch.empty(0, device=device)) is not None


def _torchvision_error() -> str | None:
    """The error when torchvision's library is loaded."""
    import torch

    spec = importlib.util.find_spec('torchvision')
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in Path(folder).glob('_C*.so'):
            try:
                torch.ops.load_library(library)
            except OSError as error:
                return _said(error)
    return None


def _compile() -> str:
    """The command that recompiles the installed mmcv."""
    distribution, version, wanted = _source('mmcv')
    same = f'{distribution}=={version}' if version else wanted
    return (
        f'MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir '
        f"--no-build-isolation --no-binary {distribution} '{same}'"
    )


def registries(plugins: Iterable[str] = ()) -> Iterator[Finding]:
    """Which classes the backbones' names refer to in each framework's registry."""
    from ..registration import FRAMEWORKS, NAMES, register, registered

    register()
    for plugin in plugins:
        try:
            importlib.import_module(plugin)
        except Exception as error:  # the user's code may raise anything
            detail = f'cannot be imported: {_said(error)}'
            yield Finding('registries', plugin, False, detail, f'python -c "import {plugin}"')
    for framework in FRAMEWORKS:
        if _installed(framework):
            yield from _models(framework)
    for name, backbone in ((name, b) for b, names in NAMES.items() for name in names):
        for registry, found in registered(name).items():
            where = 'nothing' if found is None else _place(found)
            well = found is backbone
            yield Finding(
                'registries', f'{registry}: {name}', well, where, None if well else _OVERRIDDEN
            )


_OVERRIDDEN = (
    "name 'swin_backbone' last in the config's custom_imports, or write type='SwinBackbone', which "
    'is the same class'
)


def _models(framework: str) -> Iterator[Finding]:
    try:
        importlib.import_module(f'{framework}.models')
    except Exception as error:  # a broken installation may raise anything
        detail = f'its models cannot be imported, so nothing is registered there: {_said(error)}'
        yield Finding('registries', framework, False, detail, _fix_of(error))


def _place(found: type) -> str:
    module = sys.modules.get(found.__module__)
    return f'{found.__module__}.{found.__qualname__} ({getattr(module, "__file__", None)})'


def inherited_configs() -> Iterator[Finding]:
    """Whether configs can inherit from the frameworks' configs by ``framework::…``."""
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed

    from ..registration import FRAMEWORKS

    for framework in filter(_installed, FRAMEWORKS):
        asked = MODULE2PACKAGE[framework]
        found = is_installed(asked)
        spec = importlib.util.find_spec(framework)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent / '.mim/configs'
        detail = f'mmengine asks for {asked}, which is not installed by that name: write {folder}/…'
        name = f'{framework}::…'
        yield Finding('configs', name, found or None, str(folder) if found else detail)


def gpus() -> Iterator[Finding]:
    """The GPUs, and whether the installed torch can use them."""
    import torch

    cuda = torch.version.cuda
    if not torch.cuda.is_available():
        built = f'torch is built for CUDA {cuda}' if cuda else 'torch is built without CUDA'
        card = any(Path('/dev').glob('nvidia[0-9]*'))
        fix = 'nvidia-smi' if cuda else 'pip install --force-reinstall torch  # with CUDA'
        detail = f'there is one, but torch cannot use it: {built}' if card else f'none; {built}'
        yield Finding('GPU', 'CUDA', False if card else None, detail, fix if card else None)
        return
    get_driver = getattr(torch._C, '_cuda_getDriverVersion', lambda: None)
    for i in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(i)
        detail = (
            f'{torch.cuda.get_device_name(i)}, compute capability {capability[0]}.{capability[1]}; '
            f"torch's CUDA {cuda}, the driver's {_cuda(get_driver())}"
        )
        works, remedy = True, ''
        try:
            torch.ones(1, device=f'cuda:{i}').add_(1).item()
        except Exception as error:  # the driver is too old, or there is no kernel for the GPU
            works = False
            detail += f'; it does not compute: {_said(error)}'
            remedy = 'pip install --force-reinstall torch  # one for this GPU and driver'
        yield Finding('GPU', f'cuda:{i}', works, detail, remedy or None)


def _cuda(number: int | None) -> str:
    return 'unknown' if number is None else f'{number // 1000}.{number % 1000 // 10}'


def backends() -> Iterator[Finding]:
    """Which backend attention selects for each device and dtype, and why.

    And whether blocks run fused, for the sizes of Swin-T's first stage.
    """
    import torch

    from ..ops.block import why_not
    from ..ops.window_attention import explain_backend

    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    for device in devices:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            name = f'{device}, {str(dtype).removeprefix("torch.")}'
            try:
                choice = explain_backend(device, dtype)
                tokens = torch.empty(1, 0, 0, 96, device=device, dtype=dtype)
                reason = why_not(tokens, heads=3, window_size=7, hidden=384)
            except Exception as error:  # the requested backend cannot run
                fix = 'unset SWIN_BACKEND' if 'SWIN_BACKEND' in os.environ else None
                yield Finding('backends', name, False, _said(error), fix)
                continue
            rejected = ''.join(f'; not {other}: {why}' for other, why in choice.rejected.items())
            blocks = 'fused' if reason is None else f'unfused: {reason}'
            detail = f'{choice.backend}: {choice.reason}{rejected}; blocks are {blocks}'
            yield Finding('backends', name, True, detail)


def checkpoints() -> Iterator[Finding]:
    """The folder of downloaded files: its path and contents, and whether it is writable."""
    from ..weights.download import folder

    place = folder()
    suffixes = ('.pth', '.pt', '.pkl', '.bin', '.safetensors')
    files = [path for path in place.rglob('*') if path.suffix in suffixes and path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    yield Finding('checkpoints', 'folder', True, f'{place}: {len(files)} files, {size:.0f} MB')
    existing = next(path for path in (place, *place.parents) if path.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    yield Finding(
        'checkpoints',
        'writable',
        writable,
        f'{existing} {"can" if writable else "cannot"} be written',
        None if writable else 'export SWIN_CHECKPOINTS=~/.cache/swin_backbone',
    )
    if not _installed('pooch'):
        fix = "pip install 'swin_backbone[weights]'"
        yield Finding('checkpoints', 'downloads', None, 'pooch is not installed', fix)


def environment() -> Iterator[Finding]:
    """The environment variables ``SWIN_…``, and whether they are known and valid."""
    for name in sorted(name for name in os.environ if name.startswith('SWIN_')):
        value = os.environ[name]
        if name not in VARIABLES:
            detail = f'{value!r}: nothing here reads it; known are {", ".join(VARIABLES)}'
            yield Finding('environment', name, None, detail)
        elif name == 'SWIN_MIRROR' and value and '://' not in value:
            detail = f'{value!r} is no URL'
            yield Finding('environment', name, False, detail, f'export {name}=https://{value}')
        else:
            yield Finding('environment', name, True, repr(value))


# --- used by several checks ----------------------------------------------------------------------


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook, or a partly removed module
        return False


def _source(module: str) -> tuple[str, str | None, str]:
    """The distribution of a module, its version if it is installed, and the required version.

    For a missing module, the distribution is OneDL's if other packages of OneDL's are installed.
    """
    choice = {**REQUIRED, **OPTIONAL}[module]
    for wanted in choice:
        if version := _distributed(_name(wanted)):
            return _name(wanted), version, wanted
    onedl = _distributed('onedl-mmengine') or _distributed('onedl-mmcv')
    wanted = choice[-1] if onedl else choice[0]
    return _name(wanted), None, wanted


def _install(module: str) -> str:
    """The command that installs a module with a required version."""
    distribution, version, wanted = _source(module)
    lite = module == 'mmcv' and (distribution == 'mmcv-lite' or version is None)
    return LITE if lite and not distribution.startswith('onedl-') else f"pip install '{wanted}'"


def _name(requirement: str) -> str:
    return requirement.partition('>=')[0]


def _distributed(name: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unfit(version: str, wanted: str) -> bool:
    """Whether a version contradicts ``name>=a,<b``; False if it does not start with a number.

    The package ``packaging`` is not used: it may be missing where the doctor is needed.
    """
    low, _, high = wanted.partition('>=')[2].partition(',<')
    number = _numbers(version)
    return bool(number) and (number < _numbers(low) or (high != '' and number >= _numbers(high)))


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 1) of ``2.1.0rc1+cpu``: zeros at the end do not count."""
    found = re.match(r'\d+(\.\d+)*', version)
    numbers = [int(part) for part in found[0].split('.')] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _said(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text}'


def _fix_of(error: Exception, otherwise: str | None = None) -> str | None:
    """The command that installs the missing package of a failed import, or ``otherwise``."""
    missing = ((isinstance(error, ModuleNotFoundError) and error.name) or '').partition('.')[0]
    if not missing or _installed(missing):
        return otherwise
    if missing == 'pkg_resources':  # removed from newer setuptools
        return "pip install 'setuptools<80.9'"
    known = missing in {**REQUIRED, **OPTIONAL}
    return _install(missing) if known else f'pip install {missing}'
