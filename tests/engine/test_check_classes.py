"""What the Runner compares before the first iteration: data, model, evaluators and checkpoints."""

from __future__ import annotations

import copy
import re
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from own_data import NAMES, coco, dataset, run_config, runner
from safetensors.torch import save_file

from swin_backbone import ArgumentError, CheckpointError
from swin_backbone.engine import check_annotations
from swin_backbone.engine.check_annotations import inner_datasets
from swin_backbone.engine.check_checkpoint import check_tested
from swin_backbone.engine.check_classes import ClassCheckHook, Data, comparison
from swin_backbone.engine.check_data import DataCheckingRunner
from swin_backbone.engine.data_stream import SeededSamples
from swin_backbone.engine.resume import ResumingFlexibleRunner, ResumingRunner

UNCHECKED = dict(classes=None, checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Two classes; ``swapped.json`` lists them the other way around."""
    folder = tmp_path_factory.mktemp('data')
    coco(folder)
    coco(folder, NAMES[::-1], 'swapped.json')
    coco(folder, NAMES, 'bare.json', masks=False)
    coco(folder, NAMES, 'others.json', first=10)
    return folder


def refused(config: ConfigDict, action: str = 'train', error: type = ArgumentError) -> str:
    """Why a run does not begin."""
    with pytest.raises(error) as caught:
        getattr(runner(config), action)()
    return str(caught.value)


def begun(config: ConfigDict) -> list[str]:
    """Trains; which steps of the Runner there were."""
    steps = []

    class Steps(Hook):
        def before_train_iter(self, *_: object, **__: object) -> None:
            steps.append('iteration')

    built = runner(config)
    built.register_hook(Steps())
    built.train()
    return steps


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('classes', [1, 3, 80])
def test_heads_for_other_classes_are_refused(data, tmp_path, classes):
    text = refused(run_config(tmp_path, dataset(data), classes=classes))
    assert text.splitlines() == [
        'the data and the config disagree:',
        'train_dataloader.dataset has 2 classes (lid, plate), but',
        f'  model.bbox_head.num_classes = {classes}, not 2',
        'in the config:',
        '  model = dict(bbox_head=dict(num_classes=2))',
        'or on the command line:',
        '  --cfg-options model.bbox_head.num_classes=2',
        'if this is intended, default_hooks=dict(classes=None) turns this check off',
    ]
    assert not list(tmp_path.glob('*.pth'))


def test_they_train_without_a_word_otherwise(data, tmp_path):
    """Why there is a check; and the check can be left out."""
    config = run_config(tmp_path, dataset(data), classes=80, default_hooks=UNCHECKED)
    assert begun(config) == ['iteration']


def test_what_fits_trains_and_validates(data, tmp_path, monkeypatch):
    took = []
    before_run = ClassCheckHook.before_run

    def timed(self, of):
        start = time.perf_counter()
        before_run(self, of)
        took.append(time.perf_counter() - start)

    monkeypatch.setattr(ClassCheckHook, 'before_run', timed)
    config = run_config(tmp_path, dataset(data), dataset(data))
    assert begun(config) == ['iteration'] and len(took) == 1 and took[0] < 0.2


def test_the_data_may_be_what_is_to_be_named(data, tmp_path):
    """The model fits the training, and the validation has another data set's own classes."""
    config = run_config(tmp_path, dataset(data), dataset(data))
    config.val_dataloader.dataset.type = 'CityscapesDataset'
    del config.val_dataloader.dataset.metainfo
    text = refused(config)
    assert 'val_dataloader.dataset.metainfo.classes: none of the classes is in' in text
    config = run_config(tmp_path, dataset(data), dataset(data, ('lid',)))
    text = refused(config)
    assert 'val_dataloader.dataset has 1 class (lid), but\n  model.bbox_head' in text
    hint = 'as they are they fit train_dataloader.dataset: set val_dataloader.dataset.metainfo.'
    assert hint in text and '--cfg-options' not in text


def test_only_what_runs_is_looked_at(data, tmp_path):
    """A test does not need the training's data to fit."""
    config = run_config(tmp_path, dataset(data, ('lids',)), dataset(data))
    assert 'lids' in refused(config)
    assert runner(config).val() is not None


@pytest.mark.parametrize('kind', [DataCheckingRunner, ResumingRunner, ResumingFlexibleRunner])
@pytest.mark.parametrize('hooks', [None, {}, dict(logger=dict(type='LoggerHook'))])
def test_every_runner_has_the_check(kind, hooks):
    built = object.__new__(kind)
    for asked, number in ((hooks, 1), (dict(hooks or {}, classes=None), 0)):
        built._hooks = []
        built.register_default_hooks(asked)
        assert sum(isinstance(hook, ClassCheckHook) for hook in built._hooks) == number


# --- data sets without names, and within others ---------------------------------------------------


@pytest.mark.parametrize(
    'wrap',
    [
        lambda d: dict(type='RepeatDataset', times=2, dataset=d),
        lambda d: dict(type='ConcatDataset', datasets=[d, d]),
        lambda d: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=d),
        lambda d: dict(type='MultiImageMixDataset', dataset=d, pipeline=[]),
        lambda d: dict(
            type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[d])
        ),
    ],
)
def test_wrapped_data_are_looked_into(data, tmp_path, wrap):
    config = run_config(tmp_path, wrap(dataset(data)), classes=80)
    place = re.search(r'^(train_dataloader\S+) has 2 classes', refused(config), re.MULTILINE)[1]
    node = config
    for part in place.split('.'):
        node = node[int(part) if part.isdigit() else part]
    assert node.type == 'CocoDataset'
    config = run_config(tmp_path, wrap(dataset(data, ('lids', 'plate'))))
    assert f'{place}.metainfo.classes: not in' in refused(config)


