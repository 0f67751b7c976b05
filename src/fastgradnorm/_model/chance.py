"""Whether a model gives a sample the same logits each time: by what it does, not by what it is.

A model that draws random numbers moves the state of a generator; whether they matter, runs of the
same sample tell. Some draw in eval mode and use it in training only. Generators of a model's own
are looked for where it and its functions hold them; of others the effect can be seen.
"""

import torch
from torch import Tensor

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.changes import Unchanged
from fastgradnorm._model.generators import OwnStates
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.substitution import Swapping
from fastgradnorm._process import random_states, same_random_states
from fastgradnorm._validate import type_name

# Runs that must agree where random numbers are drawn.
_RUNS = 24
# Units in the last place by which runs may differ: some operations on a GPU add up in any order.
_ROUNDING = 64
# Relative to the largest logit, where nothing is seen to be drawn: of float32, and of half
# precision, in which a GPU's libraries may round otherwise from run to run.
_NOISE, _NOISE_HALF = 1e-3, 5e-2


def own_states(subject: Subject) -> OwnStates:
    """States of the generators that a model holds itself, which are looked for once."""
    if subject.own_generators is None:
        functions = {"forward": subject.options.forward, "loss": subject.options.loss}
        subject.own_generators = Unchanged(subject.model, functions).generators
    return OwnStates(subject.own_generators)


def check_repeatable(
    subject: Subject,
    sample: Batch,
    logits: Tensor | None = None,
    before: OwnStates | None = None,
) -> None:
    """Runs the model again on one sample.

    Args:
        subject: The model. Its `draws_idly` is set if it draws numbers that do not matter.
        sample: A batch of one.
        logits: What an earlier run gave; None: only where that run drew random numbers.
        before: States of the model's own generators before that run, which are put back.

    Raises:
        UnsupportedModelError: If the logits differ; names the layer or generator that draws.
    """
    drew = subject.drew and not subject.draws_idly
    if logits is None and not drew:
        return
    try:
        runs = [] if logits is None else [logits.detach()]
        runs += [_logits(subject, sample) for _ in range(_RUNS if drew else 1)]
        half = subject.options.autocast is not None or torch.finfo(subject.dtype).bits < 32
        noise = _NOISE_HALF if half else _NOISE
        step = torch.finfo(runs[0].dtype).eps * _ROUNDING if drew else noise
        if any(_differ(runs[0], other, step) for other in runs[1:]):
            _refuse(subject, sample, drew, before)
        subject.draws_idly = subject.draws_idly or drew
    finally:
        if before is not None:
            before.put_back()


def _refuse(subject: Subject, sample: Batch, drew: bool, before: OwnStates | None) -> None:
    if not drew:
        what = "`model` must give a sample the same logits"
        if subject.options.by_output:
            what = "`model` and `loss` must give a sample the same loss"
        raise UnsupportedModelError(
            f"{what} each time. Got another when run again. Look for random numbers of their own, "
            "or for what is kept between runs, as in a list, or in another model's weights."
        )
    own = [] if before is None else before.moved()
    who, when = _drawing_layer(subject, sample), "draws random numbers in eval mode"
    if who is None and own:
        when = f"draws random numbers from `{own[0]}` in eval mode"
    elif who is None and subject.options.by_output:
        who, when = "`loss`", "draws random numbers"
    raise UnsupportedModelError(
        f"{who or '`model`'} {when}, so that a sample has no score of its own. Turn that off "
        "before scoring."
    )


def _logits(subject: Subject, sample: Batch) -> Tensor:
    view, stand_ins = subject.view({})
    with subject.graph(), Swapping(stand_ins):
        return subject.run(view, sample, [leaf.clone() for leaf in sample.leaves]).detach()


def _differ(a: Tensor, b: Tensor, step: float) -> bool:
    if a.shape != b.shape:
        return True
    slack = step * float(a.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return not torch.allclose(a, b, rtol=0.0, atol=slack, equal_nan=True)


def _drawing_layer(subject: Subject, sample: Batch) -> str | None:
    """The first module whose own forward pass moves a generator; None: it is outside of them."""
    view, stand_ins = subject.view({})
    found: list[str] = []
    begun = []
    for path, module in view.named_modules():
        name = f"`model.{path}` ({type_name(module)})" if path else f"`model` ({type_name(module)})"

        def enter(*_: object) -> None:
            begun.append(random_states())

        def leave(*_: object, name: str = name) -> None:
            if not same_random_states(begun.pop(), random_states()):
                found.append(name)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    with subject.graph(), Swapping(stand_ins):
        subject.run(view, sample, [leaf.clone() for leaf in sample.leaves])
    return found[0] if found else None
