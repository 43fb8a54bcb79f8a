"""``type='SwinTransformer'`` means ours, whatever the order of imports. Each in a fresh process."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import peers
import pytest
from stock import inherited

HERE = Path(__file__).parent


@pytest.fixture
def run(fresh) -> Callable[..., str]:
    """Runs code in a new process; returns what it says."""

    def run(code: str, *arguments: str, cwd: Path | None = None) -> str:
        result = fresh.run('-c', textwrap.dedent(code), *arguments, cwd=cwd, warnings='always')
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    return run


CHECK = """
from mmengine.registry import MODELS as ROOT
from mmdet.registry import MODELS as DET
from mmseg.registry import MODELS as SEG
from swin_backbone import SwinTransformer
for registry in (ROOT, DET, SEG):
    for name in ('SwinTransformer', 'SwinBackbone'):
        assert registry.get(name) is SwinTransformer, (registry, name, registry.get(name))
"""


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_ours_are_instances_of_the_frameworks_classes(run, framework):
    """Code that looks for a framework's Swin, or its blocks, finds ours."""
    run(
        f"""
        import swin_backbone
        from {framework}.models.backbones import swin as theirs
        swin_backbone.registration.register()  # a second time
        model = swin_backbone.SwinTransformer(depths=(1, 1, 1, 1))
        assert isinstance(model, theirs.SwinTransformer)
        assert not isinstance(swin_backbone.SwinTransformerV2, theirs.SwinTransformer)
        names = dict(PatchEmbed=1, PatchMerging=3, SwinBlockSequence=4, SwinBlock=4, FFN=4)
        for name, number in dict(names, ShiftWindowMSA=4, WindowMSA=4).items():
            kind = getattr(theirs, name)
            assert sum(isinstance(module, kind) for module in model.modules()) == number, name
        stock = theirs.SwinTransformer(depths=(1, 1, 1, 1))
        assert not isinstance(stock, swin_backbone.SwinTransformer)
        assert isinstance(stock, theirs.SwinTransformer)
        """
    )


@pytest.mark.parametrize(
    'imports',
    [
        'import swin_backbone',
        'import swin_backbone, mmdet.models, mmseg.models',
        'import mmdet.registry, swin_backbone, mmseg.registry',
        'import mmengine.registry, swin_backbone, mmdet.models.backbones.swin',
        'import torch, mmengine.model, swin_backbone, mmcv.ops',
        'import mmdet.models, mmseg.models, swin_backbone',
        'import mmdet, swin_backbone, mmseg',
        'import mmseg.models, swin_backbone, mmdet.models; swin_backbone.registration.register()',
        'import swin_backbone\n'
        'from mmdet.utils import register_all_modules as det\n'
        'from mmseg.utils import register_all_modules as seg\n'
        'det(); seg(); det(init_default_scope=False)',
        'from mmdet.utils import register_all_modules as det\ndet()\nimport swin_backbone',
    ],
)
def test_any_order_of_imports(run, imports):
    run(f'{imports}\n{CHECK}')


@pytest.mark.parametrize(
    ('first', 'asked'),
    [
        ('', 'from mmengine.registry import MODELS; found = MODELS.get("SwinTransformer")'),
        ('import mmengine', 'found = mmengine.registry.MODELS.get("SwinTransformer")'),
        ('', 'from mmengine.registry import MODELS; found = MODELS.get("mmdet.SwinTransformer")'),
        # Children ask their parent's own table.
        (
            '',
            'from mmengine.registry import MODELS, Registry\n'
            'found = Registry("model", parent=MODELS, scope="mine").get("SwinBackbone")',
        ),
        (
            'import mmdet',
            'from mmengine.registry import MODELS, DefaultScope\n'
            'DefaultScope.get_instance("a", scope_name="mmseg")\n'
            'found = type(MODELS.build(dict(type="SwinTransformer", depths=(1, 1, 1, 1))))',
        ),
    ],
    ids=['root', 'root-imported-before', 'scope', 'child', 'default-scope'],
)
def test_registered_when_it_is_looked_up(run, first, asked):
    run(f'{first}\nimport swin_backbone\n{asked}\nassert found is swin_backbone.SwinTransformer')


def test_who_registers_last_stays(run):
    """As if it had been registered when the package was imported."""
    run(
        """
        import swin_backbone
        from mmengine.registry import MODELS
        try:
            MODELS.register_module(name='SwinTransformer', module=dict)
        except KeyError as error:
            assert 'already registered' in str(error)
        else:
            raise AssertionError
        MODELS.register_module(name='SwinTransformer', force=True, module=dict)
        assert MODELS.get('SwinTransformer') is dict
        assert MODELS.get('SwinBackbone') is swin_backbone.SwinTransformer
        """
    )


TEXT_CONFIG = """
custom_imports = dict(imports=['swin_backbone'])
_base_ = {base!r}
"""

# In a pure-Python config an import is the line: mmengine does not read custom_imports there.
PYTHON_CONFIG = """
from mmengine.config import read_base
from swin_backbone import SwinTransformer
model = dict(backbone=dict(type=SwinTransformer, arch='tiny'))
"""


