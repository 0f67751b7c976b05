"""What goes wrong when an operation is computed, as a type that no caller takes for its own."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_LONGEST = 600  # characters of another's message; the error itself is the cause

F = TypeVar("F", bound=Callable[..., Any])


class KernelError(RuntimeError):
    """An operation could not be computed: its kernel does not compile, fit or run on this device.

    Attributes:
        operation: Its name.
    """

    def __init__(self, message: str, operation: str) -> None:
        super().__init__(message)
        self.operation = operation

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled by `args`, the message alone, where a process pool hands it on.
        return type(self), (str(self), self.operation), self.__dict__


def telling(operation: str) -> Callable[[F], F]:
    """Makes whatever a function raises, but for wrong arguments, a `KernelError` of that name."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (ValueError, TypeError, MemoryError, torch.OutOfMemoryError, KernelError):
                raise  # says what is wrong itself
            except Exception as error:  # Triton has exceptions of several families
                given = ", ".join(map(_described, (*args, *kwargs.values())))
                reason = f"{type(error).__name__}: {error!s:.{_LONGEST}}"
                raise KernelError(
                    f"`{operation}` failed on {given}. {reason}. "
                    "backend='torch' does without Triton's kernels.",
                    operation,
                ) from error

        return call  # type: ignore[return-value]

    return decorate


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        name = str(value.dtype).removeprefix("torch.")
        return f"{name} {list(value.shape)} on {value.device}"
    return repr(value)
