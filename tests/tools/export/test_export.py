"""Exported files are right for all sizes and have metadata; errors are raised early."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from small import randomized
from torch import nn

from swin_backbone import (
    ArgumentError,
    CheckpointError,
    SwinTransformer,
    SwinTransformerV2,
    configs_dir,
)
from swin_backbone.cli.commands import commands
from swin_backbone.tools.export import Part, check_file, export, load_part, parts
from swin_backbone.tools.export.check import open_file
from swin_backbone.tools.export.formats import read_metadata
from swin_backbone.tools.export.pooling import AnySizePool, any_size_pooling
from swin_backbone.tools.export.program import record

TINY = dict(embed_dims=16, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), window_size=4)
# One patch, one token, less than a window, multiples of nothing and of everything.
SIZES = [
    (1, 4, 4), (3, 5, 9), (1, 4, 90), (2, 17, 31), (1, 16, 16), (1, 32, 32),
    (2, 64, 64), (1, 97, 131), (3, 33, 70), (1, 112, 112), (1, 128, 96),
]  # fmt: skip


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The config of a small backbone, and a checkpoint for it."""
    return written(tmp_path_factory.mktemp('small'), TINY)


def written(folder: Path, settings: dict, backbone=SwinTransformer) -> tuple[Path, Path]:
    torch.manual_seed(0)
    config, checkpoint = folder / 'config.py', folder / 'weights.pth'
    settings = {**settings, 'out_indices': (0, 1)}
    config.write_text(f'model = dict(type={backbone.__name__!r}, **{settings!r})\n')
    torch.save({'state_dict': randomized(backbone(**settings)).state_dict()}, checkpoint)
    return config, checkpoint


@pytest.fixture(scope='module')
def part(files) -> Part:
    return load_part(*files)


@pytest.fixture(scope='module')
def program(part, tmp_path_factory) -> Path:
    """The small backbone, exported by torch.export for any size."""
    return export(part, tmp_path_factory.mktemp('out') / 'a.pt2', 'torch-export', dynamic=True).path


@pytest.fixture(scope='module')
def onnx_file(part, tmp_path_factory) -> Path:
    """The small backbone, exported to ONNX."""
    onnx_installed()
    exported = export(part, tmp_path_factory.mktemp('out') / 'a.onnx', dynamic=True, int8=True)
    assert exported.quantised.is_file()
    return exported.path


def onnx_installed() -> None:
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(name)


