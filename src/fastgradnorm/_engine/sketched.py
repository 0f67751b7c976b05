"""Sketches of one sample's gradient, by taps: parts in two forms, added up over all parameters.

What follows from activations and output gradients by TensorSketch is added up as Fourier
transforms, the rest as it is; see `_operations/tensor_sketch.py`. The extra inputs of all taps are
one zero of each kind and group of parameters, whose "gradients" are those sums.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from fastgradnorm_kernels import accumulation_dtype
from torch import Tensor
from torch.func import vjp

from fastgradnorm._engine.linear_taps import LinearTaps, Read, largest_step
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import tap
from fastgradnorm._model import Batch, Passage, Subject
from fastgradnorm._operations import (
    Joint,
    ParameterMap,
    Rule,
    choose_form,
    current_level,
    inverse,
    scratch,
)

Cotangent = Callable[[Tensor], tuple[Tensor, Tensor]]
_Vjp = tuple[Tensor, Callable[..., tuple[Tensor, ...]]]


class Maps:
    """The map of each parameter, made when it is first asked for.

    Args:
        subject: The model.
        dim: Length of a sketch.
        seed: Of buckets and signs.
    """

    def __init__(self, subject: Subject, dim: int, seed: int) -> None:
        self._subject, self.dim, self._seed = subject, dim, seed
        self._made: dict[str, ParameterMap] = {}

    def of(self, name: str) -> ParameterMap:
        """A parameter's."""
        if name not in self._made:
            parameter = self._subject.parameters[name]
            self._made[name] = ParameterMap(name, parameter, self.dim, self._seed)
        return self._made[name]


def sample_sketch(
    subject: Subject,
    batch: Batch,
    passage: Passage,
    leaves: Sequence[Tensor],
    names: Sequence[str],
    maps: Maps,
    cotangent: Cotangent,
    place: Callable[[str], int],
    groups: int,
) -> Tensor:
    """Of one sample, inside `vmap`: `[G * k]`, one sketch a group of parameters.

    Args:
        subject: The model.
        batch: How it is called.
        passage: How it is run.
        leaves: The sample.
        names: Of the parameters that count.
        maps: Of those parameters.
        cotangent: From what is pulled back from to a cotangent, and what it was divided by.
        place: Of a parameter's group.
        groups: How many there are.
    """
    values, dim = subject.values(names), maps.dim
    wide, device = accumulation_dtype(subject.dtype), subject.device

    def forward(*zeros: Tensor) -> Tensor:
        direct, spectra = zeros[:groups], zeros[groups:]

        def reader(name: str, rule: Rule, joint: Joint) -> tuple[Tensor, Read] | None:
            form = choose_form(rule, joint, values[name], dim)
            if form == "formed":
                return None
            given = direct if form == "rows" else spectra
            return given[place(name)], _of_use(maps.of(name), joint, wide)

        level = current_level()
        tapped = {
            name: tap(level, value, direct[place(name)], _of_gradient(maps.of(name), wide))
            for name, value in values.items()
        }
        view, stand_ins = subject.view(tapped)
        mode = LinearTaps(tapped, values, stand_ins, passage, leaves, reader)
        alone = subject.options.params == "last_layer"
        mode.follower = lineage = subject.lineage(tapped, leaves) if alone else None
        with mode:
            inputs = [leaf[None].clone() for leaf in leaves]
            return subject.with_head(view, batch, inputs, lineage)

    shapes = [(dim,)] * groups + [(dim // 2 + 1, 2)] * groups
    zeros = [torch.zeros(shape, dtype=wide, device=device) for shape in shapes]
    scored, pull_back = cast(_Vjp, vjp(forward, *zeros))
    unit, scale = cotangent(scored.detach())
    with torch.no_grad(), subject.responsible():  # nobody wants the graph of the gradients
        found = pull_back(unit.to(scored.dtype), retain_graph=False)
    direct, spectrum = torch.stack(found[:groups]), torch.stack(found[groups:])
    return (direct + inverse(spectrum, dim)).flatten() * scale


def _of_gradient(map_: ParameterMap, wide: torch.dtype) -> Read:
    """From a parameter's gradient to its part of the sketch."""
    return lambda _, g: map_.formed(g).to(wide)


def _of_use(map_: ParameterMap, joint: Joint, wide: torch.dtype) -> Read:
    """From an output gradient to the part of the sketch, or of its transform."""

    def read(saved: Sequence[Tensor], g: Tensor) -> Tensor:
        a, rows = joint.parts(saved, g)
        if joint.kind == "rows":
            return map_.rows(a, rows.to(wide), joint.padding_idx)
        return map_.outer(a.to(wide), rows.to(wide), joint.flipped)

    return read


def transient_elements(plan: Plan, subject: Subject, dim: int) -> int:
    """The largest step of a pull-back: a gradient that is formed, or what stands in its place."""

    def elements(parameter: Tensor, rule: Rule, joint: Joint) -> int | None:
        form = choose_form(rule, joint, parameter, dim)
        return None if form == "formed" else scratch(rule, joint, form, dim)

    return largest_step(plan, subject, elements, 4)
