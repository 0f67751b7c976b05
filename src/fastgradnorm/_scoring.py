"""A pool in, one score per sample out."""

import contextlib
import platform
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from fastgradnorm_kernels import resolve_backend
from torch import Tensor, nn
from tqdm.auto import tqdm

from fastgradnorm._batches import Batch, as_batch
from fastgradnorm._clock import Clock, now
from fastgradnorm._engine import Engine
from fastgradnorm._errors import NonFiniteScoreError, SlowPathWarning
from fastgradnorm._explain import Explanation, explain
from fastgradnorm._objectives import make_objective
from fastgradnorm._options import Options, takes_options
from fastgradnorm._passes import Scored
from fastgradnorm._results import PoolScores
from fastgradnorm._states import OwnRandomState, autograd_ready
from fastgradnorm._subject import Subject
from fastgradnorm._validate import check_model, fail_type
from fastgradnorm._verify import verify
from fastgradnorm._version import __version__


@takes_options(Options)
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
            labels. Labels are never read.
        options: Keyword arguments: `scheme`, `params`, `reduction` and the rest of `Options`.

    Returns:
        Scores `[N]`, float32 (float64 for a float64 model), on the CPU, in loader order; nats per
        unit of parameter. The highest are labelled first. For several schemes a dict of them. With
        `rtol` above 0 some are estimates, whose standard errors `GradNormScorer.score` tells.

    Raises:
        ValueError: If an option is wrong, `loader` is empty, or the model cannot run.
        UnsupportedModelError: If a layer mixes samples (batch norm without running statistics) or
            draws random numbers. A `ValueError`.
        CoverageError: If a trainable parameter's use could not be accounted for. A `ValueError`.
        NonFiniteScoreError: If a score is NaN or infinite; it holds all scores. A `ValueError`.
        VerificationError: If the first samples disagree with plain autograd.

    Guarantees:
        - A score depends on its sample alone, not on batch size or order.
        - Each trainable parameter that takes part is counted once, shared ones after adding up.
        - Parameters, `.grad`, buffers, modes, hooks and random states are unchanged.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> score_pool(model, [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])])
        tensor([1.0000, 1.4142])
    """
    scorer = GradNormScorer(model, **_as_keywords(options))
    scores = scorer.score(loader)
    if isinstance(scores, PoolScores):
        return scores.values
    return {scheme: each.values for scheme, each in scores.items()}


class GradNormScorer:
    """Scores samples of a pool by gradient norm: whole pools, streams, or single batches.

    Args:
        model: As in `score_pool`. It is read anew at each call, so that it may be trained in
            between.
        options: Keyword arguments, see `Options`.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> GradNormScorer(model, scheme="entropy").score_batch(torch.ones(1, 3))
        tensor([0.])
    """

    @takes_options(Options)
    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model = check_model(model)
        self.options = options

    def score_batch(self, batch: Any) -> Any:
        """Scores `[B]` of one batch, on the CPU; a dict for several schemes."""
        with OwnRandomState(), autograd_ready():
            scored = self._score_one(self._engine(), batch, first=True)
        self._judge({name: PoolScores(values) for name, values in scored.scores.items()})
        return self.options.pick(scored.scores)

    def stream(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the scores of each batch as it is done, for pools of any length.

        NaN and infinite scores are passed on as they are.
        """
        batches, random_state = self._batches(loader), OwnRandomState()
        while True:
            with random_state:
                found = next(batches, None)
            if found is None:
                return
            yield self.options.pick(found[1].scores)

    def score(self, loader: Iterable[Any]) -> Any:
        """`PoolScores` of a whole pool, with standard errors and provenance; a dict of several.

        Raises:
            ValueError: If `loader` yields no sample, and as told at `score_pool`.
        """
        start = time.perf_counter()
        parts: list[Scored] = []
        engine: Engine | None = None
        with OwnRandomState():
            for engine, scored in self._batches(loader):  # noqa: B007 - all are the same one
                parts.append(scored)
        if engine is None or not sum(len(next(iter(p.scores.values()))) for p in parts):
            raise ValueError(
                "`loader` must yield at least one sample. Got none. A generator can be read only "
                "once; pass a DataLoader or a list."
            )
        facts = self._provenance(engine, time.perf_counter() - start)
        scored = Scored.join(parts)
        found = {
            scheme: PoolScores(values, scored.errors.get(scheme), {"scheme": scheme, **facts})
            for scheme, values in scored.scores.items()
        }
        self._judge(found)
        return self.options.pick(found)

    def explain(self, batch: Any, *, measure: bool = False) -> Explanation:
        """How each parameter is counted on batches like this one, at what cost, and what is slow.

        Args:
            batch: As a loader yields it.
            measure: Also score the batch twice, and tell each parameter's share of the time.

        Returns:
            A table to print, with `.to_dict()`.
        """
        options, clock = self.options, Clock()
        with OwnRandomState(), autograd_ready(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPathWarning)  # told in the table
            engine = self._engine()
            parsed = as_batch(batch, engine.subject.device, options.forward, options.mask)
            plan = engine.plan(parsed)
            engine.score(parsed if measure else parsed.take(slice(0, 2)))
            start = now()
            if measure:
                engine.passes.clock = clock
                engine.score(parsed)
            seconds = now() - start
            count = make_objective(options, plan.logits_shape).count(plan.logits_shape)
            shares = {name: clock.seconds[name] / seconds for name in plan.names}
            measured = (shares, seconds) if measure else (None, None)
            return explain(engine.subject, plan, count, engine.loop_reason, *measured)

    def _engine(self) -> Engine:
        subject = Subject(self.model, self.options)
        resolve_backend(self.options.backend, subject.device)
        return Engine(subject, self.options)

    def _batches(self, loader: Iterable[Any]) -> Iterator[tuple[Engine, Scored]]:
        if isinstance(loader, (str, bytes)) or not isinstance(loader, Iterable):
            raise fail_type("loader", "an iterable of batches", loader)
        if isinstance(loader, Tensor):
            raise fail_type(
                "loader", "an iterable of batches", loader, "Wrap one batch in a list: `[batch]`."
            )
        _warn_if_shuffled(loader)
        with autograd_ready():
            engine = self._engine()
        with _progress(loader, self.options.progress) as bar:
            done = 0
            for raw in loader:
                with autograd_ready():
                    scored = self._score_one(engine, raw, first=done == 0)
                size = len(next(iter(scored.scores.values())))
                done += size
                bar.update(size)
                yield engine, scored

    def _score_one(self, engine: Engine, raw: Any, first: bool) -> Scored:
        options = self.options
        batch: Batch = as_batch(raw, engine.subject.device, options.forward, options.mask)
        if len(batch) == 0:
            empty = torch.empty(0, dtype=_result_dtype(engine.subject.dtype))
            return Scored(dict.fromkeys(options.schemes, empty), {})
        if first and options.verify:
            verify(engine, batch)
        scored = engine.score(batch)
        dtype = _result_dtype(engine.subject.dtype)
        return Scored(
            {name: values.to("cpu", dtype) for name, values in scored.scores.items()},
            {name: values.to("cpu", dtype) for name, values in scored.errors.items()},
        )

    def _judge(self, found: dict[str, PoolScores]) -> None:
        """NaN and infinite scores, told once everything is there."""
        bad = {i for s in found.values() for i in (~s.values.isfinite()).nonzero()[:, 0].tolist()}
        if not bad or self.options.on_nonfinite == "keep":
            return
        indices = sorted(bad)
        some = ", ".join(map(str, indices[:10])) + (", ..." if len(indices) > 10 else "")
        message = (
            f"{len(indices)} of {len(next(iter(found.values())))} scores are NaN or infinite: "
            f"samples {some}. Check these inputs; `on_nonfinite='keep'` passes the scores on."
        )
        if self.options.on_nonfinite == "warn":
            warnings.warn(message, stacklevel=3)
            return
        raise NonFiniteScoreError(message, indices, self.options.pick(found))

    def _provenance(self, engine: Engine, seconds: float) -> dict[str, Any]:
        names = engine.counted
        parameters = engine.subject.parameters
        selected = self.options.params
        return {
            "parameters": {
                "selected": selected if isinstance(selected, str) else "by function",
                "tensors": len(names),
                "elements": sum(parameters[name].numel() for name in names),
                "names": list(names),
            },
            "options": _plain_options(self.options),
            "versions": {
                "fastgradnorm": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "device": _device_name(engine.subject.device),
            "dtype": str(engine.subject.dtype).removeprefix("torch."),
            "seed": self.options.seed,
            "seconds": seconds,
            **({"pull_backs": engine.passes.pulled} if engine.passes.pulled else {}),
        }


def _as_keywords(options: Options) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(options)}


def _plain_options(options: Options) -> dict[str, Any]:
    """Options as JSON can hold them, without those that do not change scores."""
    kept = ("reduction", "likelihood", "class_dim", "temperature", "backend", "rtol", "num_samples")
    plain = {name: getattr(options, name) for name in kept}
    return {**plain, "autocast": None if options.autocast is None else str(options.autocast)}


def _result_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _warn_if_shuffled(loader: object) -> None:
    if isinstance(getattr(loader, "sampler", None), torch.utils.data.RandomSampler):
        warnings.warn(
            "`loader` shuffles, so that scores come in an order that cannot be traced back to the "
            "dataset. Use shuffle=False.",
            stacklevel=4,
        )


@contextlib.contextmanager
def _progress(loader: Any, wanted: bool | None) -> Iterator[Any]:
    total = None
    with contextlib.suppress(TypeError, AttributeError):
        total = len(loader.dataset)
    # disable=None: shown where standard error is a terminal
    disable = None if wanted is None else not wanted
    with tqdm(total=total, desc="scoring", unit=" samples", disable=disable) as bar:
        yield bar
