"""Weight norms on processors: the cheapest form, laid out for fast matrix products.

What `reference` says, with three changes. Large products are made one sample at a time, with all
its cotangents in one, and of bfloat16 in bfloat16. And where a ghost norm's terms may have
cancelled is told by a bound on their scale that costs one pass over the gradients; the scale itself
is computed where the bound is in doubt.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fastgradnorm_kernels import _matmul, _narrow, reference
from fastgradnorm_kernels._depthwise import depthwise_sq_norm, is_swapped
from fastgradnorm_kernels._forms import choose_form
from fastgradnorm_kernels._matmul import linear, matmul
from fastgradnorm_kernels.deferred import is_any, is_deferred
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.patches import conv_patches, grouped, padded, sample_blocks
from fastgradnorm_kernels.reference import accumulation_dtype
from fastgradnorm_kernels.shapes import Float

# A ghost norm below this share of its uncancelled terms is computed again directly. The norm's
# relative error in float32 at that share, random activations with a common mean: 3e-6 (at 1e-4 it
# is 5e-4).
CANCELLED = 2e-2
# Multiplications of a sample from which on its products are made on their own, by a faster library
# than takes batches.
_SMALL = 1 << 22
# Outputs a position from which on the Gram of gradients is made faster than `A g`: of 64 positions
# and 1,024 outputs in half the time, of 128 and 3,072 in five sixths, of 197 and 768 in as much.
_WIDE = 2
# Multiplications of a cotangent's Gram below which the products of several are made together: of
# 64 positions and 256 outputs in three fifths of the time. And the numbers of their gradients that
# are laid out side by side for it at a time.
_OWN_PRODUCT, _TOGETHER = 1 << 21, 1 << 19
# Numbers of a sample's patches from which on a convolution in groups is left to oneDNN, where there
# is one cotangent.
_LARGE = 1 << 18
# Multiplications of an activation Gram from which on it is a product of its own.
_OWN_GRAM = 1 << 24


def weight_sq_norm(a: Float[Tensor, "N T I"], g: Float[Tensor, "N K T O"]) -> Float[Tensor, "N K"]:
    """`‖Σ_t g_t a_tᵀ‖²`."""
    n, k, t, o = g.shape
    form = choose_form(t, a.shape[-1], o, k)
    if form == "closed form":
        return reference.outer_sq_norm(a, g)
    if form == "direct" or n == 0:
        return _narrow.direct_sq_norm(a, g)
    a, g = _narrow.factors(min(k * o, a.shape[-1]) * t * t, a, g)
    grams = a @ a.mT if _is_small(g) else (matmul(rows, rows.mT) for rows in a)
    return _ghost(grams, g, lambda: a)


def conv_sq_norm(
    x: Float[Tensor, "N C *space"],
    g: Float[Tensor, "N K O *out"],
    geometry: Geometry,
    groups: int,
) -> Float[Tensor, "N K"]:
    """`‖Σ_t g_t a_tᵀ‖²` of the patches a that each position of the output sees."""
    n, k, o, *out = g.shape
    if set(geometry.kernel_size) == {1} and set(geometry.padding) == {0}:  # it skips positions
        for dim, step in enumerate(geometry.stride, 2):
            x = x[(slice(None),) * dim + (slice(None, None, step),)]
        geometry = geometry._replace(stride=(1,) * len(out))
        if groups == 1:  # a linear layer at each position
            return weight_sq_norm(_pixels(x, 1), _pixels(g, 2))
    t, inputs = math.prod(out), x.shape[1] // groups * math.prod(geometry.kernel_size)
    if n > 0 and t > 1 and is_swapped(x, out, geometry, groups):
        wide_x, wide_g = reference.widen(x, g)
        return depthwise_sq_norm(wide_x, wide_g, geometry)
    if n == 0 or t == 1 or groups > 1:
        direct = len(out) == 2 and choose_form(t, inputs, o // groups, k) == "direct"
        if direct and not _are_products(x, g, geometry, groups):
            return reference.direct_conv_sq_norm(x, g, *geometry, groups)
        xs, gs = (sample_blocks(each, t * inputs * groups) for each in (x, g))
        pairs = (grouped(*pair, geometry, groups) for pair in zip(xs, gs, strict=True))
        return torch.cat([weight_sq_norm(*pair).view(-1, groups, k).sum(1) for pair in pairs])
    form = _cheapest(x, g, geometry)
    if form == "direct":
        return _narrow.direct_conv_sq_norm(x, g, geometry)
    x, g = _narrow.factors(t * t * min(inputs, k * o), x, g)
    grams = _patch_grams if form == "patches" else _pixel_grams
    rows = (g if _matmul.has_fast_mkl() else g.contiguous()).flatten(3).mT
    return _ghost(grams(x, out, geometry), rows, lambda: conv_patches(x, *geometry).mT)


def _are_products(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry, groups: int
) -> bool:
    """Whether MKL makes the products of groups faster than oneDNN a sample's gradient.

    Not of single channels, nor, of one cotangent with the channels last, of many patches.
    """
    if groups == x.shape[1] or not _matmul.has_fast_mkl():
        return False
    kernel, patches = math.prod(geometry.kernel_size), x.shape[1] * math.prod(g.shape[3:])
    few = kernel == 1 or kernel * patches < _LARGE
    return few or g.shape[1] > 1 or x.stride(1) != 1


def _pixels(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Rows of channels, a view in either layout of an image."""
    if x.stride(dim) == 1:
        return x.movedim(dim, -1).flatten(dim, -2)
    return x.flatten(dim + 1).mT


