"""PyTorch's transforms from inside: all that is private of them, named here and nowhere else.

`torch.func` hands a function tensors in wrappers, one a level of nesting, and has no public way to
look into them. The light functions and operators of this package do, for a fraction of the time.
Each name has a note: what it is for, and when it can go. Together they prove themselves once, see
`works`; where they do not, an `autograd.Function` with a rule for `vmap` looks into the wrappers,
one level after the other, and nothing is light.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from fastgradnorm_kernels.proof import proves

PATH = "torch._C._functorch"
_functorch: Any = getattr(torch._C, "_functorch", None)

# Plain tensors are computed with as if no transform was active, within this context. Can go when
# functions under `vmap` may hand plain tensors to operators in public.
outside: Any = getattr(torch._C, "_DisableFuncTorch", None)

# An `autograd.Function` that one level of nesting sees and no other: what PyTorch makes of a public
# one anew at each call and level. Can go when that costs nothing any more.
_Base: Any = getattr(torch.autograd.function, "_SingleLevelFunction", torch.autograd.Function)


# What `level_of` says of a tensor without a wrapper; less of one whose transform has ended.
NO_LEVEL = -1


def current_level() -> int | None:
    """Nesting level of the innermost transform; None outside all of them, or if it cannot be told.

    Can go with light functions, which must know where they are.
    """
    return _level() if works() else None


def is_transforming() -> bool:
    """Whether any transform is active."""
    if works():
        return _level() is not None
    try:  # which every transform forbids
        torch.empty(0, device="cpu").requires_grad_()
    except RuntimeError:
        return True
    return False


def _level() -> int | None:
    level: int | None = _functorch.maybe_current_level()
    return level


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform wraps the tensor. Can go when `torch.func` tells."""
    return bool(_functorch.is_functorch_wrapped_tensor(tensor))


def is_batched(tensor: Tensor) -> bool:
    """Whether the outermost wrapper is one of `vmap`. Can go when `torch.func` tells."""
    return bool(_functorch.is_batchedtensor(tensor))


def is_differentiable(tensor: Tensor) -> bool:
    """Whether the outermost wrapper is one of `vjp` or `grad`. Can go when `torch.func` tells."""
    return bool(_functorch.is_gradtrackingtensor(tensor))


def level_of(tensor: Tensor) -> int:
    """Nesting level of the outermost wrapper; -1 without one, less of one that has ended.

    Can go with `current_level`.
    """
    level: int = _functorch.maybe_get_level(tensor)
    return level


def batch_dim(tensor: Tensor) -> int:
    """Which dimension of what is inside a wrapper of `vmap` is that of the batch.

    Can go when `vmap` has a rule for each operation, or hands the engine's rules the tensor inside.
    """
    dim: int = _functorch.maybe_get_bdim(tensor)
    return dim


def inside(tensor: Tensor) -> Tensor:
    """What the outermost wrapper holds. Can go with `batch_dim`."""
    inner: Tensor = _functorch.get_unwrapped(tensor)
    return inner


