"""Checkpointed blocks, which `torch.func` does not run through: they run as they are, and once.

Private of PyTorch's, named here and nowhere else, as in `switches`.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.utils import checkpoint

from fastgradnorm_kernels.assigning import assigned
from fastgradnorm_kernels.functorch import is_transforming
from fastgradnorm_kernels.proof import proves

_noted = threading.local()


@contextlib.contextmanager
def cut_off() -> Iterator[list[str]]:
    """Blocks that run inside and have a gradient by their parameters, which training has not.

    A reentrant checkpoint gives its output a gradient where an input has one, and only there. Their
    names, filled as they run.
    """
    before, _noted.names = getattr(_noted, "names", None), []
    try:
        yield _noted.names
    finally:
        _noted.names = before


def _note(function: Any, args: tuple[Any, ...], output: Any) -> None:
    names = getattr(_noted, "names", None)
    if names is None or is_transforming() or not torch.is_grad_enabled():
        return
    made = output if isinstance(output, (tuple, list)) else (output,)
    if not _has_gradient(args) and _has_gradient(made):
        names.append(getattr(function, "__qualname__", type(function).__name__))


def _has_gradient(values: Iterable[Any]) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)


class _PlainCheckpoint:
    """Stands for reentrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        output = function(*args)
        _note(function, args, output)
        return output


def _no_checkpoint(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Stands for the others: what `checkpoint` enters before a block and leaves after it."""
    yield


# What `checkpoint` calls, by version. Can go when `torch.func` runs through checkpoints.
_CHECKPOINTS: dict[str, Any] = {
    "CheckpointFunction": _PlainCheckpoint,
    "_checkpoint_without_reentrant_generator": _no_checkpoint,
    "_checkpoint_without_reentrant_generator_impl": _no_checkpoint,  # from 2.14
}


def plain_checkpoints() -> AbstractContextManager[None]:
    """A context in which checkpointed blocks run as they are, and once."""
    if has_plain_checkpoints():
        return assigned(checkpoint, _CHECKPOINTS)
    return _other_code()


@proves("torch.utils.checkpoint", "`checkpoint` has other code meanwhile")
def has_plain_checkpoints() -> bool:
    """Whether a block of either kind runs once in `vjp`, and its gradient is right."""
    proved = True
    for reentrant in (True, False):
        runs: list[int] = []

        def block(x: Tensor, runs: list[int] = runs) -> Tensor:
            runs.append(1)
            return x.square()

        def both(x: Tensor, block: Any = block, reentrant: bool = reentrant) -> Any:
            return checkpoint.checkpoint(block, x, use_reentrant=reentrant)

        x = torch.arange(3, dtype=torch.float32, device="cpu")
        with assigned(checkpoint, _CHECKPOINTS):
            made: Any = vjp(both, x)
            (pulled,) = made[1](torch.ones_like(x))
        proved = proved and len(runs) == 1 and torch.equal(pulled, 2 * x)
    return proved


@contextlib.contextmanager
def _other_code() -> Iterator[None]:
    """`checkpoint` calls its block and does nothing else, wherever it has been imported to."""
    function: Any = inspect.unwrap(checkpoint.checkpoint)
    before = function.__code__
    function.__code__ = _called.__code__
    try:
        yield
    finally:
        function.__code__ = before


def _called(function: Any, *args: Any, **kwargs: Any) -> Any:
    # Run with the globals and defaults of the function that it stands for: it may use no names.
    if function is None:
        return lambda block: block
    for option in (
        "use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug",
        "early_stop", "respect_saved_tensors_hooks",
    ):  # fmt: skip
        kwargs.pop(option, None)
    return function(*args, **kwargs)
