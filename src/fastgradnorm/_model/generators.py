"""Generators of random numbers that a model holds itself, beside those of the process."""

import pickle
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from fastgradnorm_kernels.levels import outside
from fastgradnorm_kernels.switches import unwatched

from fastgradnorm._process import random_states, same_random_states

_KINDS = (
    random.Random,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    torch.Generator,
)


def is_generator(value: Any) -> bool:
    """Whether it makes random numbers."""
    return isinstance(value, _KINDS)


class OwnStates:
    """States of a model's own generators at this moment.

    Args:
        generators: By what the caller calls them.
    """

    def __init__(self, generators: Mapping[str, Any]) -> None:
        self._generators = generators
        self._states = {name: _state(each) for name, each in generators.items()}

    def moved(self) -> list[str]:
        """Names of those that have drawn since."""
        return [n for n, each in self._generators.items() if _state(each) != self._states[n]]

    def put_back(self) -> None:
        """As they were then."""
        for name in self.moved():
            setter = _setter(self._generators[name])
            if setter is not None:
                setter(pickle.loads(self._states[name]))


class Drawing:
    """All states at this moment: those of the process, and of a model's own generators.

    Args:
        generators: As in `OwnStates`; None: there are none, or nobody has looked.
    """

    def __init__(self, generators: Mapping[str, Any] | None) -> None:
        self._states = random_states()
        self._own = OwnStates(generators) if generators else None

    def drew(self) -> bool:
        """Whether a number was drawn since."""
        if not same_random_states(self._states, random_states()):
            return True
        return self._own is not None and bool(self._own.moved())


def _state(generator: Any) -> bytes:
    """Equal while nothing is drawn; of one that asks the system for numbers, never."""
    if isinstance(generator, torch.Generator):
        if generator.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return b""  # a pass that is being captured may not look
        with unwatched(), outside():  # it is none of a model's tensors, and of no transform
            return pickle.dumps(generator.get_state().numpy())
    if isinstance(generator, random.SystemRandom):
        return secrets.token_bytes()
    if isinstance(generator, random.Random):
        return pickle.dumps(generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return pickle.dumps(generator.get_state(legacy=False))
    bits = getattr(generator, "bit_generator", generator)
    return pickle.dumps(bits.state)


def _setter(generator: Any) -> Callable[[Any], Any] | None:
    if isinstance(generator, torch.Generator):
        return lambda state: generator.set_state(torch.from_numpy(state))
    if isinstance(generator, random.SystemRandom):
        return None
    if isinstance(generator, random.Random):
        return generator.setstate
    if isinstance(generator, np.random.RandomState):
        return generator.set_state
    bits = getattr(generator, "bit_generator", generator)
    return lambda state: setattr(bits, "state", state)
