"""A pool in, one score per sample out."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Unpack, cast, overload

from torch import Tensor, nn

from fastgradnorm._engine import Clock, Explanation, explain, now, tried
from fastgradnorm._errors import ArgumentError, SlowPathWarning
from fastgradnorm._keywords import (
    Found,
    Keywords,
    Scores,
    SeveralSchemes,
    as_keywords,
    changed,
    scores_pool,
    takes_options,
)
from fastgradnorm._model import as_batch
from fastgradnorm._options import AnyScheme, Options
from fastgradnorm._pool import (
    Calls,
    Columns,
    Part,
    Placement,
    Run,
    SharedRun,
    by_group,
    make_engine,
    nothing_to_score,
    provenance,
    start,
)
from fastgradnorm._process import OwnRandomState, autograd_ready
from fastgradnorm._results import PoolScores, tell_nonfinite
from fastgradnorm._schemes import is_column, make_objective
from fastgradnorm._validate import check_model
from fastgradnorm._version import warn_if_untested
from fastgradnorm._witness import ALIKE, judge_scores


@scores_pool
def score_pool(model: nn.Module, loader: Iterable[Any], options: Options) -> Any:
    r"""Score each sample of an unlabelled pool by the norm of its gradient.

    With :math:`p = \mathrm{softmax}(f_\theta(x))` and cross-entropy :math:`\ell`, over the chosen
    parameters :math:`\theta`:

    .. math::
        \text{expected: } \sum_c p_c \|\nabla_\theta \ell(x, c)\|_2
        \qquad \text{entropy: } \|\nabla_\theta H(p)\|_2

    the expected gradient length (Settles et al., 2007) and entropy-gradnorm (Wang et al., 2022,
    https://arxiv.org/abs/2112.05683).

    Args:
        model: Classifier, inputs to logits `[B, C]`; scored in eval mode.
        loader: Batches of inputs `[B, ...]`; of tuples the first element, of mappings all but the
            labels. Labels are never read. Scores in another order than the dataset's are warned of.
        options: Keyword arguments: `scheme`, `params`, `reduction` and the rest of `Options`.

    Returns:
        Scores `[N]`, float32 (float64 for a float64 model), on the CPU, in loader order; nats per
        unit of parameter. The highest are labelled first. For several schemes a dict of them. With
        `rtol` above 0 some are estimates, whose standard errors `GradNormScorer.score` tells.

    Raises:
        ValueError: If an option is wrong, `loader` is empty, the model cannot run, `max_memory` is
            less than one sample needs, `checkpoint` is of another run, or ranks differ in model or
            pool. Also with a `subset`, whose samples a bare tensor cannot tell: use
            `GradNormScorer`.
        TypeError: If an argument is of a wrong type, or no option has its name.
        OSError: If `checkpoint` cannot be made.
        MemoryError: If the device has no room for one sample.
        UnsupportedModelError: If a layer mixes samples (batch norm without running statistics) or
            draws random numbers. A `ValueError`.
        CoverageError: If a trainable parameter's use could not be accounted for. A `ValueError`.
        RankFailedError: If another process of a distributed run fails. A `RuntimeError`.
        NonFiniteScoreError: If a score is NaN or infinite; it holds all scores. A `ValueError`.
        VerificationError: If the first samples disagree with plain autograd. A `RuntimeError`.

    Warns:
        DoubtfulScoresWarning: Where outputs, inputs or scores look unlike what they are taken for,
            by name; with `verify=True`.
        SlowPathWarning: Where something makes exact scores slow; once, by name.
        UntestedVersionWarning: If PyTorch is newer than this version is tested with; once.

    Guarantees:
        - A score depends on its sample alone, not on batch size or order.
        - Each trainable parameter that takes part is counted once, shared ones after adding up.
        - Parameters, `.grad`, buffers, modes, hooks and random states are unchanged.
        - Memory does not grow with the pool, but for the scores.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> score_pool(model, [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])])
        tensor([1.0000, 1.4142])
    """
    options.refuse_subset("score_pool")
    scorer = GradNormScorer(model, **as_keywords(options))
    if isinstance(scores := scorer._scores(loader, "score_pool"), PoolScores):
        return scores.values
    return {scheme: each.values for scheme, each in scores.items()}


class GradNormScorer(Generic[Found, Scores]):
    """Scores samples of a pool by gradient norm: whole pools, streams, or single batches.

    Args:
        model: As in `score_pool`. It is read anew at each call, so that it may be trained in
            between.
        options: Keyword arguments, see `Options`.

    Raises:
        ValueError: If an option is wrong.
        TypeError: If `model` is no module, an option of a wrong type, or none has its name.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> GradNormScorer(model, scheme="entropy").score_batch(torch.ones(1, 3))
        tensor([0.])
    """

    @overload
    def __init__(
        self: "GradNormScorer[Tensor, PoolScores]",
        model: nn.Module,
        *,
        scheme: AnyScheme = ...,
        **options: Unpack[Keywords],
    ) -> None: ...

    @overload
    def __init__(
        self: "GradNormScorer[dict[str, Tensor], dict[str, PoolScores]]",
        model: nn.Module,
        *,
        scheme: SeveralSchemes,
        **options: Unpack[Keywords],
    ) -> None: ...

    @takes_options(Options)
    def __init__(self, model: nn.Module, options: Options) -> None:
        warn_if_untested()
        self.model = check_model(model)
        self.options = options
        self._calls = Calls()

    def __repr__(self) -> str:
        return f"GradNormScorer({', '.join([type(self.model).__name__, *changed(self.options)])})"

    def score_batch(self, batch: Any) -> Found:
        """Scores `[B]` of one batch, on the CPU; a dict for several schemes.

        All of it, without a checkpoint, whatever `subset` and `checkpoint` say. `verify` takes the
        batches of successive calls for those of one pool, as long as the model is the same. So
        long, on the CPU, some two dozen calls of one shape repay that the next is traced, which
        takes as long as some hundred; later ones replay it, with the same bits. `explain(batch,
        measure=True)` tells both times. Raises what `score_pool` does.
        """
        options = self.options
        with OwnRandomState():
            scored = self._calls.score(self.model, options, batch)
        self._judge({name: PoolScores(scored.scores[name]) for name in options.schemes})
        return cast(Found, options.pick(scored.scores))

    def stream(self, loader: Iterable[Any]) -> Iterator[Found]:
        """Yields the scores of each batch, in order, for pools of any length.

        Memory does not grow with the pool; `latency` bounds how many samples are read ahead. NaN
        and infinite scores are passed on as they are. With a `checkpoint` the scores of an earlier
        run come first, at once. Where ranks share the pool, each must read on to the end. Another
        order than the dataset's is warned of.

        Raises:
            ValueError: If there is a `subset`, and as told at `score_pool`.
        """
        self.options.refuse_subset("stream")
        return self._streamed(loader)

    def _streamed(self, loader: Iterable[Any]) -> Iterator[Found]:
        random_state, placement = OwnRandomState(), Placement(loader, "stream")
        run = self._run(loader)
        parts = run.parts()
        while True:
            with random_state:
                part = next(parts, None)
            if part is None:
                placement.judge(run.pool.size, run.lost)
                return
            placement.add(part.indices, len(part))
            yield cast(Found, self.options.pick(part.scored.scores))

    def score(self, loader: Iterable[Any]) -> Scores:
        """`PoolScores` of a whole pool, with standard errors and provenance; a dict of several.

        The result's `indices` tell which sample of `loader.dataset` each score is of, also of a
        `subset` and for samplers that shuffle, choose or repeat; they are None where the scores are
        in the dataset's order. With a `checkpoint` a run that was stopped goes on where it was;
        samples must be the same each time they are loaded, their batches may be others.

        Raises:
            ValueError: If `loader` yields no sample, `checkpoint` is of another run, and as told at
                `score_pool`.

        Warns:
            UserWarning: If samples of the dataset were left out (but by a sampler that is given
                indices) or came more than once, or cannot be told.
        """
        return cast(Scores, self._scores(loader))

    def _scores(self, loader: Iterable[Any], function: str | None = None) -> Any:
        """`PoolScores`; `function`, if its result is bare scores, whose order is then judged."""
        columns, placement = Columns(), Placement(loader, function)
        with OwnRandomState():
            run = self._run(loader)
            for part in run.parts(apart=False):
                for name, values in part.scored.scores.items():
                    if name in self.options.schemes or is_column(name):
                        columns.add(f"score {name}", values)
                for scheme, values in part.scored.errors.items():
                    columns.add(f"error {scheme}", values)
                placement.add(part.indices, len(part))
                self._see(part)
        by_scheme = {scheme: columns.get(f"score {scheme}") for scheme in self.options.schemes}
        known = {scheme: scores for scheme, scores in by_scheme.items() if scores is not None}
        if not known:
            raise ArgumentError(nothing_to_score(self.options.subset), "loader")
        if self.options.verify:
            run.findings.add(judge_scores(known, run.findings.has(ALIKE)))
        part_of_it = self.options.subset is not None
        size = None if part_of_it else run.pool.size
        facts = {**provenance(run), "samples": placement.judge(size, run.lost)}
        indices = placement.indices(always=part_of_it)
        found: dict[str, PoolScores] = {}
        for scheme, scores in known.items():
            found[scheme] = PoolScores(
                scores,
                columns.get(f"error {scheme}"),
                {"scheme": scheme, **facts},
                indices,
                by_group(run, scheme, columns),
            )
        self._judge(found)
        return self.options.pick(found)

    def explain(self, batch: Any, *, measure: bool = False) -> Explanation:
        """How each parameter is counted on batches like this one, at what cost, and what is slow.

        Args:
            batch: As a loader yields it.
            measure: Also score it a few times, and tell shares of the time, and of replayed passes.

        Returns:
            A table to print, with `.to_dict()`.
        """
        options, clock = self.options, Clock()
        with OwnRandomState(), autograd_ready(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPathWarning)  # told in the table
            engine = make_engine(self.model, options, clock=clock if measure else None)
            subject = engine.subject
            given = options.forward, options.mask, subject.model, options.labels
            parsed = as_batch(batch, subject.device, *given)
            plan = engine.plan(parsed)
            for _ in range(1 if measure else 2):  # the second pass of a kind is to be captured
                engine.score(parsed if measure else parsed.take(slice(0, 2)))
            count = make_objective(engine.options, plan.logits_shape).count(plan.logits_shape)
            slow = engine.loop_reason, engine.passes.replays.reason
            if not measure:
                return explain(subject, plan, count, *slow)
            clock.seconds.clear()
            start = now()
            engine.score(parsed)
            seconds = now() - start
            shares = {name: clock.seconds[name] / seconds for name in plan.names}
            replays = tried(make_engine(self.model, options), parsed)
            return explain(subject, plan, count, *slow, shares, seconds, replays)

    def _see(self, part: Part) -> None:
        """Is shown each part of a whole pool, for those who want more than its scores."""

    def _run(self, loader: Iterable[Any]) -> Run | SharedRun:
        return start(self.model, loader, self.options, make_engine)

    def _judge(self, found: dict[str, PoolScores]) -> None:
        """NaN and infinite scores, told once everything is there."""
        if all(bool(each.values.isfinite().all()) for each in found.values()):
            return  # as nearly always
        bad = {i for s in found.values() for i in (~s.values.isfinite()).nonzero()[:, 0].tolist()}
        places = next(iter(found.values())).indices
        indices = sorted(bad if places is None else places[sorted(bad)].tolist())
        count, everything = len(next(iter(found.values()))), self.options.pick(found)
        tell_nonfinite("scores", indices, count, everything, self.options.on_nonfinite)
