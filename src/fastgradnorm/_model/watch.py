"""The torch-function mode under all passes: what every one of them sees and does alike."""

import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch._C._functorch as functorch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._model.layout import check_memory
from fastgradnorm._model.substitution import swap
from fastgradnorm._model.views import Pieces, tensors_in
from fastgradnorm._operations import conv_rules, decompose, layer_rules, product_rules, rules
from fastgradnorm._operations.attention import attention
from fastgradnorm._operations.convolutions import conv
from fastgradnorm._operations.linear import linear
from fastgradnorm._operations.norms import batch_norm, group_norm
from fastgradnorm._operations.pooling import max_pool

assert (
    conv_rules and layer_rules and product_rules
)  # imported for the rules they put into the table

_BRANCHES = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "item", "is_nonzero", "tolist"}
)
# Comparisons that give a Python bool, as tensors to take it from.
_COMPARISONS: dict[str, Callable[..., Tensor]] = {
    "equal": lambda a, b: (a == b).all() if a.shape == b.shape else torch.tensor(False),
    "allclose": lambda a, b, *options, **named: torch.isclose(a, b, *options, **named).all(),
    "__contains__": lambda a, element: (a == element).any(),
}

# Each gives None where it does not apply.
_DECOMPOSED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: attention,
    F.embedding_bag: decompose.embedding_bag,
    torch._weight_norm: decompose.weight_norm,
    torch.prelu: decompose.prelu,
    torch.bilinear: decompose.bilinear,
    torch.cdist: decompose.cdist,
    torch.adaptive_avg_pool1d: partial(decompose.average_pool, dims=1),
    F.adaptive_avg_pool2d: partial(decompose.average_pool, dims=2),
    F.adaptive_avg_pool3d: partial(decompose.average_pool, dims=3),
    torch.Tensor.__setitem__: decompose.set_masked,
    torch.Tensor.scatter_: decompose.scatter_,
}
for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _DECOMPOSED[getattr(torch, _kind)] = partial(decompose.recurrent, _kind)
    _cell = partial(decompose.recurrent_cell, _kind)
    _DECOMPOSED[getattr(torch, f"{_kind}_cell")] = _cell

_FACTORIES = frozenset(
    {"arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "new_empty"}
    | {"new_full", "new_ones", "new_tensor", "new_zeros", "ones", "ones_like", "tensor", "zeros"}
    | {"zeros_like"}
)

_CONVS: dict[Callable[..., Any], int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
# The same values, in ways that suit vmap better.
_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
    F.linear: linear,
}
for _dims in (1, 2, 3):
    for _module in (F, torch):  # the one calls the other, but not where a mode looks on
        _pool = getattr(_module, f"max_pool{_dims}d")
        _INSTEAD[_pool] = partial(max_pool, _pool, _dims)


class DivergentControlFlowError(Exception):
    """The samples of one batch take different branches; `values` `[N]` tells which."""

    def __init__(self, values: Tensor) -> None:
        super().__init__("the samples of a batch take different branches")
        self.values = values


class PlanChangedError(Exception):
    """A forward pass used parameters in another way than the one the plan was made from."""


class Watch(TorchFunctionMode):
    """Follows tracked parameters, swaps strays, settles branches, opens composite functions.

    Args:
        pieces: The tracked parameters.
        swaps: Tensors to use for the caller's own parameters, by `id`, for models that reach those
            past the module tree.
        backend: What computes the norms.

    Attributes:
        spread: A zero of each sample. If set, new tensors get a value a sample, so that the model
            may write values of its samples into them.
        channels_last: Whether convolutions may put the channels last in memory.
    """

    def __init__(self, pieces: Pieces, swaps: Mapping[int, Tensor], backend: str) -> None:
        super().__init__()
        self.pieces, self.swaps, self.backend = pieces, swaps, backend
        self.spread: Tensor | None = None
        self.channels_last = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _BRANCHES and _is_batched(args[0]):
            return func(_common_value(args[0], name))
        tensors = tensors_in(args, kwargs)
        if name in _COMPARISONS and any(_is_batched(t) for t in tensors):
            with self:
                return bool(_COMPARISONS[name](*args, **kwargs))
        args, kwargs, found = swap(args, kwargs, self.swaps)
        if found:
            tensors = tensors_in(args, kwargs)
        if name == "__get__" and self.pieces.of(args[0]) is None:
            return func(*args, **kwargs)
        if func in _DECOMPOSED:
            with self:
                output = _DECOMPOSED[func](*args, **kwargs)
            if output is not None:
                return output
        call = rules.bind(func, args, kwargs)
        if call is not None:
            if call.get("sparse"):  # a sparse gradient has no vmap rule, and the same values
                call = {**call, "sparse": False}
                args, kwargs = rules.unbind(func, call), {}
            _check(func, call)
        tracked = bool(self.pieces.among(tensors))
        if tracked and call is not None:
            slots = [name for name, value in call.items() if self.pieces.of(value) is not None]
            return self.ruled(func, call, slots, args, kwargs)
        if call is None and (tracked or func is F.multi_head_attention_forward):
            opened = _open(func)
            if opened is not None:
                with self:
                    return opened(*args, **kwargs)
        return self.plain(func, tensors, args, kwargs)

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls an operation, out of this mode."""
        if func in _CONVS:
            return conv(func, _CONVS[func], self.channels_last, *args, **kwargs)
        output = _INSTEAD.get(func, func)(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if self.channels_last:
            check_memory(name, args, kwargs, output)
        if self.spread is not None and name in _FACTORIES:
            return _spread(output, self.spread)
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


def _check(func: Callable[..., Any], call: Mapping[str, Any]) -> None:
    if func is F.batch_norm and call["training"]:
        raise UnsupportedModelError(
            "batch normalisation without running statistics mixes samples, so that no sample "
            "has a gradient of its own. Use track_running_stats=True, or GroupNorm."
        )
    if func is F.embedding and call["max_norm"] is not None:
        raise UnsupportedModelError(
            "an embedding with `max_norm` changes its weight whenever it is used. Renormalise "
            "the weight once and set `max_norm=None`."
        )


def _spread(tensor: Tensor, zero: Tensor) -> Tensor:
    if _is_batched(tensor):
        return tensor
    return tensor | zero.bool() if tensor.dtype == torch.bool else tensor + zero.to(tensor.dtype)


def _open(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """A composite function of `torch.nn.functional` that lets modes see what it calls inside.

    Such functions hand themselves over whole to an active mode. In this copy that check says no.
    """
    if not isinstance(func, types.FunctionType) or func.__module__ != F.__name__:
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


def _common_value(tensor: Tensor, reading: str) -> Tensor:
    """The value that all samples of a vmapped tensor have, as far as `reading` tells them apart."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        dim = functorch.maybe_get_bdim(tensor) if functorch.is_batchedtensor(tensor) else 0
        tensor = functorch.get_unwrapped(tensor)
        tensor = tensor.movedim(dim, 0) if dim > 0 else tensor
    rows = tensor.reshape(len(tensor), -1)
    if reading in ("__bool__", "is_nonzero"):
        rows = rows.bool()
    elif reading in ("__int__", "__index__") and bool(rows.isfinite().all()):
        rows = rows.long()
    if rows.is_floating_point():  # NaN is a value like any other here
        rows = rows.nan_to_num(nan=torch.finfo(rows.dtype).max, posinf=torch.inf, neginf=-torch.inf)
    if not bool((rows == rows[0]).all()):
        raise DivergentControlFlowError(rows)
    return tensor[0]


def _is_batched(tensor: Any) -> bool:
    while isinstance(tensor, Tensor) and functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False