def unbatched(tensor: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """What is inside of wrappers of `vmap`, and the level and dimension of each, from outside.

    All of the above in one call, as nearly every tensor of a pass is asked for. Can go with them.
    """
    dims: list[tuple[int, int]] = []
    tensor = _functorch.unwrap_if_dead(tensor)
    while _functorch.is_batchedtensor(tensor):
        dims.append((_functorch.maybe_get_level(tensor), _functorch.maybe_get_bdim(tensor)))
        tensor = _functorch.unwrap_if_dead(_functorch.get_unwrapped(tensor))
    return tensor, dims


def alive(tensor: Tensor) -> Tensor:
    """The tensor without wrappers of transforms that have ended. Can go with `is_wrapped`."""
    living: Tensor = _functorch.unwrap_if_dead(tensor)
    return living


def batched(tensor: Tensor, level: int) -> Tensor:
    """The tensor in a wrapper of the `vmap` of that level, over its first dimension.

    Can go with `batch_dim`.
    """
    outer: Tensor = _functorch._add_batch_dim(tensor, 0, level)
    return outer


def unwrap(tensor: Tensor) -> Tensor:
    """What the innermost `vjp` has wrapped. Can go with `SingleLevel`."""
    inner: Tensor = _functorch._unwrap_for_grad(tensor, _level())
    return inner


def wrap(tensor: Tensor) -> Tensor:
    """For the innermost `vjp`. Can go with `SingleLevel`."""
    outer: Tensor = _functorch._wrap_for_grad(tensor, _level())
    return outer


@contextlib.contextmanager
def _single_level_allowed() -> Iterator[None]:
    """Lets such functions be applied, which PyTorch keeps for itself. Can go with `SingleLevel`."""
    before = _functorch.get_single_level_autograd_function_allowed()
    _functorch.set_single_level_autograd_function_allowed(True)
    try:
        yield
    finally:
        _functorch.set_single_level_autograd_function_allowed(before)


class SingleLevel(_Base):  # type: ignore[misc]
    """Base of functions whose `forward` unwraps its inputs, and wraps its output, at one level."""

    @classmethod
    def within(cls, *inputs: Any) -> Any:
        """`apply` within the innermost transform, which must be a `vjp`."""
        with _single_level_allowed():
            return cls.apply(*inputs)


class _Square(SingleLevel):
    """To prove it with: of samples, outside of the transforms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        assert is_wrapped(x) and is_differentiable(x) and not is_batched(x)
        assert level_of(x) == _level()
        x = alive(unwrap(x))
        assert is_batched(x) and not is_differentiable(x) and is_wrapped(x)
        ctx.save_for_backward(x)
        with outside():
            plain = inside(x).movedim(batch_dim(x), 0)
            assert not (is_wrapped(plain) or is_batched(plain) or is_differentiable(plain))
            assert level_of(plain) == NO_LEVEL
            output = plain.square()
            assert not is_wrapped(output)
        return wrap(batched(output, level_of(x)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        pulled: Tensor = 2 * x * g
        return pulled


@proves(PATH, "functions of its public kind take their place")
def works() -> bool:
    """Whether all of the above can be relied on: a pass in it and in public, nested as passes are.

    The rest of this file needs none of it.
    """
    x = torch.arange(6, dtype=torch.float32, device="cpu").view(3, 2)
    cotangents = torch.arange(12, dtype=torch.float32, device="cpu").view(2, 2, 3)

    def both_ways(square: Callable[[Tensor], Tensor]) -> Any:
        def per_sample(x: Tensor, cotangents: Tensor) -> tuple[Tensor, Tensor]:
            made: Any = vjp(square, x)
            y, pull = made
            return y, vmap(lambda row: pull(row)[0])(cotangents)

        return vmap(per_sample, (0, 2))(x, cotangents)

    ours, theirs = both_ways(_Square.within), both_ways(torch.square)
    return all(map(torch.equal, ours, theirs)) and _level() is None


def _apply(function: Any, *inputs: Any) -> Any:
    return function.apply(*inputs)


class _Seen:
    """What `_Look` has found. No list, which transforms would take apart and copy."""

    def __init__(self, move: bool) -> None:
        self.move, self.tensor, self.batched = move, torch.empty(0, device="cpu"), False
        self.derivatives: list[bool] = []  # by level, from outside of all


class _Look(torch.autograd.Function):
    """Shows the tensor inside all wrappers, in public and level by level."""

    @staticmethod
    def forward(x: Tensor, seen: _Seen) -> Tensor:
        seen.tensor = x.detach()
        return torch.zeros((), device=x.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Nothing is kept: nobody differentiates it."""
        inputs[1].derivatives.append(ctx.needs_input_grad[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, seen: _Seen) -> tuple[Tensor, None]:
        seen.batched = True
        nothing: Tensor = _apply(_Look, x.movedim(in_dims[0], 0) if seen.move else x, seen)
        return nothing, None


def _look(tensor: Tensor, move: bool) -> _Seen:
    seen = _Seen(move)
    with torch.no_grad():
        _apply(_Look, tensor, seen)
    return seen


def is_batched_anywhere(tensor: Tensor) -> bool:
    """Whether a `vmap` at any level wraps the tensor."""
    if not works():
        return _look(tensor, move=False).batched
    while is_wrapped(tensor):
        if is_batched(tensor):
            return True
        tensor = inside(tensor)
    return False


def in_memory(tensor: Tensor) -> Tensor:
    """The tensor inside all wrappers, as it lies in memory."""
    if not works():
        return _look(tensor, move=False).tensor
    while is_wrapped(tensor):
        tensor = inside(tensor)
    return tensor


def samples(tensor: Tensor) -> Tensor:
    """The tensor inside all wrappers, with the dimensions of `vmap` first, from the outermost."""
    if not works():
        return _look(tensor, move=True).tensor
    while is_wrapped(tensor):
        dim = batch_dim(tensor) if is_batched(tensor) else 0
        tensor = inside(tensor)
        tensor = tensor.movedim(dim, 0) if dim > 0 else tensor
    return tensor


def derivative_level(tensor: Tensor) -> int:
    """Nesting level of the innermost transform that takes a derivative of a tensor; 0 for none.

    In public the levels of `vmap` that do not matter to the tensor count as none. Can go with
    `current_level`.
    """
    if not works():
        taken = _look(tensor, move=False).derivatives[1:]  # the first is outside of transforms
        deeper = any(taken[1:])  # the first of these is the engine's
        return 1 + len(taken) if deeper else 2 * any(taken)
    while is_wrapped(tensor):
        if is_differentiable(tensor):
            return level_of(tensor)
        tensor = inside(tensor)
    return 0
