"""How far two computations of the same thing may differ, and whether rounding alone is at fault.

Where an activation is zero but for rounding, as over the even background of an image, a ReLU or a
maximum has two gradients, and rounding decides which one counts: another order of additions, as
good as the first, may take the other side. So a disagreement is looked at again in float64, where
rounding is out of the way and a wrong rule is as wrong as before; and a large one is excused only
if the plain gradient moves as far when the parameters and inputs are moved by their own rounding.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fastgradnorm._engine import Engine
from fastgradnorm._model import Batch, Subject, Swapping, extract
from fastgradnorm._operations import in_double, model_in_double
from fastgradnorm._options import Options

Mover = Callable[[Tensor], Tensor]

_TRIALS = 8
# Units in the last place by which numbers are moved, and times the movement that trials have shown.
_STEPS, _MARGIN = 4, 10
_STEPS_HALF, _MARGIN_HALF = 1, 3


@dataclass(frozen=True)
class Tolerance:
    """Relative differences.

    Attributes:
        rounding: Not looked at further.
        double: Up to this one, float64 decides; above it, trials must show the same too.
    """

    rounding: float
    double: float


_TOLERANCES = {
    torch.float64: Tolerance(1e-6, 1e-6),
    torch.float32: Tolerance(1e-4, 5e-3),
}
_HALF = Tolerance(5e-2, 5e-2)


def tolerance(subject: Subject, narrow: bool = False) -> Tolerance:
    """That of a model's dtype, or of autocast; of half precision if the model is seen to use it."""
    if narrow or subject.options.autocast is not None:
        return _HALF
    return _TOLERANCES.get(subject.dtype, _HALF)


def doubled(subject: Subject, batch: Batch, options: Options) -> tuple[Engine, Batch] | None:
    """An engine for a copy of the model in float64, and the batch; None if there can be none."""
    if subject.dtype == torch.float64:
        return None
    try:
        model = model_in_double(copy.deepcopy(subject.model))
    except Exception:  # of the caller's model: the disagreement stands
        return None
    options = options.changed(autocast=None)
    wide = replace(batch, leaves=tuple(in_double(leaf) for leaf in batch.leaves))
    return Engine(Subject(model, options), options), wide


def _moved(tensor: Tensor, generator: torch.Generator, narrow: bool) -> Tensor:
    """By a few units in the last place."""
    if not tensor.is_floating_point():
        return tensor.clone()
    noise = torch.rand(tensor.shape, generator=generator, device=tensor.device)
    step = _STEPS * torch.finfo(tensor.dtype).eps
    if narrow:
        step = _STEPS_HALF * torch.finfo(torch.bfloat16).eps
    return tensor * (1 + step * (2 * noise - 1)).to(tensor.dtype)


def _trials(subject: Subject, run: Callable[[Mover], Tensor], narrow: bool) -> Tensor:
    """How far what `run` gives moves by rounding, at most."""
    generator = torch.Generator(device=subject.device).manual_seed(0)
    plain = run(torch.clone)
    trials = [
        (run(partial(_moved, generator=generator, narrow=narrow)) - plain).abs()
        for _ in range(_TRIALS)
    ]
    return (_MARGIN_HALF if narrow else _MARGIN) * torch.stack(trials).amax(0)


def logits_movement(subject: Subject, batch: Batch, narrow: bool = False) -> Tensor:
    """How far logits `[n, *positions, C]` of a batch move by rounding, at most."""

    def run(move: Mover) -> Tensor:
        leaves = {
            name: move(v.detach()) for name, v in subject.values(list(subject.chosen)).items()
        }
        view, stand_ins = subject.view(leaves)
        with Swapping(stand_ins), subject.graph(), subject.autocast():
            moved = [move(leaf) for leaf in batch.leaves]
            if subject.options.by_output:
                rows = [[leaf[i : i + 1] for leaf in moved] for i in range(len(batch))]
                losses = [subject.scored(view, batch, row)[0] for row in rows]
                return torch.stack(losses).detach().double()
            logits = extract(subject.called(view, batch, moved)).detach()
        return logits.double() / subject.options.temperature

    return _trials(subject, run, narrow)


def movement(
    subject: Subject, sample: Batch, names: Sequence[str], cotangent: Tensor, narrow: bool = False
) -> Tensor:
    """How far the norm of each parameter's gradient `[P]` moves by rounding, at most.

    Args:
        subject: The model.
        sample: A batch of one.
        names: The parameters.
        cotangent: `[*positions, C]`.
        narrow: Whether the model uses half precision.
    """

    def run(move: Mover) -> Tensor:
        values = subject.values(names)
        leaves = {name: move(v.detach()).requires_grad_() for name, v in values.items()}
        view, stand_ins = subject.view(leaves)
        with Swapping(stand_ins):
            logits = subject.tempered(view, sample, [move(leaf) for leaf in sample.leaves])
        found = torch.autograd.grad(
            logits, list(leaves.values()), cotangent.to(logits.dtype), allow_unused=True
        )
        zero = torch.zeros((), dtype=torch.float64, device=subject.device)
        return torch.stack(
            [zero if g is None else torch.linalg.vector_norm(g.to_dense()).double() for g in found]
        )

    return _trials(subject, run, narrow)
