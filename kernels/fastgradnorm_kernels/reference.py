r"""Every operation in plain PyTorch: the specification of the kernels, and the CPU path.

Shape letters: N samples, K cotangents, T positions, I inputs, O outputs, C classes. Activations
carry one entry a sample, output gradients one a sample and cotangent, so that whatever depends on
the activations alone is computed once for all K.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

from fastgradnorm_kernels._products import copied, has_own_calls, is_narrow, sq_norms
from fastgradnorm_kernels.geometry import Geometry
from fastgradnorm_kernels.patches import are_left_out, padded, sample_blocks, seen
from fastgradnorm_kernels.shapes import Float, Int
from fastgradnorm_kernels.squares import sum_of_squares

# Per-sample gradients that `direct_sq_norm` holds at a time, in elements: they stay in the
# last-level cache.
_DIRECT_BLOCK = 1 << 22
# Products that `affine_sq_norm` holds at a time, in elements; and where no cache holds them.
_AFFINE_BLOCK, _AFFINE_BLOCK_GPU = 1 << 18, 1 << 28
# Patches of one sample's convolution, in elements, from which on they are alone in memory.
_OWN_PATCHES = 1 << 17


class GhostNorm(NamedTuple):
    """What `ghost_sq_norm` returns: the squared norm, and the scale at which its terms cancel."""

    sq_norm: Float[Tensor, "N K"]
    uncancelled: Float[Tensor, "N K"]


class AffineNorm(NamedTuple):
    """Squared norms of the scale's and the shift's gradients."""

    weight: Float[Tensor, "N K"]
    bias: Float[Tensor, "N K"]


class HeadScores(NamedTuple):
    """The three scores of a linear last layer."""

    expected: Float[Tensor, " N"]
    expected_squared: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Float64 for float64, else float32: what squares and sums are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the accumulation dtype of the last."""
    dtype = accumulation_dtype(tensors[-1].dtype)
    return tuple(t.to(dtype) for t in tensors)


def _sum_of_squares(x: Float[Tensor, "N K ..."]) -> Float[Tensor, "N K"]:
    return sum_of_squares(x.flatten(2))


def _rows(grad_outputs: Float[Tensor, "N K T O"]) -> Float[Tensor, "N KO T"]:
    n, k, t, o = grad_outputs.shape
    return grad_outputs.mT.reshape(n, k * o, t)


def outer_sq_norm(
    activations: Float[Tensor, "N 1 I"], grad_outputs: Float[Tensor, "N K 1 O"]
) -> Float[Tensor, "N K"]:
    r"""`‖g‖² ‖a‖²`: the squared norm of a weight gradient of rank one (a single position)."""
    a, g = widen(activations, grad_outputs)
    return _sum_of_squares(a[:, None]) * _sum_of_squares(g)


def dot(x: Float[Tensor, "I O"], y: Float[Tensor, "I O"]) -> Tensor:
    """`⟨x, y⟩` of matrices; a copy where they are not laid out alike."""
    return torch.dot(x.reshape(-1), y.reshape(-1))


def ghost_sq_norm(
    activations: Float[Tensor, "N T I"], grad_outputs: Float[Tensor, "N K T O"]
) -> GhostNorm:
    r"""`Σ_{s,t} (a_s·a_t)(g_s·g_t)`: a weight gradient's squared norm without the gradient.

    The activation Gram `A = a aᵀ` is formed once and shared by the K cotangents, as `⟨g, A g⟩`. The
    terms may cancel: `uncancelled` is `Σ_t ‖a_t‖² ‖g_t‖²`, and where `sq_norm` is far below it,
    digits are lost; recompute those with `direct_sq_norm`.
    """
    a, g = widen(activations, grad_outputs)
    return ghost_at_once(a @ a.mT, g)


def ghost_at_once(gram: Float[Tensor, "N T T"], g: Float[Tensor, "N K T O"]) -> GhostNorm:
    """`ghost_sq_norm` from the activation Gram."""
    n, k, t, o = g.shape
    diagonal = gram.diagonal(dim1=1, dim2=2)
    if g.stride(2) != 1:
        products = (gram[:, None] @ g).mul_(g)
        squares = torch.linalg.vector_norm(g, dim=-1).square_().mul_(diagonal[:, None])
        return GhostNorm(products.sum((-1, -2)), squares.sum(-1))
    # The positions are last in memory, as convolutions have them.
    rows = _rows(g)
    products = torch.bmm(rows, gram).mul_(rows)
    squares = torch.bmm(rows.square(), diagonal[:, :, None])
    return GhostNorm(products.view(n, k, o * t).sum(-1), squares.view(n, k, o).sum(-1))


