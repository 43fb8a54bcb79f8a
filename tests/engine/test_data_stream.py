"""The data of a run from any place on; each iteration's and sample's own seed."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner

from swin_backbone.engine.data_stream import (
    Advanced,
    ResumableBatches,
    SeededIndex,
    SeededSamples,
    resumable,
    seed_generators,
)


class Draws(torch.utils.data.Dataset):
    """A draw of each generator beside the index."""

    metainfo = dict(classes=('a',))
    pipeline = 'first'

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        assert type(index) is int
        return dict(
            index=index,
            draws=(torch.rand(()).item(), float(np.random.rand()), random.random()),
        )


def loader(sampler: str, workers: int = 0, position: int = 0):
    config = dict(
        batch_size=3,
        num_workers=workers,
        drop_last=True,
        sampler=dict(type=sampler, shuffle=True),
        dataset=Draws(),
    )
    return Runner.build_dataloader(resumable(config, 5, position, position), seed=5)


def taken(batches, count: int) -> list:
    return [
        (batch['index'], batch['draws']) for batch, _ in zip(batches, range(count), strict=False)
    ]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('position', [0, 1, 7])
def test_a_stream_from_any_place_on(workers, position):
    whole = taken(loader('InfiniteSampler'), 12)
    assert taken(loader('InfiniteSampler', workers, position), 12 - position) == whole[position:]


def test_a_sampler_that_ends_is_shuffled_as_in_the_epoch_it_is_in():
    stream = loader('DefaultSampler')
    batches = stream.batch_sampler
    first = list(stream)
    batches.sampler.set_epoch(1)
    second = list(stream)
    assert len(first) == len(second) == len(stream) == 3
    again = loader('DefaultSampler', position=4)
    assert [b['index'] for b in again] == [b['index'] for b in second[1:]]
    assert again.batch_sampler.epoch == 1


def test_draws_differ_between_samples_passes_and_ranks(monkeypatch):
    draws = [
        draw
        for _, batch in taken(loader('InfiniteSampler'), 8)
        for draw in zip(*batch, strict=True)
    ]
    assert len(set(draws)) == 24
    monkeypatch.setattr('swin_backbone.engine.data_stream.get_rank', lambda: 1)
    other = [
        draw
        for _, batch in taken(loader('InfiniteSampler'), 8)
        for draw in zip(*batch, strict=True)
    ]
    assert not set(draws) & set(other)


def test_the_dataset_shows_through_and_survives_pickling():
    samples = SeededSamples(Draws(), 5)
    samples.pipeline = 'second'
    assert samples.dataset.pipeline == 'second' and samples.metainfo == Draws.metainfo
    copy = pickle.loads(pickle.dumps(samples))
    index = pickle.loads(pickle.dumps(SeededIndex(4, (2, 1))))
    assert index == 4 and index.place == (2, 1)
    assert copy[index] == samples[index]


def test_batches_of_a_framework_are_kept_in_their_order():
    sampler = InfiniteSampler(range(10), seed=1)
    inner = dict(type='torch.utils.data.BatchSampler', drop_last=False)
    batches = ResumableBatches(sampler, 4, inner, position=2, skip=2)
    reference = iter(InfiniteSampler(range(10), seed=1))
    expected = [next(reference) for _ in range(12)][8:]
    assert next(iter(batches)) == expected


def test_what_is_built_already_is_left_alone():
    built = torch.utils.data.DataLoader(Draws())
    assert resumable(built, 5) is built


def test_seeds_of_all_generators():
    seed_generators(1, 2, 3)
    first = torch.rand(2), np.random.rand(2), random.random()
    seed_generators(1, 2, 3)
    again = torch.rand(2), np.random.rand(2), random.random()
    assert torch.equal(first[0], again[0]) and (first[1] == again[1]).all()
    assert first[2] == again[2]


def test_advanced_gives_nothing_for_what_is_skipped():
    advanced = Advanced(iter('ab'), 2)
    assert [next(advanced) for _ in range(4)] == [None, None, 'a', 'b']
    advanced = Advanced(iter('ab'), 2)
    advanced.skip_iter(2)
    assert [next(advanced) for _ in range(2)] == ['a', 'b']
