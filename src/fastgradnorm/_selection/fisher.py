r"""A Fisher design of the last layer, after BAIT (Ash et al., 2021, https://arxiv.org/abs/2106.09675).

The information of a sample about the last weight is `Σ_c v_c v_cᵀ` with
`v_c = √p_c (p - e_c) ⊗ h`. Each time the sample is chosen that most lowers `tr(M⁻¹ F)`: F is the
mean information of the pool, M the sum over what is labelled and chosen, and a ridge of one mean
sample.

Products are sketched, `(S u) ∘ (R h)` with random signs (whose inner products are those of the
products on average), where they are longer than the sketch; and the ten most probable classes
stand for all. So it is factored: what is kept of a sample are ten rows. BAIT's second, backward
pass over twice as many is left out.
"""

import numpy as np
import torch
from torch import Tensor

from fastgradnorm._selection.given import Chosen, Given, chosen

_DIM = 128
_CLASSES = 10
_CHUNK = 512


def fisher(given: Given) -> Chosen:
    """A-optimal, greedily; among 20,000 seeded candidates where there are more."""
    p, h = given.need("probabilities"), given.need("points")
    labelled, labelled_p = given.labelled, given.labelled_probabilities
    # The design is of the same samples in any unit, and float32 holds fourth powers of few.
    h, labelled = _in_one_unit(p, h, labelled)
    places = _candidates(given, len(h))
    factors = _Factors(p.shape[1], h.shape[1], given.generator())
    rows = factors.of(p[places], h[places])
    information = _sum(rows) / max(1, len(rows))
    ridge = float(information.trace()) / len(information)
    start = (ridge or 1.0) * torch.eye(len(information), device="cpu")
    if labelled is not None and labelled_p is not None and len(labelled):
        start = start + _sum(factors.of(labelled_p, labelled))
    inverse = torch.linalg.inv(start.double()).to(h.dtype)
    positions: list[int] = []
    for _ in range(given.k):
        given.free.check()
        gains = _gains(rows, inverse, information)
        values = torch.full((len(h),), -torch.inf, device="cpu")
        values[places] = gains
        i = given.free.pick(values)
        positions.append(i)
        v = factors.of(p[i : i + 1], h[i : i + 1])[0].double()  # [classes, dim]
        wide = inverse.double()
        left = wide @ v.T
        inner = torch.eye(len(v), dtype=torch.float64, device="cpu") + v @ left
        wide = wide - left @ torch.linalg.solve(inner, left.T)
        inverse = ((wide + wide.T) / 2).to(h.dtype)
    return chosen(positions)


def _in_one_unit(p: Tensor, h: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Features in the unit in which the mean information of a sample is one."""
    doubt = (p.double() * (1 - p.double())).clamp_min(0).sum(1)  # Σ_c p_c ‖p - e_c‖²
    scale = float((doubt * h.double().square().sum(1)).mean()) ** 0.5 if len(h) else 0.0
    if not scale > 0:
        return h, labelled
    return (h / scale).float(), None if labelled is None else (labelled / scale).float()


def _candidates(given: Given, count: int) -> Tensor:
    open_ = given.free.mask.nonzero()[:, 0]
    return open_[given.references(len(open_))] if count else open_


class _Factors:
    """Makes the rows of samples: `[n, min(C, 10), dim]`."""

    def __init__(self, classes: int, features: int, generator: np.random.Generator) -> None:
        self._signs: tuple[Tensor, Tensor] | None = None
        if classes * features > _DIM:
            self._signs = (
                _signs(generator, classes) / _DIM**0.25,
                _signs(generator, features) / _DIM**0.25,
            )

    def of(self, p: Tensor, h: Tensor) -> Tensor:
        """Of probabilities `[n, C]` and features `[n, D]`."""
        parts = [self._rows(a, b) for a, b in zip(p.split(_CHUNK), h.split(_CHUNK), strict=True)]
        return torch.cat(parts)

    def _rows(self, p: Tensor, h: Tensor) -> Tensor:
        top = p.topk(min(_CLASSES, p.shape[1]), dim=1)
        one = torch.nn.functional.one_hot(top.indices, p.shape[1]).to(h.dtype)
        p = p.to(h.dtype)
        u = top.values.to(h.dtype).sqrt()[..., None] * (p[:, None] - one)  # [n, K, C]
        if self._signs is None:
            return (u[..., None] * h[:, None, None]).flatten(2)
        left, right = self._signs
        return (u @ left.to(h.dtype)) * (h @ right.to(h.dtype))[:, None]


def _signs(generator: np.random.Generator, rows: int) -> Tensor:
    return torch.from_numpy(generator.choice([-1.0, 1.0], (rows, _DIM)))


def _sum(rows: Tensor) -> Tensor:
    flat = rows.flatten(0, 1)
    total = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device="cpu")
    for part in flat.split(1 << 14):
        total += (part.T @ part).double()
    return total.to(rows.dtype)


def _gains(rows: Tensor, inverse: Tensor, information: Tensor) -> Tensor:
    """By how much each lowers the trace, `[n]`."""
    weighted = inverse @ information @ inverse
    found = []
    for part in rows.split(_CHUNK):
        inner = part @ inverse @ part.mT
        inner.diagonal(dim1=1, dim2=2).add_(1)
        outer = part @ weighted @ part.mT
        found.append(torch.linalg.solve(inner, outer).diagonal(dim1=1, dim2=2).sum(1))
    return torch.cat(found)
