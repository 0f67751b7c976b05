"""The engine against plain autograd on the first samples of a pool, before anything is scored.

Where an activation is zero but for rounding, as over the even background of an image, a ReLU or a
maximum has two gradients, and rounding decides which one counts: another order of additions, as
good as the first, may take the other side. So a disagreement is looked at again in float64, where
rounding is out of the way and a wrong rule is as wrong as before.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from fastgradnorm._engine.engine import Engine
from fastgradnorm._engine.plain import PlainPass
from fastgradnorm._errors import NOT_THE_MODELS, VerificationError
from fastgradnorm._model.batches import Batch
from fastgradnorm._model.branches import DivergentControlFlowError
from fastgradnorm._model.subject import Subject
from fastgradnorm._model.watch import PlanChangedError
from fastgradnorm._operations.numbers import in_double, model_in_double
from fastgradnorm._process.memory import is_out_of_memory
from fastgradnorm._schemes.objective import make_objective

_SAMPLES = 2
_CHECKS = 2  # at most
_COTANGENTS = 8  # of each sample: a wrong rule is wrong for all of them
_RELATIVE = {torch.float64: 1e-6, torch.float32: 5e-3}
_RELATIVE_HALF = 5e-2
# A parameter whose gradient is zero but for rounding (a bias before a norm layer) has no digits to
# compare; below this share of the whole gradient, times the tolerance above, it is not looked at.
_NOISE = 1e-2


def verify(engine: Engine, batch: Batch) -> None:
    """Compares per-parameter gradient norms of the first samples with plain autograd.

    What is right for one sample may be wrong for several: where the first batch has one sample, or
    two that take different branches, the next larger one is looked at too.

    Raises:
        VerificationError: Naming the first parameter that differs, and both norms.
    """
    done = engine.verified
    if done and (len(done) == _CHECKS or max(done) == _SAMPLES or len(batch) == 1):
        return
    batch = batch.take(slice(0, _SAMPLES))
    done.append(len(batch))
    try:
        done[-1] = _check(engine, batch)
    except VerificationError as error:
        # What is left out is no rounding; where the fault is one of dtypes, float64 lacks it.
        if error.missing or engine.subject.dtype == torch.float64:
            raise
        if not _agrees_in_double(engine, batch):
            raise


def _agrees_in_double(engine: Engine, batch: Batch) -> bool:
    """Whether rounding alone is at fault; False also for models that do not run in float64."""
    wide = tuple(in_double(x) for x in batch.leaves)
    try:
        model = model_in_double(copy.deepcopy(engine.subject.model))
        options = replace(engine.options, autocast=None)
        _check(Engine(Subject(model, options), options), replace(batch, leaves=wide))
    except Exception:  # of the caller's model: the disagreement stands
        return False
    return True


def _check(engine: Engine, batch: Batch, first: int = 0) -> int:
    """Compares samples `first` and on; returns how many of them together."""
    plan = engine.plan(batch)
    objective = make_objective(engine.options, plan.logits_shape)
    valid = batch.valid(plan.logits_shape)
    runs = [
        PlainPass(engine.subject, batch.take(slice(i, i + 1)), plan.names)
        for i in range(len(batch))
    ]
    chosen = []
    for i, run in enumerate(runs):
        cotangents = objective.pull_backs(
            run.logits, None if valid is None else valid[i]
        ).cotangents
        rows = torch.linspace(0, len(cotangents) - 1, min(_COTANGENTS, len(cotangents))).long()
        chosen.append(cotangents[rows.to(cotangents.device)])
    engine.subject.blamed = False
    try:
        # Both at once: what is right for one sample may be wrong for a batch.
        actual = engine.sq_norms(batch, torch.stack(chosen))
    except DivergentControlFlowError:  # to be split, as here
        for i in range(len(batch)):
            _check(engine, batch.take(slice(i, i + 1)), i)
        return 1
    except (PlanChangedError, RuntimeError) as error:
        if is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
            raise
        if isinstance(error, RuntimeError) and not engine.subject.blamed:
            raise
        return len(batch)  # planned anew, or scored by plain autograd itself
    for i, (run, cotangents) in enumerate(zip(runs, chosen, strict=True)):
        if bool(cotangents.isfinite().all()):  # a NaN input has no gradient to compare
            exact = torch.stack([run.sq_norms(cotangent) for cotangent in cotangents])
            _compare(engine, first + i, actual[i].sqrt(), exact.sqrt(), plan.names)
    return len(batch)


def _compare(
    engine: Engine, sample: int, actual: Tensor, exact: Tensor, names: tuple[str, ...]
) -> None:
    """For norms `[K, P]`."""
    dtype = torch.float16 if engine.options.autocast is not None else engine.subject.dtype
    tolerance = _RELATIVE.get(dtype, _RELATIVE_HALF)
    floor = _NOISE * torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    difference = (actual - exact).abs()
    wrong = ~(difference <= tolerance * torch.maximum(exact, floor))
    if bool(wrong.any()):
        missing = wrong & (actual == 0)
        k, p = (int(x) for x in (missing if bool(missing.any()) else wrong).nonzero()[0])
        error = VerificationError(
            f"The engine disagrees with plain autograd on sample {sample}: the gradient of "
            f"`{names[p]}` has norm {float(exact[k, p]):.6g}, the engine computed "
            f"{float(actual[k, p]):.6g}. Please report this with the layer's definition; "
            "`naive_score_pool` gives correct scores meanwhile."
        )
        error.missing = bool(missing.any())
        raise error
