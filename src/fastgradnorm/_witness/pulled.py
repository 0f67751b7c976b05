"""Gradients of rows of logits, by plain autograd."""

import torch
from fastgradnorm_kernels.switches import without_hooks
from torch import Tensor


class Gradients:
    """Logits with their graph, and the gradients of their rows.

    Attributes:
        logits: `[n, *positions, C]`.
    """

    def __init__(self, logits: Tensor, leaves: dict[str, Tensor]) -> None:
        self.logits, self._leaves = logits, leaves

    def sq_norms(self, row: int, cotangent: Tensor) -> Tensor:
        """Squared norm of each parameter's gradient `[P]`, float64, of one sample's cotangent."""
        found = self.gradients(row, cotangent)
        return torch.stack([_sq_norm(gradient, self.logits.device) for gradient in found])

    def gradients(self, row: int, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Each parameter's gradient, of one sample's cotangent."""
        pulled = torch.zeros_like(self.logits)
        pulled[row] = cotangent.to(self.logits.dtype)
        leaves = list(self._leaves.values())
        with without_hooks(leaves):
            options = {"retain_graph": True, "allow_unused": True}
            return torch.autograd.grad(self.logits, leaves, pulled, **options)


def _sq_norm(gradient: Tensor | None, device: torch.device) -> Tensor:
    if gradient is None:
        return torch.zeros((), dtype=torch.float64, device=device)
    size: Tensor = torch.linalg.vector_norm(gradient.to_dense(), dtype=_wide(gradient.dtype))
    return size.double().square()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64
