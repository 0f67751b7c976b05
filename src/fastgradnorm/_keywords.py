"""Options as the keyword arguments of what scores."""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import torch
from torch import Tensor, nn

from fastgradnorm._options import AnyScheme, Forward, Loss, Mask, Options, ParamSelector
from fastgradnorm._schemes import GroupBy, Target

SeveralSchemes = list[AnyScheme] | tuple[AnyScheme, ...]

# What a batch and a whole pool give: of one scheme, or a dict of several.
Found = TypeVar("Found")
Scores = TypeVar("Scores")
P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


class Keywords(TypedDict, total=False):
    """All options but `scheme`, on which it depends what is returned; for type checkers."""

    params: ParamSelector
    reduction: Literal["global", "per_tensor"]
    loss: Loss | None
    target: Target | None
    group_by: GroupBy | None
    likelihood: Literal["auto", "categorical", "bernoulli", "gaussian"]
    class_dim: int
    temperature: float
    forward: Forward | None
    mask: Mask | None
    device: torch.device | str | None
    autocast: torch.dtype | None
    backend: Literal["auto", "torch", "triton"]
    max_memory: int | float | None
    rtol: float
    num_samples: int
    seed: int
    verify: bool | Literal["sampled", "first", "all"]
    on_nonfinite: Literal["raise", "warn", "keep"]
    subset: int | float | None
    latency: int | None
    checkpoint: str | Path | None
    distributed: bool | None
    progress: bool | None


class ScoresPool(Protocol):
    """A function of a model and a loader: one scheme gives a tensor, several a dict of them."""

    @overload
    def __call__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        scheme: AnyScheme = ...,
        **options: Unpack[Keywords],
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        scheme: SeveralSchemes,
        **options: Unpack[Keywords],
    ) -> dict[str, Tensor]: ...


def scores_pool(function: Callable[[nn.Module, Iterable[Any], Options], Any]) -> ScoresPool:
    """`takes_options` for a function whose result type checkers know from its `scheme`."""
    return cast(ScoresPool, takes_options(Options)(function))


def changed(options: Options) -> list[str]:
    """`name=value` of each option that is not its default."""
    kept = {f.name: (getattr(options, f.name), f.default) for f in fields(Options)}
    return [f"{name}={value!r}" for name, (value, default) in kept.items() if value != default]


def as_keywords(options: Options) -> dict[str, Any]:
    """The keyword arguments that make these options."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def make_options(function: str, given: Mapping[str, Any], own: Collection[str] = ()) -> Options:
    """The options of keyword arguments; `TypeError` with the closest name for a misspelt one.

    Args:
        function: Which is called.
        given: The keyword arguments.
        own: Names of the function's other arguments, which may have been meant.
    """
    names = inspect.signature(Options).parameters
    unknown = {name: value for name, value in given.items() if name not in names}
    _refuse_unknown(function, unknown, set(), {**dict.fromkeys(own), **names})
    return Options(**given)


def takes_options(
    make: Callable[P, Options],
) -> Callable[[Callable[[A, B, Options], R]], Callable[..., R]]:
    """Lets `function(first, second, options)` be called with the options as keyword arguments.

    Signatures shown by editors and `help` name every option with its default; a misspelt one raises
    `TypeError` with the closest name.
    """
    names = inspect.signature(make).parameters

    def decorate(function: Callable[[A, B, Options], R]) -> Callable[..., R]:
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
        call.__doc__ = described(function.__doc__, make.__doc__)
        return call

    return decorate


def described(text: str | None, options: str | None) -> str | None:
    """A docstring whose `options` are followed by what each of them does, for `help`.

    Args:
        text: The docstring of a function, whose last argument is `options`.
        options: That of `Options`.
    """
    if not (text and options):
        return text
    arguments = re.search(
        r"^ *Args:\n(.*?)(?=^\s*^ *[A-Z]\w+:$|\Z)", options, re.DOTALL | re.MULTILINE
    )
    place = re.search(r"^( +)options: .*\n(?:\1 +.*\n)*", text, re.MULTILINE)
    if arguments is None or place is None:
        return text
    told = textwrap.indent(textwrap.dedent(arguments[1]).rstrip(), place[1] + "    ")
    return text[: place.end()] + told + "\n" + text[place.end() :]


def _refuse_unknown(
    function: str, kwargs: Mapping[str, Any], own: set[str], names: Mapping[str, Any]
) -> None:
    import difflib

    for name in kwargs:
        if name not in own:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Options: {', '.join(names)}."
            raise TypeError(f"`{name}` is not an option of {function}. {hint}")
