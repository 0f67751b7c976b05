"""Plain autograd, one sample and one backward pass a cotangent at a time: baseline and referee."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._engine.plan import make_plan
from fastgradnorm._model.batches import Batch, as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.substitution import Swapping
from fastgradnorm._options import Options, takes_options
from fastgradnorm._process.states import OwnRandomState, autograd_ready
from fastgradnorm._schemes.objective import Objective, make_objective


@takes_options(Options)
def naive_score_pool(model: nn.Module, loader: Iterable[Any], options: Options) -> Any:
    """Scores as `score_pool` gives them, by the plain autograd loop.

    A batch of one, and a backward pass per class.

    The baseline of the benchmarks, and for pools of a few samples a way to check any model.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`.
        options: Keyword arguments, see `Options`; those about speed and checks have no effect.

    Returns:
        Scores `[N]`, or a dict of them for several schemes, on the CPU.

    Raises:
        ValueError: If `loader` yields nothing, an option is wrong, or there is a `subset`.
        TypeError: If an argument is of a wrong type, or no option has its name.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> naive_score_pool(model, [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])])
        tensor([1.0000, 1.4142])
    """
    options.refuse_subset("naive_score_pool")
    found: dict[str, list[Tensor]] = {scheme: [] for scheme in options.schemes}
    names: Sequence[str] | None = None
    with OwnRandomState(), autograd_ready():
        subject = Subject(model, options)
        for raw in loader:
            batch = as_batch(raw, subject.device, options.forward, options.mask)
            for i in range(len(batch)):
                sample = batch.take(slice(i, i + 1))
                if names is None:
                    names = make_plan(subject, sample).tracked
                scores, _ = plain_scores(subject, sample, names, options)
                for scheme, score in scores.items():
                    found[scheme].append(score)
    if names is None:
        raise ValueError("`loader` must yield at least one sample. Got none.")
    return options.pick({scheme: torch.stack(values).cpu() for scheme, values in found.items()})


class PlainPass:
    """One plain forward pass of one sample, to pull cotangents back from.

    Attributes:
        logits: `[*positions, C]`, with their graph.
    """

    def __init__(self, subject: Subject, sample: Batch, names: Sequence[str]) -> None:
        self.subject = subject
        values = subject.values(names)
        self.leaves = {name: v.detach().requires_grad_() for name, v in values.items()}
        view, swaps = subject.view(self.leaves)
        with Swapping(swaps):
            self.logits = subject.tempered(view, sample, [leaf.clone() for leaf in sample.leaves])

    def sq_norms(self, cotangent: Tensor) -> Tensor:
        """Squared norm of the pulled-back gradient of each parameter, `[P]`."""
        grads = torch.autograd.grad(
            self.logits,
            list(self.leaves.values()),
            cotangent.to(self.logits.dtype),
            retain_graph=True,
            allow_unused=True,
        )
        zero = torch.zeros((), dtype=cotangent.dtype, device=cotangent.device)
        # A dot product adds in blocks; the norm of a large tensor loses a digit or two in float32.
        dense = [g.to_dense() if g is not None and g.is_sparse else g for g in grads]
        rows = [zero if g is None else g.to(zero.dtype).reshape(-1) for g in dense]
        return torch.stack([row if row.dim() == 0 else row.dot(row) for row in rows])


def plain_scores(
    subject: Subject, sample: Batch, names: Sequence[str], options: Options
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scores and standard errors of one sample, by scheme."""
    run = PlainPass(subject, sample, names)
    objective: Objective = make_objective(options, run.logits.shape)
    valid = sample.valid(run.logits.shape)
    pull_backs = objective.pull_backs(run.logits, None if valid is None else valid[0])
    sq_norms = torch.stack([run.sq_norms(cotangent) for cotangent in pull_backs.cotangents])
    found = pull_backs.scores(total_norms(sq_norms, options.reduction))
    scores = {scheme: score for scheme, (score, _) in found.items()}
    return scores, {scheme: error for scheme, (_, error) in found.items() if error is not None}


def total_norms(sq_norms: Tensor, reduction: str) -> Tensor:
    """Norm over all parameters `[..., P]`, or the sum of the norms of each."""
    sq_norms = sq_norms.clamp_min(0)
    if reduction == "per_tensor":
        return sq_norms.sqrt().sum(-1)
    return sq_norms.sum(-1).sqrt()
