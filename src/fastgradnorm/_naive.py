"""A pool scored by plain autograd alone: the baseline of the benchmarks."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._engine import make_plan, plain_scores
from fastgradnorm._keywords import scores_pool
from fastgradnorm._model import Reader, Subject
from fastgradnorm._options import Options
from fastgradnorm._pool import Placement, make_pool
from fastgradnorm._process import OwnRandomState, autograd_ready


@scores_pool
def naive_score_pool(model: nn.Module, loader: Iterable[Any], options: Options) -> Any:
    """Scores as `score_pool` gives them, by the plain autograd loop.

    A batch of one, and a backward pass per class.

    The baseline of the benchmarks, and for pools of a few samples a way to check any model.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`, whose batches are read alike, and whose order is judged.
        options: Keyword arguments, see `Options`; those about speed and checks have no effect.

    Returns:
        Scores `[N]`, or a dict of them for several schemes, on the CPU, in loader order.

    Raises:
        ValueError: If `loader` yields nothing, an option is wrong, or there is a `subset`.
        TypeError: If an argument is of a wrong type, or no option has its name.

    Warns:
        UserWarning: As `score_pool`, where scores come in another order than the dataset's, are
            fewer or more than its samples, or cannot be traced to them.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> naive_score_pool(model, [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])])
        tensor([1.0000, 1.4142])
    """
    options.refuse_subset("naive_score_pool")
    found: dict[str, list[Tensor]] = {scheme: [] for scheme in options.schemes}
    names: list[Sequence[str]] = []
    placement = Placement(loader, "naive_score_pool")
    with OwnRandomState(), autograd_ready():
        subjects = [Subject(model, part) for part in options.parts()]
        given = options.forward, options.mask, subjects[0].model, options.labels
        reader = Reader(subjects[0].device, *given)
        pool = make_pool(loader, None, options.seed)
        raws, draws = pool.open()
        for raw in raws:
            batch = reader.read(raw, None if draws is None else draws.size())
            placement.add(None if draws is None else draws.next(len(batch)), len(batch))
            for i in range(len(batch)):
                sample = batch.take(slice(i, i + 1))
                if not names:
                    names = [make_plan(subject, sample).tracked for subject in subjects]
                for subject, tracked in zip(subjects, names, strict=True):
                    scored = plain_scores(subject, sample, tracked, subject.options)
                    for scheme, score in scored.scores.items():
                        found[scheme].append(score)
    if not names:
        raise ValueError("`loader` must yield at least one sample. Got none.")
    placement.judge(pool.size, None if draws is None else draws.lost)
    return options.pick({scheme: torch.cat(values).cpu() for scheme, values in found.items()})
