"""Argument checks; messages say which argument, what it must be, what it was, and what to do."""

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import torch
from fastgradnorm_kernels.switches import compiled_from
from torch import nn

from fastgradnorm._errors import ArgumentError, ArgumentTypeError

_LONGEST = 200  # characters of a value; longer ones are told by their type


def type_name(value: object) -> str:
    """The type as a reader knows it: `list of str`, `Tensor int64 [3]`, `dict`."""
    if isinstance(value, torch.Tensor):
        return f"Tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    name = type(value).__name__
    if isinstance(value, (list, tuple)) and value:
        return f"{name} of {type(value[0]).__name__}"
    return name


class Words(str):
    """What was given, in words of ours: told without the quotes that a caller's text has."""

    __slots__ = ()
    __repr__ = str.__str__


def fail(name: str, requirement: str, value: object, advice: str = "") -> ArgumentError:
    """The error for a wrong value; a tensor is told by its dtype and shape."""
    got = type_name(value) if isinstance(value, torch.Tensor) else repr(value)
    if "\n" in got or len(got) > _LONGEST:
        got = type_name(value)
    return ArgumentError(f"`{name}` must be {requirement}. Got {got}. {advice}".rstrip(), name)


def fail_type(name: str, requirement: str, value: object, advice: str = "") -> ArgumentTypeError:
    """The error for a wrong type."""
    told = f"`{name}` must be {requirement}. Got {type_name(value)}. {advice}"
    return ArgumentTypeError(told.rstrip(), name)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises unless `value` is one of `choices`."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise fail(name, "one of " + ", ".join(map(repr, known)), value)


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raises unless `value` is a finite real number within its bound."""
    bound = f" > {above:g}" if above is not None else ""
    bound += f" >= {at_least:g}" if at_least is not None else ""
    bound += f" and <= {at_most:g}" if at_most is not None else ""
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fail_type(name, f"a number{bound}", value)
    low = (above is not None and not value > above) or (
        at_least is not None and not value >= at_least
    )
    high = at_most is not None and value > at_most
    if low or high or not math.isfinite(value):
        raise fail(name, f"a finite number{bound}", value)


def check_integer(name: str, value: object, *, at_least: int | None = None) -> int:
    """`value`, an integer of Python's or NumPy's; raises unless it is one within its bound."""
    bound = "" if at_least is None else f" >= {at_least}"
    plain = plain_integer(value)
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise fail_type(name, f"an integer{bound}", value)
    if at_least is not None and plain < at_least:
        raise fail(name, f"an integer{bound}", value)
    return plain


def plain_integer(value: Any) -> Any:
    """An integer of NumPy's as one that JSON and digests take; anything else as it is."""
    foreign = isinstance(value, numbers.Integral) and not isinstance(value, int)
    return operator.index(value) if foreign else value


def plain_number(value: Any) -> Any:
    """A real number of NumPy's as one of Python's; anything else as it is."""
    foreign = isinstance(value, numbers.Real) and not isinstance(value, (int, float))
    whole = isinstance(value, numbers.Integral)
    return float(value) if foreign and not whole else plain_integer(value)


def check_amount(name: str, value: object, unit: str) -> None:
    """Raises unless `value` is None, an integer >= 1, or a fraction in (0, 1]."""
    wanted = f"{unit} (an integer >= 1) or a fraction (a float in (0, 1])"
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fail_type(name, wanted, value)
    if not (value >= 1 if isinstance(value, int) else 0 < value <= 1):
        raise fail(name, wanted, value)


def check_bool(name: str, value: object) -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool):
        raise fail_type(name, "True or False", value)


def check_flag(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises unless `value` is True, False or one of `choices`."""
    known = tuple(choices)
    wanted = f"{', '.join(['True', 'False', *map(repr, known[:-1])])} or {known[-1]!r}"
    if not isinstance(value, (bool, str)):
        raise fail_type(name, wanted, value)
    if isinstance(value, str) and value not in known:
        raise fail(name, wanted, value)


def check_callable(name: str, value: object, signature: str) -> None:
    """Raises unless `value` is None or can be called."""
    if value is not None and not callable(value):
        raise fail_type(name, f"a function {signature}, or None", value)


def check_params(params: object) -> None:
    """Raises unless parameters are chosen by a word or a function."""
    advice = ""
    if isinstance(params, nn.Module):
        advice = "Of a part of the model: `lambda name, parameter: name.startswith('head.')`."
    elif isinstance(params, Iterable) and not isinstance(params, str):
        advice = "Of some names: `lambda name, parameter: name in names`."
    elif callable(params) or params in ("all", "last_layer"):
        return
    wanted = "'all', 'last_layer' or a function (name, parameter) -> bool"
    raise fail("params", wanted, params, advice)


def _module_of(other: object) -> str:
    """What to do with what is no module, where that is known."""
    if isinstance(other, type) and issubclass(other, nn.Module):
        return f"Make one of this class: `{other.__name__}(...)`."
    if isinstance(other, Mapping):
        return "If these are its weights, make the model and call its `load_state_dict`."
    if isinstance(other, (str, PathLike)):
        return "Make the model, and load its weights: `model.load_state_dict(torch.load(path))`."
    if callable(other):
        return "Pass the module whose parameters count; `forward=` takes a function that calls it."
    return "The model is passed first, then the samples." if isinstance(other, Iterable) else ""


def check_model(model: object) -> nn.Module:
    """The module itself, out of its compiled or data-parallel wrapper."""
    if not isinstance(model, nn.Module):
        raise fail_type("model", "a torch.nn.Module", model, _module_of(model))
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif (original := compiled_from(model)) is not None:
            model = original
        else:
            break
        assert isinstance(model, nn.Module)
    if type(model).__name__ in ("FullyShardedDataParallel", "FSDPModule"):
        raise ArgumentError(
            "`model` must hold whole parameters. Got one sharded by FSDP. Gather it into a plain "
            "module first.",
            "model",
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ArgumentError(
                f"`model` must be plain PyTorch. Got a scripted module at `{name or 'model'}`. "
                "Pass the module it was made from.",
                "model",
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ArgumentError(
                f"`model` must be initialised. Got the lazy parameter `{name}`. "
                "Run one batch through it first.",
                "model",
            )
    return model
