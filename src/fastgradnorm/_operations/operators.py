"""ATen's operators, as exported programs and graphs call them, by the functions that models call.

`torch.ops.aten.linear.default` is `F.linear`, and most others are functions of `torch` or methods
of tensors with the same arguments in the same order: all that is known of an operation, and all
that is decided by its name, holds of its operator too. Those of layers and indices have others.
"""

import functools
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn import functional as F

_Function = Callable[..., Any]

# Where PyTorch keeps functions whose arguments are their operator's.
_SPACES: tuple[Any, ...] = (
    torch,
    *(getattr(torch._C, name) for name in ("_nn", "_linalg", "_special", "_fft")),
)
# Python functions with the arguments of their operator, and attributes.
_METHODS: dict[str, _Function] = {
    "mT": lambda x: x.mT,
    "numpy_T": lambda x: x.T,
    "split": Tensor.split,
    "unflatten": Tensor.unflatten,
}
# Overloads with arguments that the function does not have.
_OTHERS = frozenset({"dtype", "hacked_twin", "out", "sublist"})


@functools.cache
def in_python(func: _Function) -> _Function | None:
    """The function that models call for an operator of ATen, if it is one and has one."""
    if isinstance(func, OpOverloadPacket):
        overloads, path = [getattr(func, each) for each in func.overloads()], func
    elif isinstance(func, OpOverload):
        overloads, path = [func], func.overloadpacket
    else:
        return None
    space, _, name = path._qualified_op_name.partition("::")
    arguments = {each.name for one in overloads for each in one._schema.arguments}
    # A reduction that is left out is no mean where it is a function's.
    if space != "aten" or "reduction" in arguments:
        return None
    if isinstance(func, OpOverload) and _OTHERS & {*func._overloadname.split("_")}:
        return None
    return _OTHER_ARGUMENTS.get(name) or _METHODS.get(name) or _public(name)


def _public(name: str) -> _Function | None:
    if name.startswith("_"):
        return None
    for place in _SPACES:
        found = getattr(place, name, None)
        if isinstance(found, BuiltinFunctionType) and not name.endswith("_"):
            return found
    method = getattr(Tensor, name, None)
    return method if isinstance(method, MethodDescriptorType) else None


def _embedding(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    padding = None if padding_idx < 0 else padding_idx
    further = {"scale_grad_by_freq": scale_grad_by_freq, "sparse": sparse}
    return F.embedding(indices, weight, padding, **further)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    function: Any = _CONVOLUTIONS[transposed][weight.dim() - 3]
    if transposed:
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return function(input, weight, bias, stride, padding, dilation, groups)


_CONVOLUTIONS = (
    (F.conv1d, F.conv2d, F.conv3d),
    (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    _cudnn: bool = True,
) -> Tensor:
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    _cudnn: bool = True,
) -> Tensor:
    return F.instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def _native_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    out = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    nothing = torch.empty(0, dtype=running_mean.dtype, device=input.device)
    return out, nothing, nothing


def _layer_norm(
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


def _native_layer_norm(
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    out = F.layer_norm(input, normalized_shape, weight, bias, eps)
    return out, *_statistics(input, [*range(-len(normalized_shape), 0)], eps)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    return F.group_norm(input, num_groups, weight, bias, eps)


def _native_group_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    _samples: int,
    _channels: int,
    _positions: int,
    group: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    out = F.group_norm(input, group, weight, bias, eps)
    mean, scale = _statistics(input.reshape(len(input), group, -1), [-1], eps)
    return out, mean.squeeze(-1), scale.squeeze(-1)


def _statistics(input: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor]:
    """What such norms return for their backward pass, and hardly a model reads."""
    mean = input.mean(dims, keepdim=True)
    return mean, ((input - mean).square().mean(dims, keepdim=True) + eps).rsqrt()


def _index(input: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    return input[tuple(slice(None) if index is None else index for index in indices)]


def _slice(
    input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    before = (slice(None),) * (dim % input.dim())
    return input[(*before, slice(start, end, step))]


_OTHER_ARGUMENTS: dict[str, _Function] = {
    "_local_scalar_dense": Tensor.item,
    "_native_batch_norm_legit_no_training": _native_batch_norm,
    "batch_norm": _batch_norm,
    "convolution": _convolution,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "index": _index,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "native_group_norm": _native_group_norm,
    "native_layer_norm": _native_layer_norm,
    "rms_norm": F.rms_norm,
    "slice": _slice,
    "sym_size": Tensor.size,
}
