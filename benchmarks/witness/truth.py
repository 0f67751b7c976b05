"""Scores by plain float64 autograd of the losses themselves, one sample and one loss at a time."""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from benchmarks.witness.cases import Case

_MOST_MAPS = 8


def _double(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def truth(case: Case) -> dict[str, Tensor]:
    """By scheme, for all samples of a case; of the entropy alone where labels are too many."""
    torch.manual_seed(0)
    model, batches = case.make()
    model = copy.deepcopy(model)._apply(_double)
    found: dict[str, list[float]] = {}
    for batch in batches:
        for sample, mask in _samples(batch, case):
            for scheme, score in _scores(case, model, sample, mask).items():
                found.setdefault(scheme, []).append(score)
    return {scheme: torch.tensor(scores, dtype=torch.float64) for scheme, scores in found.items()}


def _samples(batch: Any, case: Case) -> list[tuple[Any, Tensor | None]]:
    masks = None
    if "mask" in case.options:
        masks, batch = case.options["mask"](batch), batch[0]
    elif isinstance(batch, Mapping):
        masks = batch["attention_mask"].bool()
    count = len(pytree.tree_leaves(batch)[0])
    return [
        (
            pytree.tree_map(lambda t: _double(t[i : i + 1].clone()), batch),  # noqa: B023
            None if masks is None else masks[i],
        )
        for i in range(count)
    ]


def _scores(case: Case, model: Any, sample: Any, mask: Tensor | None) -> dict[str, float]:
    options = case.options
    logits = case.call(model, sample).movedim(options.get("class_dim", 1), -1)[0]
    logits = logits / options.get("temperature", 1.0)
    pairs = options.get("likelihood") == "bernoulli" or logits.shape == (1,)
    if pairs:  # each label is a choice between two classes
        mask = mask if mask is None else mask[:, None].expand(logits.shape)
        logits = torch.stack([torch.zeros_like(logits), logits], -1)
    log_p = logits.log_softmax(-1).reshape(-1, logits.shape[-1])  # [positions, C]
    valid = torch.ones(len(log_p), dtype=torch.bool) if mask is None else mask.reshape(-1)
    log_p = log_p[valid]
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    found = {"entropy": _norm(case, model, entropy)}
    positions, classes = log_p.shape
    if mask is None and classes**positions <= max(classes, _MOST_MAPS):
        found |= {"expected": 0.0, "expected_squared": 0.0}
        for labels in itertools.product(range(classes), repeat=positions):
            loss = F.nll_loss(log_p, torch.tensor(labels))
            chance = float(log_p.detach().gather(1, torch.tensor(labels)[:, None]).sum().exp())
            norm = _norm(case, model, loss)
            found["expected"] += chance * norm
            found["expected_squared"] += chance * norm**2
    return found


def _norm(case: Case, model: Any, loss: Tensor) -> float:
    named = [p for name, p in model.named_parameters() if case.keep(name)]
    grads = torch.autograd.grad(loss, named, retain_graph=True, allow_unused=True)
    norms = torch.stack([g.abs().square().sum().sqrt() for g in grads if g is not None])
    per_tensor = case.options.get("reduction") == "per_tensor"
    return float(norms.sum() if per_tensor else norms.square().sum().sqrt())
