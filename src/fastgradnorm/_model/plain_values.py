"""Values by which a model is told what to do, and when two of them are the same."""

from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

GONE = object()
_PLAIN = (bool, float, int, str, complex, type(None), torch.dtype, torch.device)
# Of what a model keeps to itself: counters, flags and tensors are mostly what is remembered of
# calls, which whoever runs the model meanwhile changes.
_PRIVATE = (float, str)
# What becomes of nothing once it is known, and is remembered.
_REMEMBERED = (int, Tensor, np.ndarray, list, tuple, dict, set)


def is_setting(value: Any, private: bool) -> bool:
    """Whether a model may do something else for another value in its place.

    Args:
        value: What stands somewhere.
        private: Whether no one but the model is to write there.
    """
    if private:
        several = type(value) is tuple and all(type(each) in _PRIVATE for each in value)
        return type(value) in _PRIVATE or several or callable(value)
    if type(value) is tuple:
        return all(is_setting(each, private) for each in value)
    plain = type(value) in _PLAIN or isinstance(value, (Tensor, np.ndarray, np.generic, Enum))
    return plain or callable(value)


def is_memory(value: Any) -> bool:
    """Whether it is a tensor that a call has left there."""
    return isinstance(value, Tensor) and value.grad_fn is not None


def differ(now: Any, before: Any) -> bool:
    """Whether two settings are not the same; of two tensors, or arrays, that is taken for granted.

    What was nothing, and is remembered since, is none.
    """
    if now is before:
        return False
    if before is None and isinstance(now, _REMEMBERED) and not isinstance(now, bool):
        return False
    if any(isinstance(each, (Tensor, np.ndarray)) for each in (now, before)):
        return True
    try:
        return not bool(now == before)
    except Exception:  # such as of tuples with arrays
        return True