def test_wrappers_are_told_by_what_they_hold(data):
    one = dict(dataset(data), type='mmdet.CocoDataset', pipeline=[])
    several = dict(type='ConcatDataset', datasets=[one, dict(one)])
    repeated = DATASETS.build(dict(type='RepeatDataset', times=3, dataset=several))
    inner = repeated.dataset.datasets
    for outer in (repeated, SeededSamples(repeated, 0)):
        found = list(inner_datasets(outer, 'd'))
        assert found == [(f'd.dataset.datasets.{i}', inner[i]) for i in range(2)]


class Nameless(torch.utils.data.Dataset):
    """The least that is a data set."""

    def __getitem__(self, index: int) -> int:
        return index

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize('metainfo', [None, {}, dict(classes=None), [dict(classes=('a',))]])
def test_data_without_names_are_passed_over(metainfo, data, tmp_path):
    nameless = Nameless()
    if metainfo is not None:
        nameless.metainfo = metainfo
    model = torch.nn.Module()
    model.bbox_head = torch.nn.Module()
    model.bbox_head.num_classes = 80
    found = comparison(model, {}, [Data('train', nameless)])
    assert found.problems == found.remarks == []


def test_no_images(data, tmp_path):
    """mmengine says that it needs an array to concatenate, and without its arrays trains on."""
    filtered = dict(filter_cfg=dict(filter_empty_gt=True, min_size=1000))
    for serialized in (True, False):
        empty = dataset(data, serialize_data=serialized, **filtered)
        text = refused(run_config(tmp_path, empty))
        assert 'train_dataloader.dataset has no images' in text and 'min_size' in text
    config = run_config(tmp_path, dataset(data), dataset(data))
    config.val_dataloader.dataset.update(dataset(data, test_mode=False, **filtered))
    assert 'val_dataloader.dataset has no images' in refused(config)


def test_no_images_for_want_of_their_classes(data, tmp_path):
    filtered = dict(type='RepeatDataset', times=2)
    filtered['dataset'] = dataset(data, None, filter_cfg=dict(filter_empty_gt=True))
    text = refused(run_config(tmp_path, filtered))
    assert 'train_dataloader.dataset.dataset.metainfo.classes: none of the classes is in' in text


