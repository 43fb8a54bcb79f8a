"""Old import paths give the modules of the new ones, with a warning."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
import warnings

import pytest
import torch

from swin_backbone import SwinTransformer, SwinTransformerV2
from swin_backbone.layers import WindowMSAV2
from swin_backbone.moved import MOVED, new_path


def old_and_new() -> list[tuple[str, str]]:
    """Every entry of the table, and the submodules of packages."""
    pairs = [(f'swin_backbone.{old}', f'swin_backbone.{new}') for old, new in MOVED.items()]
    for old, new in list(pairs):
        module = importlib.import_module(new)
        names = [found.name for found in pkgutil.iter_modules(getattr(module, '__path__', []))]
        pairs += [(f'{old}.{name}', f'{new}.{name}') for name in names]
    return pairs


@pytest.fixture(autouse=True)
def never_imported(monkeypatch):
    """A warning is issued when a process imports an old path for the first time."""
    for name in [name for name in sys.modules if new_path(name)]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(('old', 'new'), old_and_new())
def test_every_old_path(old, new):
    message = f'{old} has moved to {new}; the old path will be removed in the next release'
    with pytest.warns(DeprecationWarning) as caught:
        module = importlib.import_module(old)
    assert message in {str(warning.message) for warning in caught}
    assert module is importlib.import_module(new) is sys.modules[old]
    assert module.__name__ == module.__spec__.name == new
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert importlib.import_module(old) is module


def test_ways_to_import():
    source = (
        'import importlib\n'
        'import swin_backbone.visual.show\n'
        'from swin_backbone.visual import show\n'
        'from swin_backbone.visual.show import look\n'
        'from swin_backbone.engine import shipped\n'
        'from swin_backbone import page\n'
        'from swin_backbone.weights import shards\n'
        'assert importlib.import_module("swin_backbone.ops.rows") is swin_backbone.ops.tokenwise\n'
        'assert show is swin_backbone.visual.show is swin_backbone.tools.pictures.show\n'
        'assert look is show.look and shipped is swin_backbone.tools.configs\n'
        'assert page is swin_backbone.tools.page is swin_backbone.page\n'
    )
    with pytest.warns(DeprecationWarning) as caught:
        exec(compile(source, 'user.py', 'exec'), {'__name__': '__main__'})
    assert {warning.filename for warning in caught} == {'user.py'}  # Python hides all others


def test_the_former_base_class():
    with pytest.warns(DeprecationWarning, match=r'backbone has moved to swin_backbone\.swin;'):
        from swin_backbone.backbone import Backbone
    assert Backbone is SwinTransformer and issubclass(SwinTransformerV2, Backbone)


def test_attributes_of_the_package_alone(fresh):
    code = (
        'import sys, swin_backbone\n'
        'assert not [name for name in sys.modules if name.startswith("swin_backbone.tools")]\n'
        'assert swin_backbone.visual is sys.modules["swin_backbone.tools.pictures"]\n'
    )
    done = fresh.run('-c', code)
    assert done.returncode == 0, done.stderr


def test_pickles():
    from swin_backbone.tools.predictor import Prediction

    with pytest.warns(DeprecationWarning, match=r'engine\.models has moved to .*\.predictor'):
        assert pickle.loads(b'cswin_backbone.engine.models\nPrediction\n.') is Prediction


def test_whole_models_pickled_with_version_02():
    model = SwinTransformerV2(embed_dims=8, depths=(1,) * 4, num_heads=(1,) * 4).eval()
    attention = model.stages[0].blocks[0].attn.w_msa
    with pytest.warns(DeprecationWarning, match=r'computed_once has moved to .*tensor_cache'):
        old_cache = pickle.loads(b'cswin_backbone.layers.computed_once\nComputedOnce\n.')()
    state = dict(attention.__dict__)
    del state['_bias_cache']
    loaded = WindowMSAV2.__new__(WindowMSAV2)
    loaded.__setstate__(state | {'_kept': old_cache})
    expected = attention.relative_position_bias()
    torch.testing.assert_close(loaded.relative_position_bias(), expected, rtol=0, atol=0)
    assert loaded.__dict__.keys() == attention.__dict__.keys()


def test_custom_imports_of_a_config():
    from mmengine.utils import import_modules_from_strings

    with pytest.warns(DeprecationWarning, match=r'tools\.complexity'):
        (module,) = import_modules_from_strings(['swin_backbone.engine.complexity'])
    assert module is sys.modules['swin_backbone.tools.complexity']


def test_names_that_never_were():
    with (
        pytest.warns(DeprecationWarning),
        pytest.raises(ModuleNotFoundError, match=r"'swin_backbone\.visual\.absent'"),
    ):
        importlib.import_module('swin_backbone.visual.absent')
    assert new_path('swin_backbone.engine') is new_path('swin_backbone.exports') is None
    assert new_path('other.visual') is None


LIGHT = {'errors', 'frameworks', 'imports', 'moved', 'patches', 'startup', 'version'}


def test_importing_the_package_imports_the_standard_library_alone():
    code = 'import sys, swin_backbone; print(*(n for n in sys.modules if "swin_backbone" in n))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    names = {name.partition('.')[2] for name in done.stdout.split()}
    assert names - {''} == LIGHT
