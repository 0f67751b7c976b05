"""Convolutions: the rules of their weights and biases."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
from fastgradnorm_kernels.geometry import Geometry, sizes
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.folded_convolutions import conv
from fastgradnorm._operations.operation import Operation, ruled
from fastgradnorm._operations.rows import position_rows
from fastgradnorm._operations.rules import (
    Call,
    Joint,
    Rule,
    Saved,
    Shape,
    SqNorms,
    outer_sq_norm,
)
from fastgradnorm._operations.transposed_convolutions import conv_transposed


def _rule(dims: int, call: Call, tracked: Collection[str]) -> Rule:
    x, weight, groups = call["input"], call["weight"], call["groups"]
    unbatched = x.dim() == dims + 1
    geometry, more = _geometry(dims, call)

    def inputs(x: Tensor) -> Tensor:
        return _longer(x[None] if unbatched else x, more)

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return _outer(inputs(saved[0]), g[None] if unbatched else g, geometry, groups)

    def weight_norm(saved: Saved, g: Tensor) -> Tensor:
        if not unbatched and len(saved[0]) > 1:  # frames in the batch add to one gradient
            return outer_sq_norm(*parts(saved, g))
        g = (g[None] if unbatched else g)[:, None]
        norm: Tensor = kernels.conv_sq_norm(inputs(saved[0]), g, *geometry, groups)
        return norm[0, 0]

    def rows(g: Tensor) -> Tensor:
        return g.flatten(1).mT if unbatched else position_rows(g)

    space = [size + end for size, end in zip(x.shape[-dims:], more, strict=True)]
    positions = (1 if unbatched else len(x)) * math.prod(geometry.out(space))
    shape = Shape(positions, weight[0].numel(), len(weight) // groups)
    sq_norms = _weight_and_bias(weight_norm, rows, tracked)
    joint = Joint("outer", "weight", parts)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups, joint)


def _outer(x: Tensor, g: Tensor, geometry: Geometry, groups: int) -> tuple[Tensor, Tensor]:
    """Patches of x and positions of g, `[G, T, I]` and `[G, T, O]`."""
    patches = kernels.conv_patches(x, *geometry)  # [B, C*I, T]
    a = patches.unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, I, B*T]
    rows = g.flatten(2).unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, O, B*T]
    return a.mT, rows.mT


def _longer(x: Tensor, more: Sequence[int]) -> Tensor:
    """With so many more zeros after each dimension of space."""
    return F.pad(x, [p for end in reversed(more) for p in (0, end)]) if any(more) else x


def _geometry(dims: int, call: Call) -> tuple[Geometry, tuple[int, ...]]:
    """A call's, and how many more zeros each dimension has after it than before, as `same` has."""
    kernel, padding = tuple(call["weight"].shape[2:]), call["padding"]
    stride, dilation = sizes(call["stride"], dims), sizes(call["dilation"], dims)
    none = (0,) * dims
    if isinstance(padding, str):
        bare = Geometry(kernel, stride, none, dilation)
        total = bare.reach() if padding == "same" else none
        padding = tuple(each // 2 for each in total)
        return bare._replace(padding=padding), tuple(each % 2 for each in total)
    return Geometry(kernel, stride, sizes(padding, dims), dilation), none


def _weight_and_bias(
    weight_norm: Callable[[Saved, Tensor], Tensor],
    rows: Callable[[Tensor], Tensor],
    tracked: Collection[str],
) -> SqNorms:
    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        norms = {}
        if "weight" in tracked:
            norms["weight"] = weight_norm(saved, g)
        if "bias" in tracked:
            norms["bias"] = kernels.bias_sq_norm(rows(g))
        return norms

    return sq_norms


def _transposed_rule(dims: int, call: Call, tracked: Collection[str]) -> Rule | None:
    """The gradient of the convolution back from output to input: a and g change roles."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    if x.dim() == dims + 1 or len(x) > 1:
        return None
    geometry, _ = _geometry(dims, call)
    # An output padding of a stride or more adds positions that no input stands for.
    added = zip(sizes(call["output_padding"], dims), geometry.stride, strict=True)
    more = [extra // step for extra, step in added]

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return _outer(g, _longer(saved[0], more), geometry, groups)

    def weight_norm(saved: Saved, g: Tensor) -> Tensor:
        a = _longer(saved[0], more)
        norm: Tensor = kernels.conv_sq_norm(g, a[:, None], *geometry, groups)
        return norm[0, 0]

    shape = Shape(x[0, 0].numel(), weight[0].numel(), x.shape[1] // groups)
    sq_norms = _weight_and_bias(weight_norm, position_rows, tracked)
    joint = Joint("outer", "weight", parts)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups, joint)


_CONVS: list[Callable[..., Tensor]] = [F.conv1d, F.conv2d, F.conv3d]
_TRANSPOSED: list[Callable[..., Tensor]] = [
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
]
_OPTIONS: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0}
_MORE: dict[str, Any] = {"output_padding": 0, "groups": 1, "dilation": 1}

OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: ruled(
        partial(_rule, dims),
        "input weight",
        partial(conv, function, dims),
        has_layout=True,
        narrow=True,
        **_OPTIONS,
        dilation=1,
        groups=1,
    )
    for dims, function in enumerate(_CONVS, 1)
} | {
    function: ruled(
        partial(_transposed_rule, dims),
        "input weight",
        partial(conv_transposed, function, dims),
        has_layout=True,
        narrow=True,
        **_OPTIONS,
        **_MORE,
    )
    for dims, function in enumerate(_TRANSPOSED, 1)
}
