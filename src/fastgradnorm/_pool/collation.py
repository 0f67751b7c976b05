"""Whether a loader puts the samples of a batch in an order of its own."""

import contextlib
import traceback
import warnings
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import Subset, default_collate

from fastgradnorm._errors import ArgumentError
from fastgradnorm._pool.places import are_moved, arrays_of, is_moved
from fastgradnorm._process import put_back_random_states

_SAMPLES = 4
_ASKED = 16  # samples, together and one by one; sorted by chance only once in 20 billion times
# Of collations that were watched: whether they do, None where they fail on what would tell.
_SEEN: WeakKeyDictionary[Any, bool | None] = WeakKeyDictionary()


class Watched:
    """A collation that is looked at when it makes its first batch: nothing is read a second time.

    Args:
        collate: The caller's.
    """

    def __init__(self, collate: Any) -> None:
        self._collate, self._seen = collate, False

    def __call__(self, samples: Any) -> Any:
        given = list(samples) if isinstance(samples, list) and not self._seen else []
        batch = self._collate(samples)
        if not self._seen:
            self._seen = True
            with contextlib.suppress(TypeError):  # it has no hash
                _SEEN[self._collate] = _orders(self._collate, given, batch)
        return batch


class NotCollatedError(RuntimeError):
    """PyTorch could not make a batch of samples, in a process of its own."""


class Telling:
    """A collation that says whether it was PyTorch's own that failed: workers hand on types alone.

    Args:
        collate: The caller's.
    """

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> Any:
        try:
            return self._collate(samples)
        except (RuntimeError, TypeError) as error:
            if _is_of_pytorch(error):
                raise NotCollatedError(str(error)) from error
            raise


