"""Operations that PyTorch runs sample by sample under vmap, or not at all, written with others.

It has no batched form of them, or none of their pull-back, and says so in a warning each time. Each
function takes the arguments of the operation it stands for and gives the same values.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels.levels import outside
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._operations.activations import sloped
from fastgradnorm._operations.operation import Operation

_SEVERAL = (tuple, list)
_LAST = (torch.channels_last, torch.channels_last_3d)
_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "lower": torch.floor,
    "higher": torch.ceil,
    "nearest": torch.round,
}


def _written(input: Tensor, output: Tensor, inplace: bool) -> Tensor:
    return input.copy_(output) if inplace else output


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """`F.mish`; on processors by its own slope where much of it is differentiated."""
    output = None if inplace else sloped(F.mish, input)
    if output is not None:
        return output
    given = input.clone() if inplace else input
    return _written(input, given * torch.tanh(F.softplus(given)), inplace)


def rrelu(
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """`F.rrelu`, which is a leaky one where no slope is drawn."""
    if training:
        return F.rrelu(input, lower, upper, training, inplace)
    return F.leaky_relu(input, (lower + upper) / 2, inplace)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Any:
    """`Tensor.unfold`: windows that do not overlap are views, as they are there."""
    if input.dim() == 0 or size == 0 or size > input.shape[dimension] or step < 1:
        return input.unfold(dimension, size, step)
    dim = dimension % input.dim()
    count = (input.shape[dim] - size) // step + 1
    if size <= step and count * step <= input.shape[dim]:
        windows = input.narrow(dim, 0, count * step).unflatten(dim, (count, step))
        return windows.narrow(dim + 1, 0, size).movedim(dim + 1, -1)
    starts = step * torch.arange(count, device=input.device)
    index = starts[:, None] + torch.arange(size, device=input.device)
    rows = input.index_select(dim, index.flatten())
    return rows.unflatten(dim, (count, size)).movedim(dim + 1, -1)


def cumulative(name: str, input: Tensor, dim: int) -> Any:
    """`torch.cummax` or `torch.cummin`: values, and where they stand."""
    found = getattr(torch, name)(input.detach(), dim)
    if input.dim() == 0:
        return type(found)((input.clone(), found.indices))
    return type(found)((input.gather(dim, found.indices), found.indices))


def cumprod(input: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """`torch.cumprod`: of twice as many factors in each step."""
    product = input if dtype is None else input.to(dtype)
    if product.dim() == 0 or not (product.is_floating_point() or product.is_complex()):
        return torch.cumprod(input, dim, dtype=dtype)
    size, reach = product.shape[dim], 1
    while reach < size:
        left = size - reach
        more = product.narrow(dim, reach, left) * product.narrow(dim, 0, left)
        product, reach = torch.cat([product.narrow(dim, 0, reach), more], dim), 2 * reach
    return product.clone() if product is input else product


def quantile(
    skips_nan: bool,
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Tensor:
    """`torch.quantile`, or `torch.nanquantile`."""
    levels = torch.as_tensor(q, dtype=input.dtype, device=input.device)
    rows = input.flatten()[None] if dim is None else input.movedim(dim, -1)
    ordered = rows.sort(-1).values
    nan = rows.isnan()
    counted = ~nan if skips_nan else torch.ones_like(nan)
    last = counted.sum(-1, keepdim=True) - 1
    ranks = levels.reshape(-1) * last.clamp(min=0)
    if not skips_nan:  # which are at the end
        ranks = torch.where(nan.any(-1, keepdim=True), last.to(ranks.dtype), ranks)
    ranks = _ROUNDED[interpolation](ranks) if interpolation in _ROUNDED else ranks
    found = ordered.gather(-1, ranks.long())
    if interpolation in ("linear", "midpoint"):
        weight = ranks - ranks.floor()
        weight = torch.full_like(weight, 0.5) if interpolation == "midpoint" else weight
        found = found.lerp(ordered.gather(-1, ranks.ceil().long()), weight)
    found = found.movedim(-1, 0)  # [Q, *others]
    if dim is None:
        found = found[:, 0].reshape(-1, *[1] * input.dim()) if keepdim else found[:, 0]
    elif keepdim:
        found = found.unsqueeze(dim + 1 if dim >= 0 else dim)
    return found if levels.dim() else found[0]


def interpolate(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`F.interpolate`; to the exactly nearest dimension by dimension, by the places it would take.

    These are found by the operation itself, of one row of numbers.
    """
    given = dict(zip(("size", "scale_factor", "mode"), args, strict=False)) | kwargs
    space = input.dim() - 2
    sizes = [v for v in (given.get("size"), given.get("scale_factor")) if isinstance(v, _SEVERAL)]
    fits = space > 0 and len(args) <= 3 and all(len(v) == space for v in sizes)
    if given.get("mode") != "nearest-exact" or not fits:
        return F.interpolate(input, *args, **kwargs)
    for i in range(space):
        row = torch.arange(input.shape[i + 2], dtype=torch.float64, device=input.device)
        each = {k: v[i] if isinstance(v, _SEVERAL) else v for k, v in given.items()}
        with outside():
            index = F.interpolate(row[None, None], **each).flatten().long()
        input = input.index_select(i + 2, index)
    return input


