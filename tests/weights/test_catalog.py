"""The entries of the catalog are complete, valid and consistent, and their names load."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

from swin_backbone import CheckpointError, SwinTransformer
from swin_backbone.weights.catalog import TASKS, Entry, catalog, catalog_path, find, find_url
from swin_backbone.weights.download import target

RELEASES = 'https://github.com/SwinTransformer/storage/releases/download'
TOP1 = {  # README of microsoft/Swin-Transformer
    'swin_tiny_in1k': 81.2,
    'swin_small_in1k': 83.2,
    'swin_base_in1k': 83.5,
    'swin_base_in1k_384': 84.5,
    'swin_base_in22k_ft_in1k_384': 86.4,
    'swin_large_in22k_ft_in1k': 86.3,
    'swin_large_in22k_ft_in1k_384': 87.3,
    'swinv2_tiny_window16_in1k_256': 82.8,
    'swinv2_large_window24_in22k_ft_in1k_384': 87.6,
}
FAMILIES = {1: 'swin_', 2: 'swinv2_'}


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def is_link(value: object) -> bool:
    return is_text(value) and urlsplit(value).scheme in ('http', 'https')


# What each field must be.
VALID = {
    'architecture': is_text,
    'version': lambda value: value in FAMILIES,
    'window': lambda value: value is None or is_positive(value),
    'resolution': lambda value: value is None or is_positive(value),
    'data': lambda value: value is None or is_text(value),
    'task': lambda value: value in TASKS,
    'metrics': lambda value: all(is_text(k) and is_positive(v) for k, v in value.items()),
    'source': is_link,
    'publisher': is_text,
    'url': is_link,
    'hash': lambda value: bool(re.fullmatch(r'unverified|sha256:[0-9a-f]{8,64}', value)),
    'file': lambda value: value is None or (is_text(value) and Path(value).name == value),
    'size': lambda value: value is None or is_positive(value),
}


def test_fields_are_complete_and_valid():
    names = {field.name for field in dataclasses.fields(Entry)} - {'name'}
    assert set(VALID) == names
    for name, fields in yaml.safe_load(catalog_path().read_text()).items():
        assert names - {'file', 'size'} <= set(fields) <= names, name
        for field, value in fields.items():
            assert VALID[field](value), f'{name}: {field} is {value!r}'
        assert fields['architecture'].startswith(FAMILIES[fields['version']]), name
        assert find(name).file_name, f'{name}: url must end in a file name, or file be given'


@pytest.mark.parametrize('name', TOP1)
def test_official_classifiers_have_the_published_accuracy(name):
    entry = find(name)
    assert entry.metrics['top1'] == TOP1[name]
    assert entry.url.startswith(RELEASES) and entry.publisher == 'Microsoft'
    assert entry.version == (2 if 'v2' in name else 1)
    side = re.search(r'_(\d{3})$', name)
    assert entry.resolution == (int(side[1]) if side else 224)


def test_every_family_is_listed():
    entries = catalog().values()
    for publisher, task in [
        ('Microsoft', 'self-supervised'),
        ('Microsoft', 'instance segmentation'),
        ('Microsoft', 'semantic segmentation'),
        ('OpenMMLab', 'classification'),
        ('OpenMMLab', 'instance segmentation'),
        ('OpenMMLab', 'semantic segmentation'),
        ('PyTorch', 'classification'),
    ]:
        assert [e for e in entries if e.publisher == publisher and e.task == task]
    for arch in ('tiny', 'small', 'base', 'large'):
        assert find(f'swin_{arch}_in22k').data == 'ImageNet-22K'


def test_documents_state_the_number_of_entries():
    root = Path(__file__).parents[2]
    for document in ('docs/weights.md', 'checkpoints/README.md'):
        assert f' {len(catalog())} ' in (root / document).read_text()


def test_no_two_entries_share_a_url_or_a_file():
    entries = catalog().values()
    assert len({entry.url for entry in entries}) == len(entries)
    assert len({entry.file_name for entry in entries}) == len(entries)


def test_hashes_match_the_ends_of_file_names():
    for entry in catalog().values():
        found = re.search(r'-([0-9a-f]{8})\.pth$', urlsplit(entry.url).path)
        assert entry.digest == (found[1] if found else ''), entry.name


def test_architecture_agrees_with_the_file_name():
    letters = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large', 'h': 'huge'}
    for entry in catalog().values():
        size = re.search(r'swin(?:v2)?[-_]?(tiny|small|base|large|huge|giant)', entry.file_name)
        letter = re.search(r'swin(?:_v2)?[-_]([tsblh])[-_.]', entry.file_name)
        if size or letter:
            size = size[1] if size else letters[letter[1]]
            assert size in entry.architecture, entry.name
        if window := re.search(r'[-_]w(?:indow)?(\d+)(?!\d|to)', entry.file_name):
            assert entry.window == int(window[1]), entry.name


def test_errors_of_unknown_names_list_similar_names():
    with pytest.raises(CheckpointError, match='swin_tiny_in1k'):
        find('swin_tinny_in1k')
    with pytest.raises(FileNotFoundError, match=r'nearest are .*swin_tiny_in1k'):
        CheckpointLoader.load_checkpoint('swin_tiny_in1')
    assert find_url('https://example.org/none.pth') is None


def test_a_name_loads_the_file_in_the_folder(tmp_path, monkeypatch, small, small_model):
    """By init_cfg, and by mmengine's loader, which load_from uses."""
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    monkeypatch.setenv('SWIN_OFFLINE', '1')
    torch.save(
        {'state_dict': small_model.state_dict()}, tmp_path / find('swin_tiny_in1k').file_name
    )
    init_cfg = dict(type='Pretrained', checkpoint='swin_tiny_in1k')
    model = SwinTransformer(**small, init_cfg=init_cfg)
    model.init_weights()
    for key, value in small_model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    loaded = CheckpointLoader.load_checkpoint('swin_tiny_in1k', map_location='cpu')
    assert set(loaded['state_dict']) == set(small_model.state_dict())


class Detector(BaseModel):
    """A model for a Runner, with a backbone."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, *_: object, **__: object) -> None:
        """Never called."""


def test_load_from_takes_a_name(tmp_path, monkeypatch, small, small_model):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    name = 'mask_rcnn_swin_t_1x_coco_official'
    trained = Detector(small_model).state_dict()
    torch.save({'state_dict': trained}, tmp_path / find(name).file_name)
    runner = Runner(Detector(SwinTransformer(**small)), str(tmp_path / 'work'), load_from=name)
    runner.load_or_resume()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value.cpu(), trained[key]), key


def test_an_existing_file_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'mine': torch.ones(1)}, tmp_path / 'swin_tiny_in1k')
    assert 'mine' in CheckpointLoader.load_checkpoint('swin_tiny_in1k')


def test_a_url_of_the_catalog_is_its_entry(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    entry = find('swin-tiny_16xb64_in1k')
    assert target(entry.url) == target(entry.name)
    assert target(entry.url).digest == '66df6be6'


def test_a_checkout_uses_its_own_catalog():
    assert catalog_path() == Path(__file__).parents[2] / 'checkpoints' / 'catalog.yml'
