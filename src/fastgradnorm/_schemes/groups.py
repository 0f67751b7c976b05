"""Squared norms by groups of parameters: `group_by`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastgradnorm._validate import fail

GroupBy = Literal["parameter", "module"] | Callable[[str], str]

# Of the name of a column: the scheme, then this, then the number of the group.
_MARK = " by group "


class Groups:
    """Which group each parameter is in.

    Args:
        group_by: As asked for.
        names: Of all parameters that may count.

    Attributes:
        names: Of the groups, in the order of their first parameters.

    Raises:
        ValueError: If a function gives a parameter no name.
    """

    def __init__(self, group_by: GroupBy, names: Iterable[str]) -> None:
        self._of = {name: _group(group_by, name) for name in names}
        self.names = tuple(dict.fromkeys(self._of.values()))
        self._index: dict[Any, Tensor] = {}

    def sums(self, sq_norms: Tensor, names: Sequence[str]) -> Tensor:
        """Squared norms `[K, G]` by group, from those of parameters `[K, P]` of these names."""
        key = tuple(names), sq_norms.device
        if key not in self._index:
            place = {group: i for i, group in enumerate(self.names)}
            index = [place[self._of[name]] for name in names]
            self._index[key] = torch.tensor(index, device=sq_norms.device)
        total = sq_norms.new_zeros(len(sq_norms), len(self.names))
        return total.index_add(1, self._index[key], sq_norms.clamp_min(0))

    def place(self, name: str) -> int:
        """Of the group that a parameter is in."""
        return self.names.index(self._of[name])

    def used(self, names: Iterable[str]) -> list[int]:
        """Places of the groups that one of these parameters is in."""
        groups = {self._of[name] for name in names if name in self._of}
        return [i for i, group in enumerate(self.names) if group in groups]


def _group(group_by: GroupBy, name: str) -> str:
    if group_by == "parameter":
        return name
    if group_by == "module":
        return name.rpartition(".")[0]
    group = group_by(name) if callable(group_by) else None
    if not isinstance(group, str):
        raise fail(
            "group_by", f"a function that gives each parameter a name (here of {name!r})", group
        )
    return group


def column(scheme: str, group: int) -> str:
    """The name of a column of scores that is one group's squares."""
    return f"{scheme}{_MARK}{group}"


def is_column(name: str) -> bool:
    """Whether a column of scores is one group's squares."""
    return _MARK in name