def test_data_to_evaluate_a_tracker(tmp_path):
    """mmdet's name more classes than its trackers detect."""

    class BaseVideoDataset(Nameless):
        metainfo = dict(classes=NAMES)

    model = torch.nn.Module()
    model.detector = torch.nn.Module()
    model.detector.num_classes = 1
    found = comparison(model, {}, [Data('val', BaseVideoDataset())])
    assert found.problems == []
    assert comparison(model, {}, [Data('train', BaseVideoDataset())]).problems


# --- names ----------------------------------------------------------------------------------------


def test_names_that_the_file_does_not_have(data, tmp_path):
    text = refused(run_config(tmp_path, dataset(data, ('Lids', 'plate')), dataset(data)))
    file = data / 'boxes.json'
    assert text.splitlines()[1:-1] == [
        f"train_dataloader.dataset.metainfo.classes: not in {file}: 'Lids'",
        "  in it are 'lid', 'plate'",
        "  the nearest to 'Lids' is 'lid'",
    ]


def test_they_end_in_an_index_error_otherwise(data, tmp_path):
    """After the training, at the first validation."""
    config = run_config(
        tmp_path, dataset(data), dataset(data, ('lids', 'plate')), default_hooks=UNCHECKED
    )
    config.model.test_cfg.score_thr = 0.0
    with pytest.raises(IndexError):
        runner(config).train()


def test_the_own_classes_of_a_data_set(data, tmp_path):
    """Where a config leaves out metainfo, CocoDataset's eighty are meant."""
    text = refused(run_config(tmp_path, dataset(data, None), classes=80))
    assert "as they are there: metainfo=dict(classes=('lid', 'plate'))" in text


def test_one_class_without_its_comma(data, tmp_path):
    text = refused(run_config(tmp_path, dataset(data, 'lid'), classes=1))
    assert "is the text 'lid'; a single class needs a comma: classes=('lid',)" in text


def test_a_category_that_is_there_twice(tmp_path):
    coco(tmp_path, ('lid', 'plate', 'lid'))
    text = refused(run_config(tmp_path, dataset(tmp_path)))
    assert "has more than one category of the name 'lid'" in text


def test_an_evaluator_with_another_file(data, tmp_path):
    config = run_config(tmp_path, dataset(data), dataset(data))
    config.val_evaluator.ann_file = str(data / 'others.json')
    assert 'val_evaluator.ann_file has no image 0, which is in the data' in refused(config)
    coco(tmp_path / 'more', ('lid', 'ring'))
    config.val_evaluator = [dict(config.val_evaluator, ann_file=str(tmp_path / 'more/boxes.json'))]
    text = refused(config)
    assert (
        "val_dataloader.dataset.metainfo.classes: not in val_evaluator.0.ann_file: 'plate'" in text
    )


def test_files_that_list_classes_in_other_orders(data, tmp_path):
    text = refused(run_config(tmp_path, dataset(data), dataset(data, file='swapped.json')))
    assert "  train_dataloader.dataset.ann_file: 'lid', 'plate'" in text
    assert "  val_evaluator.ann_file: 'plate', 'lid'" in text


def test_an_order_that_is_not_the_file_s_is_remarked(data, tmp_path, capsys):
    """It trains and validates, but names would be wrong."""
    swapped = dataset(data, file='swapped.json')
    config = run_config(tmp_path, swapped, swapped)
    begun(config)
    said = capsys.readouterr()
    assert "write metainfo=dict(classes=('plate', 'lid'))" in said.out + said.err


def test_large_files_are_not_read_again(data, tmp_path, monkeypatch):
    monkeypatch.setattr(check_annotations, '_SMALL', 0)
    monkeypatch.setattr(check_annotations, 'load', lambda *_, **__: pytest.fail('it was read'))
    swapped = dataset(data, file='swapped.json')
    begun(run_config(tmp_path, swapped))


# --- annotations ----------------------------------------------------------------------------------


