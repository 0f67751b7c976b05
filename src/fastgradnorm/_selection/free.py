"""Which candidates may still be chosen: groups, near-duplicates, and what has no number."""

import torch
from torch import Tensor

from fastgradnorm._errors import ArgumentError


class Free:
    """Candidates that may still be chosen.

    Args:
        count: Of candidates.
        groups: Number `[n]` of the group that each is of; None: there are no groups.
        most: How many of a group may be chosen.
        points: Unit-length points `[n, D]`, by which near-duplicates are told; None: they are not.
        similarity: Inner product above which two candidates are near-duplicates.

    Attributes:
        mask: bool `[n]`.
    """

    def __init__(
        self,
        count: int,
        groups: Tensor | None = None,
        most: int = 1,
        points: Tensor | None = None,
        similarity: float = 1.0,
    ) -> None:
        self.mask = torch.ones(count, dtype=torch.bool, device="cpu")
        self._groups, self._most = groups, most
        self._points, self._similarity = points, similarity
        self._taken = self._near = 0
        size = 0 if groups is None or not len(groups) else int(groups.max()) + 1
        self._by_group = [0] * size

    def close(self, which: Tensor) -> None:
        """Leaves candidates out, bool `[n]`."""
        self.mask &= ~which

    def close_near(self, labelled: Tensor, chunk: int = 1024) -> None:
        """Leaves out what is nearly a duplicate of labelled points `[m, D]`, of unit length."""
        if self._points is None or not len(labelled):
            return
        for start in range(0, len(self._points), chunk):
            rows = slice(start, start + chunk)
            near = (self._points[rows] @ labelled.T).amax(1) > self._similarity
            self._near += int((self.mask[rows] & near).sum())
            self.mask[rows] &= ~near

    def take(self, i: int) -> None:
        """Chooses candidate i: it, its group once that is full, and near-duplicates are closed."""
        self._taken += 1
        self.mask[i] = False
        if self._groups is not None:
            group = int(self._groups[i])
            self._by_group[group] += 1
            if self._by_group[group] >= self._most:
                self.mask &= self._groups != group
        if self._points is not None:
            self.mask &= self._points @ self._points[i] <= self._similarity

    def pick(self, values: Tensor) -> int:
        """Takes the free candidate of the highest value `[n]`; of equal ones the first."""
        self.check()
        i = int(torch.where(self.mask, values.nan_to_num(nan=-torch.inf), -torch.inf).argmax())
        if not bool(self.mask[i]):  # every free one has the value of those that are not
            i = int(self.mask.nonzero()[0])
        self.take(i)
        return i

    def check(self) -> None:
        """Raises `ValueError` if nothing is left."""
        if not bool(self.mask.any()):
            limits = [
                *(["`max_per_group`"] if self._groups is not None else []),
                *(["`max_similarity`"] if self._points is not None else []),
            ]
            count = len(self.mask)
            if not self._taken:  # no smaller `k` would do
                near = f"{self._near:,} of them" if self._near < count else "all"
                like = f": {near} are near-duplicates of labelled samples" if self._near else ""
                raise ArgumentError(
                    f"`k` must be at most the number of samples that may be chosen, of which there "
                    f"is none left among {count:,} candidates{like}."
                    f"{f' Raise {limits[-1]}.' if self._near else ''}",
                    "k",
                )
            why = f" Raise {' or '.join(limits)}, or ask for fewer." if limits else ""
            like = " without near-duplicates" if self._points is not None else ""
            raise ArgumentError(
                f"`k` must be at most {self._taken}, the number of samples that may be chosen"
                f"{like}.{why}",
                "k",
            )
