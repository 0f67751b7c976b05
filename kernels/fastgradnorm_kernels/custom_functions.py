"""Custom autograd functions that know nothing of `vmap`, run within a `vjp` all the same.

PyTorch refuses an `autograd.Function` under its transforms if `forward` takes `ctx`, or if there is
neither a rule for `vmap` nor leave to make one. What such a function computes are operations like
any other: within the one `vjp` it is applied as a light function, whose `forward` and `backward`
see the samples' tensors and run under `vmap` by the operations' own rules.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgradnorm_kernels.functorch import SingleLevel, is_transforming, unwrap, wrap
from fastgradnorm_kernels.levels import is_differentiated


@contextlib.contextmanager
def opened_functions() -> Iterator[None]:
    """A context in which such functions run under the engine's own transforms.

    `Function.apply` does another thing inside, for the whole process; outside of transforms it does
    what it did. Where it is written in Python, as in PyTorch 2.13, it is its code that changes,
    so that `swish = Swish.apply`, bound when a model's file was imported, is reached too.
    """
    method: Any = vars(Function)["apply"]
    function = getattr(method, "__func__", None)
    if isinstance(function, FunctionType) and function.__code__.co_freevars == ("__class__",):
        with _other_code(function):
            yield
        return

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        return _applied(method.__get__(None, cls), cls, args, kwargs)

    opened = classmethod(apply)
    Function.apply = opened  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        if vars(Function)["apply"] is opened:  # else another has changed it since
            Function.apply = method  # type: ignore[method-assign]


@contextlib.contextmanager
def _other_code(function: FunctionType) -> Iterator[None]:
    """`function` does the other thing, whatever holds it, and another function what it did."""
    before = function.__code__
    plain = FunctionType(
        before,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    plain.__kwdefaults__ = function.__kwdefaults__
    _plain[:] = [plain]
    function.__code__ = _CODE
    try:
        yield
    finally:
        if function.__code__ is _CODE:  # else another has changed it since
            function.__code__ = before


def _stand_in() -> CodeType:
    """Code with the one cell that `Function.apply` has, run with the globals of that."""
    __class__ = None

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        import sys  # names are those of PyTorch's own file

        here = sys.modules["fastgradnorm_kernels.custom_functions"]
        return here.applied(__class__, cls, args, kwargs)

    return apply.__code__


_CODE = _stand_in()
_plain: list[Callable[..., Any]] = []  # what the function does otherwise


def applied(_: Any, cls: type[Function], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `Function.apply` does while its code is another."""
    return _applied(functools.partial(_plain[-1], cls), cls, args, kwargs)


def _applied(
    before: Callable[..., Any], cls: type[Function], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One application: as a light function where that is needed, or as before."""
    if not kwargs and _knows_nothing(cls) and is_transforming():
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        differentiated = is_differentiated(*tensors)
        if differentiated:
            return _light(cls).within(*args)
        if differentiated is False:
            with torch.no_grad():
                return _called(cls, _Context(len(args)), args)
    return before(*args, **kwargs)


def _takes_context(cls: type[Function]) -> bool:
    return cls.setup_context is Function.setup_context


def _knows_nothing(cls: type[Function]) -> bool:
    rule = cls.generate_vmap_rule or cls.vmap is not Function.vmap
    return _takes_context(cls) or not rule


def _called(cls: type[Function], ctx: Any, args: tuple[Any, ...]) -> Any:
    if _takes_context(cls):
        return cls.forward(ctx, *args)
    output = cls.forward(*args)
    cls.setup_context(ctx, args, output)
    return output


@functools.cache
def _light(cls: type[Function]) -> type[SingleLevel]:
    """The function at one level."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = _called(cls, ctx, tuple(map(_inside, args)))
        several = isinstance(output, tuple)
        parts = output if several else (output,)
        # Operations in there count as made at this level, where nothing is differentiated.
        outer = [wrap(unwrap(part)) if isinstance(part, Tensor) else part for part in parts]
        if ctx.to_save is not None:
            ctx.save_for_backward(*map(_inside, ctx.to_save))
        constant = {id(tensor) for tensor in ctx.non_differentiable or ()}
        if constant:
            marked = [o for o, part in zip(outer, parts, strict=True) if id(part) in constant]
            ctx.mark_non_differentiable(*marked)
        return tuple(outer) if several else outer[0]

    functions = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward)}
    return type(cls.__name__, (SingleLevel,), functions)


def _inside(value: Any) -> Any:
    return unwrap(value) if isinstance(value, Tensor) else value


class _Context:
    """Of a call without a derivative: nobody will read it."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (False,) * count
        self.saved_tensors: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def _ignore(self, *_: Any) -> None:
        pass

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignore
