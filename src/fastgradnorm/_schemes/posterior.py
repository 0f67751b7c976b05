r"""Class probabilities and the cotangents made of them, exact for confident samples.

With `p = softmax(z)`, `k` the predicted class, `u_j = z_j - z_k`, `s = Σ_{j≠k} e^{u_j}`,
`r_j = e^{u_j}/s` and `om = s/(1+s) = 1 - p_k`, everything is written with `om` and `r` instead of
`1 - p_k` and `p_k - 1`, which lose all digits for confident samples:

- expected, class k: `p - e_k` is `-om` on k and `om r_j` elsewhere; class j: `p_j - 1` on j, `p_k`
  on k, `om r_i` elsewhere;
- entropy: with `m = Σ r_j u_j`, the cotangent `-p_c (log p_c + H)` is `om p_k m` on k and
  `-om r_j (u_j - om m)` elsewhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Posterior(NamedTuple):
    """Class probabilities `[..., C]`, written so that a large one hides no digits of the others."""

    top: Tensor  # one-hot of the predicted class k, bool
    gap: Tensor  # u: logits minus the largest
    p_top: Tensor  # [..., 1]
    om: Tensor  # [..., 1], 1 - p_top without its rounding
    r: Tensor  # the others' probabilities given that k is wrong; 0 on k

    @property
    def p(self) -> Tensor:
        """Probabilities, each with all its digits."""
        return torch.where(self.top, self.p_top, self.om * self.r)

    @property
    def residual(self) -> Tensor:
        """`p - e_k`, with all its digits."""
        return torch.where(self.top, -self.om, self.om * self.r)


def _one_hot(index: Tensor, classes: int) -> Tensor:
    return index[..., None] == torch.arange(classes, device=index.device)


def posterior(logits: Tensor) -> Posterior:
    """The class probabilities of logits `[..., C]`, C ≥ 2."""
    top = _one_hot(logits.argmax(-1), logits.shape[-1])
    gap = logits - logits.amax(-1, keepdim=True)
    others = gap.masked_fill(top, -torch.inf)
    # The floor keeps -inf - -inf out where every other class is masked by -inf logits.
    second = others.amax(-1, keepdim=True).clamp_min(torch.finfo(gap.dtype).min)
    e = (others - second).exp()
    total = e.sum(-1, keepdim=True)
    s = second.exp() * total
    r = e / total.clamp_min(torch.finfo(gap.dtype).tiny)
    return Posterior(top, gap, 1 / (1 + s), s / (1 + s), r)


def entropy_cotangent(posterior: Posterior) -> Tensor:
    """`∂H/∂z` for each row of classes."""
    _, gap, p_top, om, r = posterior
    # A class with no probability has a gap without meaning, perhaps infinite.
    m = torch.where(r > 0, r * gap, 0.0).sum(-1, keepdim=True)
    rest = torch.where(r > 0, r * (gap - om * m), 0.0)
    return torch.where(posterior.top, om * p_top * m, -om * rest)


def cotangent_sizes(posterior: Posterior) -> Tensor:
    """`‖p - e_c‖` for each class c."""
    _, _, p_top, om, r = posterior
    square = r.square().sum(-1, keepdim=True)
    p = posterior.p
    others = (1 - p).square() + om.square() * (square - r.square()) + p_top.square()
    return torch.where(posterior.top, om * (1 + square).sqrt(), others.sqrt())


def class_cotangents(posterior: Posterior, classes: Tensor) -> Tensor:
    """`p - e_c` `[N, K, C]` for K classes `[N, K]` of each of N samples."""
    return label_cotangents(Posterior(*(part.unsqueeze(-2) for part in posterior)), classes)


def unit_sized(cotangents: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Cotangents over their largest entry, and that; the first `dims` dimensions count them."""
    flat = cotangents.flatten(dims)
    scales = flat.abs().amax(-1).clamp_min(torch.finfo(flat.dtype).tiny)
    return (flat / scales[..., None]).view_as(cotangents), scales


def label_cotangents(post: Posterior, labels: Tensor) -> Tensor:
    """`p - e_y` at each position, for label maps `[S, *positions]`."""
    chosen = _one_hot(labels, post.top.shape[-1])
    right = (chosen & post.top).any(-1, keepdim=True)
    return torch.where(right, post.residual, post.p - chosen.to(post.p.dtype))


def sums_up_to(values: Tensor) -> Tensor:
    """`values.cumsum(-1)`, also where a GPU must give the same bits and has no such kernel."""
    if not values.is_cuda or not torch.are_deterministic_algorithms_enabled():
        return values.cumsum(-1)
    step = 1
    while step < values.shape[-1]:
        values = values + F.pad(values[..., :-step], (step, 0))
        step *= 2
    return values
