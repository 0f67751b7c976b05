"""A mode that tells light functions which of the nested transforms are the engine's."""

from typing import Any, Self

from fastgradnorm_kernels.functorch import current_level
from fastgradnorm_kernels.levels import set_own_levels
from torch.overrides import TorchFunctionMode


class OwnLevels(TorchFunctionMode):
    """What is nested deeper than where it was made is the model's.

    Where the engine takes no derivative, as of the logits alone, one that the model takes has the
    level that the engine's has elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self._levels, self._before = current_level() or 0, list[int]()

    def __enter__(self) -> Self:
        self._before.append(set_own_levels(self._levels))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        set_own_levels(self._before.pop())
