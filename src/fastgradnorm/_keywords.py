"""Options as the keyword arguments of what scores."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from fastgradnorm._options import Options

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


def make_options(function: str, given: Mapping[str, Any]) -> Options:
    """The options of keyword arguments; `TypeError` with the closest name for a misspelt one."""
    names = inspect.signature(Options).parameters
    unknown = {name: value for name, value in given.items() if name not in names}
    _refuse_unknown(function, unknown, set(), names)
    return Options(**given)


def takes_options(
    make: Callable[P, Options],
) -> Callable[[Callable[[A, B, Options], R]], Callable[Concatenate[A, B, P], R]]:
    """Lets `function(first, second, options)` be called with the options as keyword arguments.

    Signatures shown by editors and `help` name every option with its default; a misspelt one raises
    `TypeError` with the closest name.
    """
    names = inspect.signature(make).parameters

    def decorate(function: Callable[[A, B, Options], R]) -> Callable[Concatenate[A, B, P], R]:
        own = inspect.signature(function)
        first, second = list(own.parameters.values())[:2]

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> R:
            chosen = {name: kwargs.pop(name) for name in list(kwargs) if name in names}
            _refuse_unknown(function.__qualname__, kwargs, {first.name, second.name}, names)
            bound = inspect.Signature([first, second]).bind(*args, **kwargs).arguments
            options = make(**chosen)  # type: ignore[call-arg]
            return function(bound[first.name], bound[second.name], options)

        shown = [first, second, *names.values()]
        call.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
        return call

    return decorate


def _refuse_unknown(
    function: str, kwargs: Mapping[str, Any], own: set[str], names: Mapping[str, Any]
) -> None:
    import difflib

    for name in kwargs:
        if name not in own:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Options: {', '.join(names)}."
            raise TypeError(f"`{name}` is not an option of {function}. {hint}")
