"""Curves have the values and iterations of the logs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from swin_backbone import ArgumentError
from swin_backbone.tools.pictures.curves import (
    draw_curves,
    last_values,
    panels,
    read_run,
    read_runs,
)

TRAIN = [
    dict(lr=1e-3, data_time=0.1, loss=3.0, loss_cls=2.0, loss_bbox=1.0, time=0.5, iter=s, step=s)
    for s in (50, 100, 150)
]
TRAIN = [
    dict(t, loss=t['loss'] / (i + 1), memory=1000 + i, images_per_second=8.0 + i)
    for i, t in enumerate(TRAIN)
]
VAL = {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP': 0.25, 'time': 0.2}

LOG = """\
2026/01/01 10:00:00 - mmengine - INFO - Epoch(train)  [1][ 50/120]  lr: 1.0000e-03  eta: 0:01:02  \
time: 0.5000  data_time: 0.1000  memory: 900  grad_norm: 4.5  loss: 3.0000  loss_cls: 2.0000
2026/01/01 10:00:01 - mmengine - INFO - Epoch(train)  [1][100/120]  lr: 1.0000e-03  eta: 0:01:02  \
time: 0.4000  data_time: 0.1000  memory: 950  grad_norm: 3.5  loss: 2.0000  loss_cls: 1.0000
2026/01/01 10:00:02 - mmengine - INFO - Epoch(val)  [1][10/20]    eta: 0:00:10  time: 0.2
2026/01/01 10:00:03 - mmengine - INFO - Epoch(val) [1][20/20]    coco/bbox_mAP: 0.3280  \
coco/bbox_mAP_s: -1.0000  data_time: 0.0069  time: 0.5714
2026/01/01 10:00:04 - mmengine - INFO - Epoch(train)  [2][ 50/120]  lr: 1.0000e-04  time: 0.5000  \
loss: nan  loss_cls: nan
"""


def written(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    return path


def test_values_are_the_logs(tmp_path):
    file = written(tmp_path / 'scalars.json', [*TRAIN, dict(VAL, step=150)])
    run = read_run(file)
    assert run.train['loss'] == ([50, 100, 150], [3.0, 1.5, 1.0])
    assert run.train['images_per_second'] == ([50, 100, 150], [8, 9, 10])
    assert run.val['coco/bbox_mAP'] == ([150], [0.3])
    assert 'step' not in run.train and 'iter' not in run.train and not run.by_epoch
    assert last_values(run)['val']['coco/segm_mAP'] == 0.25


def test_drawn_values_are_the_logs(tmp_path):
    figure = draw_curves(read_runs([written(tmp_path / 'a.json', [*TRAIN, dict(VAL, step=150)])]))
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert list(axes) == [
        'training loss', 'box AP', 'mask AP', 'throughput', 'memory', 'time of an iteration',
        'learning rate', 'parts of the loss',
    ] + [''] * 1  # fmt: skip
    (line,) = axes['training loss'].get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[50, 3], [100, 1.5], [150, 1]])
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes['box AP'].get_lines()}
    assert lines == {'AP': [0.3], 'AP50': [0.5]}
    assert axes['box AP'].get_xlabel() == 'iteration'
    assert axes['memory'].get_lines()[0].get_ydata().tolist() == [1000, 1001, 1002]
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 8


def test_validations_that_mmengine_counts_by_epochs_that_are_none(tmp_path):
    """By default, a run by iterations logs epoch 0 for each validation."""
    entries = [TRAIN[0], TRAIN[1], dict(VAL, step=0), TRAIN[2], dict(VAL, step=0)]
    run = read_run(written(tmp_path / 'a.json', entries))
    assert run.val['coco/bbox_mAP'][0] == [100, 150]


def test_epochs(tmp_path):
    entries = [dict(t, epoch=1) for t in TRAIN] + [dict(VAL, step=1)]
    entries += [dict(t, epoch=2, iter=t['iter'] + 150, step=t['step'] + 150) for t in TRAIN]
    run = read_run(written(tmp_path / 'a.json', [*entries, dict(VAL, step=2)]))
    assert run.by_epoch and run.val['coco/bbox_mAP'][0] == [1, 2]
    assert run.train['loss'][0] == [50, 100, 150, 200, 250, 300]
    figure = draw_curves([run])
    labels = {axis.get_title(): axis.get_xlabel() for axis in figure.axes}
    assert labels['box AP'] == 'epoch' and labels['training loss'] == 'iteration'


def test_text(tmp_path):
    file = tmp_path / '20260101_100000.log'
    file.write_text(LOG)
    run = read_run(file)
    steps, losses = run.train['loss']
    assert steps == [50, 100, 170] and losses[:2] == [3, 2] and np.isnan(losses[2])
    assert run.train['lr'] == ([50, 100, 170], [1e-3, 1e-3, 1e-4])
    assert run.train['memory'] == ([50, 100], [900, 950])
    assert run.val['coco/bbox_mAP'] == ([1], [0.328]) and run.val['coco/bbox_mAP_s'] == ([1], [-1])
    assert 'eta' not in run.train and run.by_epoch
    texts = [t.get_text() for axis in draw_curves([run]).axes for t in axis.texts]
    assert '1 values are not finite' in texts
    assert last_values(run)['train']['loss'] is None


def test_text_by_iterations(tmp_path):
    line = '2026/01/01 10:00:00 - mmengine - INFO - Iter('
    file = tmp_path / 'a.log'
    file.write_text(
        f'{line}train) [ 50/900]  base_lr: 1.0000e-03 lr: 2.0000e-03  eta: 1 day, 0:01:02  '
        f'time: 0.35  loss: 2.5\n{line}val) [25/25]    aAcc: 90.1000  mIoU: 70.2500  time: 0.1\n'
    )
    run = read_run(file)
    assert run.train['loss'] == ([50], [2.5]) and run.train['lr'] == ([50], [2e-3])
    assert run.val['mIoU'] == ([50], [70.25])
    assert [p.title for p in panels([run])][:2] == ['training loss', 'mIoU']


def test_a_resumed_run_is_one(tmp_path):
    """The second start resumes from iteration 100, and repeats 150."""
    first = [*TRAIN, dict(VAL, step=150)]
    second = [dict(TRAIN[2], loss=0.9, step=s, iter=s) for s in (150, 200)]
    written(tmp_path / 'work/20260101_100000/vis_data/scalars.json', first)
    written(tmp_path / 'work/20260102_100000/vis_data/scalars.json', second)
    run = read_run(tmp_path / 'work')
    assert run.name == 'work'
    assert run.train['loss'] == ([50, 100, 150, 200], [3.0, 1.5, 0.9, 0.9])


def test_several_runs_over_each_other(tmp_path):
    for name, factor in (('a', 1), ('b', 2)):
        entries = [dict(t, loss=t['loss'] * factor) for t in TRAIN]
        written(tmp_path / name / '20260101_100000/vis_data/scalars.json', entries)
    runs = read_runs([tmp_path / 'a', tmp_path / 'b'])
    assert [run.name for run in runs] == ['a', 'b']
    figure = draw_curves(runs)
    loss = figure.axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in loss[:2]] == [[3, 1.5, 1], [6, 3, 2]]
    titles = [axis.get_title() for axis in figure.axes]
    assert {'loss_cls', 'loss_bbox'} <= set(titles) and 'parts of the loss' not in titles
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['a', 'b']


def test_names_tell_runs_apart(tmp_path):
    files = [tmp_path / one / 'run/20260101/vis_data/scalars.json' for one in ('x', 'y')]
    for file in files:
        written(file, TRAIN)
    assert [run.name for run in read_runs(files)] == ['x/run/20260101', 'y/run/20260101']
    assert read_runs(files[:1] * 2)[0].name.endswith('(1)')


def test_a_log_that_was_cut_off(tmp_path):
    file = written(tmp_path / 'a.json', TRAIN)
    file.write_text(file.read_text() + '{"loss": 1.0, "st')
    assert read_run(file).train['loss'][0] == [50, 100, 150]


def test_what_is_no_log(tmp_path):
    with pytest.raises(ArgumentError, match='is not there'):
        read_run(tmp_path / 'none')
    with pytest.raises(ArgumentError, match=r'no log of mmengine'):
        read_run(tmp_path)
    broken = tmp_path / 'broken.json'
    broken.write_text('{"a": 1\n{"step": 1}\n')
    with pytest.raises(ArgumentError, match=r'broken\.json, line 1'):
        read_run(broken)
    broken.write_text('[1]\n')
    with pytest.raises(ArgumentError, match='a list, not an object'):
        read_run(broken)
    test = written(tmp_path / 'test.json', [VAL])  # of mim test: no moment of a training
    with pytest.raises(ArgumentError, match='no numbers of a training'):
        read_run(test)
    with pytest.raises(ArgumentError, match='the logs have no loss'):
        draw_curves([read_run(written(tmp_path / 'odd.json', [dict(iter=1, step=1, odd=2.0)]))])
