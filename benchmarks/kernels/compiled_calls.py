"""Calls of every launcher that between them reach every block configuration in use."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels import (
    affine_norm,
    bucket_sums,
    checked_norm,
    conv_norm,
    direct_norm,
    embedding_norm,
    exact_convolution,
    exact_plans,
    ghost_norm,
    logit_head,
    scaled,
)
from fastgradnorm_kernels._torch_norms import CANCELLED
from fastgradnorm_kernels.geometry import Geometry
from torch import Tensor
from torch.utils import _pytree as pytree

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _meta(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _last(dtype: torch.dtype, *shape: int) -> Tensor:
    """Images with the channels last in memory."""
    *outer, c, y, x = shape
    return _meta(dtype, *outer, y, x, c).movedim(-1, -3)


def _products(dtype: torch.dtype, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every operation built on matrix products, at shapes that reach every block configuration."""

    def pair(n: int, k: int, t: int, i: int, o: int) -> tuple[Tensor, Tensor]:
        return _meta(dtype, n, t, i), _meta(dtype, n, k, t, o)

    options = {"input_precision": precision}
    for n, k, t, i, o in ((32, 10, 16, 768, 768), (32, 10, 32, 768, 768), (32, 10, 197, 768, 3072)):
        a, g = pair(n, k, t, i, o)
        yield "ghost_sq_norm", lambda a=a, g=g: ghost_norm.ghost_sq_norm(a, g, **options)
    for n, k, t, i, o in ((32, 10, 1024, 768, 10), (32, 10, 1024, 64, 64), (1, 1, 4096, 768, 768)):
        a, g = pair(n, k, t, i, o)
        yield "direct_sq_norm", lambda a=a, g=g: direct_norm.direct_sq_norm(a, g, **options)
    a, g = pair(32, 10, 197, 768, 3072)
    needed = _meta(torch.bool, 32, 10)
    yield (
        "direct_sq_norm",
        lambda a=a, g=g: direct_norm.direct_sq_norm(a, g, needed, **options),
    )
    square = ((3, 3), (1, 1), (1, 1), (1, 1))
    stem = ((7, 7), (2, 2), (3, 3), (1, 1))
    cube = ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    direct = (
        ((32, 3, 224, 224), (32, 10, 64, 112, 112), stem, 1),
        ((32, 256, 28, 28), (32, 10, 256, 28, 28), square, 1),
        ((32, 96, 28, 28), (32, 10, 96, 28, 28), square, 96),
        ((2, 16, 16, 32, 32), (2, 2, 32, 16, 32, 32), cube, 1),
    )
    for x, g, geometry, groups in direct:
        case = (_meta(dtype, *x), _meta(dtype, *g), geometry, groups)
        yield "conv_sq_norm", partial(conv_norm.conv_direct_sq_norm, *case, **options)
    ghost = (
        ((32, 512, 4, 4), (32, 10, 512, 4, 4), square, 1),
        ((32, 512, 5, 5), (32, 10, 512, 5, 5), square, 1),
        ((32, 512, 7, 7), (32, 10, 512, 7, 7), square, 1),
        ((2, 256, 4, 4, 4), (2, 2, 256, 4, 4, 4), cube, 1),
    )
    for x, g, geometry, groups in ghost:
        case = (_meta(dtype, *x), _meta(dtype, *g), geometry, groups)
        yield "conv_sq_norm", partial(conv_norm.conv_ghost_sq_norm, *case, **options)
    for channels, side in ((3, 32), (64, 32), (128, 16), (256, 8), (512, 4)):  # a ResNet-18's
        outputs = max(64, channels)
        x, g = _last(dtype, 32, channels, side, side), _last(dtype, 32, 10, outputs, side, side)
        call = conv_norm.conv_direct_sq_norm if side == 32 else conv_norm.conv_ghost_sq_norm
        yield "conv_sq_norm", partial(call, x, g, square, 1, **options)


