r"""Outputs that are the means of Gaussians of variance one: regression without labels.

The Fisher matrix of such a model is `JᵀJ`, J the Jacobian of the outputs, of which every output is
pulled back: `"expected_squared"` is its trace `Σ_o ‖∇f_o‖²`, and `"expected"` the square root of
that, for one output `‖∇f‖`. Both times the model's own variance and standard deviation, if it has
one, are those of its own Gaussian.
"""

import torch
from torch import Tensor

from fastgradnorm._schemes.pull_backs import PullBacks, Term
from fastgradnorm._validate import fail


def check_gaussian(schemes: tuple[str, ...]) -> None:
    """Raises `ValueError` for a scheme that says nothing of a Gaussian."""
    if "entropy" in schemes:
        raise fail(
            "scheme",
            "'expected' or 'expected_squared' for likelihood='gaussian'",
            "entropy",
            "The entropy of a Gaussian of fixed variance does not depend on the parameters.",
        )


def jacobian(z: Tensor, valid: Tensor | None, schemes: tuple[str, ...]) -> PullBacks:
    """Every output of one sample, `[*positions, C]`; those of positions left out count nothing."""
    count = z.numel()
    counted = torch.ones_like(z) if valid is None else valid.to(z.dtype)[..., None].expand_as(z)
    cotangents = torch.eye(count, dtype=z.dtype, device=z.device).view(count, *z.shape)
    weights = counted.reshape(-1)
    terms = tuple(Term(s, 0, count, weights, 2, root=s == "expected") for s in schemes)
    return PullBacks(cotangents, torch.ones_like(weights), terms)
