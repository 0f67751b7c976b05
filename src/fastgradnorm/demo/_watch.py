"""What the demo tells while it runs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress, TaskID

T = TypeVar("T")


class Watch(Protocol):
    """Hands a sequence on, and shows how far its reader is."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]:
        """`items`, with a progress bar called `description` while they are read."""
        ...


class ProgressWatch:
    """A `Watch` that draws bars on a terminal, and prints one line each elsewhere."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]:
        """`items`, with a progress bar called `description` while they are read."""
        if not self._console.is_terminal:
            self._console.print(description, highlight=False)
        task = self._progress.add_task(description, total=len(items))
        return _Watched(items, self._progress, task)


class _Watched(Generic[T]):
    """A sized iterable, so that its readers know what is to come."""

    def __init__(self, items: Sequence[T], progress: Progress, task: TaskID) -> None:
        self._items, self._progress, self._task = items, progress, task

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        self._progress.update(self._task, completed=0)
        for item in self._items:
            yield item
            self._progress.advance(self._task)
