"""The checks of ``swin-backbone doctor``, each with a broken part of the installation."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from swin_backbone import SwinTransformer, mmcv_ext
from swin_backbone.mmcv_ext import torchvision_ops
from swin_backbone.registration import register
from swin_backbone.tools import doctor
from swin_backbone.tools.doctor import Finding


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_all_is_well_here():
    findings = doctor.examine()
    assert [f for f in findings if f.ok is False] == []
    versions = by_name(f for f in findings if f.check == 'versions')
    # The index's wheel is 2.13.0 in pip's words, and names its CUDA in its own alone.
    assert versions['torch'].detail in (torch.__version__, torch.__version__.partition('+')[0])
    assert {'python', 'swin_backbone', 'mmengine', 'mmcv', 'mmdet', 'mmseg'} <= set(versions)
    assert by_name(findings)['mmdet: SwinTransformer'].detail.startswith(
        f'swin_backbone.swin.SwinTransformer ({sys.modules[SwinTransformer.__module__].__file__})'
    )


def test_a_check_that_breaks_hides_no_other(monkeypatch):
    def broken():
        yield Finding('versions', 'first', True, '')
        raise RuntimeError('no\nluck')

    monkeypatch.setattr(doctor, 'versions', broken)
    found = by_name(doctor.examine())
    assert found['first'].ok and found['nms'].ok
    assert found['the check itself'].ok is False
    assert found['the check itself'].detail == 'RuntimeError: no luck'


def test_a_missing_framework_is_not_wrong_and_a_missing_dependency_is(monkeypatch):
    installed = doctor._installed
    missing = ('mmdet', 'mmcv')
    monkeypatch.setattr(doctor, '_installed', lambda name: name not in missing and installed(name))
    found = by_name(doctor.versions())
    assert found['mmdet'].ok is None and found['mmcv'].ok is False
    assert found['mmcv'].fix == doctor._install('mmcv')


@pytest.fixture
def distributed(monkeypatch) -> dict[str, str]:
    """The installed distributions and versions; tests modify them."""
    names = {'torch': '2.13.0', 'mmengine': '0.10.7', 'mmcv': '2.1.0'}
    monkeypatch.setattr(doctor, '_distributed', names.get)
    return names


def test_either_stack_is_known(distributed, monkeypatch):
    assert doctor._source('mmcv') == ('mmcv', '2.1.0', 'mmcv>=2.0.0,<2.2.0')
    assert doctor._source('mmdet') == ('mmdet', None, 'mmdet>=3.0.0')
    for name in ('mmengine', 'mmcv'):
        del distributed[name]
    distributed.update({'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6'})
    found = by_name(doctor.versions())
    assert found['mmcv'].ok and found['mmcv'].detail == '2.3.6 (onedl-mmcv)'
    assert found['mmengine'].ok and found['torch'].detail == '2.13.0'
    # What is missing is advised from the stack that is there.
    monkeypatch.setattr(doctor, '_installed', lambda name: name != 'mmdet')
    missing = by_name(doctor.versions())['mmdet']
    assert missing.fix == "pip install 'onedl-mmdetection>=3.5.0'"


def test_two_stacks_in_one_environment(distributed):
    distributed['onedl-mmcv'] = '2.3.6'
    found = by_name(doctor.versions())
    assert found['mmengine'].ok and found['mmcv'].ok is False
    assert 'mmcv 2.1.0 and onedl-mmcv 2.3.6 are both installed' in found['mmcv'].detail
    assert found['mmcv'].fix == (
        "pip uninstall -y mmcv onedl-mmcv && pip install --no-deps 'onedl-mmcv==2.3.6'"
    )


def test_configs_to_inherit(monkeypatch):
    found = by_name(doctor.inherited_configs())
    assert found['mmdet::…'].ok and found['mmdet::…'].detail.endswith('/mmdet/.mim/configs')
    monkeypatch.setattr('mmengine.utils.is_installed', lambda name: name != 'mmsegmentation')
    found = by_name(doctor.inherited_configs())['mmseg::…']
    assert found.ok is None and 'asks for mmsegmentation' in found.detail
    assert found.detail.endswith('/mmseg/.mim/configs/…')


def test_versions_too_old(monkeypatch):
    stack = {doctor._source(module)[0] for module in doctor.REQUIRED}
    monkeypatch.setattr(doctor, '_distributed', lambda name: name in stack and '0.10.3+cpu')
    found = by_name(doctor.versions())
    assert found['mmengine'].ok is False and 'mmengine>=0.10.' in found['mmengine'].detail
    assert found['torch'].ok is False and found['triton'].ok in (True, None)


@pytest.mark.parametrize(
    ('version', 'fits'),
    [
        *(('2.0.0', True), ('2.1.0', True), ('2.1.9+cu121', True), ('2.0', True), ('main', True)),
        *(('1.7.1', False), ('2.2.0', False), ('2.2', False), ('2.10.1', False), ('3', False)),
    ],
)
def test_both_bounds_of_mmcv(distributed, version, fits):
    distributed['mmcv'] = version
    found = by_name(doctor.versions())['mmcv']
    assert found.ok is fits
    if not fits:
        assert found.detail == f'{version}, but it must be mmcv>=2.0.0,<2.2.0'
        assert found.fix == "pip install 'mmcv>=2.0.0,<2.2.0'"


def test_a_framework_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / 'mmpretrain.py').write_text('import not_there_at_all')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'mmpretrain', raising=False)
    found = by_name(doctor.versions())['mmpretrain']
    assert found.ok is False and found.fix == 'pip install not_there_at_all'


PLUGIN = """
from mmdet.registry import MODELS