def _cheapest(
    x: Float[Tensor, "N C *space"], g: Float[Tensor, "N K O *out"], geometry: Geometry
) -> str:
    """Directly, or by Grams of patches or pixels.

    What a sample costs is counted in multiplications of a product that fills the processor, of
    which other work is worth several: fitted to times of 34 shapes with 1, 3 and 10 cotangents.
    """
    _, k, o, *out = g.shape
    c, t, kernel = x.shape[1], math.prod(out), math.prod(geometry.kernel_size)
    pixels = math.prod(geometry.padded(x.shape[2:]))
    patches, products = 20 * t * c * kernel, 1.5 * k * t * t * o
    costs = {
        "direct": patches + k * t * c * kernel * o,
        "patches": patches + 3 * t * t * c * kernel + products,
        "pixels": 3 * pixels * pixels * c + 20 * t * t * kernel + products,
    }
    return min(costs, key=costs.__getitem__)


def _patch_grams(
    x: Float[Tensor, "N C *space"], out: Sequence[int], geometry: Geometry
) -> Iterable[Tensor]:
    """Inner products `[T, T]` of a convolution's patches, for each sample."""
    t, inputs = math.prod(out), x.shape[1] * math.prod(geometry.kernel_size)
    x = padded(x, geometry.padding)
    geometry = geometry._replace(padding=(0,) * len(out))
    for some in sample_blocks(x, t * inputs):
        patches = conv_patches(some, *geometry)
        if t * t * inputs < _OWN_GRAM:
            yield from patches.mT @ patches
        else:
            yield from (matmul(rows.mT, rows) for rows in patches)


def _pixel_grams(
    x: Float[Tensor, "N C *space"], out: Sequence[int], geometry: Geometry
) -> Iterable[Tensor]:
    """The same. A patch is made of pixels, and so are its inner products of those of the pixels.

    Fewer operations than with patches, where there are many channels and no stride.
    """
    t, x = math.prod(out), padded(x, geometry.padding)
    sizes = x.shape[2:]
    for some in sample_blocks(x, math.prod(sizes) ** 2):
        pixels = some.flatten(2)
        products = (pixels.mT @ pixels).view(len(some), *sizes, *sizes)
        total = x.new_zeros(len(some), *out, *out, dtype=accumulation_dtype(x.dtype))
        for offset in itertools.product(*map(range, geometry.kernel_size)):
            steps = zip(offset, geometry.dilation, geometry.stride, out, strict=True)
            seen = tuple(slice(d * k, d * k + s * (n - 1) + 1, s) for k, d, s, n in steps)
            total += products[(slice(None), *seen, *seen)]
        yield from total.view(len(some), t, t)


