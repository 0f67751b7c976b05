"""Samples that are rows of tensors, a batch of them taken at once instead of one by one.

PyTorch's loader asks a `TensorDataset` for each row, and stacks the rows: for small ones that takes
longer than to score them.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from fastgradnorm._model import same
from fastgradnorm._pool.bundles import BYTES, ROWS
from fastgradnorm._pool.loaders import made_anew

# Samplers that draw all when they are begun, whatever is read meanwhile.
_WITHOUT_FEEDBACK = (SequentialSampler, RandomSampler, SubsetRandomSampler)


class Rows(Dataset[Any]):
    """What a loader fetches whole batches from, equal to those that PyTorch's collation makes.

    The first batch is made both ways, and where the two differ so are all.

    Args:
        dataset: The caller's.
        table: Whose rows its samples are.
        places: Which row each sample is; None: that of its number.
    """

    def __init__(self, dataset: Dataset[Any], table: TensorDataset, places: Tensor | None) -> None:
        self._dataset, self._table, self._places = dataset, table, places
        self._tensors = table.tensors
        self._equal: bool | None = None

    @property
    def most(self) -> int:
        """How many may be one batch, where that need not end where the caller's does."""
        each = sum(tensor[:1].nbytes for tensor in self._tensors)
        return min(ROWS, BYTES // max(1, each))

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        return self._dataset[key]

    def __getitems__(self, keys: Any) -> Any:
        """A batch, as the loader is to yield it."""
        usual = self._equal is False or self._table.tensors is not self._tensors
        if usual or set(map(type, keys)) != {int}:
            return self._one_by_one(keys)
        try:
            index = torch.tensor(keys, device="cpu")
            index = index if self._places is None else self._places[index]
            batch = [tensor[index] for tensor in self._tensors]
        except IndexError:
            return self._one_by_one(keys)  # which names the sample
        if self._equal is None:
            made = self._one_by_one(keys)
            self._equal = _same(batch, made)
            return made
        return batch

    def _one_by_one(self, keys: Any) -> Any:
        return default_collate([self._dataset[key] for key in keys])


def taken_at_once(loader: DataLoader[Any]) -> Rows | None:
    """What the same batches can be fetched from at once; None where there is nothing.

    Args:
        loader: The caller's.
    """
    dataset, places = loader.dataset, None
    whole = loader.batch_sampler is None or loader.num_workers or loader.pin_memory
    if whole or loader.collate_fn is not default_collate:
        return None
    if type(dataset) is Subset:
        indices, dataset = dataset.indices, dataset.dataset
        if type(indices) is not list or set(map(type, indices)) != {int}:
            return None
        places = torch.tensor(indices, device="cpu")
    if type(dataset) is not TensorDataset or not all(map(_is_plain, dataset.tensors)):
        return None
    return Rows(loader.dataset, dataset, places)


def fetched(loader: DataLoader[Any], rows: Rows, draws: Any) -> DataLoader[Any]:
    """The same loader of other batches, taken at once.

    Args:
        loader: The caller's.
        rows: What they are fetched from.
        draws: Yields the keys of each batch.
    """
    return made_anew(loader, rows, batch_sampler=draws, collate_fn=_as_it_is)


def several(keys: Any, most: int) -> tuple[Any, int | None]:
    """Keys of several batches as those of one, and how many one of them has; None: as it is.

    Args:
        keys: Of batches.
        most: Of samples.
    """
    if type(keys) is not BatchSampler or type(keys.sampler) not in _WITHOUT_FEEDBACK:
        return keys, None
    each = keys.batch_size
    return (keys, None) if 2 * each > most else (_joined(keys, most // each), each)


def _joined(keys: Iterable[list[int]], count: int) -> Iterator[list[int]]:
    left = iter(keys)
    while found := [*itertools.islice(left, count)]:
        yield [*itertools.chain.from_iterable(found)]


def _as_it_is(batch: Any) -> Any:
    return batch


def _is_plain(tensor: Any) -> bool:
    """Whether its rows are numbers in this process's memory, and nothing else."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    special = tensor.requires_grad or tensor.is_quantized or tensor.is_nested or tensor.is_conj()
    return not special and tensor.is_contiguous()


def _same(ours: list[Tensor], usual: Any) -> bool:
    """Whether two batches are alike in all that a model can see."""
    if type(usual) is not list or len(usual) != len(ours):
        return False
    return all(
        type(b) is Tensor and a.stride() == b.stride() and same(a, b)
        for a, b in zip(ours, usual, strict=True)
    )
