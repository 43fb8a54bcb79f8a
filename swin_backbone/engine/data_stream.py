"""Training data, and the randomness of training, as functions of the seed and the iteration.

Ordinarily the draws of an augmentation or of drop path depend on all draws before them, so a run
that is resumed goes other ways than one that was not interrupted, and skipping what was trained on
means loading all of it. Here each iteration and each sample has a seed of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from torch.utils.data import BatchSampler, Dataset, Sampler

# The first word of a seed's key: what is drawn for the data is not drawn again for the model.
DATA, MODEL = 0, 1


def seed_generators(*key: int) -> None:
    """Seeds torch's, numpy's and Python's generators from non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(3, np.uint32).tolist()
    torch.manual_seed(words[0])
    np.random.seed(words[1])
    random.seed(words[2])


@HOOKS.register_module()
class SeededIterationsHook(Hook):
    """Seeds the generators before each training iteration, from seed, rank and iteration."""

    priority = 'HIGHEST'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds them."""
        seed_generators(MODEL, runner.seed, get_rank(), runner.iter)


class SeededIndex(int):
    """A sample's index that knows its place in the run: the batch, and the place in the batch."""

    place: tuple[int, int]

    def __new__(cls, index: int, place: tuple[int, int]) -> SeededIndex:
        """An index at a place."""
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What it is made from again in a worker process."""
        return int(self), self.place


@DATASETS.register_module()
class SeededSamples(Dataset):
    """A dataset whose augmentations depend on seed, rank and place in the run alone.

    All other attributes are those of the dataset within.

    Args:
        dataset: A dataset or its config.
        seed: The run's seed.
    """

    def __init__(self, dataset: Dataset | Mapping, seed: int) -> None:
        if isinstance(dataset, Mapping):
            dataset = DATASETS.build(dataset)
        self.__dict__.update(dataset=dataset, seed=seed, rank=get_rank())

    def __getitem__(self, index: int) -> Any:
        """The sample, its augmentation seeded if the index knows its place."""
        if isinstance(index, SeededIndex):
            seed_generators(DATA, self.seed, self.rank, *index.place)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """The dataset's own; without it while it is being unpickled."""
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets the dataset's own: hooks switch pipelines this way."""
        setattr(self.dataset, name, value)

    def __reduce__(self) -> tuple:
        """Whole, for worker processes that are spawned."""
        return _restored, (self.dataset, self.seed, self.rank)


def _restored(dataset: Dataset, seed: int, rank: int) -> SeededSamples:
    samples = SeededSamples(dataset, seed)
    samples.__dict__['rank'] = rank
    return samples


@DATA_SAMPLERS.register_module()
class ResumableBatches:
    """Batches of indices that know their place, from any place on.

    Args:
        sampler: Yields indices.
        batch_size: Samples in a batch.
        batches: Config of the batch sampler; None for torch's.
        drop_last: Whether to leave out an incomplete last batch.
        position: Batches of the run that were trained on already.
        skip: How many of them come before the place in the sampler's first pass; where passes end
            before that, the next ones are shuffled as the next epochs are.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        batches: Mapping | None = None,
        drop_last: bool = False,
        position: int = 0,
        skip: int = 0,
    ) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self.position, self.skip, self.epoch = position, skip, 0
        if batches is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            default = dict(sampler=sampler, batch_size=batch_size)
            self.batches = DATA_SAMPLERS.build(dict(batches), default_args=default)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        """One pass of the sampler, the first without what was trained on."""
        for batch in self._unseen():
            place, self.position = self.position, self.position + 1
            yield [SeededIndex(index, (place, i)) for i, index in enumerate(batch)]

    def __len__(self) -> int:
        """Batches in a pass."""
        return len(self.batches)

    def _unseen(self) -> Iterator[list[int]]:
        stream, skip, self.skip = iter(self.batches), self.skip, 0
        while skip:
            if next(stream, None) is not None:
                skip -= 1
                continue
            self.epoch += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(self.epoch)
            stream = iter(self.batches)
            if len(self) == 0:
                break
        return stream


def resumable(loader: Any, seed: int, position: int = 0, skip: int = 0) -> Any:
    """A data loader's config with the above in it; a loader that is built already as it is."""
    if not isinstance(loader, Mapping) or not isinstance(loader.get('sampler'), Mapping):
        return loader
    loader = dict(loader)
    batches = loader.get('batch_sampler')
    loader['batch_sampler'] = dict(
        type='swin_backbone.engine.data_stream.ResumableBatches',
        batches=batches,
        drop_last=loader.pop('drop_last', False),
        position=position,
        skip=skip,
    )
    loader['dataset'] = dict(
        type='swin_backbone.engine.data_stream.SeededSamples', dataset=loader['dataset'], seed=seed
    )
    return loader


class Advanced:
    """An iterator that is where a caller who skips ``skip`` items believes it will be."""

    def __init__(self, iterator: Iterator, skip: int) -> None:
        self.iterator, self.skip = iterator, skip

    def __iter__(self) -> Advanced:
        """Itself."""
        return self

    def __next__(self) -> Any:
        """None in place of each skipped item, then the iterator's."""
        if self.skip > 0:
            self.skip -= 1
            return None
        return next(self.iterator)

    def skip_iter(self, number: int) -> None:
        """Skips a number of items at once, as OneDL's mmengine does."""
        self.skip = max(self.skip - number, 0)
