"""The beginning of a run: with which engine, in this process alone or with others."""

from collections.abc import Callable, Iterable
from typing import Any

from fastgradnorm_kernels import resolve_backend
from torch import nn

from fastgradnorm._engine import Clock, Engine, Outcome
from fastgradnorm._model import Subject
from fastgradnorm._options import Options
from fastgradnorm._pool.ranks import Ranks
from fastgradnorm._pool.run import Run
from fastgradnorm._pool.samples import make_pool
from fastgradnorm._pool.shared_run import SharedRun
from fastgradnorm._process import autograd_ready, check_transforms, interrupts_wait
from fastgradnorm._validate import fail


def make_engine(
    model: nn.Module,
    options: Options,
    outcome: Callable[[Subject, Options], Outcome] | None = None,
    clock: Clock | None = None,
    labelled: bool = False,
) -> Engine:
    """An engine for a model as it is now; by default one that scores.

    Others say by `labelled` that what they make may be of labels.
    """
    if outcome is not None and not labelled and options.labels is not None:
        advice = "Labels are read by `score_pool` and `GradNormScorer` alone."
        raise fail(
            "scheme", "one that needs no label here, without a `loss`", options.scheme, advice
        )
    with interrupts_wait(), autograd_ready():
        check_transforms()
        first, *others = options.parts() if outcome is None else [options]
        subject = Subject(model, first)
        resolve_backend(options.backend, subject.device)
        made = None if outcome is None else outcome(subject, subject.options)
        engine = Engine(subject, subject.options, made, clock)
        for part in others:
            other = Subject(model, part)
            engine.also = Engine(other, other.options, clock=clock, chunks=engine.chunks)
        return engine


def start(
    model: nn.Module,
    loader: Iterable[Any],
    options: Options,
    make: Callable[[nn.Module, Options], Engine],
) -> Run | SharedRun:
    """A run over a pool, which other ranks share if there are some and the options allow it."""
    ranks = Ranks.joined(options.distributed)
    if ranks is not None:
        return SharedRun(ranks, model, loader, options, make)
    return Run(make(model, options), make_pool(loader, options.subset, options.seed))


def check_ranks(distributed: bool | None, given: dict[str, Any]) -> None:
    """Raises `ValueError` where ranks share a pool and an argument is another on one of them."""
    ranks = Ranks.joined(distributed)
    if ranks is not None:
        ranks.agree(given)