@MODELS.register_module(force=True)
class SwinTransformer:
    pass
"""


def test_another_module_takes_the_name(monkeypatch, tmp_path):
    (tmp_path / 'their_swin.py').write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        found = by_name(doctor.registries(['their_swin', 'not_there_at_all']))
    finally:
        register()
        sys.modules.pop('their_swin', None)
    wrong = found['mmdet: SwinTransformer']
    assert wrong.ok is False and 'their_swin.SwinTransformer' in wrong.detail
    assert str(tmp_path / 'their_swin.py') in wrong.detail and 'SwinBackbone' in wrong.fix
    assert found['mmseg: SwinTransformer'].ok and found['mmdet: SwinBackbone'].ok
    assert found['not_there_at_all'].ok is False
    assert all(f.ok for f in doctor.registries() if 'Swin' in f.name)


def operators() -> dict[str, Finding]:
    return by_name(doctor.mmcv_operators())


def as_ours(monkeypatch):
    """This package's operators instead of mmcv's, as imported by the start-up hook."""
    monkeypatch.setitem(sys.modules, 'mmcv._ext', mmcv_ext)
    monkeypatch.setitem(sys.modules, 'mmcv._ext.torchvision_ops', torchvision_ops)
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', mmcv_ext)
    monkeypatch.setitem(sys.modules, doctor.HOOK, mmcv_ext)


def as_compiled(monkeypatch):
    """A compiled module instead of mmcv's operators."""
    monkeypatch.setitem(sys.modules, 'mmcv._ext', ModuleType('mmcv._ext'))
    sys.modules['mmcv._ext'].__file__ = '/somewhere/_ext.so'


def test_operators_of_ours(monkeypatch):
    as_ours(monkeypatch)
    found = operators()
    assert found['in use'].detail == 'of swin_backbone.mmcv_ext'
    for name in ('nms', 'deform_conv2d', 'sigmoid_focal_loss'):
        assert found[name].ok and ', ours: ' in found[name].detail
        assert found[name].detail.endswith(' ms')
    assert found['roi_align'].ok and 'start-up hook' not in found


def test_operators_of_mmcv(monkeypatch):
    as_compiled(monkeypatch)
    found = operators()
    assert found['in use'].detail == 'compiled: /somewhere/_ext.so'
    assert found['nms'].ok and found['nms'].detail.startswith('1000 boxes on the CPU: ')
    assert found['CUDA'].ok and 'torchvision' not in found


def test_an_operator_for_gpus_alone(monkeypatch):
    def lacking(*_):
        raise RuntimeError('sigmoid_focal_loss_forward_impl: implementation for device cpu:0 not')

    monkeypatch.setattr('mmcv.ops.sigmoid_focal_loss', lacking)
    found = operators()['sigmoid_focal_loss']
    assert found.ok is None and found.detail == 'has no kernel for CPUs'


@pytest.mark.parametrize('installed', [False, True])
def test_ours_without_the_start_up_hook(monkeypatch, installed):
    as_ours(monkeypatch)
    monkeypatch.delitem(sys.modules, doctor.HOOK)
    monkeypatch.setattr(doctor, '_distributed', lambda name: '1.0' if installed else None)
    found = operators()['start-up hook']
    assert found.ok is False and '`mim train` imports mmcv.ops before' in found.detail
    folder = Path(doctor.__file__).parents[1]
    if installed:
        assert '.pth' in found.detail and found.fix == "pip install 'swin_backbone[lite]'"
    else:
        assert f'imported from {folder}, but not installed' in found.detail
        assert found.fix == f"pip install '{folder.parent}[lite]'"


def test_no_operators_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    found = operators()
    assert list(found) == ['loading'] and found['loading'].ok is False
    assert 'mmcv has no compiled operators, and ours are not found' in found['loading'].detail
    assert '[lite]' in found['loading'].fix


