"""How far a run is, for whoever waits for it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm


class _Hidden:
    """Stands for a bar that nobody wants, which `tqdm` takes as long to make as one that is."""

    def update(self, count: int) -> None:
        """So many samples more."""


@contextlib.contextmanager
def progress_bar(total: int | None, wanted: bool | None) -> Iterator[Any]:
    """A bar over so many samples, if it is wanted."""
    if wanted is False:
        yield _Hidden()
        return
    # disable=None: shown where standard error is a terminal
    disable = False if wanted else None
    with tqdm(total=total, desc="scoring", unit=" samples", disable=disable) as bar:
        yield bar