def run(*arguments: object, code: int) -> Result:
    result = CliRunner().invoke(commands, ['export', *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def furthest(part: Part, shapes: list[tuple[int, int, int]]) -> float:
    """The largest difference between the traced part and the part itself."""
    program = record(part, True, 1, (64, 64)).module()
    differences = []
    for batch, *size in shapes:
        image = parts.example(part, batch, tuple(size))
        pairs = zip(program(image), parts.run(part, image), strict=True)
        differences += [(out - exact).abs().max().item() for out, exact in pairs]
    return max(differences)


# --- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize('file', ['program', 'onnx_file'])
def test_the_file_holds_for_every_size(file, part, request):
    checks = check_file(request.getfixturevalue(file), part, SIZES)
    assert len(checks) == len(SIZES) >= 10
    assert max(check.difference for check in checks) < 1e-4


def test_a_program_loads_without_this_package(program, part, tmp_path, fresh):
    image = parts.example(part, 2, (45, 50))
    torch.save((image, parts.run(part, image)), tmp_path / 'expected.pt')
    code = (
        'import sys, torch\n'
        "sys.modules['swin_backbone'] = sys.modules['mmcv'] = None\n"
        f'image, expected = torch.load({str(tmp_path / "expected.pt")!r})\n'
        f'program = torch.export.load({str(program)!r})\n'
        'for out, exact in zip(program.module()(image), expected, strict=True):\n'
        '    torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-4)\n'
        'assert all("swin" not in str(node.target) for node in program.graph.nodes\n'
        '           if node.op == "call_function")\n'
    )
    done = fresh.run('-c', code)
    assert done.returncode == 0, done.stderr


def test_eight_bits_are_close_and_smaller(onnx_file, part):
    small = onnx_file.with_suffix('.int8.onnx')
    assert small.stat().st_size < onnx_file.stat().st_size
    (check,) = check_file(small, part, [(1, 64, 64)])
    assert 1e-5 < check.difference < 0.2


def test_windows_that_shrink_set_the_least_size(tmp_path):
    part = load_part(*written(tmp_path, {**TINY, 'depths': (1, 2), 'pad_small_map': False}))
    assert part.least == (36, 36)
    assert furthest(part, [(1, 36, 36), (2, 97, 131)]) < 1e-4


def test_v2_holds_for_every_size_without_shrunken_windows(tmp_path):
    settings = {**TINY, 'depths': (1, 2), 'window_size': [6, 4]}
    settings['pretrained_window_sizes'] = [3, 0]
    part = load_part(*written(tmp_path, settings, SwinTransformerV2))
    assert part.least == (36, 36)
    assert furthest(part, [(1, 36, 36), (2, 97, 131)]) < 1e-4
    onnx_installed()
    file = export(part, tmp_path / 'v2.onnx', dynamic=True).path
    sizes = [(1, 36, 36), (3, 37, 90), (1, 64, 64), (2, 97, 131)]
    assert max(check.difference for check in check_file(file, part, sizes)) < 1e-4


def test_position_embeddings_follow_the_size(tmp_path):
    settings = {**TINY, 'depths': (1, 1), 'use_abs_pos_embed': True, 'pretrain_img_size': 32}
    part = load_part(*written(tmp_path, settings))
    assert furthest(part, [(1, 32, 32), (2, 45, 90)]) < 1e-4


@pytest.mark.parametrize('size', [(8, 8), (7, 13), (1, 1), (2, 30)])
def test_pooling_of_any_size_is_adaptive_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for bins in (1, 2, 3, 6, (2, 5)):
        model = nn.Sequential(nn.AdaptiveAvgPool2d(bins))
        expected = model(x)
        any_size_pooling(model)
        assert type(model[0]) is AnySizePool
        torch.testing.assert_close(model(x), expected)


def test_a_jit_trace_holds_for_other_sizes(part):
    with torch.no_grad():
        traced = torch.jit.trace(part, torch.randn(1, 3, 45, 50), check_trace=False)
        for batch, *size in SIZES:
            x = torch.randn(batch, 3, *size)
            for out, expected in zip(traced(x), part(x), strict=True):
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


KINDS = {1: SwinTransformer, 2: SwinTransformerV2}
# Larger than every window, so that V2's do not shrink; V1's graph holds for any size.
LARGER = [(1, 36, 36), (3, 37, 90), (2, 97, 131)]


def backbone(version: int, **more) -> nn.Module:
    return randomized(KINDS[version](**{**TINY, 'out_indices': (0, 1), **more})).eval()


class Tuple(nn.Module):
    """A backbone that returns a tuple, as required for tracing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()  # the exporter sets the mode of what it is given

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(image))


def by_torchscript(model: nn.Module, path: Path, opset: int, size: tuple[int, int]) -> None:
    """Exports to ONNX by torch's older exporter, which traces."""
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            Tuple(model),
            (torch.randn(1, 3, *size),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=['image'],
            output_names=['stage0', 'stage1'],
            dynamic_axes=dict.fromkeys(('image', 'stage0', 'stage1'), axes),
        )


def assert_same(call, model: nn.Module, shapes: list[tuple[int, int, int]]) -> None:
    for batch, *size in shapes:
        image = torch.randn(batch, 3, *size)
        with torch.no_grad():
            for out, expected in zip(call(image), model(image), strict=True):
                torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('opset', [11, 13, 18])
@pytest.mark.parametrize('version', [1, 2])
def test_torchscripts_onnx_holds_for_every_size(version, opset, tmp_path):
    onnx_installed()
    model = backbone(version)
    by_torchscript(model, tmp_path / 'a.onnx', opset, (45, 50))
    assert_same(open_file(tmp_path / 'a.onnx'), model, SIZES if version == 1 else LARGER)


def test_torchscripts_onnx_of_every_option(tmp_path):
    onnx_installed()
    more = dict(use_abs_pos_embed=True, pretrain_img_size=32, global_attention=True)
    model = backbone(1, depths=(1, 1), qkv_bias=False, **more)
    by_torchscript(model, tmp_path / 'a.onnx', 11, (45, 50))
    assert_same(open_file(tmp_path / 'a.onnx'), model, LARGER)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_trace_of_v2_holds_where_no_window_shrinks():
    model = backbone(2)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error', UserWarning)
        traced = torch.jit.trace(Tuple(model), torch.randn(1, 3, 45, 50), check_trace=False)
    assert_same(traced, model, LARGER)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('size', [(32, 32), (24, 40)], ids=['as small', 'smaller'])
def test_a_trace_with_a_map_as_small_as_its_window_says_that_it_is_of_one_size(size, tmp_path):
    model = backbone(2, depths=(1, 2))  # windows of 4 tokens; the last map is of stride 8
    with pytest.warns(UserWarning, match='holds for this height and width alone'), torch.no_grad():
        traced = torch.jit.trace(Tuple(model), torch.randn(1, 3, *size), check_trace=False)
    assert_same(traced, model, [(1, *size), (3, *size)])
    with pytest.raises(AssertionError):
        assert_same(traced, model, [(1, 64, 64)])
    onnx_installed()
    by_torchscript(model, tmp_path / 'a.onnx', 11, size)
    assert_same(open_file(tmp_path / 'a.onnx'), model, [(1, *size), (3, *size)])


@pytest.mark.slow
def test_swin_t_at_800_by_1216(tmp_path):
    onnx_installed()
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text("model = dict(type='SwinBackbone', arch='tiny')\n")
    torch.save(randomized(SwinTransformer(arch='tiny')).state_dict(), checkpoint)
    part = load_part(config, checkpoint)
    path = export(part, tmp_path / 'a.onnx', dynamic=True).path
    (check,) = check_file(path, part, [(1, 800, 1216)])
    assert check.difference < 1e-4


# --- whole models --------------------------------------------------------------------------------


def model_files(name: str, folder: Path) -> tuple[Path, Path]:
    """The config of a demo, and a checkpoint of its initial model."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    config = configs_dir() / f'demo_{name}_shapes.py'
    content = Config.fromfile(config)
    init_default_scope(content.default_scope)
    torch.save({'state_dict': MODELS.build(content.model).state_dict()}, folder / 'model.pth')
    return config, folder / 'model.pth'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['upernet', 'mask_rcnn'])
def test_models_at_any_size(name, tmp_path):
    part = load_part(*model_files(name, tmp_path), 'model')
    assert furthest(part, [(1, 4, 4), (2, 97, 131), (1, 64, 200)]) < 1e-4


def test_segmentor_gives_what_its_framework_gives(tmp_path):
    pytest.importorskip('mmseg')
    files = model_files('upernet', tmp_path)
    part = load_part(*files, 'model')
    exported = export(part, tmp_path / 'a.pt2', 'torch-export', batch=2, size=(97, 131))
    (check,) = check_file(exported.path, part, [(2, 97, 131)])
    assert check.difference < 1e-4
    image = parts.example(part, 2, (97, 131))
    (logits,) = parts.run(part, image)
    # What the framework itself answers.
    metas = [dict(img_shape=(97, 131))] * 2
    torch.testing.assert_close(logits, part.model.encode_decode(image, metas), rtol=0, atol=1e-5)
    (classes,) = parts.run(load_part(*files, 'model', class_map=True), image)
    assert torch.equal(classes, logits.argmax(1))
    metadata = read_metadata(exported.path)
    assert metadata['classes'].split(',')[0] and metadata['mean'] == '[123.675, 116.28, 103.53]'
    assert metadata['outputs'] == 'logits'


def test_detector_up_to_its_proposals(tmp_path):
    pytest.importorskip('mmdet')
    part = load_part(*model_files('mask_rcnn', tmp_path), 'model')
    path = export(part, tmp_path / 'a.pt2', 'torch-export', size=(96, 64)).path
    (check,) = check_file(path, part, [(1, 96, 64)])
    assert check.difference < 1e-4
    outputs = dict(
        zip(part.outputs, parts.run(part, parts.example(part, 1, (96, 64))), strict=True)
    )
    assert outputs['feature0'].shape == (1, 64, 24, 16)
    assert outputs['delta0'].shape[1] == 4 * outputs['score0'].shape[1]


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_checks_and_describes(files, tmp_path, monkeypatch):
    onnx_installed()
    monkeypatch.chdir(tmp_path)
    done = run(*files, '--to', 'onnx', '--size', 40, 52, '--batch', 2, code=0)
    assert 'the same as PyTorch' in done.stdout
    metadata = read_metadata(tmp_path / 'config.onnx')
    assert metadata['size'] == '2x3x40x52' and metadata['part'] == 'backbone'
    assert os.listdir(tmp_path) == ['config.onnx']


def test_the_command_ends_with_1_where_the_file_differs(files, tmp_path, monkeypatch):
    from swin_backbone.tools.export import check

    call = check.open_file
    monkeypatch.setattr(
        check, 'open_file', lambda path: lambda x: [out + 0.1 for out in call(path)(x)]
    )
    out = tmp_path / 'a.pt2'
    done = run(*files, '--to', 'torch-export', '--size', 16, 16, '-o', out, code=1)
    assert 'NOT the same' in done.stdout


# --- errors --------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_the_remedy(part, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ArgumentError, match=r"onnxscript.*pip install 'swin_backbone\[export\]'"):
        export(part, tmp_path / 'a.onnx')


def test_another_backbone_is_named(files, tmp_path):
    pytest.importorskip('mmdet')
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmdet'\nmodel = dict(type='ResNet', depth=18)\n")
    with pytest.raises(ArgumentError, match=r'no backbone of this package, but mmdet.*ResNet'):
        load_part(config, files[1])


def test_a_model_that_is_not_registered_is_an_error(files, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("default_scope = 'mmdet'\nmodel = dict(type='NoSuchModel')\n")
    with pytest.raises(ArgumentError, match=r'NoSuchModel.*(doctor|swin_backbone\[det\])'):
        load_part(config, files[1])


def test_heads_that_take_more_than_features_are_refused_first(tmp_path):
    """The shipped recipe with a small backbone; the checkpoint is not read."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{configs_dir()}/mask2former_swin_l_ade20k.py'\n"
        'model = dict(backbone=dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),'
        'decode_head=dict(in_channels=[24, 48, 96, 192]))'
    )
    with pytest.raises(
        ArgumentError, match=r'decode_head, a Mask2FormerHead, .*--part backbone is'
    ):
        load_part(config, tmp_path / 'none.pth', 'model', class_map=True)


def test_other_endings_of_files_are_refused(part, tmp_path):
    for name, to in (('a.pt2', 'onnx'), ('a.onnx', 'torch-export'), ('a', 'onnx')):
        with pytest.raises(ArgumentError, match=rf"name of a file of to='{to}' must end in \.\w+$"):
            export(part, tmp_path / name, to)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_is_an_error(files, tmp_path):
    wider = SwinTransformer(**{**TINY, 'embed_dims': 32, 'out_indices': (0, 1)})
    torch.save(wider.state_dict(), tmp_path / 'wider.pth')
    with pytest.raises(CheckpointError, match='shape'):
        load_part(files[0], tmp_path / 'wider.pth')


def test_a_backbone_alone_is_no_segmentor(files, tmp_path):
    pytest.importorskip('mmseg')
    with pytest.raises(CheckpointError, match='does not fit'):
        load_part(configs_dir() / 'demo_upernet_shapes.py', files[1], 'model')


def test_places_that_cannot_be_written_are_found_first(part, tmp_path):
    with pytest.raises(FileNotFoundError, match='no folder'):
        export(part, tmp_path / 'nowhere' / 'a.pt2', 'torch-export')
    with pytest.raises(IsADirectoryError, match='is a folder'):
        export(part, tmp_path, 'torch-export')


def test_arguments_that_contradict_are_errors(part, files, tmp_path):
    with pytest.raises(ArgumentError, match='int8'):
        export(part, tmp_path / 'a.pt2', 'torch-export', int8=True)
    with pytest.raises(ArgumentError, match='at least'):
        export(part, tmp_path / 'a.pt2', 'torch-export', size=(3, 224))
    with pytest.raises(ArgumentError, match="part='head'"):
        load_part(*files, 'head')