def test_objects_without_masks(data, tmp_path):
    """They end in ``KeyError: 'mask'`` in a worker of the loader otherwise."""
    bare = dataset(data, file='bare.json')
    bare['pipeline'] = copy.deepcopy(bare['pipeline'])
    bare['pipeline'][1]['with_mask'] = True
    text = refused(run_config(tmp_path, bare))
    assert re.search(r'objects of \S+0\.png have no segmentation', text)
    config = run_config(tmp_path, bare, default_hooks=UNCHECKED)
    with pytest.raises(KeyError, match='mask'):
        runner(config).train()
    bare['pipeline'][1]['with_mask'] = False
    assert begun(run_config(tmp_path / 'b', bare)) == ['iteration']


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory) -> Path:
    """A training checkpoint of two classes."""
    work = tmp_path_factory.mktemp('trained')
    runner(run_config(work, dataset(data))).train()
    return work / 'iter_1.pth'


@pytest.fixture(scope='module')
def three(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('three')
    coco(folder, ('lid', 'plate', 'ring'))
    return folder


RINGS = ('lid', 'plate', 'ring')


def saved(folder: Path, content: dict) -> Path:
    torch.save(content, folder / 'file.pth')
    return folder / 'file.pth'


def test_a_test_with_a_checkpoint_of_other_classes(trained, three, tmp_path):
    rings = dataset(three, RINGS)
    config = run_config(tmp_path, rings, rings, classes=3, load_from=str(trained))
    for action in ('test', 'val'):
        assert refused(config, action, CheckpointError).splitlines() == [
            'the checkpoint does not fit the model:',
            '  bbox_head.retina_cls.weight: (2, 16, 3, 3) in the file, (3, 16, 3, 3) here',
            '  bbox_head.retina_cls.bias: (2,) in the file, (3,) here',
            'the file is for 2 classes (lid, plate), model.bbox_head.num_classes = 3',
            'test a checkpoint with the config that it was trained with',
        ]
    # To train from, its other layers are worth having.
    assert begun(config) == ['iteration']


def test_a_test_with_a_backbone_alone(trained, data, tmp_path):
    weights = torch.load(trained)['state_dict']
    backbone = {k: v for k, v in weights.items() if k.startswith('backbone.')}
    file = saved(tmp_path, backbone)
    config = run_config(tmp_path, dataset(data), dataset(data), load_from=str(file))
    assert 'no weights of bbox_head' in refused(config, 'test', CheckpointError)
    assert begun(config) == ['iteration']


def test_a_test_needs_no_auxiliary_head():
    """Files are published without, and a test does not run it."""
    model = torch.nn.Module()
    for name in ('backbone', 'decode_head', 'auxiliary_head'):
        part = torch.nn.Linear(2, 2)
        part.num_classes = 2
        model.add_module(name, part)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith('auxiliary')}
    check_tested(dict(state_dict=weights), model, {})
    check_tested(model.state_dict(), model, {})
    del weights['decode_head.weight'], weights['decode_head.bias']
    with pytest.raises(CheckpointError, match='has no weights of decode_head: it is of another'):
        check_tested(dict(state_dict=weights), model, {})


def test_a_test_with_its_own_checkpoint(trained, data, tmp_path):
    weights = torch.load(trained)['state_dict']
    wrapped = saved(tmp_path, {f'module.{key}': value for key, value in weights.items()})
    for file in (trained, wrapped):
        config = run_config(tmp_path, dataset(data), dataset(data), load_from=str(file))
        runner(config).test()


LESS = {
    'weights alone': (
        lambda content: content['state_dict'],
        'it has no meta.epoch, meta.iter, state_dict, message_hub, optimizer (it contains only',
    ),
    'weights and meta': (
        lambda content: {k: content[k] for k in ('state_dict', 'meta')},
        'it has no message_hub, optimizer (it contains only weights)',
    ),
    'the best one': (
        lambda content: {k: v for k, v in content.items() if k != 'optimizer'},
        'it has no optimizer (it contains only weights)',
    ),
    'mmdet 2': (
        lambda content: {
            'state_dict': content['state_dict'],
            'optimizer': content['optimizer'],
            'meta': dict(epoch=1, iter=1, mmdet_version='2.28.2', CLASSES=NAMES),
        },
        "it has no message_hub (it is of mmcv's Runner, which MMDetection 2 and",
    ),
    'something else': (
        lambda content: {'model': content['state_dict'], 'optimizer': content['optimizer']},
        'it has no meta.epoch, meta.iter, state_dict, message_hub (another program wrote it)',
    ),
}