@pytest.mark.parametrize(
    ('framework', 'base'),
    [
        ('mmdet', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
        ('mmseg', 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'),
    ],
)
def test_stock_text_configs_build_ours(run, framework, base, tmp_path):
    text = TEXT_CONFIG.format(base=inherited(framework, base))
    (tmp_path / 'config.py').write_text(text)
    run(
        f"""
        from mmengine.config import Config
        config = Config.fromfile('config.py')
        config.model.backbone.init_cfg = None
        config.model.backbone.pop('pretrained', None)
        from {framework}.registry import MODELS
        from mmengine.registry import init_default_scope
        init_default_scope('{framework}')
        import swin_backbone
        assert type(MODELS.build(config.model).backbone) is swin_backbone.SwinTransformer
        """,
        cwd=tmp_path,
    )


def test_pure_python_configs_build_ours(run, tmp_path):
    (tmp_path / 'config.py').write_text(PYTHON_CONFIG)
    run(
        """
        from mmengine.config import Config
        config = Config.fromfile('config.py')
        from mmdet.registry import MODELS
        backbone = MODELS.build(config.model.backbone)
        import swin_backbone
        assert type(backbone) is swin_backbone.SwinTransformer
        assert type(MODELS.build(dict(type='SwinTransformer'))) is swin_backbone.SwinTransformer
        """,
        cwd=tmp_path,
    )


def warnings_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if 'RegistrationWarning' in line]


@pytest.fixture
def broken_mmpretrain(tmp_path) -> Path:
    """A folder with an mmpretrain that cannot be imported."""
    (tmp_path / 'mmpretrain').mkdir()
    (tmp_path / 'mmpretrain' / '__init__.py').write_text('raise ImportError("wrong mmcv")')
    return tmp_path


@pytest.mark.parametrize('asked', ['', 'swin_backbone.registration.register()'])
def test_what_is_broken_is_one_warning_and_what_is_missing_is_none(run, asked, broken_mmpretrain):
    """mmdet imports mmpretrain where it is there, and does without."""
    output = run(
        f"""
        import sys
        from importlib import util
        found = util.find_spec
        util.find_spec = lambda name, *a: None if name == 'mmseg' else found(name, *a)
        sys.path.insert(0, sys.argv[1])
        sys.modules['mmseg'] = None
        import swin_backbone
        {asked}
        from mmdet.registry import MODELS
        assert MODELS.get('SwinTransformer') is swin_backbone.SwinTransformer
        """,
        str(broken_mmpretrain),
    )
    (warning,) = warnings_of(output)
    assert 'did not register in mmpretrain' in warning and 'ImportError: wrong mmcv' in warning


def test_nothing_is_said_of_what_nobody_imports(run, broken_mmpretrain):
    output = run(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import swin_backbone
        from mmengine.registry import MODELS
        assert MODELS.get('SwinTransformer') is swin_backbone.SwinTransformer
        """,
        str(broken_mmpretrain),
    )
    assert warnings_of(output) == []


def test_a_broken_framework_raises_as_ever_and_counts_once_it_is_mended(run, broken_mmpretrain):
    output = run(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import swin_backbone
        for _ in range(2):
            try:
                import mmpretrain.models
            except ImportError as error:
                assert str(error) == 'wrong mmcv'
            else:
                raise AssertionError
        import importlib, pathlib
        package = pathlib.Path(sys.argv[1], 'mmpretrain')
        backbones = package / 'models' / 'backbones'
        backbones.mkdir(parents=True)
        for folder in (package, package / 'models', backbones):
            (folder / '__init__.py').write_text('')
        for name in ('swin_transformer', 'swin_transformer_v2'):
            (backbones / f'{name}.py').write_text('')
        (package / 'registry.py').write_text(
            'from mmengine.registry import Registry, MODELS as ROOT; '
            'MODELS = Registry("model", parent=ROOT, scope="mmpretrain")'
        )
        importlib.invalidate_caches()
        import mmpretrain.models
        from mmpretrain.registry import MODELS
        from swin_backbone.classification import ClassificationSwinTransformer
        assert MODELS.get('SwinTransformer') is ClassificationSwinTransformer
        """,
        str(broken_mmpretrain),
    )
    assert len(warnings_of(output)) == 1


@pytest.fixture
def broken_torchvision(tmp_path) -> Path:
    """A folder with a torchvision that fails as one without its operators does."""
    (tmp_path / 'torchvision').mkdir()
    failure = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / 'torchvision' / '__init__.py').write_text(failure)
    return tmp_path


@pytest.mark.skipif(not peers.APART.is_dir(), reason='no mmpretrain: requirements/set_up.sh has it')
@pytest.mark.parametrize(
    ('setting', 'served', 'warned'),
    [
        (
            'sys.modules["torchvision"] = None',
            ['mmengine', 'mmdet', 'mmseg'],
            ['mmpretrain'],
        ),
        # Where there is mmpretrain or timm, mmdet and mmseg need it, too.
        (
            '[sys.modules.pop(name) for name in [*sys.modules] if name.startswith("torchvision")]; '
            'sys.path.insert(0, sys.argv[3])',
            ['mmengine'],
            ['mmpretrain', 'mmdet', 'mmseg'],
        ),
        # mmpretrain's language models need an older transformers. mmdet fails with them, once.
        (
            'import peers; peers.reach_those_apart()',
            ['mmengine', 'mmdet', 'mmseg'],
            ['mmpretrain'],
        ),
    ],
    ids=['torchvision-missing', 'torchvision-broken', 'transformers-too-new'],
)
def test_mmpretrain_is_left_out(run, setting, served, warned, broken_torchvision):
    output = run(
        f"""
        import sys
        sys.path += sys.argv[1:3]
        {setting}
        import swin_backbone
        from importlib import import_module
        for name in ('mmengine', 'mmdet', 'mmseg'):
            try:
                found = import_module(f'{{name}}.registry').MODELS.get('SwinTransformer')
            except Exception:
                assert name not in {served}
            else:
                assert name in {served} and found is swin_backbone.SwinTransformer
        """,
        *map(str, (peers.APART, HERE, broken_torchvision)),
    )
    warnings = warnings_of(output)
    assert len(warnings) == len(warned), output
    for warning, framework in zip(warnings, warned, strict=True):
        assert f'did not register in {framework}, ' in warning
