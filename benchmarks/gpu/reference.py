"""What scores should be: the model itself in float64, one sample and one gradient at a time.

Written against PyTorch alone, so that a fault of the package cannot hide in it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import first, logits, move, pieces


def _norm(output: Tensor, parameters: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
    squares = [g.square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum().sqrt()


def expected(log_p: Tensor, parameters: list[Tensor]) -> float:
    """Expected gradient norm of a sample with these logarithms of probabilities `[C]`."""
    norms = torch.stack([_norm(-log_p[c], parameters) for c in range(len(log_p))])
    return float(log_p.exp().detach() @ norms)


def _sample(
    model: nn.Module, sample: Any, parameters: list[Tensor], dense: bool
) -> dict[str, float]:
    """Scores of one sample: `expected` by its definition, `entropy` of the mean over positions."""
    log_p = logits(model, sample)[0].log_softmax(0)
    found = {} if dense else {"expected": expected(log_p, parameters)}
    entropy = -(log_p.exp() * log_p).sum(0).mean()
    found["entropy"] = float(_norm(entropy, parameters))
    return found


def scores(
    model: nn.Module, batch: Any, *, head: str | None, dense: bool, cudnn: bool, device: str
) -> dict[str, Tensor]:
    """Scores `[N]` by scheme, in float64.

    Args:
        model: As it is given to the engine.
        batch: Of a few samples.
        head: How names of the parameters begin that the gradient is taken over; None for all.
        dense: Whether logits are `[N, C, *positions]`; then the entropy alone.
        cudnn: Whether to use it.
        device: Where.
    """
    twin = copy.deepcopy(model).to(device, torch.float64)
    chosen = [p for name, p in twin.named_parameters() if name.startswith(head or "")]
    batch = move(batch, device, torch.float64)
    with torch.backends.cudnn.flags(enabled=cudnn):
        rows = [_sample(twin, sample, chosen, dense) for sample in pieces(batch, 1)]
    return {k: torch.tensor([row[k] for row in rows], dtype=torch.float64) for k in rows[0]}


def compared(actual: Tensor, exact: Tensor) -> dict[str, Any]:
    """Relative errors, and the correlation of ranks."""
    actual, exact = actual.double().cpu(), exact.double().cpu()
    error = ((actual - exact) / exact).abs()
    return {
        "finite": bool(actual.isfinite().all()),
        "error": float(error.max()),
        "error_median": float(error.median()),
        "ranks": rank_correlation(actual, exact),
    }


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of values without ties."""
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def checked_on_cpu(model: nn.Module, batch: Any, exact: dict[str, Tensor], **how: Any) -> float:
    """Largest relative difference of the first sample's scores from those that the CPU makes."""
    few = scores(model, first(batch, 1), **how | {"device": "cpu"})
    return max(abs(float(few[k][0] / exact[k][0]) - 1) for k in few)
