"""One pass over a pool for all that choosing takes: scores, features, sketches and predictions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgradnorm._engine import Norms, Passes, Plan, logits_and_features, make_plan, of_one
from fastgradnorm._errors import ArgumentError
from fastgradnorm._keywords import as_keywords, make_options
from fastgradnorm._model import Batch, Subject
from fastgradnorm._options import Options
from fastgradnorm._pool import Columns, Part, Run, SharedRun, make_engine, start
from fastgradnorm._results import PoolScores
from fastgradnorm._schemes import LABELLED_SCHEMES, Scored, SketchScheme, is_column, predictions
from fastgradnorm._scorer import GradNormScorer
from fastgradnorm._sketches import Sketches


@dataclass(frozen=True)
class Wants:
    """What is wanted of each sample beside its score and its prediction.

    Attributes:
        strategy: Which strategy wants it, for errors.
        features: What the last layer is given.
        sketch: Of which gradient a sketch is wanted; None: of none.
        dim: Length of a sketch.
        classes: Probabilities and residuals of all classes.
        single: Samples must have one label each.
    """

    strategy: str
    features: bool = False
    sketch: SketchScheme | None = None
    dim: int = 512
    classes: bool = False
    single: bool = False


@dataclass(frozen=True, eq=False)
class Gathered:
    """Of a pool.

    Attributes:
        scores: Its scores.
        columns: `[N, ...]` by name: `predictions.NUMBERS`, and what was wanted.
    """

    scores: PoolScores
    columns: dict[str, Tensor]


def gather(model: nn.Module, loader: Iterable[Any], options: Options, wants: Wants) -> Gathered:
    """All that is wanted of a pool, in one pass over it. Raises what `score_pool` does."""
    gatherer = _Gatherer(model, options, wants)
    scores = gatherer.score(loader)
    return Gathered(scores, gatherer.columns())


def score_and_predict(
    model: nn.Module, loader: Iterable[Any], **options: Any
) -> tuple[PoolScores, dict[str, Tensor]]:
    """Score a pool, and tell what the model predicts for each sample, in one pass.

    Args:
        model: As in `score_pool`; its outputs are logits of classes, or of labels of their own
            (`likelihood="bernoulli"`).
        loader: As in `score_pool`.
        options: Keyword arguments of `Options`, with one scheme that reads no labels.

    Returns:
        The scores, and by name, each `[N]` in their order: `predicted` and `runner_up`, the two
        most probable classes, int64; `confidence` and `runner_up_probability`, how probable they
        are. Of many positions the mean of their probabilities counts. Where the outputs of a sample
        are NaN both classes are -1, and both probabilities NaN.

    Raises:
        ValueError: As `score_pool`; or if the scheme reads labels, or there are several.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.eye_(p) if p.dim() == 2 else nn.init.zeros_(p)
        >>> scores, seen = score_and_predict(model, [torch.eye(2)], progress=False)
        >>> seen["predicted"]
        tensor([0, 1])
    """
    asked = make_options("score_and_predict", options)
    if not isinstance(asked.scheme, str) or asked.scheme in LABELLED_SCHEMES or asked.loss:
        raise ArgumentError(
            "`scheme` must be one that reads no labels, such as 'expected'. Got "
            f"{asked.scheme!r}{' with a `loss`' if asked.loss else ''}.",
            "scheme",
        )
    found = gather(model, loader, asked, Wants("score_and_predict"))
    names = "predicted", "confidence", "runner_up", "runner_up_probability"
    seen = {name: found.columns[name] for name in names if name in found.columns}
    for name in {"predicted", "runner_up"} & seen.keys():
        seen[name] = torch.where(seen["confidence"].isnan(), -1, seen[name]).long()
    return found.scores, seen


class _Gatherer(GradNormScorer[Any, Any]):
    """A scorer that keeps what else its outcome makes."""

    def __init__(self, model: nn.Module, options: Options, wants: Wants) -> None:
        super().__init__(model, **as_keywords(options))
        self._wants, self._kept = wants, Columns()
        self._widths: dict[str, tuple[int, ...]] = {}

    def columns(self) -> dict[str, Tensor]:
        """What was kept, by name."""
        found = {}
        for name, width in self._widths.items():
            flat = self._kept.get(name)
            found[name] = (
                torch.empty(0, *width, device="cpu") if flat is None else flat.view(-1, *width)
            )
        return found

    def _see(self, part: Part) -> None:
        for name, values in part.scored.scores.items():
            if name not in self.options.schemes and not is_column(name):
                self._kept.add(name, values)
                self._widths[name] = tuple(values.shape[1:])

    def _run(self, loader: Iterable[Any]) -> Run | SharedRun:
        make = partial(make_engine, outcome=partial(_Everything, wants=self._wants))
        return start(self.model, loader, self.options, make)


class _Everything(Norms):
    """An outcome of passes: scores, and columns beside them."""

    def __init__(self, subject: Subject, options: Options, wants: Wants) -> None:
        super().__init__(options)
        self._wants, self._model = wants, subject.model
        self._head: Subject | None = None
        self._names: dict[int, tuple[str, ...]] = {}
        self._length: int | None = None  # of features
        self._sketches: Sketches | None = None
        if wants.sketch is not None:
            whole = replace(options, group_by=None)
            self._sketches = Sketches(subject, whole, wants.dim, wants.sketch)
        self._subject = subject

    @property
    def facts(self) -> dict[str, str]:
        """What must be the same for a run to be continued: the columns that it keeps."""
        wants = self._wants
        kept = {"features": wants.features, "probabilities": wants.classes}
        found = {"beside scores": ", ".join(name for name, is_kept in kept.items() if is_kept)}
        return found if self._sketches is None else found | self._sketches.facts

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return max(super().count(plan), int(self._sketches is not None))

    def planned(self, plan: Plan) -> Plan:
        """As in `Outcome`."""
        return plan if self._sketches is None else self._sketches.planned(plan)

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Scores, standard errors, and columns."""
        valid = batch.valid(plan.logits_shape)
        if self.has_closed_form(plan):
            logits, features = self.head(plan, passes, batch)
            scored = Scored(self.of_head(plan, passes, logits, features), {}, logits)
        else:
            scored = super().make(passes, plan, batch)
            names = self._last_layer(plan, batch) if self._wants.features else ()
            logits, features = logits_and_features(passes, self._subject, names, batch, valid)
        found = self._columns(plan, logits, features, valid)
        if self._sketches is not None:
            found["sketch"] = self._sketches.make(passes, plan, batch).scores["sketch"]
        return replace(scored, scores={**scored.scores, **found})

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """By plain autograd, and a plain pass for the columns."""
        if self._sketches is not None:
            return self._sketches.alone(subject, sample, error, run)
        scored = super().alone(subject, sample, error, run)
        plan = make_plan(subject, sample)
        valid = sample.valid(plan.logits_shape)
        names = self._last_layer(plan, sample) if self._wants.features else ()
        logits, features = of_one(subject, names, sample, valid)
        found = self._columns(plan, logits, features, valid)
        return replace(scored, scores={**scored.scores, **found})

    def _columns(
        self, plan: Plan, logits: Tensor, features: Tensor, valid: Tensor | None
    ) -> dict[str, Tensor]:
        wants, likelihood = self._wants, self._objective(plan).likelihood
        with torch.no_grad():
            found = predictions(logits, valid, likelihood, wants.classes)
        if wants.single and "residuals" not in found:
            raise ArgumentError(
                f"`strategy` must be one that takes several labels a sample. Got "
                f"{wants.strategy!r}, which takes one, and logits {list(plan.logits_shape)} of "
                "each sample. Use 'herding' or 'diverse'.",
                "strategy",
            )
        return {**found, "features": self._alike(features)} if wants.features else found

    def _alike(self, features: Tensor) -> Tensor:
        """Features `[N, D]` if D is that of the samples before."""
        self._length = features.shape[1] if self._length is None else self._length
        if features.shape[1] != self._length:
            few, many = sorted((features.shape[1], self._length))
            raise ArgumentError(
                f"`strategy` {self._wants.strategy!r} compares what the last layer is given, which "
                f"is {few} numbers of some samples and {many} of others, whose last layer is "
                "another. Use `space='sketch'`, or a strategy by score such as 'gumbel'.",
                "strategy",
            )
        return features

    def _last_layer(self, plan: Plan, batch: Batch) -> tuple[str, ...]:
        """Names of its parameters."""
        if self.options.params == "last_layer":
            return plan.names
        if id(plan) not in self._names:
            if self._head is None:
                self._head = Subject(self._model, replace(self.options, params="last_layer"))
            try:
                self._names[id(plan)] = make_plan(self._head, batch).names
            except ValueError as error:
                raise ArgumentError(
                    f"`strategy` {self._wants.strategy!r} looks at what the last layer is given, "
                    "which cannot be told here. Use `space='sketch'`, or a strategy by score such "
                    f"as 'gumbel'. {error}",
                    "strategy",
                ) from error
        return self._names[id(plan)]
