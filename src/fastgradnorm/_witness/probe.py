"""Plain calls of a model on some of a batch's samples, for what its outputs and inputs look like.

The calls are made of copies of the module tree, so that nothing of the caller's changes, and no
hook of ours is left behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import Batch, Subject, Swapping, extract

# Units in the last place by which a row of a batch may differ from the same sample alone.
_ROUNDING = 1 << 12
_ALONE = 8  # samples, where several at once are not what each is alone


@dataclass(frozen=True)
class Seen:
    """What a model returned.

    Attributes:
        output: Of one sample, with its graph, as the model returned it.
        leaves: The parameters that the graph ends in, by name.
        logits: `[n, *rest]` of n samples, without the graph, the classes where the model has them.
        samples: These n samples.
    """

    output: Any
    leaves: dict[str, Tensor]
    logits: Tensor
    samples: Batch

    @property
    def is_named(self) -> bool:
        """Whether the model says which of its outputs the logits are."""
        if isinstance(self.output, (tuple, list)):
            return self.output[0] is not self.scored
        return not isinstance(self.output, Tensor)

    @property
    def scored(self) -> Tensor:
        """The logits of the one sample, with their graph."""
        return extract(self.output)


def probe(subject: Subject, batch: Batch, hook: Callable[[nn.Module], Any] | None = None) -> Seen:
    """Calls the model on one sample with a graph, and on all of a batch without.

    Args:
        subject: The model.
        batch: Few samples.
        hook: Is given the module tree that is called on all, to look on.
    """
    leaves, output = with_graph(subject, batch.take(slice(0, 1)))
    alone = extract(output).detach()
    try:
        logits = rows(subject, batch, hook)
        if _agree(alone, logits, len(batch)):
            return Seen(output, leaves, logits, batch)
    except NOT_THE_MODELS:
        raise
    except Exception:  # what models do with several samples is judged elsewhere
        pass
    few = batch.take(slice(0, _ALONE))
    ones = [rows(subject, few.take(slice(i, i + 1)), hook) for i in range(len(few))]
    if any(row.shape != ones[0].shape for row in ones):
        return Seen(output, leaves, alone, batch.take(slice(0, 1)))
    return Seen(output, leaves, torch.cat(ones), few)


def rows(subject: Subject, batch: Batch, hook: Callable[[nn.Module], Any] | None = None) -> Tensor:
    """Logits `[n, *rest]` by one call without a graph, the classes where the model has them."""
    with subject.graph():
        return extract(_call(subject, batch, {}, hook)).detach()


def with_graph(subject: Subject, sample: Batch) -> tuple[dict[str, Tensor], Any]:
    """All parameters, frozen ones too, and the output of one sample whose graph ends in them."""
    names = [name for name, p in subject.parameters.items() if _has_gradient(p)]
    leaves = {k: v.detach().requires_grad_() for k, v in subject.values(names).items()}
    with torch.enable_grad():
        return leaves, _call(subject, sample, leaves)


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _call(
    subject: Subject,
    batch: Batch,
    leaves: dict[str, Tensor],
    hook: Callable[[nn.Module], Any] | None = None,
) -> Any:
    view, stand_ins = subject.view(leaves)
    if hook is not None:
        hook(view)
    given: Sequence[Tensor] = [leaf.clone() for leaf in batch.leaves]
    with Swapping(stand_ins), subject.autocast():
        return subject.called(view, batch, given)


def _agree(alone: Tensor, logits: Tensor, count: int) -> bool:
    if logits.dim() == 0 or len(logits) != count or logits.shape[1:] != alone.shape[1:]:
        return False
    largest = float(alone.nan_to_num(0.0, 0.0, 0.0).abs().max()) if alone.numel() else 0.0
    slack = largest * _ROUNDING * torch.finfo(alone.dtype).eps
    return torch.allclose(logits[0], alone[0], rtol=0.0, atol=slack, equal_nan=True)
