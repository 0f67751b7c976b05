r"""Inner products of each sample's gradient with directions in the space of the parameters.

For a direction v, such as the mean gradient of a validation set, `⟨∇ℓ(x), v⟩` tells how much a
step on x lowers that loss, to first order: Grad-Dot, TracIn (Pruthi et al., 2020) summed over
checkpoints, LESS (Xia et al., 2024) under Adam's metric. Nothing is projected, no gradient kept.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgradnorm._directions.dots import Dots, directed
from fastgradnorm._directions.means import mean
from fastgradnorm._directions.metric import metric_of
from fastgradnorm._directions.states import check_states, load_state, values_of
from fastgradnorm._engine import Engine
from fastgradnorm._errors import ArgumentError
from fastgradnorm._keywords import make_options
from fastgradnorm._model import reaches
from fastgradnorm._options import Options
from fastgradnorm._pool import Placement, make_engine, start
from fastgradnorm._process import OwnRandomState
from fastgradnorm._results import tell_nonfinite
from fastgradnorm._schemes import SKETCHED
from fastgradnorm._validate import (
    check_bool,
    check_choice,
    check_model,
    check_number,
    fail,
    fail_type,
)

Direction = Mapping[str, Tensor]
Directions = Direction | Sequence[Direction]
DotScheme = Literal["loss", "entropy", "predicted"]
_OF_A_GROUP = "Products with a direction that names a group's parameters alone are the group's."
Checkpoint = tuple[Mapping[str, Tensor] | str | Path, float]


def gradient_dots(
    model: nn.Module,
    loader: Iterable[Any],
    directions: Directions | Callable[[nn.Module], Directions],
    *,
    scheme: DotScheme = "loss",
    cosine: bool = False,
    metric: torch.optim.Optimizer | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    **options: Any,
) -> Tensor:
    r"""Inner products of each sample's gradient with directions: how much a step on it helps them.

    :math:`\langle \nabla_\theta \ell(x), v_q \rangle` for Q directions, over all parameters that
    count, shared ones after adding up. One forward pass and one pull-back a sample, whatever Q is.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`; with labels for a `loss`.
        directions: One or a sequence of Q mappings from parameters' names to tensors of their
            shapes, as `mean_gradient` gives; names that are absent count zero. Or a function of the
            model that makes them, for each of several `checkpoints`.
        scheme: Of what the gradient is: `"loss"`, the `loss` among the options; `"entropy"` or
            `"predicted"`, as in `gradient_sketch`, which need no labels.
        cosine: Divide by :math:`\|\nabla \ell\| \|v\|`; 0 where one of them is 0.
        metric: An optimizer of Adam's family, RMSprop or Adagrad, of the model's parameters.
            Gradients are divided by :math:`\sqrt{\hat v} + \epsilon` of its state, as its steps
            are (LESS). Directions are taken as they are.
        checkpoints: Pairs of a state dict, or the path of one, and a weight, such as the learning
            rate: the sum of weight times product over them (TracIn). They are loaded into a copy
            of the model, or where functions such as the `loss` read weights by themselves, stand in
            the model meanwhile.
        options: Keyword arguments of `Options`, such as `loss`, `target` and `params`.

    Returns:
        Products `[N, Q]`, float32 (float64 for a float64 model), on the CPU, in loader order; also
        for one direction.

    Raises:
        ValueError: As `score_pool`; also for directions that do not fit the model, for a
            `reduction` or a `subset`, and where checkpoints see the pool in different orders.
        VerificationError: If the first samples disagree with plain autograd.

    Guarantees:
        - A product depends on its sample alone, not on batch size or order.
        - Parameters, `.grad`, buffers, modes, hooks and random states are unchanged.

    Example:
        >>> model = nn.Linear(2, 1, bias=False).eval()
        >>> pool = [(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))]
        >>> with torch.no_grad(): _ = model.weight.fill_(1.0)
        >>> gradient_dots(model, pool, {"weight": torch.tensor([[1.0, 1.0]])}, loss="mse")
        tensor([[2.],
                [8.]])
    """
    check_bool("cosine", cosine)
    chosen = checked_dots("gradient_dots", scheme, options)
    given = scheme, cosine, metric
    if checkpoints is None:
        return _dots(model, loader, _made(directions, model), chosen, *given)[0]
    return _over_checkpoints(model, loader, directions, chosen, given, checkpoints)


def _made(directions: Any, model: nn.Module) -> Any:
    if isinstance(directions, nn.Module):  # which can be called, on inputs
        wanted = "a mapping from parameters' names to tensors, or a function of the model"
        advice = "Of its weights: `dict(module.named_parameters())`."
        raise fail_type("directions", wanted, directions, advice)
    return directions(model) if callable(directions) else directions


def _over_checkpoints(
    model: nn.Module,
    loader: Iterable[Any],
    directions: Any,
    options: Options,
    given: tuple[Any, ...],
    checkpoints: Sequence[Checkpoint],
) -> Tensor:
    _check_checkpoints(checkpoints, loader, options)
    if given[-1] is not None:
        advice = "Add up calls with one optimizer each."
        raise fail("metric", "None with several `checkpoints`", given[-1], advice)
    total, order = None, None
    own = check_model(model)
    other = copy.deepcopy(own)
    check_states(other, checkpoints)
    read = reaches(own, (options.loss, options.forward, options.mask, options.target, directions))
    for place, (state, weight) in enumerate(checkpoints):
        load_state(other, state, f"checkpoints[{place}][0]")
        with values_of(other, own) if read else nullcontext(other) as there:
            found, indices = _dots(there, loader, _made(directions, there), options, *given)
        order = indices if total is None else order
        alike = total is None or (len(found) == len(total) and _same(order, indices))
        if not alike:
            raise ArgumentError(
                "`loader` must give the samples in one order for all `checkpoints`. Got another "
                "one: turn shuffling off, or give its sampler a generator that starts anew.",
                "loader",
            )
        more = float(weight) * found
        total = more if total is None else total + more
    assert total is not None
    return total


def _check_checkpoints(checkpoints: Any, loader: Any, options: Options) -> None:
    """Raises unless they are pairs, of which each can have a pass of its own."""
    wanted = "a sequence of pairs (state dict or its path, weight)"
    if isinstance(checkpoints, (Mapping, str, Path)):
        raise fail_type("checkpoints", wanted, checkpoints, "Of one: `[(state, 1.0)]`.")
    if not isinstance(checkpoints, Sequence):
        raise fail_type("checkpoints", wanted, checkpoints, "`list` makes one of an iterator.")
    if not checkpoints:
        raise fail("checkpoints", "a sequence of at least one pair (state, weight)", checkpoints)
    for place, pair in enumerate(checkpoints):
        told = f"checkpoints[{place}]"
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise fail_type(told, "a pair (state dict or its path, weight)", pair)
        if not isinstance(pair[0], (Mapping, str, Path)):
            raise fail_type(f"{told}[0]", "a state dict, or the path of one", pair[0])
        weight = pair[1]  # an optimizer's learning rate may be a tensor
        alone = isinstance(weight, Tensor) and weight.numel() == 1 and not weight.is_complex()
        check_number(f"{told}[1]", weight.item() if alone else weight)
    if len(checkpoints) > 1 and hasattr(loader, "__next__"):
        advice = "Pass a DataLoader or a list."
        wanted = "one that can be read again, for several `checkpoints`"
        raise fail_type("loader", wanted, loader, advice)
    if len(checkpoints) > 1 and options.checkpoint is not None:
        advice = "Add up calls with one of `checkpoints` and a file each."
        raise fail("checkpoint", "None with several `checkpoints`", options.checkpoint, advice)


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


def checked_dots(function: str, scheme: DotScheme, options: Mapping[str, Any]) -> Options:
    """The options of products."""
    check_choice("scheme", scheme, ("loss", *SKETCHED))
    if scheme == "loss" and options.get("loss") is None:
        advice = "Such as 'cross_entropy'; or scheme='predicted', which needs no labels."
        raise fail("loss", f"given for `{function}`", None, advice)
    if scheme != "loss" and options.get("loss") is not None:
        raise fail("scheme", "'loss' for a `loss`", scheme)
    # Of those without labels one cotangent is enough to verify the pass by.
    chosen = make_options(
        function, {"scheme": "entropy", **options} if scheme != "loss" else options
    )
    chosen.refuse_subset(function)
    if chosen.reduction != "global":
        raise fail("reduction", "'global' for products", chosen.reduction)
    if chosen.group_by is not None:
        raise fail("group_by", f"None for `{function}`", chosen.group_by, _OF_A_GROUP)
    if chosen.params == "last_layer":
        raise fail("params", "'all' or a function for products", "last_layer")
    if chosen.likelihood == "gaussian" and scheme != "loss":
        raise fail("likelihood", "'auto' without a `loss`", "gaussian")
    return chosen


def _dots(
    model: nn.Module,
    loader: Iterable[Any],
    directions: Directions,
    options: Options,
    scheme: DotScheme,
    cosine: bool,
    metric: torch.optim.Optimizer | None,
) -> tuple[Tensor, Tensor | None]:
    """Products `[N, Q]`, and the dataset's indices where those are not 0 to N - 1."""
    stacked = directed(model, directions)
    scales = metric_of(check_model(model), metric)

    def make(model: nn.Module, options: Options) -> Engine:
        outcome = partial(Dots, directions=stacked, scheme=scheme, cosine=cosine, scales=scales)
        return make_engine(model, options, outcome, labelled=True)

    parts: list[Tensor] = []
    placement = Placement(loader, "gradient_dots")
    with OwnRandomState():
        run = start(model, loader, options, make)
        for part in run.parts(apart=False):
            placement.add(part.indices, len(part))
            if len(part):
                parts.append(torch.stack([*part.scored.scores.values()], 1))
    placement.judge(run.pool.size, run.lost)
    if not parts:
        raise ArgumentError("`loader` must yield at least one sample. Got none.", "loader")
    found = torch.cat(parts)
    bad = (~found.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        tell_nonfinite("products", bad, len(found), found, options.on_nonfinite)
    return found, placement.indices()


def mean_gradient(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    scheme: DotScheme = "loss",
    **options: Any,
) -> dict[str, Tensor]:
    r"""The mean gradient of a pool's samples, :math:`\frac1N \sum_i \nabla_\theta \ell(x_i)`.

    A direction for `gradient_dots`: of a validation set, a class, a task. Each sample's loss is
    that of a batch of one, so that the mean is over samples, not over their tokens or positions.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`; with labels for a `loss`.
        scheme: As in `gradient_dots`.
        options: Keyword arguments of `Options`, such as `loss`, `target` and `params`. Every rank
            reads the whole pool, and there is no `checkpoint`.

    Returns:
        By the names of the parameters that count, tensors of their shapes, on the CPU.

    Raises:
        ValueError: As `score_pool`; also for a `reduction`, a `checkpoint` or a `subset`.
        VerificationError: If the first samples disagree with plain autograd.

    Example:
        >>> model = nn.Linear(2, 1, bias=False).eval()
        >>> with torch.no_grad(): _ = model.weight.fill_(1.0)
        >>> pool = [(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))]
        >>> mean_gradient(model, pool, loss="mse")
        {'weight': tensor([[1., 4.]])}
    """
    chosen = checked_dots("mean_gradient", scheme, options)
    if chosen.checkpoint is not None:
        raise fail_type("checkpoint", "None for `mean_gradient`", chosen.checkpoint)
    return mean(model, loader, chosen, scheme)