def _is_small(g: Float[Tensor, "N K T O"]) -> bool:
    _, k, t, o = g.shape
    return k * t * t * o < _SMALL and g.dtype != torch.bfloat16


def _ghost(
    grams: Iterable[Tensor], g: Float[Tensor, "N K T O"], activations: Callable[[], Tensor]
) -> Float[Tensor, "N K"]:
    """Ghost norms from the Grams `[T, T]` of the samples' activations `[N, T, I]`."""
    if _is_small(g):
        grams = grams if isinstance(grams, Tensor) else torch.stack([*grams])
        sq_norm, uncancelled = reference.ghost_at_once(grams, g)
        lost = sq_norm < CANCELLED * uncancelled
    else:
        sq_norm, lost = _bounded(grams, g)
    if sq_norm.dtype == torch.float32 and is_any(lost):
        samples, cotangents = lost.nonzero(as_tuple=True)
        a, rows = activations()[samples], g[samples, cotangents][:, None]
        sq_norm[samples, cotangents] = reference.direct_sq_norm(a, rows)[:, 0]
    return sq_norm


def _bounded(grams: Iterable[Tensor], g: Float[Tensor, "N K T O"]) -> tuple[Tensor, Tensor]:
    """Ghost norms `⟨g, A g⟩`, and which of them lost digits.

    `max_t ‖a_t‖² Σ_t ‖g_t‖²` bounds the scale of their terms; where that leaves a doubt, the scale
    `Σ_t ‖a_t‖² ‖g_t‖²` itself decides.
    """
    _, k, t, o = g.shape
    narrow = g.dtype == torch.bfloat16
    share, sums, lost = _narrow.CANCELLED if narrow else CANCELLED, [], []
    for gram, rows in zip(grams, g, strict=True):
        columns = t == 1 or rows.stride(1) == 1  # the positions are last in memory
        wide = o >= _WIDE * t and (k == 1 or t * t * o >= _OWN_PRODUCT)
        if narrow or (wide and not columns):
            sq_norm, scale = _by_grams(gram.to(accumulation_dtype(g.dtype)), rows)
            sums.append(sq_norm)
            lost.append(sq_norm < share * scale)
            continue
        if columns:
            flat = rows.mT.reshape(k * o, t)
            products = linear(flat, gram).mul_(flat)
            sq_norm = products.view(k, -1).sum(1)
        else:
            parts = rows.split(max(1, _TOGETHER // (t * o)))
            sq_norm = torch.cat([_of_columns(gram, some) for some in parts])
        scale = torch.linalg.vector_norm(rows, dim=(1, 2)).square_() * gram.diagonal().amax()
        sums.append(sq_norm)
        lost.append(sq_norm < share * scale)
        if is_deferred() or bool(lost[-1].any()):
            squares = torch.linalg.vector_norm(rows, dim=-1).square_()
            lost[-1] = sq_norm < share * (squares @ gram.diagonal())
    return torch.stack(sums), torch.stack(lost)


def _of_columns(gram: Float[Tensor, "T T"], rows: Float[Tensor, "K T O"]) -> Float[Tensor, " K"]:
    """`⟨g, A g⟩` with the cotangents side by side in the columns of one product."""
    k, t, o = rows.shape
    columns = rows.transpose(0, 1).reshape(t, k * o)
    products = matmul(gram, columns)
    if k == 1:
        return reference.dot(products, columns)[None]
    return products.mul_(columns).view(t, k, o).sum((0, 2))


def _by_grams(gram: Float[Tensor, "T T"], rows: Float[Tensor, "K T O"]) -> tuple[Tensor, Tensor]:
    """`⟨A, g gᵀ⟩`, and the scale of its terms: less to write than `A g` of a few positions."""
    found = [matmul(g_t, g_t.mT).to(gram.dtype) for g_t in rows]
    scales = [torch.dot(each.diagonal(), gram.diagonal()) for each in found]
    return torch.stack([reference.dot(each, gram) for each in found]), torch.stack(scales)
