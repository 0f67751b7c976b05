"""Lists with one entry a sample that are no tensors, of which a loss cannot be given its part.

Names, or numbers that a collate function left in a list. A loss runs on several samples at once,
for which what Python computes is one and the same: it would read all entries for each sample.
"""

from typing import Any, NoReturn

import numpy as np

from fastgradnorm._errors import LossError

_PLAIN = (bool, bytes, complex, float, int, str, type(None), np.generic)
_DEPTH = 3


class Uncut:
    """Stands for such a list: whatever reads it is told.

    Args:
        place: Of the list in its batch.
        given: The list.
    """

    def __init__(self, place: str, given: Any) -> None:
        self._told = f"`batch{place}`, a {type(given).__name__} of {len(given)}"

    def __repr__(self) -> str:
        return f"<{self._told}>"

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise LossError(
            "`loss` must read what differs between samples from tensors, from which samples are "
            f"cut. It read {self._told} beside as many samples. Make it a tensor in the loader's "
            "collate_fn, of names by their numbers. If it is no entry a sample, give it to the "
            "loss itself: a closure, or `functools.partial`."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    __array__ = __contains__ = __getitem__ = __iter__ = __len__ = __reversed__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __eq__ = __lt__ = __gt__ = _refuse
    __hash__ = object.__hash__


def is_plain_list(value: Any) -> bool:
    """Whether it is a list or tuple of plain values, or of lists of such."""
    return type(value) in (list, tuple) and all(_is_plain(entry, _DEPTH) for entry in value)


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, _PLAIN):
        return True
    if depth == 0 or type(value) not in (list, tuple, dict):
        return False
    return all(_is_plain(v, depth - 1) for v in (value.values() if type(value) is dict else value))
