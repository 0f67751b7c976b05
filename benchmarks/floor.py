"""What no method on this machine can beat that needs K pull-backs, measured in the same run.

One forward pass, K plain pull-backs to the input with frozen parameters, and the norm products in
the form of fewest operations at the best rate of matrix products that this process reaches. K is
the number of classes for the expected score (one for two classes), one for entropy, none for the
last layer.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import nn

from benchmarks import timing
from benchmarks.cases import first, logits
from benchmarks.setting import Setting
from fastgradnorm._engine.plan import make_plan
from fastgradnorm._model.batches import as_batch
from fastgradnorm._model.subject import Subject
from fastgradnorm._options import Options

# What is timed for it: a forward pass, and `frozen_run`.
FORWARD, PULLS = "floor's forward", "floor's pulls"
PULLED = 10  # pull-backs that are timed; more are extrapolated


def pull_backs(score: str, classes: int) -> int:
    """How many pull-backs of a sample a score needs."""
    counts = {"expected": 1 if classes == 2 else classes, "entropy": 1, "last layer": 0}
    return counts[score]


def timed_pulls(classes: int) -> int:
    """How many pull-backs `frozen_run` makes."""
    return min(classes, PULLED)


def frozen_run(setting: Setting) -> Callable[[], Any]:
    """A forward pass, and plain pull-backs to the input with frozen parameters."""
    model, batch = copy.deepcopy(setting.model).requires_grad_(False), setting.batch
    embeddings = setting.case.embeddings
    if embeddings is not None:
        source = model.get_submodule(embeddings)(batch["input_ids"]).detach()
        rest = {name: tensor for name, tensor in batch.items() if name != "input_ids"}
    pulled = timed_pulls(setting.classes)
    shape = setting.forward().shape  # with positions, where each has its logits
    cotangents = torch.randn(pulled, *shape, device=setting.device)

    def run() -> None:
        if embeddings is None:
            leaf = batch.detach().requires_grad_()
            z = logits(model, leaf)
        else:
            leaf = source.detach().requires_grad_()
            z = logits(model, {"inputs_embeds": leaf, **rest})
        for i, cotangent in enumerate(cotangents):
            torch.autograd.grad(z, leaf, cotangent, retain_graph=i + 1 < pulled)

    return run


def norm_flops(model: nn.Module, batch: Any, cotangents: int) -> int:
    """Operations of one sample's norm products, each in its cheapest form."""
    subject = Subject(model, Options())
    plan = make_plan(subject, as_batch(first(batch, 1), subject.device))
    total = 0
    for use in plan.uses:
        if use.rule is None or "weight" not in use.slots:
            continue
        t, i, o = use.rule.shape.positions, use.rule.shape.inputs, use.rule.shape.outputs
        forms = ["closed form"] if t == 1 else ["ghost", "direct"]
        costs = [kernels.form_flops(form, t, i, o, cotangents) for form in forms]
        total += min(costs) * use.rule.groups
    return total


def floors(
    setting: Setting, times: Mapping[str, timing.Seconds], rate: float
) -> dict[str, timing.Seconds]:
    """Seconds a sample of each score's floor, round by round.

    Args:
        setting: The case.
        times: Of a forward pass, `FORWARD`, and of `frozen_run`, `PULLS`.
        rate: Operations a second of matrix products.
    """
    pulled = timed_pulls(setting.classes)
    found = {}
    for score in ("expected", "entropy", "last layer"):
        pulls = pull_backs(score, setting.classes)
        products = norm_flops(setting.model, setting.batch, pulls) / rate if pulls else 0.0
        clocks = []
        for clock in ("wall", "cpu"):
            pairs = zip(getattr(times[PULLS], clock), getattr(times[FORWARD], clock), strict=True)
            # processor time of the products: all threads work on them
            work = products * (torch.get_num_threads() if clock == "cpu" else 1)
            clocks.append(
                [
                    (forward + pulls * max(0.0, both - forward) / pulled) / setting.samples + work
                    for both, forward in pairs
                ]
            )
        found[score] = timing.Seconds(*clocks)
    return found
