"""Sketches of one sample's gradient, by taps: parts in two forms, added up over all parameters.

What follows from activations and output gradients by TensorSketch is added up as Fourier
transforms, the rest as it is; see `_operations/tensor_sketch.py`. The extra inputs of all taps are
one zero of each kind and group of parameters, whose "gradients" are those sums.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from fastgradnorm_kernels import accumulation_dtype, computed_by
from torch import Tensor
from torch.func import vjp

from fastgradnorm._engine.linear_taps import LinearTaps, Read, largest_step
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.taps import tap
from fastgradnorm._model import Batch, Passage, PlanChangedError, Subject
from fastgradnorm._operations import (
    Joint,
    ParameterMap,
    Rule,
    choose_form,
    current_level,
    inverse,
    joint_sq_norm,
    numbers,
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
    single: Collection[str] | None = None,
    scales: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Of one sample, inside `vmap`: `[G * k]`, one sketch a group of parameters.

    With `single` the norms of the groups' gradients `[G]` follow.

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
        single: For norms, the parameters that are used once: of others gradients are formed, as
            several uses add up before they are squared. None: no norms.
        scales: What gradients are multiplied by, element by element, by parameter, for which they
            are all formed. None: nothing.

    Raises:
        PlanChangedError: If one of those is used again.
    """
    values, dim, normed = subject.values(names), maps.dim, single is not None
    wide, device = accumulation_dtype(subject.dtype), subject.device
    read_once = set[str]()
    chosen = partial(_computed, passage.settings.backend)

    def forward(*zeros: Tensor) -> Tensor:
        direct, spectra = zeros[:groups], zeros[groups:]
        read_once.clear()

        def reader(name: str, rule: Rule, joint: Joint) -> tuple[Tensor, Read] | None:
            form = choose_form(rule, joint, values[name], dim)
            if (
                form == "formed"
                or scales is not None
                or (single is not None and name not in single)
            ):
                return None
            if name in read_once and normed:
                raise PlanChangedError
            read_once.add(name)
            given = direct if form == "rows" else spectra
            read = _of_use(maps.of(name), joint, wide)
            return given[place(name)], chosen(_normed(read, joint) if normed else read)

        def of_gradient(name: str) -> Read:
            read = _of_gradient(maps.of(name), wide)
            read = _normed_gradient(read, wide, name, read_once) if normed else read
            return chosen(read if scales is None else _scaled(read, scales[name]))

        level = current_level()
        tapped = {
            name: tap(level, value, direct[place(name)], of_gradient(name))
            for name, value in values.items()
        }
        view, stand_ins = subject.view(tapped)
        mode = LinearTaps(tapped, values, stand_ins, passage, leaves, reader)
        alone = subject.options.params == "last_layer"
        mode.follower = lineage = subject.lineage(tapped, leaves) if alone else None
        with mode:
            inputs = [leaf[None].clone() for leaf in leaves]
            return subject.with_head(view, batch, inputs, lineage)

    shapes = [(dim + normed,)] * groups + [(dim // 2 + 1 + normed, 2)] * groups
    zeros = [torch.zeros(shape, dtype=wide, device=device) for shape in shapes]
    scored, pull_back = cast(_Vjp, vjp(forward, *zeros))
    unit, scale = cotangent(scored.detach())
    with torch.no_grad(), subject.responsible():  # nobody wants the graph of the gradients
        found = pull_back(unit.to(scored.dtype), retain_graph=False)
    direct, spectrum = torch.stack(found[:groups]), torch.stack(found[groups:])
    sketches = direct[:, :dim] + inverse(spectrum[:, : dim // 2 + 1], dim)
    if not normed:
        return sketches.flatten() * scale
    norms = (direct[:, dim] + spectrum[:, -1, 0]).clamp_min(0).sqrt()
    return torch.cat([sketches.flatten(), norms]) * scale


def used_once(plan: Plan) -> frozenset[str]:
    """Parameters with one use."""
    pieces = [p.name for use in plan.uses for p in (*use.slots.values(), *use.others)]
    return frozenset(name for name, times in Counter(pieces).items() if times == 1)


def _computed(backend: str, read: Read) -> Read:
    """By the backend that was asked for; here, as a device pulls back in a thread of its own."""

    def computed(saved: Sequence[Tensor], g: Tensor) -> Tensor:
        with computed_by(backend):
            return read(saved, g)

    return computed


def _normed(read: Read, joint: Joint) -> Read:
    """The part of the sketch and, after it, the squared norm of the parameter's gradient."""

    def both(saved: Sequence[Tensor], g: Tensor) -> Tensor:
        found, squared = read(saved, g), joint_sq_norm([(joint, saved, g)])
        last = torch.stack([squared, torch.zeros_like(squared)]) if found.dim() == 2 else squared
        return torch.cat([found, last.to(found.dtype)[None]])

    return both


def _normed_gradient(read: Read, wide: torch.dtype, name: str, read_once: set[str]) -> Read:
    """As `_normed`, where a gradient is formed."""

    def both(saved: Sequence[Tensor], g: Tensor) -> Tensor:
        if name in read_once:
            raise PlanChangedError
        return torch.cat([read(saved, g), numbers(g).to(wide).square().sum()[None]])

    return both


def _scaled(read: Read, scale: Tensor) -> Read:
    """Of a gradient that is multiplied first."""
    return lambda saved, g: read(saved, rescaled(g, scale))


def rescaled(g: Tensor, scale: Tensor) -> Tensor:
    """Element by element; of complex numbers each part by its own."""
    if g.is_complex():
        return torch.view_as_complex(torch.view_as_real(g.resolve_conj()) * scale)
    return g.to(scale.dtype) * scale


def _of_gradient(map_: ParameterMap, wide: torch.dtype) -> Read:
    """From a parameter's gradient to its part of the sketch."""
    return lambda _, g: map_.formed(g).to(wide)


def _of_use(map_: ParameterMap, joint: Joint, wide: torch.dtype) -> Read:
    """From an output gradient to the part of the sketch, or of its transform."""

    def read(saved: Sequence[Tensor], g: Tensor) -> Tensor:
        a, rows = joint.parts(saved, g)
        if joint.kind == "rows":
            return map_.rows(a, rows, joint.padding_idx, wide)
        return map_.outer(a, rows, joint.flipped, wide)

    return read


def transient_elements(plan: Plan, subject: Subject, dim: int, scaled: bool = False) -> int:
    """The largest step of a pull-back: a gradient that is formed, or what stands in its place."""

    def elements(parameter: Tensor, rule: Rule, joint: Joint) -> int | None:
        form = choose_form(rule, joint, parameter, dim)
        return None if scaled or form == "formed" else scratch(rule, joint, form, dim)

    return largest_step(plan, subject, elements, 4)
