"""TorchJD's autogram and nngeometry: Gramians and Jacobians of a whole batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import logits, size
from benchmarks.engines.contract import Loss, SqNorms


def autogram_by_loss(model: nn.Module) -> SqNorms:
    """Gramian of one loss of all samples at a time; its diagonal is wanted."""
    from torchjd.autogram import Engine as Autogram

    engine = Autogram(model, batch_dim=0)

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        columns = [engine.compute_gramian(loss(logits(model, batch))).diagonal() for loss in losses]
        return torch.stack(columns, 1)

    return sq_norms


def autogram_at_once(model: nn.Module) -> SqNorms:
    """One Gramian of all losses of all samples."""
    from torchjd.autogram import Engine as Autogram

    engine = Autogram(model, batch_dim=0)

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        z = logits(model, batch)
        found = torch.stack([loss(z) for loss in losses], 1)  # [N, K]
        gramian = engine.compute_gramian(found)
        return gramian.reshape(found.numel(), found.numel()).diagonal().view_as(found)

    return sq_norms


def nngeometry(model: nn.Module) -> SqNorms:
    """The Jacobian of the logits, and the losses' gradients times it."""
    from nngeometry.backend import TorchHooksJacobianBackend

    backend = TorchHooksJacobianBackend(model=model)

    def sq_norms(batch: Any, losses: Sequence[Loss]) -> Tensor:
        jacobian = backend.get_jacobian((batch,)).detach()  # [C, N, P]
        z = logits(model, batch).detach().requires_grad_()
        found = torch.empty(size(batch), len(losses), dtype=z.dtype, device=z.device)
        for k, loss in enumerate(losses):
            (cotangents,) = torch.autograd.grad(loss(z).sum(), z)
            found[:, k] = torch.einsum("nc,cnp->np", cotangents, jacobian).square().sum(1)
        return found

    return sq_norms
