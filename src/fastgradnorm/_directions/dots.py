"""Products of gradients with directions as an outcome of passes, and what they are made of."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor, nn

from fastgradnorm._directions.metric import check_metric
from fastgradnorm._directions.pulled import Pulled, as_long
from fastgradnorm._engine import (
    ForwardMode,
    Outcome,
    Passes,
    Plan,
    Vectors,
    dots_elements,
    sample_dots,
)
from fastgradnorm._errors import VerificationError
from fastgradnorm._model import Batch, Passage, Subject
from fastgradnorm._operations import is_finite, numbers
from fastgradnorm._options import Options
from fastgradnorm._pool import digest
from fastgradnorm._schemes import Scored
from fastgradnorm._validate import Words, check_model, fail, fail_type
from fastgradnorm._witness import OwnModel, compared, tolerance

_VERIFIED = 2  # samples


class Dots:
    """An outcome of passes: products `[N]` with each of Q directions.

    Args:
        subject: The model.
        options: All that is asked for.
        directions: By parameter.
        scheme: Of what the gradient is.
        cosine: Whether products are divided by both norms.
        scales: What gradients are multiplied by, by parameter; None: nothing.

    Attributes:
        forward: Makes products with one direction without a pull-back, where that can be.
    """

    def __init__(
        self,
        subject: Subject,
        options: Options,
        directions: Mapping[str, Vectors],
        scheme: str,
        cosine: bool,
        scales: Mapping[str, Tensor] | None,
    ) -> None:
        self.options, self.pulled, self._subject = options, 0, subject
        self.slow: str | None = "This model cannot run under vmap: its samples are run one by one."
        self._cosine, self._verify = cosine, bool(options.verify)
        dtype, device = accumulation_dtype(subject.dtype), subject.device
        _check_names(directions, subject)
        self.count_all = len(next(iter(directions.values())))
        plain = {name: v.to(device, dtype) for name, v in directions.items()}
        self._sizes = _sq_sizes(plain, device) if cosine else None
        self._scales: dict[str, Tensor] | None = None
        if scales is not None or cosine:
            one = torch.ones((), dtype=dtype, device=device)
            known = {} if scales is None else scales
            # In the norms every parameter that counts takes part.
            names = list(subject.chosen) if cosine else list(directions)
            check_metric(scales, names)
            self._scales = {n: known[n].to(device, dtype) if n in known else one for n in names}
        given = {n: v.to(device, dtype, (scales or {}).get(n)) for n, v in directions.items()}
        if cosine:
            values = subject.values([n for n in subject.chosen if n not in given])
            nothing = {n: Vectors({}, self.count_all, _shape(v)) for n, v in values.items()}
            given |= {n: v.to(device, dtype, (scales or {}).get(n)) for n, v in nothing.items()}
        self._directions = given
        self.forward = ForwardMode(subject, given, not cosine)
        self._pulled = Pulled(options, scheme)
        self._told = {"products": f"{scheme} {cosine} {' '.join(directions)}"}

    @property
    def facts(self) -> dict[str, str]:
        """What must be the same for a run to be continued."""
        tensors = (v.tensors() for v in self._directions.values())
        return {**self._told, "directions": digest(itertools.chain.from_iterable(tensors))}

    def count(self, plan: Plan) -> int:
        """As in `Outcome`."""
        return 1

    def planned(self, plan: Plan) -> Plan:
        """One parameter's gradient is alive at a time, as formed and as laid out."""
        elements = dots_elements(plan, self._subject, self.count_all, self._cosine)
        transient = max(plan.transient_bytes, elements * plan.item_bytes)
        return replace(plan, transient_bytes=transient)

    def make(self, passes: Passes, plan: Plan, batch: Batch) -> Scored:
        """Of all samples."""
        subject, pulled = passes.subject, self._pulled
        target, valid = pulled.target(batch, plan.logits_shape), batch.valid(plan.logits_shape)
        found = self.forward.products(passes, plan, batch, pulled.cotangent, valid, target)
        if found is None:
            found = self._by_taps(passes, plan, batch, valid, target)
        if self._verify:
            self._verify = False
            compared(OwnModel(subject), partial(self._check, batch, found))
        return self._scored(found)

    def _by_taps(
        self,
        passes: Passes,
        plan: Plan,
        batch: Batch,
        valid: Tensor | None,
        target: Tensor | None,
    ) -> Tensor:
        subject, pulled, cosine = passes.subject, self._pulled, self._cosine

        def one(
            passage: Passage,
            leaves: Sequence[Tensor],
            valid: Tensor | None,
            label: Tensor | None,
        ) -> Tensor:
            def cotangent(logits: Tensor) -> tuple[Tensor, Tensor]:
                return pulled.cotangent(logits, valid, label)

            parts = subject, batch, passage, leaves, self._directions, cotangent
            return sample_dots(*parts, self._scales if cosine else None)

        found: Tensor = passes.run(f"dots {id(plan)}", one, batch, valid, target, plan=plan)
        return found

    def alone(
        self, subject: Subject, sample: Batch, error: Exception | None, run: Callable[[], Scored]
    ) -> Scored:
        """By plain autograd."""
        found, scale = self._pulled.plain_gradients(subject, sample, list(self._directions))
        return self._scored(self._of(found, scale)[None])

    def check(self, plan: Plan, batch: Batch) -> None:
        """As in `Outcome`."""
        self._pulled.target(batch, plan.logits_shape)

    def aside(self) -> Outcome:
        """As in `Outcome`."""
        return self

    def nothing(self, dtype: torch.dtype) -> Scored:
        """As in `Outcome`."""
        return Scored(
            {f"dot {q}": torch.empty(0, dtype=dtype, device="cpu") for q in range(self.count_all)},
            {},
        )

    def _of(self, gradients: Sequence[Tensor | None], scale: Tensor) -> Tensor:
        """From the gradients, over `scale`, of all parameters with a direction; see `directed`."""
        wide = next(iter(self._directions.values())).dtype
        total = torch.zeros(self.count_all, dtype=wide, device=scale.device)
        square = total.new_zeros(1)
        for (name, v), gradient in zip(self._directions.items(), gradients, strict=True):
            if gradient is not None:
                g = numbers(gradient.to_dense()).to(wide)  # of a lookup they may be sparse
                total = total + v.of(g)
                if self._cosine and self._scales is not None:
                    square = square + (g * self._scales[name].reshape(-1)).square().sum()
        return torch.cat([total, square]) if self._cosine else total * scale

    def _scored(self, found: Tensor) -> Scored:
        """From products `[N, Q]`, and for cosines squared norms last."""
        if self._sizes is not None:
            found, squared = found[:, :-1], found[:, -1:]
            size = squared.clamp_min(0).sqrt() * self._sizes.sqrt().to(found)
            found = torch.where(size > 0, found / size, torch.where(size == 0, 0.0, found))
        return Scored({f"dot {q}": column for q, column in enumerate(found.unbind(1))}, {})

    def _check(self, batch: Batch, found: Tensor, own: OwnModel) -> None:
        """The first samples by plain autograd, from the caller's own model alone on each."""
        names, limit = list(self._directions), tolerance(own.subject).double
        for alone in self._pulled.alone(own, names, batch, _VERIFIED):
            i, scale = alone.number, 1.0 if self._cosine else float(alone.scale)
            exact = self._of(alone.gradients, alone.scale).double()
            known = [numbers(g.to_dense()).double() for g in alone.gradients if g is not None]
            size = sum(float(g.square().sum()) for g in known) ** 0.5
            lengths = scale * _sq_sizes(self._directions, found.device).sqrt()
            room = limit * size * lengths
            room = torch.cat([room, 2 * limit * exact[self.count_all :]])
            row = found[i].double()
            if self._cosine and self.options.by_output:
                row = as_long(row, exact)
            gap = (row - exact).abs()
            if not bool((gap <= room).all()):  # gradients that cancel move by rounding
                moved = alone.movement(own, names)
                square = torch.full_like(exact[self.count_all :], (2 * size + moved) * moved)
                room = room.maximum(torch.cat([moved * lengths, square]))
            if not bool((gap <= room).all()):
                q = int((gap - room).argmax())  # of what is no number the first
                what = "squared norm" if q == self.count_all else f"product with direction {q}"
                raise VerificationError(
                    f"The engine disagrees with plain autograd on sample {i}: its {what} is "
                    f"{float(exact[q]):.6g}, the engine computed "
                    f"{float(found[i, q]):.6g}. Please report this with the layer's definition."
                )


