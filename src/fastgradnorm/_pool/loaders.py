"""A caller's loader: what draws its samples, and made anew, over others or in other batches."""

import gc
import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
)

from fastgradnorm._validate import fail_type

# What the argument is called that the caller passed the loader as, for warnings.
CALLED: ContextVar[str] = ContextVar("CALLED", default="loader")
# What a loader is made with, but for its dataset, order and batches. Not `persistent_workers`: what
# is made here is read once; nor `in_order`, without which nobody could tell what comes.
_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
)
# A sampler is looked for in wrappers of wrappers, such as `tqdm(map(function, loader))`.
_DEPTH = 6
_NOT_LOADERS = (list, str, bytes, dict, Dataset, Tensor, nn.Module, np.ndarray)


def check_loader(loader: Any, name: str = "loader") -> None:
    """Raises `TypeError` unless it yields batches, as far as its type tells."""
    wanted = "an iterable of batches"
    wrapped = "DataLoader({}, batch_size=64)`"
    root = type(loader).__module__.partition(".")[0]
    sized = hasattr(type(loader), "__len__") and not isinstance(loader, IterableDataset)
    alone = ", one by one, as only `acquire` takes them" if sized else ""
    if root == "datasets" and isinstance(loader, Mapping):
        splits = ", ".join(map(repr, loader))
        raise fail_type(name, wanted, loader, f"Pass one of its splits ({splits}): `dataset[...]`.")
    if root in ("pandas", "polars", "pyarrow"):
        raise fail_type(
            name, wanted, loader, "Pass its numbers as the model takes them, such as "
            "`[torch.tensor(table.to_numpy(), dtype=torch.float32)]`.",
        )  # fmt: skip
    if root == "datasets" and hasattr(loader, "column_names"):
        raise fail_type(
            name, wanted, loader, f"A dataset yields samples{alone}. Wrap it: `"
            + wrapped.format('dataset.with_format("torch")')
            + ", with `collate_fn=DataCollatorWithPadding(tokenizer)` for texts.",
        )  # fmt: skip
    if isinstance(loader, Dataset):
        streamed = isinstance(loader, IterableDataset)
        if not streamed and not alone:  # nor does a DataLoader take it
            raise fail_type(name, wanted, loader, "Give the dataset a `__len__`.")
        raise fail_type(
            name, wanted, loader, f"A dataset yields samples{alone}. Wrap it: `"
            + wrapped.format("dataset")
            + (", batch_size=None if it yields whole batches." if streamed else "."),
        )  # fmt: skip
    if isinstance(loader, (Tensor, Mapping, np.ndarray)) and not hasattr(loader, "__next__"):
        advice = "Wrap one batch in a list: `[batch]`."
        if isinstance(loader, np.ndarray):
            advice = "Wrap it: `[torch.from_numpy(array)]`, or its parts."
        raise fail_type(name, wanted, loader, advice)
    if isinstance(loader, (str, bytes, os.PathLike)):
        raise fail_type(
            name, wanted, loader, "Files are read by a dataset, as in `docs/your-data.md`, or on "
            "the command line.",
        )  # fmt: skip
    if not isinstance(loader, Iterable):
        called = callable(loader) and not isinstance(loader, nn.Module)
        raise fail_type(name, wanted, loader, "Pass what it returns." if called else "")
    if _is_one_batch(loader):
        advice = "Wrap inputs and their labels, one batch, in a list: `[(inputs, labels)]`."
        raise fail_type(name, wanted, loader, advice)


def _is_one_batch(loader: Any) -> bool:
    """Whether these are inputs and as many labels, which are no two batches of one kind."""
    arrays = (Tensor, np.ndarray)
    if not (isinstance(loader, (list, tuple)) and len(loader) == 2):
        return False
    first, second = loader
    if not (isinstance(first, arrays) and isinstance(second, arrays)):
        return False
    return first.ndim > second.ndim == 1 and len(first) == len(second)


def made_anew(loader: DataLoader[Any], dataset: Dataset[Any], **batches: Any) -> DataLoader[Any]:
    """A loader with the workers and the collation of `loader`.

    Args:
        loader: The caller's.
        dataset: What the new one reads.
        batches: Keyword arguments of `DataLoader`, which say which samples make a batch.
    """
    return DataLoader(dataset, **({name: getattr(loader, name) for name in _KEPT} | batches))


def can_be_indexed(loader: object) -> TypeGuard[DataLoader[Any]]:
    """Whether it is a DataLoader that reads what its sampler draws, and nothing else."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader).__iter__ is DataLoader.__iter__
    )


def without_adapter(loader: Any) -> Any:
    """The DataLoader before which accelerate has put one of its own, if that reads all of it."""
    return (
        loader if getattr(loader, "skip_batches", 0) else getattr(loader, "base_dataloader", loader)
    )


def draws_of(loader: DataLoader[Any]) -> Any:
    """What yields the keys of each batch: lists, or what the dataset makes a batch of itself."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def with_draws(
    loader: DataLoader[Any], draws: Any, dataset: Dataset[Any] | None = None, **others: Any
) -> DataLoader[Any]:
    """The same loader of other batches, but for other arguments, and what it reads if given."""
    dataset = loader.dataset if dataset is None else dataset
    if loader.batch_sampler is None:
        return made_anew(loader, dataset, batch_size=None, sampler=draws, **others)
    return made_anew(loader, dataset, batch_sampler=draws, **others)


def sampler_of(draws: Any) -> Any:
    """What draws the samples, below what makes batches of them."""
    while type(draws).__name__ == "BatchSamplerShard":  # accelerate's
        draws = draws.batch_sampler
    return getattr(draws, "sampler", draws)


def in_sequence(draws: Any) -> bool:
    """Whether samples are drawn as they lie in the dataset, by PyTorch's own samplers."""
    if type(draws) is BatchSampler:
        draws = draws.sampler
    return type(draws) is SequentialSampler


def hidden_draws(loader: Iterable[Any]) -> Any:
    """What draws the samples for a generator, iterator or wrapper of a DataLoader, if it is found.

    None for lists of batches, and where nothing is found.
    """
    return None if isinstance(loader, (list, tuple)) else _search(loader, _DEPTH, set())


def _search(item: Any, depth: int, seen: set[int]) -> Any:
    if isinstance(item, Sampler):
        return item
    if isinstance(item, DataLoader):
        return None if isinstance(item.dataset, IterableDataset) else draws_of(item)
    seen.add(id(item))
    for held in gc.get_referents(item) if depth else ():
        # The state of iterators, the attributes of objects, and what can itself be iterated: not
        # the batches of a list, nor what a class or a function holds.
        iterable = hasattr(type(held), "__iter__") and not isinstance(held, _NOT_LOADERS)
        if (type(held) is dict or iterable) and id(held) not in seen:
            found = _search(held, depth - 1, seen)
            if found is not None:
                return found
    return None
