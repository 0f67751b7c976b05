"""A caller's loader made anew, over other samples or in other batches."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

# What a loader is made with, but for its dataset, order and batches. Not `persistent_workers`: what
# is made here is read once.
_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "in_order",
)


def made_anew(loader: DataLoader[Any], dataset: Dataset[Any], **batches: Any) -> DataLoader[Any]:
    """A loader with the workers and the collation of `loader`.

    Args:
        loader: The caller's.
        dataset: What the new one reads.
        batches: Keyword arguments of `DataLoader` that say which samples make a batch.
    """
    return DataLoader(dataset, **{name: getattr(loader, name) for name in _KEPT}, **batches)
