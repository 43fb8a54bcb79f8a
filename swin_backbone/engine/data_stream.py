"""Training data and randomness as functions of the seed and the iteration.

Otherwise the random numbers of augmentations and drop path depend on all earlier ones: a resumed
run then differs from an uninterrupted one, and skipping samples means loading them. Here each
iteration and each sample has its own seed.
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

# The first word of a seed's key, so that data and model draw different numbers.
DATA, MODEL = 0, 1


def seed_generators(*key: int) -> None:
    """Seeds the generators of torch, NumPy and Python from non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(3, np.uint32).tolist()
    torch.manual_seed(words[0])
    np.random.seed(words[1])
    random.seed(words[2])


@HOOKS.register_module()
class SeededIterationsHook(Hook):
    """Seeds the generators before each training iteration, from seed, rank and iteration."""

    priority = 'HIGHEST'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds the generators."""
        seed_generators(MODEL, runner.seed, get_rank(), runner.iter)


class SeededIndex(int):
    """A sample's index with its place in the run: the batch, and the position in the batch."""

    place: tuple[int, int]

    def __new__(cls, index: int, place: tuple[int, int]) -> SeededIndex:
        """Creates an index at a place."""
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        """The arguments with which a worker process recreates it."""
        return int(self), self.place


@DATASETS.register_module()
class SeededSamples(Dataset):
    """A dataset whose augmentations depend only on seed, rank and place in the run.

    All other attributes are those of the inner dataset.

    Args:
        dataset: A dataset or its config.
        seed: The run's seed.
    """

    def __init__(self, dataset: Dataset | Mapping, seed: int) -> None:
        if isinstance(dataset, Mapping):
            dataset = DATASETS.build(dataset)
        self.__dict__.update(dataset=dataset, seed=seed, rank=get_rank())

    def __getitem__(self, index: int) -> Any:
        """The sample, with seeded augmentation if the index has a place."""
        if isinstance(index, SeededIndex):
            seed_generators(DATA, self.seed, self.rank, *index.place)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """The inner dataset's attribute; none exists yet during unpickling."""
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets the inner dataset's attribute, as hooks that switch pipelines do."""
        setattr(self.dataset, name, value)

    def __reduce__(self) -> tuple:
        """Pickles it with its attributes, for spawned worker processes."""
        return _restored, (self.dataset, self.seed, self.rank)


def _restored(dataset: Dataset, seed: int, rank: int) -> SeededSamples:
    samples = SeededSamples(dataset, seed)
    samples.__dict__['rank'] = rank
    return samples


@DATA_SAMPLERS.register_module()
class ResumableBatches:
    """Batches of indices with their places in the run, starting at any place.

    Args:
        sampler: The sampler of indices.
        batch_size: Samples per batch.
        batches: Config of the batch sampler; None for torch's.
        drop_last: Whether to drop an incomplete last batch.
        position: Batches of the run that were already trained on.
        skip: Batches to skip, counted from the sampler's first pass. If a pass has fewer, the next
            pass is shuffled as the next epoch is.
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
        """One pass of the sampler; the first pass skips the batches that were trained on."""
        for batch in self._unseen():
            place, self.position = self.position, self.position + 1
            yield [SeededIndex(index, (place, i)) for i, index in enumerate(batch)]

    def __len__(self) -> int:
        """Batches per pass."""
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
    """A data loader's config with the classes above; a built loader is returned unchanged."""
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
    """An iterator for callers that skip ``skip`` items, which were already skipped."""

    def __init__(self, iterator: Iterator, skip: int) -> None:
        self.iterator, self.skip = iterator, skip

    def __iter__(self) -> Advanced:
        """Itself."""
        return self

    def __next__(self) -> Any:
        """None for each skipped item, then the iterator's items."""
        if self.skip > 0:
            self.skip -= 1
            return None
        return next(self.iterator)

    def skip_iter(self, number: int) -> None:
        """Skips several items at once, as OneDL's mmengine does."""
        self.skip = max(self.skip - number, 0)
