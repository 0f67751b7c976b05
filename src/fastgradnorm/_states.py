"""The caller's global state: kept from changing, and out of the way, while scores are computed."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def autograd_ready() -> Iterator[None]:
    """Gradients work inside, whatever grad or inference mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(states: tuple[Any, ...]) -> None:
    python, legacy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(legacy)
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


class OwnRandomState:
    """Random states of Python, numpy and torch that are the block's own.

    They start as the caller's; what the block draws leaves the caller's as they were, also after an
    exception. Entered again, they go on where they were left: loaders may draw from batch to batch.
    """

    def __init__(self) -> None:
        self._own: tuple[Any, ...] | None = None
        self._callers: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._callers = _random_states()
        if self._own is not None:
            _set_random_states(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = _random_states()
        _set_random_states(self._callers)
