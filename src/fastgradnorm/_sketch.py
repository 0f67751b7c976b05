"""Random projections of each sample's whole gradient: of most layers without forming it.

A count sketch (Charikar et al., 2002): every element p of every parameter has a bucket `h(p)` of
`dim` and a sign `s(p)`, and the sketch of a gradient g is `y_b = Σ_{h(p) = b} s(p) g_p`. Then
`E[y·y'] = g·g'`. Buckets and signs of a matrix follow from those of its rows and columns
(TensorSketch), so that neither they nor the gradient need be written down. It is linear: parts of
all layers, and of several uses of one parameter, add up. See `_engine/sketched.py` for the pass.

Rank-one projections `Σ_t (u_j·g_t)(v_j·a_t)` would be the other way to do without the gradient: a
product with `dim` vectors for each position and side.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fastgradnorm._engine import Engine, Maps, Passes, Plan, sample_sketch, transient_elements
from fastgradnorm._errors import UnsupportedModelError, VerificationError
from fastgradnorm._keywords import make_options
from fastgradnorm._model import Batch, Passage, Subject
from fastgradnorm._operations import numbers
from fastgradnorm._options import Options
from fastgradnorm._pool import Placement, make_engine, start
from fastgradnorm._process import OwnRandomState
from fastgradnorm._pulled import Pulled
from fastgradnorm._results import tell_nonfinite
from fastgradnorm._schemes import SKETCHED, Scored, SketchScheme
from fastgradnorm._validate import check_choice, check_integer, fail
from fastgradnorm._witness import OwnModel, movement, tolerance

# Samples that are verified, and how much longer than a difference of gradients its sketch may be.
_VERIFIED, _MARGIN = 2, 4
# Of the column of a result.
_NAME = "sketch"


def gradient_sketch(
    model: nn.Module,
    loader: Iterable[Any],
    dim: int = 256,
    *,
    scheme: SketchScheme | Literal["loss"] | None = None,
    **options: Any,
) -> Tensor:
    r"""Sketch each sample's gradient over all parameters: `dim` numbers that keep its geometry.

    With :math:`g` the gradient, :math:`h` a random bucket and :math:`s` a random sign of each of
    its elements, :math:`y_b = \sum_{h(p) = b} s_p g_p` (count sketch, Charikar et al., 2002), of a
    matrix by those of its rows and columns (TensorSketch, Pham and Pagh, 2013): memory grows with
    layers' widths, not with their product, but for layers of many positions, whose gradients are
    formed where that is less work. Over the seeds, :math:`\mathrm{E}[y \cdot y'] = g \cdot g'`,
    and the relative standard deviation of :math:`\|y\|^2` is near :math:`\sqrt{2 / \mathrm{dim}}`,
    9 % for 256, if many layers or positions add to g, and at most :math:`\sqrt{6 / \mathrm{dim}}`,
    15 %, for one layer at one position. For choosing samples
    that differ: k-means++ over sketches with `scheme="predicted"` is BADGE (Ash et al., 2020,
    https://arxiv.org/abs/1906.03671) over the whole model instead of its last layer.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`.
        dim: Length of a sketch.
        scheme: Of what the gradient is: `"entropy"`, :math:`H(p)`; `"predicted"`,
            :math:`\ell(x, \hat y)` with :math:`\hat y` the most probable class. Of dense and
            multi-label outputs, the mean over valid positions and labels. `"loss"`: the `loss`
            among the options. By default that if there is one, else `"entropy"`.
        options: Keyword arguments of `Options`, such as `params`, `class_dim` and `seed` (of
            buckets and signs); `reduction` has no meaning here.

    Returns:
        Sketches `[N, dim]`, float32 (float64 for a float64 model), on the CPU, in loader order.

    Raises:
        ValueError: As `score_pool`; also for a `checkpoint` or a `reduction`.
        UnsupportedModelError: Also for a model that cannot run under `torch.func.vmap`.
        VerificationError: If `verify` is on and a sketch is not that of autograd's gradient.
        NonFiniteScoreError: If a sketch has NaN or infinite entries, with `on_nonfinite="raise"`;
            it holds all sketches.

    Guarantees:
        - The same seed gives the same sketch of a sample, whatever the batch.
        - Shared parameters are added up first; confident samples do not underflow.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> sketches = gradient_sketch(model, [torch.eye(3)], dim=4, scheme="predicted")
        >>> sketches.shape
        torch.Size([3, 4])
    """
    check_integer("dim", dim, at_least=1)
    if scheme is None:
        scheme = "entropy" if options.get("loss") is None else "loss"
    check_choice("scheme", scheme, ("loss", *SKETCHED))
    if (scheme == "loss") != (options.get("loss") is not None):
        raise fail("scheme", "'loss' with a `loss`, and another one without", scheme)
    chosen = make_options("gradient_sketch", options)
    if chosen.reduction != "global":
        raise fail("reduction", "'global' for sketches", chosen.reduction)
    if chosen.checkpoint is not None:
        raise fail("checkpoint", "None for sketches, which it cannot hold", chosen.checkpoint)
    chosen.refuse_subset("gradient_sketch")

    def make(model: nn.Module, options: Options) -> Engine:
        made = partial(Sketches, dim=dim, scheme=scheme)
        return make_engine(model, options, made, labelled=True)

    parts, placement = [], Placement(loader, "gradient_sketch")
    with OwnRandomState():
        run = start(model, loader, chosen, make)
        for part in run.parts():
            placement.add(part.indices, len(part))
            parts += [part.scored.scores[_NAME]] if len(part) else []
    placement.judge(run.pool.size, run.lost)
    if not parts:
        raise ValueError("`loader` must yield at least one sample. Got none.")
    sketches = torch.cat(parts)
    bad = (~sketches.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        tell_nonfinite("sketches", bad, len(sketches), sketches, chosen.on_nonfinite)
    return sketches


class Sketches:
    """An outcome of passes: a sketch `[dim]` of each sample's gradient."""

    def __init__(self, subject: Subject, options: Options, dim: int, scheme: str) -> None:
        self.subject, self.options, self.dim, self.scheme = subject, options, dim, scheme
        self._made = Pulled(options, scheme)
        self.pulled, self.slow = 0, cast(str | None, None)
        self._maps, self._verify = Maps(subject, dim, options.seed), bool(options.verify)

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return 1

    def planned(self, plan: Plan) -> Plan:
        """No norm is taken, and of parameters with a rule no gradient formed."""
        transient = plan.item_bytes * transient_elements(plan, self.subject, self.dim)
        transient = max(plan.transient_bytes, transient)
        return replace(plan, transient_bytes=transient, scratch_bytes=0, gradient_bytes=0)

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Sketches of all samples, in order."""
        valid, target = batch.valid(plan.logits_shape), self._made.target(batch, plan.logits_shape)

        def one(passage: Passage, leaves: Sequence[Tensor], *known: Tensor | None) -> Tensor:
            return self._one(plan, batch, passage, leaves, *known)

        found = passes.run(f"sketch {id(plan)}", one, batch, valid, target)
        if self._verify:
            self._verify = False
            self._check(plan, batch, found)
        return Scored({_NAME: found}, {})

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """One sample that takes a branch of its own, by a pass of its own.

        Raises:
            UnsupportedModelError: If the model cannot run under `vmap`.
        """
        if error is None:
            return run()
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedModelError(
            "`model` must run under `torch.func.vmap` for sketches. Got "
            f"{type(error).__name__}: {reason}. `score_pool` scores such models one by one."
        ) from error

    def check(self, plan: Plan, batch: Batch) -> None:
        """As in `Outcome`."""
        self._made.target(batch, plan.logits_shape)

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        return Scored({_NAME: torch.empty(0, self.dim, dtype=dtype)}, {})

    def _one(
        self,
        plan: Plan,
        batch: Batch,
        passage: Passage,
        leaves: Sequence[Tensor],
        valid: Tensor | None,
        target: Tensor | None,
    ) -> Tensor:
        """The sketch of one sample, inside `vmap`."""

        def cotangent(logits: Tensor) -> tuple[Tensor, Tensor]:
            return self._made.cotangent(logits, valid, target)

        parts = self.subject, batch, passage, leaves, plan.tracked, self._maps, cotangent
        return sample_sketch(*parts)

    def _check(self, plan: Plan, batch: Batch, found: Tensor) -> None:
        """The first samples by plain autograd, from the caller's own model alone on each.

        Raises:
            VerificationError: If their sketches are others, by more than rounding explains.
        """
        own, names = OwnModel(self.subject), plan.tracked
        for i in range(min(_VERIFIED, len(batch))):
            if not bool(found[i].isfinite().all()):
                continue
            sample = batch.take(slice(i, i + 1))
            run = own.gradients(sample, names)
            shape = run.logits.shape[1:]
            valid, target = sample.valid(shape), self._made.target(sample, shape)
            parts = (None if part is None else part[0] for part in (valid, target))
            unit, scale = self._made.cotangent(run.logits[0], *parts)
            exact, square = torch.zeros_like(found[i]), 0.0
            for name, g in zip(names, run.gradients(0, unit), strict=True):
                if g is not None:
                    g = g.detach().to_dense()  # of a lookup they may be sparse
                    exact += self._maps.of(name).formed(g).to(exact.dtype)
                    square += float(numbers(g).square().sum())
            size = square**0.5 * float(scale)
            gap = float(torch.linalg.vector_norm(found[i] - exact * scale))
            if gap <= _MARGIN * tolerance(self.subject, own.narrow).double * size:
                continue
            moved = movement(self.subject, sample, names, unit, own.narrow) * scale
            if not gap <= _MARGIN * float(torch.linalg.vector_norm(moved)):
                raise VerificationError(
                    f"The engine disagrees with plain autograd on sample {i}: its sketch is off by "
                    f"{gap:.3g}, its gradient as long as {size:.6g}. Please report this with the "
                    "layer's definition."
                )
