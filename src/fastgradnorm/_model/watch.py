"""The torch-function mode under all passes: what every one of them sees and does alike."""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from fastgradnorm_kernels import functorch
from fastgradnorm_kernels.levels import outside
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._model.handed import handed
from fastgradnorm._model.layout import check_copies, check_memory
from fastgradnorm._model.own_levels import OwnLevels
from fastgradnorm._model.passage import Passage
from fastgradnorm._model.standins import StandIns
from fastgradnorm._model.views import Pieces
from fastgradnorm._operations import autocast_dtype, in_python, table, tensors_in

_TEXTS = frozenset({"__format__", "__repr__"})  # numbers in a text, which may be looked at
_BRANCHES = _TEXTS | {
    *("__bool__", "__int__", "__float__", "__index__", "item", "is_nonzero", "tolist")
}


def _is_node(func: Callable[..., Any]) -> bool:
    """Whether it is a tensor's place in the graph that is asked for, on which hooks may be put."""
    return getattr(func, "__self__", None) is Tensor.grad_fn


def _close(
    a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """`torch.isclose`, which has no vmap rule."""
    alike = (a == b) | ((a - b).abs() <= atol + rtol * b.abs()) & (a - b).isfinite()
    return alike | (a.isnan() & b.isnan()) if equal_nan else alike


# Comparisons that give a Python bool, as tensors to take it from.
_COMPARISONS: dict[str, Callable[..., Tensor]] = {
    "equal": lambda a, b: (
        (a == b).all() if a.shape == b.shape else torch.tensor(False, device="cpu")
    ),
    "allclose": lambda a, b, *options, **named: _close(a, b, *options, **named).all(),
    "__contains__": lambda a, element: (a == element).any(),
}

# Calls that tell the host a value, by which a model may decide what it does.
READING = _BRANCHES | _COMPARISONS.keys()
# Those, and what hands all values to the host.
_TOLD = READING | {"__array__", "numpy"}

FACTORIES = frozenset(
    {"arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "new_empty"}
    | {"new_full", "new_ones", "new_tensor", "new_zeros", "ones", "ones_like", "tensor", "zeros"}
    | {"zeros_like"}
)
# Of `torch.nn.functional`: what multiplies by parameters inside, or reads a value.
_OPENED = frozenset({F.multi_head_attention_forward, F.gaussian_nll_loss})


def _written_out(func: Callable[..., Any], further: Sequence[Any], tensor: Tensor) -> Any:
    """The text of a tensor that no transform has wrapped."""
    with outside():
        return func(functorch.in_memory(tensor), *further)


class PlanChangedError(Exception):
    """A forward pass used parameters in another way than the one the plan was made from."""


class Watch(OwnLevels):
    """Follows tracked parameters, swaps strays, settles branches, opens composite functions.

    Args:
        pieces: The tracked parameters.
        stand_ins: What stands for the caller's own tensors, for models that reach those past the
            module tree, and what a model may do to it.
        passage: How the model is run; what is seen of it is noted there.
        leaves: The sample, under vmap; none in a plain pass.
    """

    def __init__(
        self,
        pieces: Pieces,
        stand_ins: StandIns,
        passage: Passage,
        leaves: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.pieces, self.stand_ins, self.passage = pieces, stand_ins, passage
        spread = passage.settings.spread and len(leaves) > 0
        # A zero of each sample.
        self._zero = zero = torch.zeros_like(leaves[0].flatten()[0]) if spread else None
        if zero is not None:
            stand_ins.spread(functools.partial(_spread, zero=zero))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            # The model's own, as around a frozen backbone. What is made there transforms cannot
            # wrap, and what has no graph is all the same.
            with torch.inference_mode(False), torch.no_grad():
                return Watch.__torch_function__(self, func, types, args, kwargs)
        if (called := in_python(func)) is not None:
            with self:
                return called(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _BRANCHES and _is_batched(args[0]):
            read = functools.partial(_written_out, func, args[1:]) if name in _TEXTS else func
            return self.passage.branches.read(read, args[0], name)
        tensors = tensors_in(args, kwargs)
        if name in _COMPARISONS and any(_is_batched(t) for t in tensors):
            with self:
                return bool(_COMPARISONS[name](*args, **kwargs))
        if name in _TOLD:
            self.passage.branches.aside(name)
        if name == "register_hook" or _is_node(func):
            self.passage.hooked = True
        done = self.stand_ins.answer(func, args, kwargs, self)
        if done is not None:
            return done[0]
        swapped = self.stand_ins.swap(args, kwargs, tensors)
        if swapped is not None:
            args, kwargs = swapped
            tensors = tensors_in(args, kwargs)
        operation = table.known(func)
        if name == "__get__" and operation.opened is None and self.pieces.of(args[0]) is None:
            return func(*args, **kwargs)
        if operation.opened is not None:
            with self:
                output = operation.opened(*args, **kwargs)
            if output is not None:
                return output
        tracked = bool(self.pieces.among(tensors))
        cast = handed(func, args, kwargs, self.stand_ins.stands_in, tracked)
        if cast is not None:
            return cast
        call = None if operation.rule is None else operation.bind(args, kwargs)
        if call is not None:
            if call.get("sparse"):  # a sparse gradient has no vmap rule, and the same values
                call = {**call, "sparse": False}
                args, kwargs = table.replaced(func, args, kwargs, sparse=False)
            self.check(func, call)
            if operation.narrow and (narrowed := self._narrowed(call)):
                call = {**call, **narrowed}
                args, kwargs = table.replaced(func, args, kwargs, **narrowed)
                tensors = tensors_in(args, kwargs)
        if tracked and call is not None:
            slots = [name for name, value in call.items() if self.pieces.of(value) is not None]
            return self.ruled(func, call, slots, args, kwargs)
        if call is None and (tracked or func in _OPENED):
            within = _open(func)
            if within is not None:
                with self:
                    return within(*args, **kwargs)
        return self.plain(func, tensors, args, kwargs)

    def _narrowed(self, call: Mapping[str, Any]) -> dict[str, Tensor]:
        """What autocast on a GPU narrows, parameters apart, so that a rule keeps the same copy."""
        found = {}
        for name, value in call.items():
            dtype = autocast_dtype(value) if isinstance(value, Tensor) else None
            if dtype is not None and self.pieces.of(value) is None:
                found[name] = value.to(dtype)
        return found

    def check(self, func: Callable[..., Any], call: Mapping[str, Any]) -> None:
        """Raises `UnsupportedModelError` for a call that gives samples no gradient of their own."""
        if takes_statistics(func, call) and _is_batched(call["input"]):
            raise mixing_error()
        if func is F.embedding and call["max_norm"] is not None:
            raise UnsupportedModelError(
                "an embedding with `max_norm` changes its weight whenever it is used. Renormalise "
                "the weight once and set `max_norm=None`."
            )

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls an operation, out of this mode."""
        operation = table.known(func)
        settings = self.passage.settings
        channels_last = settings.channels_last
        name = getattr(func, "__name__", "")
        check_copies(name, args, kwargs)
        form = operation.form if settings.several or not operation.several else None
        form = None if kwargs.get("out") is not None else form  # which makes its own tensor
        if form is not None and operation.has_layout:
            # Those for several cotangents keep a layout that others have made.
            self.passage.laid_out |= channels_last and not operation.several
            kwargs = {**kwargs, "channels_last": channels_last}
        output = (form or func)(*args, **kwargs)
        if channels_last:
            check_memory(name, args, kwargs, output)
        if self._zero is not None and name in FACTORIES:
            return _spread(output, self._zero)
        return output

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """A call of an operation in the table, with tracked parameters for arguments `slots`."""
        return self.run(func, args, kwargs)

    def plain(
        self,
        func: Callable[..., Any],
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """A call of any other operation; `tensors` are all among its arguments."""
        return self.run(func, args, kwargs)


class Follower(Protocol):
    """What keeps account of tensors, call by call."""

    def note(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Of a call that is done."""


class Followed(Watch):
    """A watch that tells each call, once it is done, to a follower, if it has one."""

    follower: Follower | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = super().__torch_function__(func, types, args, kwargs)
        if self.follower is not None:
            self.follower.note(func, args, kwargs or {}, output)
        return output


def mixing_error() -> UnsupportedModelError:
    """Of a norm by the statistics of several samples."""
    return UnsupportedModelError(
        "batch normalisation without running statistics mixes samples, so that no sample has a "
        "gradient of its own. Use track_running_stats=True, or GroupNorm."
    )


def takes_statistics(func: Callable[..., Any], call: Mapping[str, Any]) -> bool:
    """Whether a call normalises by the statistics of its input over the first dimension."""
    return func is F.batch_norm and bool(call["training"])


def _spread(tensor: Tensor, zero: Tensor) -> Tensor:
    if _is_batched(tensor):
        return tensor
    # On the host too, as of counts that are moved there, which may be written to and cut by.
    zero = torch.zeros_like(zero, dtype=tensor.dtype, device=tensor.device)
    return tensor | zero if tensor.dtype == torch.bool else tensor + zero


@functools.cache
def _open(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """A composite function of `torch.nn.functional` that lets modes see what it calls inside.

    Such functions hand themselves over whole to an active mode. In this copy that check says no.
    """
    # Max pools say that they are of that module, and only choose which function of it is called.
    if not isinstance(func, types.FunctionType) or func.__globals__ is not vars(F):
        return None
    hidden = {name: lambda *_: False for name in func.__globals__ if name.startswith("has_torch_f")}
    opened = types.FunctionType(
        func.__code__,
        {**func.__globals__, **hidden},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def _is_batched(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and functorch.is_batched_anywhere(tensor)
