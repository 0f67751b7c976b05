"""Which sample of the caller's could not be loaded, told with the error that it raised."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset, Subset

from fastgradnorm._errors import (
    NOT_THE_MODELS,
    ArgumentError,
    ArgumentTypeError,
    CoverageError,
    LabelError,
    NoSingleHeadError,
    UnsupportedModelError,
)
from fastgradnorm._pool.draws import written_down
from fastgradnorm._pool.loaders import CALLED

_SHOWN = 8  # samples of a batch
# No sample's fault, or told late by a device.
_OF_THE_MODEL = (*NOT_THE_MODELS, CoverageError, NoSingleHeadError, UnsupportedModelError)


class Samples(NamedTuple):
    """Those that are scored.

    Attributes:
        numbers: Theirs.
        in_dataset: Whether these are indices of the dataset, not of the order in which they came.
        first: Whether the first of all is one, which tells what is wrong with arguments.
    """

    numbers: Sequence[int]
    in_dataset: bool
    first: bool


class Keys:
    """A sampler of batches that keeps what was drawn for those that have not come yet.

    Args:
        keys: The sampler.
    """

    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys = keys
        self._waiting: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        return written_down(self._keys, self._waiting)

    def came(self) -> None:
        """The next batch is there."""
        if self._waiting:
            self._waiting.popleft()

    @property
    def next(self) -> Any:
        """What was drawn for the next batch; None if nothing was."""
        return self._waiting[0] if self._waiting else None


class Asked(Dataset[Any]):
    """A dataset that says which of its samples it was asked for last, where that is one.

    Args:
        dataset: What is read, in this process.

    Attributes:
        at: The sample that is being loaded; None: none is, or several are at once.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.at = dataset, None
        if getattr(_whole(dataset), "__getitems__", None):
            self.__getitems__ = self._several  # as PyTorch looks for it

    def __getitem__(self, key: Any) -> Any:
        self.at = key
        sample = self._dataset[key]
        self.at = None
        return sample

    def _several(self, keys: Any) -> Any:
        return self._dataset.__getitems__(keys)


def _whole(dataset: Any) -> Any:
    """What a dataset is part of. PyTorch's own subsets load several samples at once if it does."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return dataset


def telling(
    batches: Iterator[Any],
    dataset: Any,
    keys: Keys,
    places: Tensor | None = None,
    asked: Asked | None = None,
) -> Iterator[Any]:
    """The same batches; where one cannot be loaded, the error has a note of which sample it was.

    Of what workers load it is known only of which batch.

    Args:
        batches: As they come.
        dataset: The caller's.
        keys: What was drawn for them.
        places: Where in the caller's dataset is what a key tells; None: there.
        asked: What they are loaded from, in this process.
    """
    pool = CALLED.get()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            one = None if asked is None else asked.at
            if (one if one is not None else keys.next) is not None:
                what = _batch(keys.next, places) if one is None else _one(one, dataset, places)
                error.add_note(f"Loading `{pool}` failed at {what}.")
            raise
        keys.came()
        yield batch
        del batch  # before the next one is there


def telling_when(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, of what has no indices: after how many one could not be loaded."""
    pool, came = CALLED.get(), 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            error.add_note(f"Loading `{pool}` failed after {came} batches.")
            raise
        came += 1
        yield batch
        del batch


@contextlib.contextmanager
def told_when_scored(samples: Callable[[], Samples | None]) -> Iterator[None]:
    """Of what samples raise while they are scored, the error has a note of which they were.

    Args:
        samples: Which; None: that is not known.
    """
    try:
        yield
    except _OF_THE_MODEL:
        raise
    except Exception as error:
        found = samples()
        of_all = isinstance(error, (ArgumentError, ArgumentTypeError))
        of_all = of_all and not isinstance(error, LabelError)
        if found is not None and found.numbers and not (found.first and of_all):
            numbers = found.numbers
            where = "of the dataset" if found.in_dataset else "in its order"
            in_a_row = [*numbers] == [*range(numbers[0], numbers[-1] + 1)]
            shown = f"{numbers[0]} to {numbers[-1]}" if in_a_row else _few(numbers)
            what = f"one of samples {shown if len(numbers) > 2 else _few(numbers)}"
            what = what if len(numbers) > 1 else f"sample {numbers[0]}"
            error.add_note(f"Scoring `{CALLED.get()}` failed at {what} {where}.")
        raise


def _one(key: Any, dataset: Any, places: Tensor | None) -> str:
    if not isinstance(key, int):
        return _batch(key, places)
    index = inner = key if places is None else int(places[key])
    told = f"sample {index} of the dataset"
    if type(dataset) is not Subset:
        return told
    while type(dataset) is Subset and -len(dataset) <= inner < len(dataset):
        dataset, inner = dataset.dataset, int(dataset.indices[inner])
    return f"{told}, sample {inner} of what it is a subset of"


def _batch(key: Any, places: Tensor | None) -> str:
    found = key.tolist() if hasattr(key, "tolist") else key
    if isinstance(found, int):
        return f"batch {found} of the dataset"
    if not isinstance(found, Sequence) or not {*map(type, found)} <= {int}:
        return f"{key!r} of the dataset"
    found = found if places is None else [int(places[i]) for i in found]
    what = f"sample {found[0]}" if len(found) == 1 else f"one of samples {_few(found)}"
    return f"{what} of the dataset"


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + ", …" * (len(numbers) > _SHOWN)