def test_a_torchvision_for_another_torch(monkeypatch, tmp_path):
    as_ours(monkeypatch)
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').touch()
    (tmp_path / 'torchvision' / '_C.so').write_bytes(b'no library')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'torchvision', raising=False)
    monkeypatch.setattr(torchvision_ops, 'operator', lambda name, tensor: None)
    found = operators()
    assert found['torchvision'].ok is None and 'not used: OSError' in found['torchvision'].detail
    assert 'torchvision' in found['torchvision'].fix
    assert ', ours: ' in found['roi_align'].detail
    monkeypatch.setattr(torchvision_ops, 'operator', lambda name, tensor: name)
    found = operators()
    assert found['torchvision'].ok and ", torchvision's: " in found['roi_align'].detail


def test_operators_built_without_cuda(monkeypatch):
    as_compiled(monkeypatch)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: 'not available')
    found = operators()['CUDA']
    assert found.ok is False and 'MMCV_WITH_OPS=1 pip install' in found.fix


def test_operators_that_give_something_else(monkeypatch):
    monkeypatch.setattr('mmcv.ops.nms', lambda boxes, *_: (boxes, torch.tensor([0, 1])))
    found = operators()['nms']
    assert found.ok is False and found.detail.endswith('the result is wrong') and found.fix


def test_mmcv_lite_is_mmcv(distributed):
    assert doctor._install('mmcv') == "pip install 'mmcv>=2.0.0,<2.2.0'"
    del distributed['mmcv']
    assert doctor._install('mmcv') == "pip install 'swin_backbone[lite]'"
    distributed['mmcv-lite'] = '2.1.0'
    assert doctor._source('mmcv')[:2] == ('mmcv-lite', '2.1.0')
    distributed['mmcv'] = '2.1.0'
    found = by_name(doctor.versions())['mmcv']
    assert found.ok is False and 'mmcv 2.1.0 and mmcv-lite 2.1.0 are both' in found.detail
    assert found.fix == (
        "pip uninstall -y mmcv mmcv-lite && pip install --no-deps 'mmcv-lite==2.1.0'"
    )


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is reported but cannot compute."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda i: 'A GPU')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda i: (9, 0))
    monkeypatch.setattr(torch._C, '_cuda_getDriverVersion', lambda: 12040, raising=False)


def test_a_gpu_that_does_not_compute(gpu, monkeypatch):
    def no_kernel(*_, **__):
        raise RuntimeError('no kernel image')

    monkeypatch.setattr(torch, 'ones', no_kernel)
    found = by_name(doctor.gpus())['cuda:0']
    assert found.ok is False and 'no kernel image' in found.detail and found.fix
    assert 'A GPU, compute capability 9.0' in found.detail and "driver's 12.4" in found.detail


def test_a_gpu_that_computes(gpu, monkeypatch):
    ones = torch.ones
    monkeypatch.setattr(torch, 'ones', lambda *size, device: ones(*size))
    assert by_name(doctor.gpus())['cuda:0'].ok


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(doctor.Path, 'glob', lambda *_: iter(()))
    assert by_name(doctor.gpus())['CUDA'].ok is None
    monkeypatch.setattr(doctor.Path, 'glob', lambda *_: iter(['nvidia0']))
    assert by_name(doctor.gpus())['CUDA'].ok is False


def test_backends(monkeypatch):
    found = by_name(doctor.backends())
    assert found['cpu, float32'].detail == 'cpu: the fastest for cpu tensors; blocks are fused'
    assert 'blocks are unfused: for float32' in found['cpu, bfloat16'].detail
    monkeypatch.setenv('SWIN_BACKEND', 'quickest')
    wrong = by_name(doctor.backends())['cpu, float32']
    assert wrong.ok is False and wrong.fix == 'unset SWIN_BACKEND'


def test_checkpoints(monkeypatch, tmp_path):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    (tmp_path / 'host').mkdir()
    (tmp_path / 'host' / 'a.pth').write_bytes(bytes(2_000_000))
    (tmp_path / 'host' / 'a.pth.sha256').touch()
    found = by_name(doctor.checkpoints())
    assert found['folder'].detail == f'{tmp_path}: 1 files, 2 MB' and found['writable'].ok
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path / 'to' / 'be' / 'made'))
    assert by_name(doctor.checkpoints())['writable'].ok
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path / 'host' / 'a.pth' / 'below'))
    found = by_name(doctor.checkpoints())['writable']
    assert found.ok is False and found.fix.startswith('export SWIN_CHECKPOINTS=')


def test_variables(monkeypatch):
    monkeypatch.setenv('SWIN_MIRROR', 'mirror.example')
    monkeypatch.setenv('SWIN_OFFLINE', '1')
    monkeypatch.setenv('SWIN_CHECKPOINT', 'x')
    found = by_name(doctor.environment())
    assert found['SWIN_MIRROR'].fix == 'export SWIN_MIRROR=https://mirror.example'
    assert found['SWIN_OFFLINE'].ok and found['SWIN_CHECKPOINT'].ok is None
