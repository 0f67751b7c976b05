r"""Random projections of each sample's whole gradient, without keeping any gradient.

A count sketch (Charikar et al., 2002): every element p of every parameter has a bucket `h(p)` of
`dim` and a sign `s(p)`, both drawn once from the seed and the parameter's name, and the sketch of a
gradient g is `y_b = Σ_{h(p) = b} s(p) g_p`. Then `E[y·y'] = g·g'`, and the variance of `‖y‖²` is at
most `2 ‖g‖⁴ / dim`. It is linear: each parameter adds its part as the backward pass reaches it, and
the parts of several uses of one parameter add up before that, in autograd.

A tap on the parameter does it: see `_taps`. The extra input of all taps is one zero `[dim]`, whose
"gradient" is the sketch. So one layer's gradients of a chunk of samples live at a time. Rank-one
projections `Σ_t (u_j·g_t)(v_j·a_t)` need not even those. For ResNet-18 at 32x32 they were 1.9 times
as fast with `dim=256`, 1.2 times with 512; but a parameter that is shared, or used where no rule
applies, would need the same map in a second form.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor, nn
from torch.func import vjp

from fastgradnorm._engine.engine import Engine
from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import tap
from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._keywords import make_options
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.passage import Passage
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.views import Pieces
from fastgradnorm._model.watch import Watch
from fastgradnorm._operations.numbers import count, numbers
from fastgradnorm._operations.single_level import current_level
from fastgradnorm._options import Options
from fastgradnorm._pool.order import Placement
from fastgradnorm._pool.start import make_engine, start
from fastgradnorm._process.states import OwnRandomState
from fastgradnorm._pulled import Pulled
from fastgradnorm._results.nonfinite import tell_nonfinite
from fastgradnorm._schemes.scored import Scored
from fastgradnorm._schemes.table import SKETCHED, SketchScheme
from fastgradnorm._validate import check_choice, check_integer, fail

_Vjp = tuple[Tensor, Callable[..., tuple[Tensor]]]
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
    its elements, :math:`y_b = \sum_{h(p) = b} s_p g_p` (count sketch, Charikar et al., 2002).
    Over the seeds, :math:`\mathrm{E}[y \cdot y'] = g \cdot g'`, and the relative standard deviation
    of :math:`\|y\|^2` is at most :math:`\sqrt{2 / \mathrm{dim}}`: 9 % for 256. For choosing samples
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
        self._tables: dict[str, Tensor] = {}

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return 1

    def planned(self, plan: Plan) -> Plan:
        """One parameter's gradient is alive at a time, with its signs and buckets."""
        largest = max(count(self.subject.parameters[name]) for name in plan.tracked)
        transient = max(plan.transient_bytes, 3 * largest * self.subject.dtype.itemsize)
        return replace(plan, transient_bytes=transient)

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Sketches of all samples, in order."""
        valid, target = batch.valid(plan.logits_shape), self._made.target(batch, plan.logits_shape)

        def one(passage: Passage, leaves: Sequence[Tensor], *known: Tensor | None) -> Tensor:
            return self._one(plan, batch, passage, leaves, *known)

        return Scored({_NAME: passes.run(f"sketch {id(plan)}", one, batch, valid, target)}, {})

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
        subject = self.subject
        values = subject.values(plan.tracked)

        def forward(sketch: Tensor) -> Tensor:
            level = current_level()
            tapped = {
                name: tap(level, value, sketch, self._reader(name))
                for name, value in values.items()
            }
            view, stand_ins = subject.view(tapped)
            with Watch(Pieces({}), stand_ins, passage, leaves):
                return subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])

        zero = torch.zeros(self.dim, dtype=accumulation_dtype(subject.dtype), device=subject.device)
        logits, pull_back = cast(_Vjp, vjp(forward, zero))
        cotangent, scale = self._made.cotangent(logits.detach(), valid, target)
        # Nobody wants the graph of the gradients.
        with torch.no_grad(), subject.responsible():
            (sketch,) = pull_back(cotangent.to(logits.dtype), retain_graph=False)
        return sketch * scale

    def _reader(self, name: str) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        """From a parameter's gradient to its part of the sketch."""
        table = self._table(name)

        def read(_: Sequence[Tensor], g: Tensor) -> Tensor:
            found = numbers(g)
            plus, minus = found.new_zeros(2 * self.dim).scatter_add(0, table, found).chunk(2)
            return plus - minus

        return read

    def _table(self, name: str) -> Tensor:
        """Bucket of each element, plus `dim` where its sign is negative."""
        if name not in self._tables:
            generator = np.random.default_rng([self.options.seed, *name.encode()])
            size = count(self.subject.parameters[name])
            table = torch.from_numpy(generator.integers(2 * self.dim, size=size))
            self._tables[name] = table.to(self.subject.device)
        return self._tables[name]