def _sq_sizes(directions: Mapping[str, Vectors], device: torch.device) -> Tensor:
    """Squared norms `[Q]`."""
    return torch.stack([v.sq_sizes().to(device) for v in directions.values()]).sum(0)


def directed(wrapped: nn.Module, directions: Any) -> dict[str, Vectors]:
    """Directions by parameter, as they were given; zero where one has none.

    Raises:
        TypeError: If they are no mappings of tensors.
        ValueError: If one is empty, of another shape, or of what the model does not have.
    """
    several = [directions] if isinstance(directions, Mapping) else directions
    if not isinstance(several, Sequence) or not several:
        wanted = "a mapping from parameters' names to tensors, or a sequence of such mappings"
        raise fail_type("directions", wanted, directions)
    model = check_model(wrapped)
    parameters = dict(model.named_parameters())
    shapes = {name: p.shape for name, p in parameters.items()}
    names, buffers = (
        _names((wrapped, model), parameters),
        dict(model.named_buffers(remove_duplicate=False)),
    )
    found: dict[str, dict[int, Tensor]] = {}
    for q, direction in enumerate(several):
        if not isinstance(direction, Mapping) or not direction:
            wanted = "a non-empty mapping from parameters' names to tensors"
            raise fail_type(f"directions[{q}]", wanted, direction)
        for called, value in direction.items():
            name = names.get(called, called)
            if name not in shapes:
                known = f"Its parameters begin with {', '.join(list(shapes)[:5])}."
                if name in buffers:
                    known = "It is a buffer, which has no gradient: leave it out."
                raise fail(f"directions[{q}]", "of names of the model's parameters", name, known)
            if not isinstance(value, Tensor) or value.shape != shapes[name]:
                wanted = f"a tensor of the parameter's shape {list(shapes[name])} for {name!r}"
                raise fail(f"directions[{q}]", wanted, value)
            if value.is_meta:
                nothing = Words(f"a tensor on the meta device for {name!r}")
                raise fail(f"directions[{q}]", "of numbers", nothing)
            value = value.detach().to_dense()  # gradients of lookups may be sparse
            if not is_finite(value):
                others = Words(f"others for {name!r}")
                told = "A `mean_gradient` is so where a sample's is: `score_pool` tells which."
                raise fail(f"directions[{q}]", "of finite numbers", others, told)
            if parameters[name].is_complex():  # two numbers each, as in norms
                value = torch.view_as_real(value.to(parameters[name].dtype))
            elif value.is_complex():
                raise fail(f"directions[{q}]", f"of real numbers for {name!r}", value)
            other = found.setdefault(name, {}).setdefault(q, value)
            if other is not value and not torch.equal(other, value):
                same = f"`{called}` is the same parameter as `{name}`"
                told = f"{same}: pass one of them, or equal ones."
                raise fail(f"directions[{q}]", "of one value a parameter", Words("two"), told)
    count = len(several)
    return {name: Vectors(v, count, _shape(parameters[name])) for name, v in found.items()}


def _names(models: Sequence[nn.Module], parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """By each name that a parameter has, as one that is shared: the first.

    A state dict has all of them, and that of a wrapper longer ones; the last model's own count.
    """
    first = {id(parameter): name for name, parameter in parameters.items()}
    every = [model.named_parameters(remove_duplicate=False) for model in models]
    return {name: first[id(parameter)] for names in every for name, parameter in names}


def _shape(parameter: Tensor) -> tuple[int, ...]:
    """Of a direction's numbers; complex ones are two each."""
    return (*parameter.shape, 2) if parameter.is_complex() else tuple(parameter.shape)


def _check_names(directions: Mapping[str, Vectors], subject: Subject) -> None:
    for name in directions:
        if name not in subject.chosen:
            raise fail(
                "directions",
                "of parameters that count: trainable ones, selected by `params`",
                name,
                "Leave it out, or set requires_grad_(True).",
            )
