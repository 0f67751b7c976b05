"""Operations in place of which only the other form has a rule for vmap: that form, copied back."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgradnorm._operations.operation import Operation

# fmt: off
_WITHOUT_RULE = (
    "addbmm_", "addcdiv_", "addcmul_", "addmm_", "addmv_", "baddbmm_", "clamp_", "clip_",
    "copysign_", "cumsum_", "eq_", "floor_divide_", "fmod_", "ge_", "gt_", "heaviside_",
    "hypot_", "index_copy_", "le_", "lerp_", "lt_", "ne_", "pow_", "remainder_", "tril_",
    "triu_", "xlogy_",
)
_OPERATORS = {"__ipow__": "pow", "__ifloordiv__": "floor_divide", "__imod__": "remainder"}
# fmt: on


def copied_back(
    function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Of a copy: what the derivative needs of the input is gone with the change."""
    return input.copy_(function(input.clone(), *args, **kwargs))


def _operations() -> dict[Callable[..., Any], Operation]:
    names = {name: name[:-1] for name in _WITHOUT_RULE} | _OPERATORS
    found = {}
    for name, other in names.items():
        operation = Operation(form=partial(copied_back, getattr(Tensor, other)))
        for owner in (torch, Tensor):
            if hasattr(owner, name):
                found[getattr(owner, name)] = operation
    return found


OPERATIONS: dict[Callable[..., Any], Operation] = _operations()