def collated(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; where PyTorch cannot make one of samples, it is told what to do.

    Raises:
        ValueError: If samples differ in shape, or are nothing that batches are made of.
    """
    try:
        yield from batches
    except (RuntimeError, TypeError) as error:
        if not (isinstance(error, NotCollatedError) or _is_of_pytorch(error)):
            raise
        reason = str(error).strip().splitlines()[-1].removeprefix(_NAME)
        raise ArgumentError(
            "`loader` must make batches of its samples. PyTorch could not put them together: "
            f"{reason}. Let the dataset return tensors of one shape (resize, crop), or pass a "
            "`collate_fn` that pads them, with a mask.",
            "loader",
        ) from error


_NAME = f"{NotCollatedError.__module__}.{NotCollatedError.__name__}: "


def _is_of_pytorch(error: Exception) -> bool:
    """Whether it was raised while PyTorch's own collation ran, called by whomever."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_code is default_collate.__code__ for frame in frames)


def watched(loader: Any) -> dict[str, Any]:
    """Arguments of a loader that is to stand for this one; workers cannot tell what they see."""
    if loader.batch_sampler is None:
        return {}
    if loader.num_workers:
        return {"collate_fn": Telling(loader.collate_fn)}
    return {"collate_fn": Watched(loader.collate_fn)} if _is_own(loader) else {}


def _is_own(loader: Any) -> bool:
    collate = getattr(loader, "collate_fn", None)
    return collate is not None and collate is not default_collate


def own_order(loader: Any, indices: Tensor) -> str | None:
    """What of a loader puts the samples of a batch in an order of its own; None: nothing does.

    Args:
        loader: The caller's, which has a collation and a dataset that can be indexed.
        indices: Of the samples of a batch, as they were drawn.
    """
    if _gives_in_its_order(loader, indices):
        return "its dataset's `__getitems__` gives the samples of a batch in an order of its own"
    if orders_samples(loader, indices):
        return "its collation puts the samples of a batch in an order of its own"
    return None


def _gives_in_its_order(loader: Any, indices: Tensor) -> bool:
    """Whether samples that are asked for together come as others than one by one.

    As where a file is read in ascending order, whatever was asked for.
    """
    dataset: Any = getattr(loader, "dataset", None)  # a stream has none
    keys = indices[:_ASKED].tolist()
    while type(dataset) is Subset:
        dataset, keys = dataset.dataset, [dataset.indices[key] for key in keys]
    together = getattr(dataset, "__getitems__", None)
    if together is None or loader.batch_sampler is None or len(keys) < 2:
        return False
    with put_back_random_states():
        try:
            given, samples = list(together(keys)), [dataset[key] for key in keys]
        except Exception:  # of the caller's, which need not be read by index once more
            return False
        return are_moved(given, samples)


def orders_samples(loader: Any, indices: Tensor) -> bool:
    """Whether it puts a sample in another's place, or makes the same of a few given backwards.

    A collation that sorts, as by length to pack sequences, is told by the latter also where it
    makes other rows of samples; one that keeps each sample in its place gives other batches, and
    so does one that draws random numbers. The samples are read for it unless it was `watched`.

    Args:
        loader: The caller's, which has a collation and a dataset that can be indexed.
        indices: Of the samples of a batch.
    """
    if not _is_own(loader):
        return False
    with contextlib.suppress(TypeError, KeyError):
        return _judged(_SEEN[loader.collate_fn])
    found: bool | None = False
    for count in dict.fromkeys((min(_SAMPLES, len(indices)), len(indices))):
        try:
            samples = [loader.dataset[i] for i in indices[:count].tolist()]
        except Exception:  # of the caller's: what it cannot do here it need not do
            return False
        found = _orders(loader.collate_fn, samples)
        if found is not None:
            break
    return _judged(found)


def _judged(found: bool | None) -> bool:
    if found is None:
        warnings.warn(
            "`loader` has a collation of which it cannot be told whether it keeps the samples of a "
            "batch in their order: it failed on samples backwards, and on one sample several "
            "times. scores[i] is taken to be of the i-th sample that is drawn.",
            stacklevel=6,
        )
    return bool(found)


def _orders(collate: Any, samples: list[Any], batch: Any = None) -> bool | None:
    """Whether it does, by its batch of these samples, if that is there, and by others of them."""
    if len(samples) < 2:
        return False
    with put_back_random_states():
        if batch is None:
            with contextlib.suppress(Exception):  # of the caller's, as below
                batch = collate(list(samples))
        if is_moved(batch, samples):
            return True
        for looks in (_backwards, _each_for_all):
            try:
                return looks(collate, samples)
            except Exception:  # of the caller's, who may want them as they are drawn
                continue
    return None


def _backwards(collate: Any, samples: list[Any]) -> bool:
    """Whether a few samples make the same batch backwards, and not of rows that are all alike."""
    few = samples[:_SAMPLES]
    first, second = (arrays_of(collate(list(given))) for given in (few, few[::-1]))
    rows = [a for a in first if a.dim() and len(a) == len(few)]
    if len(first) != len(second) or not all(map(torch.equal, first, second)):
        return False
    return any(not torch.equal(a, a.flip(0)) for a in rows)


def _each_for_all(collate: Any, samples: list[Any]) -> bool:
    """Whether a row of a batch is not what its sample makes in as many copies, but another's is."""
    count = len(samples)
    batch = arrays_of(collate(list(samples)))
    copies = [arrays_of(collate([sample] * count)) for sample in samples[:_SAMPLES]]
    for place, made in enumerate(copies):
        pairs = [(a, b[0]) for a, b in zip(batch, made, strict=True) if _has_rows(count, a, b)]
        at = [all(_same_start(a[row], b) for a, b in pairs) for row in range(count)]
        if pairs and any(at) and not at[place]:
            return True
    return False


def _has_rows(count: int, *arrays: Tensor) -> bool:
    return all(a.dim() > 0 and len(a) == count for a in arrays)


def _same_start(row: Tensor, other: Tensor) -> bool:
    """Whether two rows are the same as far as both reach: one may be padded for longer ones."""
    common = [slice(min(sizes)) for sizes in zip(row.shape, other.shape, strict=True)]
    return torch.equal(row[tuple(common)], other[tuple(common)])
