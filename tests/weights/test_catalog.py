"""The catalog is whole and consistent, wrong entries are named, and its names load."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

from swin_backbone import ArgumentError, CheckpointError, SwinTransformer
from swin_backbone.weights.catalog import catalog, catalog_path, find, find_url, read_catalog
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
ENTRY = """
{name}:
  architecture: swin_tiny
  version: 1
  window: 7
  resolution: 224
  data: ImageNet-1K
  task: classification
  metrics: {{top1: 81.2}}
  source: https://example.org/readme
  publisher: Example
  url: https://example.org/tiny.pth
  hash: unverified
"""


@pytest.mark.parametrize('name', TOP1)
def test_official_classifiers_have_the_published_accuracy(name):
    entry = find(name)
    assert entry.metrics['top1'] == TOP1[name]
    assert entry.url.startswith(RELEASES) and entry.publisher == 'Microsoft'
    assert entry.version == (2 if 'v2' in name else 1)
    side = re.search(r'_(\d{3})$', name)
    assert entry.resolution == (int(side[1]) if side else 224)


def test_every_family_is_there():
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


def test_documents_count_right():
    root = Path(__file__).parents[2]
    for document in ('docs/weights.md', 'checkpoints/README.md'):
        assert f' {len(catalog())} ' in (root / document).read_text()


def test_no_two_entries_share_a_url_or_a_file():
    entries = catalog().values()
    assert len({entry.url for entry in entries}) == len(entries)
    assert len({entry.file_name for entry in entries}) == len(entries)


def test_hashes_are_those_that_file_names_end_in():
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


def test_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(CheckpointError, match='swin_tiny_in1k'):
        find('swin_tinny_in1k')
    with pytest.raises(FileNotFoundError, match=r'nearest are .*swin_tiny_in1k'):
        CheckpointLoader.load_checkpoint('swin_tiny_in1')
    assert find_url('https://example.org/none.pth') is None


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('version', '3', 'version must be 1 or 2'),
        ('architecture', 'vit_tiny', "architecture must be a name that begins with 'swin_'"),
        ('window', 'seven', 'window must be a positive number'),
        ('resolution', '-1', 'resolution must be a positive number'),
        ('data', '[a]', 'data must be text'),
        ('task', 'sorting', 'task must be one of classification'),
        ('metrics', '{top1: high}', 'metrics must be'),
        ('source', 'a paper', 'source must be an http'),
        ('publisher', '""', 'publisher must be text'),
        ('url', 'ftp://example.org/a.pth', 'url must be an http'),
        ('url', 'https://example.org/', 'url must be one that ends in a file name'),
        ('hash', 'sha256:xyz', "hash must be 'unverified', or"),
        ('hash', 'md5:0123456789abcdef', "hash must be 'unverified', or"),
        ('file', '../a.pth', 'file must be a file name without folders'),
        ('size', 'big', 'size must be a number'),
        ('colour', 'red', r"unknown fields \['colour'\]"),
        ('url', None, r"fields \['url'\] are missing"),
    ],
)
def test_wrong_entries_are_named(tmp_path, field, value, message):
    entry = yaml.safe_load(ENTRY.format(name='mine'))['mine']
    entry.pop(field, None)
    if value is not None:
        entry[field] = yaml.safe_load(value)
    (tmp_path / 'catalog.yml').write_text(yaml.safe_dump({'mine': entry}))
    with pytest.raises(ArgumentError, match=f'mine: {message}'):
        read_catalog(tmp_path / 'catalog.yml')


def test_a_right_entry_is_read(tmp_path):
    (tmp_path / 'catalog.yml').write_text(ENTRY.format(name='mine'))
    entry = read_catalog(tmp_path / 'catalog.yml')['mine']
    assert (entry.file_name, entry.digest, entry.size) == ('tiny.pth', '', None)


@pytest.mark.parametrize('content', ['[]', 'mine: 3'])
def test_no_catalog_at_all(tmp_path, content):
    (tmp_path / 'catalog.yml').write_text(content)
    with pytest.raises(ArgumentError, match='expected a mapping'):
        read_catalog(tmp_path / 'catalog.yml')


def test_a_name_loads_what_lies_in_the_folder(tmp_path, monkeypatch, small, small_model):
    """Through init_cfg, and through mmengine's loader as load_from does."""
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
    """What a Runner takes, with a backbone in it."""

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


def test_a_file_of_the_same_name_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'mine': torch.ones(1)}, tmp_path / 'swin_tiny_in1k')
    assert 'mine' in CheckpointLoader.load_checkpoint('swin_tiny_in1k')


def test_a_url_of_the_catalog_is_its_entry(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIN_CHECKPOINTS', str(tmp_path))
    entry = find('swin-tiny_16xb64_in1k')
    assert target(entry.url) == target(entry.name)
    assert target(entry.url).digest == '66df6be6'


def test_the_catalog_is_the_checkouts():
    assert catalog_path() == Path(__file__).parents[2] / 'checkpoints' / 'catalog.yml'
