"""Checkpoints of a model: states that are loaded into a copy of it."""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model import Held
from fastgradnorm._validate import Words, fail, fail_type

_STATE = "a state dict of the model, or the path of one"
# What `nn.DataParallel` and its like, and `torch.compile`, put before the names of a model.
_WRAPPERS = ("module.", "_orig_mod.")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")  # that PyTorch's messages have


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
            state = _read(Path(state))
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            reason = _COLOUR.sub("", str(error)).strip().partition("\n")[0]
            raise fail(name, _STATE, told, f"{type(error).__name__}: {reason}") from error
    if not isinstance(state, Mapping):
        raise fail_type(name, _STATE, state, "Pass its `state_dict()`.")
    try:
        model.load_state_dict(_completed(model, state))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        inside = [key for key, value in state.items() if isinstance(value, Mapping)]
        advice = (
            f" It holds mappings: pass that of {inside[0]!r} if it is the one." if inside else ""
        )
        raise ArgumentError(
            f"`{name}` must be {_STATE}. Got {told} that does not fit: {reason}{advice}", name
        ) from error


def _read(path: Path) -> Any:
    """What is in a file.

    Raises:
        ValueError: If it is not what its name says.
    """
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


@contextmanager
def values_of(other: nn.Module, model: nn.Module) -> Iterator[nn.Module]:
    """A model with the values of its copy, for functions that reach it by themselves.

    After, its tensors are in their own memory again, which was not written to.
    """
    held = Held(module.__dict__ for module in model.modules())
    pairs = [
        *zip(model.parameters(), other.parameters(), strict=True),
        *zip(model.buffers(), other.buffers(), strict=True),
    ]
    kept = [(own, own.data, own.grad) for own, _ in pairs]
    try:
        for own, there in pairs:
            own.data, own.grad = there.data, None
        yield model
    finally:
        held.put_back()
        for own, data, grad in kept:
            own.data, own.grad = data, grad


def _completed(model: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state with the names of the model: of a wrapper's without what that puts before them.

    A tensor that is shared need stand there only once, as files of safetensors have it.
    """
    own, found = model.state_dict(keep_vars=True), state
    for prefix in (*_WRAPPERS, *_WRAPPERS):  # either may be within the other
        if found and not any(name.startswith(prefix) for name in own):
            while all(name.startswith(prefix) for name in found):
                found = {name.removeprefix(prefix): value for name, value in found.items()}
    there = {id(tensor): name for name, tensor in own.items() if name in found}
    shared = {
        name: found[there[id(tensor)]]
        for name, tensor in own.items()
        if name not in found and id(tensor) in there
    }
    return {**found, **shared} if shared else found
