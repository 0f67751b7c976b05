"""Checkpoints of a model: states that are loaded into a copy of it."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgradnorm._errors import ArgumentError
from fastgradnorm._validate import Words, fail, fail_type

_STATE = "a state dict of the model, or the path of one"


def check_states(model: nn.Module, checkpoints: Sequence[tuple[Any, float]]) -> None:
    """Raises for what does not fit, as far as that can be told before any pass is made.

    Args:
        model: A copy, which has another state after.
        checkpoints: Pairs of a state dict or its path, and a weight.
    """
    for place, (state, _) in enumerate(checkpoints):
        name = f"checkpoints[{place}][0]"
        if isinstance(state, Mapping):
            load_state(model, state, name)
        elif not Path(state).is_file():
            raise fail(name, _STATE, str(state), "There is no such file.")


def load_state(model: nn.Module, state: Mapping[str, Any] | str | Path, name: str) -> None:
    """Loads a state dict, or the file of one, into a model.

    Raises:
        TypeError: If a file holds something else.
        ValueError: If a file cannot be read, or the state is of another model.
    """
    told = Words("one")
    if isinstance(state, (str, Path)):
        told = Words(f"'{state}'")
        try:
            state = torch.load(state, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise fail(name, _STATE, told, f"{type(error).__name__}: {reason}") from error
    if not isinstance(state, Mapping):
        raise fail_type(name, _STATE, state, "Pass its `state_dict()`.")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        inside = [key for key, value in state.items() if isinstance(value, Mapping)]
        advice = (
            f" It holds mappings: pass that of {inside[0]!r} if it is the one." if inside else ""
        )
        raise ArgumentError(
            f"`{name}` must be {_STATE}. Got {told} that does not fit: {reason}{advice}", name
        ) from error
