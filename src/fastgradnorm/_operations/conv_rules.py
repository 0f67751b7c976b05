"""Rules of convolutions and transposed convolutions in one to three dimensions."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.layer_rules import Saved, channels_last
from fastgradnorm._operations.rules import Call, Joint, Rule, Shape, SqNorms, add, outer_sq_norm


def _tuple(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * length
    return tuple(value) * (length if len(value) == 1 else 1)


def _conv(dims: int, call: Call, tracked: Collection[str], backend: str) -> Rule:
    x, weight, groups = call["input"], call["weight"], call["groups"]
    kernel, outputs, unbatched = tuple(weight.shape[2:]), weight.shape[0], x.dim() == dims + 1
    stride, dilation = _tuple(call["stride"], dims), _tuple(call["dilation"], dims)
    before, after = _padding(call["padding"], kernel, dilation)

    def padded(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        if before == after:
            return x, before
        # `same` with an even reach: one more on the right
        both = [p for pair in zip(before[::-1], after[::-1], strict=True) for p in pair]
        return F.pad(x, both), (0,) * dims

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        x, padding = padded(saved[0][None] if unbatched else saved[0])
        patches = kernels.conv_patches(x, kernel, stride, padding, dilation)  # [B, C*I, T]
        a = patches.unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, I, B*T]
        g = (g[None] if unbatched else g).flatten(2)
        rows = g.unflatten(1, (groups, -1)).movedim(0, -2).flatten(-2)  # [G, O, B*T]
        return a.mT, rows.mT

    def weight_norm(saved: Saved, g: Tensor) -> Tensor:
        if not unbatched and len(saved[0]) > 1:  # frames in the batch add to one gradient
            return outer_sq_norm(*parts(saved, g), backend)
        x, padding = padded(saved[0][None] if unbatched else saved[0])
        options = (kernel, stride, padding, dilation, groups, backend)
        norm: Tensor = kernels.conv_sq_norm(x, (g[None] if unbatched else g)[:, None], *options)
        return norm[0, 0]

    def rows(g: Tensor) -> Tensor:
        return g.flatten(1).mT if unbatched else channels_last(g)

    sizes = zip(x.shape[-dims:], before, after, kernel, stride, dilation, strict=True)
    extent = [(n + b + e - d * (k - 1) - 1) // s + 1 for n, b, e, k, s, d in sizes]
    positions = (1 if unbatched else len(x)) * int(torch.Size(extent).numel())
    shape = Shape(positions, weight[0].numel(), outputs // groups)
    sq_norms = _weight_and_bias(weight_norm, rows, tracked)
    joint = Joint("outer", "weight", parts)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups, joint)


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


def _padding(
    padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and after each dimension."""
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = (0,) * len(kernel) if isinstance(padding, str) else _tuple(padding, len(kernel))
    return both, both


def _conv_transpose(dims: int, call: Call, tracked: Collection[str], backend: str) -> Rule | None:
    """The gradient of the convolution back from output to input: a and g change roles."""
    x, weight, groups = call["input"], call["weight"], call["groups"]
    if x.dim() == dims + 1 or len(x) > 1:
        return None
    kernel = tuple(weight.shape[2:])
    options = (
        kernel,
        _tuple(call["stride"], dims),
        _tuple(call["padding"], dims),
        _tuple(call["dilation"], dims),
        groups,
        backend,
    )

    # An output padding of a stride or more adds positions that no input stands for.
    added = zip(_tuple(call["output_padding"], dims), _tuple(call["stride"], dims), strict=True)
    more = [extra // step for extra, step in added]

    def weight_norm(saved: Saved, g: Tensor) -> Tensor:
        a = F.pad(saved[0], [p for extra in reversed(more) for p in (0, extra)])
        norm: Tensor = kernels.conv_sq_norm(g, a[:, None], *options)
        return norm[0, 0]

    shape = Shape(x[0, 0].numel(), weight[0].numel(), x.shape[1] // groups)
    sq_norms = _weight_and_bias(weight_norm, channels_last, tracked)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups)


_CONV: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0}
_CONVS: list[Callable[..., Tensor]] = [F.conv1d, F.conv2d, F.conv3d]
_TRANSPOSED: list[Callable[..., Tensor]] = [
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
]
for _dims in (1, 2, 3):
    add(_CONVS[_dims - 1], partial(_conv, _dims), "input weight", **_CONV, dilation=1, groups=1)
    _more = {"output_padding": 0, "groups": 1, "dilation": 1}
    add(_TRANSPOSED[_dims - 1], partial(_conv_transpose, _dims), "input weight", **_CONV, **_more)
