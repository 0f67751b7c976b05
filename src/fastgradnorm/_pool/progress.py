"""How far a run is, for whoever waits for it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm


@contextlib.contextmanager
def progress_bar(total: int | None, wanted: bool | None) -> Iterator[Any]:
    """A bar over so many samples, if it is wanted."""
    # disable=None: shown where standard error is a terminal
    disable = None if wanted is None else not wanted
    with tqdm(total=total, desc="scoring", unit=" samples", disable=disable) as bar:
        yield bar