def _others(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every operation that is bound by memory."""
    for classes in (10, 64, 100, 256, 1000, 4096, 16_384, 50_257):
        z, q = _meta(dtype, 4096, classes), _meta(torch.float32, 4096)
        yield "head_scores", lambda z=z, q=q: logit_head.head_scores(z, q)
    x, g = _meta(dtype, 32, 197, 768), _meta(dtype, 32, 10, 197, 768)
    yield "affine_sq_norm", lambda: affine_norm.affine_sq_norm(x, g)
    x_last, g_last = _meta(dtype, 32, 256, 784).mT, _meta(dtype, 32, 10, 256, 784).mT
    yield "affine_sq_norm", lambda: affine_norm.affine_sq_norm(x_last, g_last)
    g_maps, one = _meta(dtype, 320, 64, 28, 28), _meta(torch.float32, 64)
    yield "scaled_channels", lambda: scaled.scaled_channels(g_maps, one, one, 1e-5)
    g_first = _meta(dtype, 320, 28, 28, 64).movedim(-1, 1)
    yield "scaled_channels", lambda: scaled.scaled_channels(g_first, one, one, 1e-5)
    yield "scaled_channels", lambda: scaled.scaled_channels(g_first, one, None, 1e-5)
    rows, matrix = _meta(dtype, 32, 1, 197, 768), _meta(dtype, 32, 1, 512, 4608)
    table, codes = _meta(torch.int32, 1, 2, 512), _meta(torch.int32, 1, 512)
    yield "hashed_sums", lambda: bucket_sums.hashed_sums(rows, table)
    yield "hashed_sums", lambda: bucket_sums.hashed_sums(matrix, table, codes)
    ids, g_tokens = _meta(torch.int64, 32, 512), _meta(dtype, 32, 10, 512, 768)
    yield "embedding_sq_norm", lambda: embedding_norm.embedding_sq_norm(ids, g_tokens, 0)


def _exact() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Exact products of float32: convolutions, a strided pull-back, and a linear layer."""
    square, point = ((3, 3), (1, 1), (1, 1), (1, 1)), ((), (), (), ())
    strided = ((3, 3), (2, 2), (1, 1), (1, 1))
    cube = ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    for outputs, inputs, make, geometry in (
        *((64, 64, exact_plans.pull_plan, square),),
        *((256, 256, exact_plans.forward_plan, square),),
        *((128, 16, exact_plans.pull_plan, strided),),
        *((768, 64, exact_plans.forward_plan, square), (768, 64, exact_plans.forward_plan, cube)),
        *((64, 64, exact_plans.forward_plan, cube),),
        *((3072, 768, exact_plans.forward_plan, point),),
    ):
        space = (16,) * len(geometry[0])
        plan = make(Geometry(*geometry), space, torch.device("cpu"))
        parts = _on_meta(plan.weights(torch.zeros(outputs, inputs, *geometry[0])))
        plan, channels = _on_meta(plan), parts.high.shape[1]
        sizes = plan.space if geometry[0] else ()
        x = _meta(torch.float32, 64, *sizes[3 - len(space) :], channels)
        bias = _meta(torch.float32, parts.high.shape[2])
        yield "exact_convolution", partial(exact_convolution.convolve, x, plan, parts)
        yield "exact_convolution", partial(exact_convolution.convolve, x, plan, parts, bias)


def _on_meta(plan: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.to("meta"), plan)


def _odd(dtype: torch.dtype, size: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every size the same: one, which Triton turns into a constant, or no multiple of sixteen."""
    a, g = _meta(dtype, size, size, size), _meta(dtype, size, size, size, size)
    point, needed = ((1, 1), (1, 1), (0, 0), (1, 1)), _meta(torch.bool, size, size)
    x, gx = a[:, :, None], g[:, :, :, None]
    yield "ghost_sq_norm", lambda: ghost_norm.ghost_sq_norm(a, g)
    yield "direct_sq_norm", lambda: direct_norm.direct_sq_norm(a, g, needed)
    yield "checked_sq_norm", lambda: checked_norm.checked_sq_norm(a, g, CANCELLED)
    yield "conv_sq_norm", lambda: conv_norm.conv_direct_sq_norm(x, gx, point, 1, needed)
    yield "conv_sq_norm", lambda: conv_norm.conv_ghost_sq_norm(x, gx, point, 1)
    yield "head_scores", lambda: logit_head.head_scores(a[0], a[0, 0])
    yield "affine_sq_norm", lambda: affine_norm.affine_sq_norm(a, g)
    one = _meta(torch.float32, size)
    yield "scaled_channels", lambda: scaled.scaled_channels(a, one, one, 1e-5)
    ids = _meta(torch.int64, size, size)
    yield "embedding_sq_norm", lambda: embedding_norm.embedding_sq_norm(ids, g)


def calls() -> Iterator[tuple[str, torch.dtype, str, Callable[[], Any]]]:
    """Operation, dtype, precision of float32 products, and the call."""
    others = [(torch.float32, precision) for precision in ("tf32", "tf32x3", "bf16x6")]
    for dtype, precision in [*((dtype, "ieee") for dtype in _DTYPES), *others]:
        for operation, call in _products(dtype, precision):
            yield operation, dtype, precision, call
    for dtype in _DTYPES:
        for operation, call in _others(dtype):
            yield operation, dtype, "ieee", call
    for operation, call in _exact():
        yield operation, torch.float32, "halves", call
    for dtype, size in ((torch.float32, 1), (torch.float32, 37), (torch.bfloat16, 37)):
        for operation, call in _odd(dtype, size):
            yield operation, dtype, "ieee", call
