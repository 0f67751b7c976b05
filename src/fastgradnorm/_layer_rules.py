"""Rules of linear, convolution, normalisation and embedding layers."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._decompose import group_norm
from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._rules import Call, Joint, Rule, Shape, SqNorms, add, outer_sq_norm

Saved = Sequence[Tensor]


def outer_rule(
    saved: tuple[Tensor, ...],
    joint: Joint,
    shape: Shape,
    backend: str,
    groups: int = 1,
    bias: str | None = None,
    rows: Callable[[Tensor], Tensor] | None = None,
) -> Rule:
    """The rule of a parameter whose gradient is a sum of outer products.

    `bias` is the argument added at every position, if that is tracked too; `rows` gives the output
    gradient as `[T, O]`.
    """

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        norms = {joint.slot: outer_sq_norm(*joint.parts(saved, g), backend)}
        if bias is not None and rows is not None:
            norms[bias] = kernels.bias_sq_norm(rows(g))
        return norms

    slots = (joint.slot,) if bias is None else (joint.slot, bias)
    return Rule(slots, saved, sq_norms, shape, groups, joint)


def _linear(call: Call, tracked: Collection[str], backend: str) -> Rule:
    x: Tensor = call["input"]
    outputs, inputs = call["weight"].shape

    def rows(g: Tensor) -> Tensor:
        return g.reshape(-1, outputs)

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0].reshape(1, -1, inputs), rows(g)[None]

    shape = Shape(x.numel() // max(1, inputs), inputs, outputs)
    bias = "bias" if "bias" in tracked else None
    return outer_rule((x,), Joint("outer", "weight", parts), shape, backend, 1, bias, rows)


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
        return g.flatten(1).mT if unbatched else _channels_last(g)

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
    sq_norms = _weight_and_bias(weight_norm, _channels_last, tracked)
    return Rule(("weight", "bias"), (x,), sq_norms, shape, groups)


def _channels_last(x: Tensor) -> Tensor:
    """`[B, C, *space]` as `[B * positions, C]`, a view where B is 1."""
    return x.flatten(2).mT[0] if len(x) == 1 and x.dim() > 2 else x.movedim(1, -1).flatten(0, -2)


def _affine(
    normalize: Callable[..., Tensor],
    saved: tuple[Tensor, ...],
    rows: Callable[[Tensor], Tensor],
    channels: int,
    tracked: Collection[str],
    backend: str,
) -> Rule:
    """Scale and shift of a norm layer."""

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        if "weight" not in tracked:
            return {"bias": kernels.bias_sq_norm(rows(g))}
        x_hat = rows(normalize(*saved))
        weight, bias = kernels.affine_sq_norm(x_hat[None], rows(g)[None, None], backend)
        return {"weight": weight[0, 0], "bias": bias[0, 0]}

    shape = Shape(saved[0].numel() // max(1, channels), 1, channels)
    return Rule(("weight", "bias"), saved, sq_norms, shape)


def _batch_norm(call: Call, tracked: Collection[str], backend: str) -> Rule:
    x, mean, var, eps = call["input"], call["running_mean"], call["running_var"], call["eps"]

    def normalize(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale: Tensor = (var.view(shape) + eps).rsqrt()
        return (x - mean.view(shape)) * scale

    return _affine(normalize, (x, mean, var), _channels_last, x.shape[1], tracked, backend)


def _group_norm(call: Call, tracked: Collection[str], backend: str) -> Rule:
    x = call["input"]
    normalize = partial(group_norm, num_groups=call["num_groups"], eps=call["eps"])
    return _affine(normalize, (x,), _channels_last, x.shape[1], tracked, backend)


def _instance_norm(call: Call, tracked: Collection[str], backend: str) -> Rule | None:
    x = call["input"]
    if x.dim() < 3:
        return None
    if not call["use_input_stats"]:
        return _batch_norm(call, tracked, backend)
    normalize = partial(F.instance_norm, eps=call["eps"])
    return _affine(normalize, (x,), _channels_last, x.shape[1], tracked, backend)


def _trailing_norm(
    function: Callable[..., Tensor], call: Call, tracked: Collection[str], backend: str
) -> Rule:
    """Layer and RMS norm: scale and shift per entry of the trailing dimensions."""
    shape, eps, x = tuple(call["normalized_shape"]), call["eps"], call["input"]
    entries = int(torch.Size(shape).numel())

    def normalize(x: Tensor) -> Tensor:
        return function(x, shape, eps=eps)

    def rows(t: Tensor) -> Tensor:
        return t.reshape(-1, entries)

    return _affine(normalize, (x,), rows, entries, tracked, backend)


def _embedding(call: Call, tracked: Collection[str], backend: str) -> Rule:
    ids, weight, padding = call["input"], call["weight"], call["padding_idx"]
    if call["scale_grad_by_freq"]:
        raise UnsupportedModelError(
            "an embedding with `scale_grad_by_freq=True` scales its gradient by counts over the "
            "whole batch. Set it to False."
        )
    if padding is not None and padding < 0:
        padding += len(weight)
    width = weight.shape[1]

    def parts(saved: Saved, g: Tensor) -> tuple[Tensor, Tensor]:
        return saved[0].reshape(-1), g.reshape(-1, width)

    def sq_norms(saved: Saved, g: Tensor) -> dict[str, Tensor]:
        ids, rows = parts(saved, g)
        norm: Tensor = kernels.embedding_sq_norm(ids[None], rows[None, None], padding, backend)
        return {"weight": norm[0, 0]}

    joint = Joint("rows", "weight", parts, padding)
    return Rule(("weight",), (ids,), sq_norms, Shape(ids.numel(), 1, width), joint=joint)


_CONV: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0}
_NORM: dict[str, Any] = {"weight": None, "bias": None}

add(F.linear, _linear, "input weight", bias=None)
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
add(
    F.batch_norm,
    _batch_norm,
    "input running_mean running_var",
    **_NORM,
    training=False,
    momentum=0.1,
    eps=1e-5,
)
add(
    F.layer_norm, partial(_trailing_norm, F.layer_norm), "input normalized_shape", **_NORM, eps=1e-5
)
add(
    F.rms_norm, partial(_trailing_norm, F.rms_norm), "input normalized_shape", weight=None, eps=None
)
add(F.group_norm, _group_norm, "input num_groups", **_NORM, eps=1e-5)
add(
    F.instance_norm,
    _instance_norm,
    "input",
    running_mean=None,
    running_var=None,
    **_NORM,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
)
add(
    F.embedding,
    _embedding,
    "input weight",
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
)