def take(input: Tensor, index: Tensor) -> Tensor:
    """`torch.take`."""
    return input.flatten()[index]


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """`F.pdist`."""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    difference = input[first] - input[second]
    distance: Tensor = torch.linalg.vector_norm(difference, ord=p, dim=-1)
    return distance


def log_ndtr(input: Tensor) -> Tensor:
    """`torch.special.log_ndtr`, either side of which has digits of its own."""
    scaled, far = input * math.sqrt(0.5), input < -1
    below = torch.where(far, scaled, -1.0)
    above = torch.where(far, 0.0, scaled)
    left = torch.log(torch.special.erfcx(-below) / 2) - below.square()
    return torch.where(far, left, torch.log1p(-torch.special.erfc(above) / 2))


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """`F.affine_grid`: as spatial transformers have it."""
    count, _, *space = size
    dims = len(space)
    told = align_corners is None or (align_corners and 1 in space)  # in warnings of PyTorch's
    if told or theta.shape != (count, dims, dims + 1) or min(size) < 1:
        return F.affine_grid(theta, [*size], align_corners)
    ends = [1.0 if align_corners else 1 - 1 / n for n in space]
    axes = [
        torch.linspace(-end, end, n, dtype=theta.dtype, device=theta.device)
        for end, n in zip(ends, space, strict=True)
    ]
    places = torch.meshgrid(*axes, indexing="ij")
    base = torch.stack([*reversed(places), torch.ones_like(places[0])], -1).flatten(0, -2)
    return (base @ theta.mT).view(count, *space, dims)


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """`torch.renorm`."""
    others = [i for i in range(input.dim()) if i != dim % input.dim()]
    if not others or p < 1:
        return torch.renorm(input, p, dim, maxnorm)
    norms = torch.linalg.vector_norm(input, p, dim=others, keepdim=True)
    return input * torch.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)


def laid_out(function: Callable[..., Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A cast or copy that asks for the channels last: where they are changes no value."""
    asked = [value in _LAST for value in (*args, *kwargs.values())]
    if not any(asked):
        return function(tensor, *args, **kwargs)
    args = tuple(value for value in args if value not in _LAST)
    kwargs = {name: value for name, value in kwargs.items() if value not in _LAST}
    if function in (Tensor.to, Tensor.contiguous) and not (args or kwargs):
        return tensor if _has_last(tensor) else tensor.clone()
    return function(tensor, *args, **kwargs)


def _has_last(tensor: Tensor) -> bool:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is None:
        return False
    like = torch.empty(tensor.shape, device="meta", memory_format=last)
    return tensor.stride() == like.stride()


def _forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    found: dict[Callable[..., Any], Callable[..., Any]] = {
        F.mish: mish,
        F.affine_grid: affine_grid,
        F.rrelu: rrelu,
        torch.rrelu: rrelu,
        F.interpolate: interpolate,
        F.pdist: pdist,
        torch.pdist: pdist,
        Tensor.unfold: unfold,
        torch.special.log_ndtr: log_ndtr,
    }
    for owner in (torch, Tensor):
        found |= {owner.cummax: partial(cumulative, "cummax")}
        found |= {owner.cummin: partial(cumulative, "cummin")}
        found |= {owner.cumprod: cumprod, owner.take: take, owner.renorm: renorm}
        found |= {owner.quantile: partial(quantile, False)}
        found |= {owner.nanquantile: partial(quantile, True)}
    names = ("to", "clone", "float", "double", "half", "bfloat16")
    cast = {name: getattr(Tensor, name) for name in names} | {"torch.clone": torch.clone}
    return found | {function: partial(laid_out, function) for function in cast.values()}


OPERATIONS: dict[Callable[..., Any], Operation] = {
    function: Operation(form=form) for function, form in _forms().items()
}
