"""Whether rows of a batch are of other samples than their places say, told by their values."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import IterableDataset

from fastgradnorm._pool.loaders import CALLED, hidden_draws, in_sequence
from fastgradnorm._process import put_back_random_states

_ROWS = 128  # of a batch, that are compared with its samples
_SEARCHED = 4  # of those that differ, for which another sample is looked for
_SECONDS = 0.2  # after which no more samples are read


class _UnreadError(Exception):
    """A dataset does not tell its length, or gives no sample for an index, or none in time."""


def arrays_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch, and its arrays of numbers."""
    return _tensors(batch, np.ndarray)


def is_moved(batch: Any, samples: Sequence[Any]) -> bool:
    """Whether a row of a batch is not its sample, to the bit, but is another sample of the batch.

    Nothing is said of rows that are no sample as it was given.

    Args:
        batch: Of these samples.
        samples: In the order in which they were drawn.
    """
    count, half = len(samples), _ROWS // 2
    rows = [a.cpu() for a in _with_rows(batch) if len(a) == count]
    known = list(range(count)) if count <= _ROWS else [*range(half), *range(count - half, count)]
    parts = {place: _parts(samples[place]) for place in known}
    left = _SEARCHED
    for place in known:
        row = [a[place] for a in rows]
        if _is_of(row, parts[place]) or not left:
            continue
        left -= 1
        if any(_is_of_another(row, parts[place], parts[other]) for other in known):
            return True
    return False


def are_moved(given: Sequence[Any], samples: Sequence[Any]) -> bool:
    """Whether a sample that was given stands where another one should, as `is_moved` tells rows.

    Args:
        given: Samples.
        samples: In the order in which those should be.
    """
    rows, parts = [_parts(sample) for sample in given], [_parts(sample) for sample in samples]
    return any(
        not _is_of(row, own) and any(_is_of_another(row, own, other) for other in parts)
        for row, own in zip(rows, parts, strict=False)
    )


def watched_order(loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; of a loader that is not PyTorch's own it is told if it has another order.

    The first batch is compared with at most eight samples of `loader.dataset`, read by index.

    Args:
        loader: The caller's.
        batches: That it yields, all of them.

    Warns:
        UserWarning: If a sample stands where another one should.
    """
    first = True
    for batch in batches:
        if first:
            first = False
            _tell(loader, batch)
        yield batch
        del batch  # before the next one is there


def _tell(loader: Any, batch: Any) -> None:
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__"):
        return
    try:
        with put_back_random_states():
            found = _displaced(dataset, batch)
    except _UnreadError:
        return
    draws = hidden_draws(loader) if found is not None else None
    if found is None or not (draws is None or in_sequence(draws)):  # which is told already
        return
    warnings.warn(
        f"`{CALLED.get()}` (a {type(loader).__name__}) gave scores that cannot be traced to "
        f"samples of its dataset: it yields dataset[{found[1]}] as number {found[0]}, so that it "
        "has an order of its own. scores[i] may be of another sample than dataset[i]. Pass a "
        "DataLoader itself, with a sampler that draws in the order that is wanted.",
        stacklevel=2,
    )


def _displaced(dataset: Any, batch: Any) -> tuple[int, int] | None:
    """The place of a row and the index of the sample that it is, if it is not the place's own."""
    arrays = _with_rows(batch)
    with _of_the_caller():
        count, size = len(arrays[0]) if arrays else 0, len(dataset)
    if not 0 < count <= size:
        return None
    read = _reader(dataset, time.perf_counter() + _SECONDS)
    places = list(dict.fromkeys([0, min(1, count - 1), count - 1]))
    # Where batches come backwards the first one is the last, or the last that is whole.
    ends = [size - count, size - 1, size // count * count - count]
    known: dict[int, list[Tensor]] = {}
    rows = {p: [a[p].detach().cpu() for a in arrays if len(a) == count] for p in places}
    for index in places:
        known[index] = read(index)
    odd = [place for place in places if not _is_of(rows[place], known[place])]
    for index in dict.fromkeys([*places, *ends]) if odd else ():
        if index not in known:
            known[index] = read(index)
        for place in odd:
            if _is_of_another(rows[place], known[place], known[index]):
                both = known[place] + known[index], read(place) + read(index)
                same = len(both[0]) == len(both[1]) and all(map(torch.equal, *both))
                return (place, index) if same else None
    return None


def _reader(dataset: Any, until: float) -> Callable[[int], list[Tensor]]:
    def read(index: int) -> list[Tensor]:
        if time.perf_counter() > until:
            raise _UnreadError
        with _of_the_caller():
            sample = dataset[index]
        return [part.detach().clone() for part in _parts(sample)]

    return read


@contextlib.contextmanager
def _of_the_caller() -> Iterator[None]:
    """The caller's dataset need not be read by index, whatever it raises then."""
    try:
        yield
    except Exception as error:
        raise _UnreadError from error


def _with_rows(batch: Any) -> list[Tensor]:
    return [a for a in arrays_of(batch) if a.dim() and _is_plain(a)]


def _parts(sample: Any) -> list[Tensor]:
    """Tensors, arrays and numbers of a sample."""
    found = _tensors(sample, (np.ndarray, np.generic, int, float))
    return [x.cpu() for x in found if _is_plain(x)]


def _tensors(given: Any, kinds: type | tuple[type, ...]) -> list[Tensor]:
    """Those in it, and what is of these kinds and has numbers that PyTorch knows."""
    leaves = pytree.tree_leaves(dict(given) if isinstance(given, Mapping) else given)
    plain = [_tensor(x) if isinstance(x, kinds) else x for x in leaves]
    return [x for x in plain if isinstance(x, Tensor)]


def _tensor(x: Any) -> Tensor | None:
    if isinstance(x, (np.ndarray, np.generic)):
        # Whatever its strides and the order of its bytes are, and whether it may be written to.
        x = np.array(x, dtype=x.dtype.newbyteorder("="), order="C")
    try:
        return torch.as_tensor(x, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None  # texts, dates, objects, extended precision; integers beyond 64 bits


def _is_plain(x: Tensor) -> bool:
    """Whether it has rows that PyTorch compares."""
    return x.layout == torch.strided and not x.is_nested and x.dtype != torch.complex32


def _pairs(row: Sequence[Tensor], parts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Parts of a row, each with what of a sample it may be."""
    if len(row) == len(parts):
        pairs = list(zip(row, parts, strict=True))
    else:
        pairs = [(a, b) for a in row for b in [b for b in parts if _fits(a, b)][:1]]
    return [(a, b.to(a.dtype)) for a, b in pairs if _fits(a, b)]


def _fits(row: Tensor, part: Tensor) -> bool:
    return row.shape == part.shape and torch.can_cast(part.dtype, row.dtype)


def _is_of(row: Sequence[Tensor], parts: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in _pairs(row, parts))


def _is_of_another(row: Sequence[Tensor], own: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether it is another sample throughout, and not its own; classes alone do not tell that."""
    found = _pairs(row, other)
    return (
        all(torch.equal(a, b) for a, b in found)
        and any(_tells(a) for a, _ in found)
        and any(_tells(a) and not torch.equal(a, b) for a, b in _pairs(row, own))
    )


def _tells(row: Tensor) -> bool:
    """Whether it is no class, and nothing that is blank, as an augmentation may make any sample."""
    if row.numel() < 2:
        return row.numel() == 1 and (row.dim() > 0 or row.is_floating_point())
    return bool((row != row.flatten()[0]).any())
