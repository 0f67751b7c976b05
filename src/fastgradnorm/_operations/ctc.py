"""The loss of connectionist temporal classification, of all samples in one call under vmap.

PyTorch runs it sample by sample there, and not at all where their labels are of several lengths: a
table that it keeps for its pull-back has a row for each. Here that is made at once, as the
derivative of each loss by its own log-probabilities.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from fastgradnorm._operations.operation import Operation


class _Losses(Function):
    """Losses `[B]` of log-probabilities `[T, B, C]` and labels `[B, S]`, and their derivatives."""

    @staticmethod
    def forward(
        rates: Tensor, labels: Tensor, lengths: Tensor, counts: Tensor, blank: int, finite: bool
    ) -> tuple[Tensor, Tensor]:
        given = rates.detach().requires_grad_()
        with torch.enable_grad():
            losses = F.ctc_loss(given, labels, lengths, counts, blank, "none", finite)
            (slopes,) = torch.autograd.grad(losses.sum(), given)
        return losses.detach(), slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return g[:, None] * slopes, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, rates: Tensor, *further: Any) -> Any:
        """Samples beside those that a call has of itself."""

        def fronted(tensor: Tensor, dim: int | None) -> Tensor:
            if dim is None:
                return tensor.expand(info.batch_size, *tensor.shape)
            return tensor.movedim(dim, 0)

        rates = fronted(rates, in_dims[0]).transpose(0, 1)  # [T, N, B, C]
        rows = [
            fronted(t, dim).flatten(0, 1) for t, dim in zip(further[:3], in_dims[1:4], strict=True)
        ]
        losses, slopes = _losses(rates.flatten(1, 2), *rows, *further[3:])
        shape = rates.shape[1:3]
        return (losses.unflatten(0, shape), slopes.unflatten(1, shape)), (0, 1)


def _losses(*given: Any) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", _Losses.apply(*given))  # type: ignore[no-untyped-call]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """As `F.ctc_loss`."""
    alone = log_probs.dim() == 2
    rates = log_probs[:, None] if alone else log_probs
    labels = targets[None] if targets.dim() == 1 and rates.shape[1] == 1 else targets
    if labels.dim() != 2 or rates.dim() != 3 or reduction not in ("none", "mean", "sum"):
        return F.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity
        )
    lengths, counts = _numbers(input_lengths), _numbers(target_lengths)
    losses, _ = _losses(rates, labels, lengths, counts, blank, zero_infinity)
    if reduction == "mean":
        return (losses / counts.clamp_min(1).to(losses)).mean()
    if reduction == "sum":
        return losses.sum()
    return losses[0] if alone else losses


def _numbers(lengths: Any) -> Tensor:
    found = lengths if isinstance(lengths, Tensor) else torch.tensor(lengths, device="cpu")
    return found.reshape(-1)


_REDUCTIONS = ("none", "mean", "sum")  # by the numbers that PyTorch's own function takes


def _by_number(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: int | None = None,
    zero_infinity: bool = False,
) -> Tensor:
    """As `torch.ctc_loss`, whose default differs from what its documentation says."""
    given = log_probs, targets, input_lengths, target_lengths, blank
    if reduction is None:
        return torch.ctc_loss(*given, zero_infinity=zero_infinity)
    if reduction not in range(len(_REDUCTIONS)):
        return torch.ctc_loss(*given, reduction, zero_infinity)
    return ctc_loss(*given, _REDUCTIONS[reduction], zero_infinity)


OPERATIONS: dict[Callable[..., Any], Operation] = {
    F.ctc_loss: Operation(form=ctc_loss),
    torch.ctc_loss: Operation(form=_by_number),
}