@pytest.mark.parametrize('kind', LESS)
def test_what_cannot_be_resumed(kind, trained, data, tmp_path):
    make, lacks = LESS[kind]
    file = saved(tmp_path, make(torch.load(trained)))
    config = run_config(tmp_path, dataset(data), resume=True, load_from=str(file))
    text = refused(config, 'train', CheckpointError)
    assert f'{file} is no checkpoint to resume from: {lacks}' in text
    assert f'Without --resume, load_from={file} starts a training from its weights' in text
    config.resume = False
    if 'state_dict' in torch.load(file):
        assert begun(config) == ['iteration']


def test_files_of_others_that_cannot_be_resumed(data, tmp_path):
    save_file(dict(weight=torch.ones(2)), tmp_path / 'a.safetensors')
    torch.save(dict(weight=torch.ones(2)), tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    (tmp_path / 'b.pth').write_text('no checkpoint')
    for name, said in (
        ('a.safetensors', 'is no checkpoint to resume from'),
        ('a.pth', 'is no checkpoint to resume from'),
        ('b.pth', 'b.pth'),
    ):
        config = run_config(
            tmp_path / 'work', dataset(data), resume=True, load_from=str(tmp_path / name)
        )
        assert said in refused(config, 'train', CheckpointError)
    config.load_from = str(tmp_path / 'none.pth')
    assert 'none.pth' in refused(config, 'train', FileNotFoundError)


def test_a_run_of_other_classes_cannot_be_resumed(trained, three, tmp_path):
    """It ends in an error inside AdamW otherwise."""
    rings = dataset(three, RINGS)
    settings = dict(resume=True, load_from=str(trained), train_cfg=dict(max_iters=3))
    config = run_config(tmp_path, rings, classes=3, **settings)
    text = refused(config, 'train', CheckpointError)
    assert f'{trained} is of another run:\n  bbox_head.retina_cls.weight: (2, 16, 3, 3)' in text
    assert 'the file is for 2 classes (lid, plate), model.bbox_head.num_classes = 3' in text
    assert f'load_from={trained} starts a training from the weights that fit' in text
    with pytest.raises(RuntimeError, match='size of tensor'):
        runner(config | dict(default_hooks=UNCHECKED)).train()


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        (dict(optimizer=dict(type='SGD', lr=0.1)), 'its optimizer is not a SGD'),
        (
            dict(paramwise_cfg=dict(bypass_duplicate=True)),
            r'its optimizer has (\d+) parameters in 1 groups, this run \1 in \1',
        ),
    ],
)
def test_a_run_with_another_optimizer_cannot_be_resumed(changed, said, trained, data, tmp_path):
    settings = dict(resume=True, load_from=str(trained), train_cfg=dict(max_iters=3))
    config = run_config(tmp_path, dataset(data), optim_wrapper=changed, **settings)
    assert re.search(said, refused(config, 'train', CheckpointError))


def test_a_run_goes_on(trained, data, tmp_path):
    settings = dict(resume=True, load_from=str(trained), train_cfg=dict(max_iters=3))
    assert begun(run_config(tmp_path, dataset(data), **settings)) == ['iteration'] * 2


def test_checkpoints_without_optimizers_resume_runs_that_save_none(trained, data, tmp_path):
    content = torch.load(trained)
    del content['optimizer']
    file = saved(tmp_path, content)
    hook = dict(type='CheckpointHook', by_epoch=False, interval=1, save_optimizer=False)
    settings = dict(resume=True, load_from=str(file), train_cfg=dict(max_iters=3))
    config = run_config(tmp_path, dataset(data), default_hooks=dict(checkpoint=hook), **settings)
    assert begun(config) == ['iteration'] * 2