def direct_sq_norm(
    activations: Float[Tensor, "N T I"], grad_outputs: Float[Tensor, "N K T O"]
) -> Float[Tensor, "N K"]:
    r"""`‖Σ_t g_t a_tᵀ‖²`: forms each weight gradient, a few samples at a time."""
    a, g = widen(activations, grad_outputs)
    n, k, _, o = g.shape
    inputs = a.shape[-1]
    if n > 0 and has_own_calls(a, g):
        less = copied(g) < copied(a) or (k > 1 and copied(g) == 0)
        flips = less and not is_narrow(inputs, o)
        flips = flips or is_narrow(o, inputs)
        pairs = zip(a, g, strict=True)
        found = [each for a_i, g_i in pairs for each in sq_norms(a_i, g_i, flips)]
        return torch.cat(found).view(n, k)
    rows = _rows(g)  # [N, K*O, T]
    block = max(1, _DIRECT_BLOCK // max(1, k * o * a.shape[-1]))
    parts = [
        _sum_of_squares(
            torch.bmm(rows[i : i + block], a[i : i + block]).view(-1, k, o, a.shape[-1])
        )
        for i in range(0, n, block)
    ]
    return torch.cat(parts) if parts else g.new_zeros(n, k)


def affine_sq_norm(
    normalized: Float[Tensor, "N T D"], grad_outputs: Float[Tensor, "N K T D"]
) -> AffineNorm:
    r"""`‖Σ_t g_t ⊙ x̂_t‖²` and `‖Σ_t g_t‖²`: scale and shift of a normalisation layer."""
    x, g = widen(normalized, grad_outputs)
    # A few samples at a time: their products are added up while they are in the cache.
    most = _AFFINE_BLOCK if g.device.type == "cpu" else _AFFINE_BLOCK_GPU
    block = max(1, most // max(1, g[:1].numel()))
    pairs = zip(g.split(block), x.split(block), strict=True)
    scale = torch.cat([(rows * x_hat[:, None]).sum(-2) for rows, x_hat in pairs])
    return AffineNorm(_sum_of_squares(scale), _sum_of_squares(g.sum(-2)))


def scaled_channels(
    g: Float[Tensor, "N C *space"],
    var: Float[Tensor, " C"],
    weight: Float[Tensor, " C"] | None,
    eps: float,
) -> Float[Tensor, "N C *space"]:
    """`g[n, c, *] * weight[c] / √(var[c] + ε)` in g's dtype and layout; g is rounded once."""
    scale = (var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    scale = scale.view(-1, *(1,) * (g.dim() - 2))
    return (g * scale).to(g.dtype)


def embedding_sq_norm(
    ids: Int[Tensor, "N T"],
    grad_outputs: Float[Tensor, "N K T O"],
    padding_idx: int | None = None,
) -> Float[Tensor, "N K"]:
    r"""`Σ_v ‖Σ_{t: id_t = v} g_t‖²` over the looked-up rows, without `padding_idx`.

    Gradients of equal tokens are added in a slot of their own, one for each that the text has, so
    that memory grows with the text, not with the vocabulary.
    """
    (g,) = widen(grad_outputs)
    if padding_idx is not None:
        g = g.masked_fill((ids == padding_idx)[:, None, :, None], 0)
    if ids.shape[1] == 0:
        return g.new_zeros(g.shape[:2])
    slot = _ranks(ids)
    # Whole rows are added: by an index for each number it takes twice the time.
    n, k, t, o = g.shape
    starts = torch.arange(0, n * k * t, t, device=g.device).view(n, k, 1)
    slots = g.new_zeros(n * k * t, o)
    slots.index_add_(0, (slot[:, None] + starts).flatten(), g.reshape(-1, o))
    return _sum_of_squares(slots.view(n, k, t, o))


def _ranks(ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
    """How many smaller ids its row has, each counted once: by sorting, not by comparing pairs."""
    values, order = ids.sort(-1)
    steps = (values[:, 1:] != values[:, :-1]).long().cumsum(-1)
    return torch.zeros_like(order).scatter_(-1, order[:, 1:], steps)


def direct_conv_sq_norm(
    x: Float[Tensor, "N C *space"],
    grad_outputs: Float[Tensor, "N K O *out"],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Float[Tensor, "N K"]:
    r"""`‖Σ_t g_t a_tᵀ‖²` of a convolution's weight, with few samples' patches in memory at a time.

    Of large images not even those: the K cotangents of one sample are so many more output channels
    of the same input, and one pass of PyTorch's own weight gradient gives all of them.
    """
    x, g = widen(x, grad_outputs)
    n, k, o, *out = g.shape
    inputs, t = x.shape[1] * math.prod(kernel_size), math.prod(out)
    geometry = Geometry(*map(tuple, (kernel_size, stride, padding, dilation)))
    if groups == 1 and not are_left_out(x, g, geometry):
        views = seen(padded(x, padding), kernel_size, stride, dilation)
        rows = g.flatten(3).mT  # [N, K, T, O]
        if inputs * t > _OWN_PATCHES:
            return _direct_each(views, rows)
        blocks = zip(sample_blocks(views, inputs * t), sample_blocks(rows, inputs * t), strict=True)
        parts = [direct_sq_norm(some.reshape(-1, inputs, t).mT, g) for some, g in blocks]
        return torch.cat(parts) if parts else g.new_zeros(n, k)
    functions: list[Callable[..., Tensor]]
    functions = [grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight]
    weight_grad = functions[len(out) - 1]
    norms = []
    for i in range(n):
        if groups == 1:  # one by one, as they lie in memory
            shape = (o, x.shape[1], *kernel_size)
            options = stride, padding, dilation
            each = [weight_grad(x[i : i + 1], shape, row[None], *options) for row in g[i]]
            norms.append(_sum_of_squares(torch.stack(each)[None])[0])
            continue
        channels = g[i].reshape(k, groups, o // groups, *out).transpose(0, 1)
        rows = channels.reshape(1, k * o, *out)  # group by group, as a convolution wants them
        shape = (k * o, x.shape[1] // groups, *kernel_size)
        direct = weight_grad(x[i : i + 1], shape, rows, stride, padding, dilation, groups)
        norms.append(_sum_of_squares(direct.reshape(groups, k, -1)).sum(0))
    return torch.stack(norms) if norms else g.new_zeros(n, k)


def _direct_each(
    views: Float[Tensor, "N C *kernel_out"], rows: Float[Tensor, "N K T O"]
) -> Float[Tensor, "N K"]:
    """Sample by sample, whose patches follow each other in the same, cached, memory."""
    n, k, t, o = rows.shape
    inputs = views[0].numel() // t
    flips = is_narrow(o, inputs) or (k > 1 and copied(rows) == 0)
    patches, found = views.new_empty(views.shape[1:]), list[Tensor]()
    for view, some in zip(views, rows, strict=True):
        patches.copy_(view)
        found += sq_norms(patches.view(-1, t).mT, some, flips)
    return torch.cat(found).view(n, k) if found else rows.new_zeros(n, k)


def head_scores(logits: Float[Tensor, "N C"], q: Float[Tensor, " N"]) -> HeadScores:
    r"""The three scores of a linear last layer from its logits and `q = ‖h‖² + 1`.

    `√q Σ_c p_c ‖p - e_c‖`, `q (1 - ‖p‖²)` and `√q ‖p ⊙ (log p + H)‖`, written with the predicted
    class k taken out, so that no digit is lost as `p_k → 1`: with `u_j = z_j - z_k`, `s = Σ_{j≠k}
    e^{u_j}`, `r_j = e^{u_j}/s`, `om = s/(1+s)`, `m = Σ r_j u_j`:

    - `‖p - e_k‖ = om √(1 + ‖r‖²)`, and `‖p - e_j‖² = (1 - p_j)² + om² (‖r‖² - r_j²) + p_k²`;
    - `1 - ‖p‖² = om (1 + p_k - om ‖r‖²)`;
    - the entropy's cotangent is `om p_k m` on k and `-om r_j (u_j - om m)` elsewhere.
    """
    z, scale = widen(logits, q)
    top = z.argmax(-1, keepdim=True)
    u = z - z.gather(-1, top)
    e = u.exp().scatter(-1, top, 0.0)
    s = e.sum(-1, keepdim=True)
    r = e / s.clamp_min(torch.finfo(s.dtype).tiny)
    om, p_top = s / (1 + s), 1 / (1 + s)
    p = om * r  # the others' probabilities; 0 on k
    rr = r.square().sum(-1, keepdim=True)
    rest = (1 - p).square() + om.square() * (rr - r.square()) + p_top.square()
    expected = p_top * om * (1 + rr).sqrt() + (p * rest.sqrt()).sum(-1, keepdim=True)
    expected_squared = om * (1 + p_top - om * rr)
    # exp(u) = 0 where u = -inf or nearly so: 0 times an infinite u must stay 0
    m = torch.where(r > 0, r * u, 0.0).sum(-1, keepdim=True)
    others = torch.where(r > 0, r * (u - om * m), 0.0).square().sum(-1, keepdim=True)
    entropy = om * ((p_top * m).square() + others).sqrt()
    root = scale.sqrt()
    return HeadScores(root * expected[:, 0], scale * expected_squared[:, 0], root * entropy[:, 0])


def linear_head_scores(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "C D"],
    bias: Float[Tensor, " C"] | None = None,
) -> HeadScores:
    """`head_scores` of the logits `h Wᵀ + b`, with `q = ‖h‖² + 1`, or `‖h‖²` without a bias."""
    dtype = accumulation_dtype(features.dtype)
    q = features.to(dtype).square().sum(-1) + (0 if bias is None else 1)
    return head_scores(F.linear(features, weight, bias), q)
