"""Labelled batches and directions for gradients of a loss, and what is exact of them.

Written against PyTorch alone but for the buckets of a sketch, in float64, sample by sample.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases import first, logits, move, pieces
from benchmarks.setting import Setting
from fastgradnorm._operations import ParameterMap

CHECKED = 2  # samples
Direction = Mapping[str, Tensor]
_EXACT: dict[str, dict[str, Tensor]] = {}  # by model


@dataclass(frozen=True)
class Work:
    """What gradients are asked of; the same for a model every time.

    Attributes:
        pool: Batches of the same labelled samples in other orders: batch i is rolled by i.
        labels: In the order of the first batch.
        directions: With every parameter, on the device.
    """

    pool: list[Any]
    labels: Tensor
    directions: list[Direction]


def work(setting: Setting, batches: int, directions: int) -> Work:
    """So many batches and directions for a setting."""
    device = setting.device
    generator = torch.Generator("cpu").manual_seed(1)
    labels = torch.randint(setting.classes, (setting.samples,), generator=generator).to(device)
    pool = list[Any]()
    for i in range(batches):
        if isinstance(setting.batch, dict):  # as a tokenizer and a collator make them
            named = {**setting.batch, "labels": labels}
            pool.append({name: tensor.roll(i, 0) for name, tensor in named.items()})
        else:
            pool.append((setting.batch.roll(i, 0), labels.roll(i, 0)))
    how: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(2), "device": device}
    shapes = {name: tuple(p.shape) for name, p in setting.model.named_parameters()}
    drawn: list[Direction] = [
        {n: torch.randn(s, **how) for n, s in shapes.items()} for _ in range(directions)
    ]
    return Work(pool, labels, drawn)


def exact(setting: Setting, given: Work, dim: int) -> dict[str, Tensor]:
    """Norms `[n, 1]` and products `[n, Q]` of the first samples, and the sketch of the first one.

    Made once for all modes.
    """
    if setting.case.name in _EXACT:
        return _EXACT[setting.case.name]
    twin = copy.deepcopy(setting.model).double()
    named = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    few = move(first(setting.batch, CHECKED), setting.device, torch.float64)
    norms, products, sketches = list[Tensor](), list[Tensor](), list[Tensor]()
    for i, sample in enumerate(pieces(few, 1)):
        loss = F.cross_entropy(logits(twin, sample), given.labels[i : i + 1])
        every = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        grads = {n: g for n, g in zip(named, every, strict=True) if g is not None}
        norms.append(torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt())
        rows = [
            torch.stack([(g * direction[n]).sum() for n, g in grads.items()]).sum()
            for direction in given.directions
        ]
        products.append(torch.stack(rows))
        if not sketches:  # by the CPU, which has no kernel for it
            sketches.append(_sketch({n: g.cpu() for n, g in grads.items()}, dim))
    found = {"norms": torch.stack(norms)[:, None].cpu(), "products": torch.stack(products).cpu()}
    _EXACT[setting.case.name] = found | {"sketches": torch.stack(sketches)}
    return _EXACT[setting.case.name]


def _sketch(gradients: Mapping[str, Tensor], dim: int) -> Tensor:
    parts = [ParameterMap(name, g, dim, 0).formed(g) for name, g in gradients.items()]
    return torch.stack(parts).sum(0)


def apart(values: Tensor, right: Tensor) -> float:
    """The largest relative difference of the first rows, each the norm of it over the norm."""
    rows = values.double().reshape(len(values), -1)[: len(right)]
    return float(((rows - right).norm(dim=1) / right.norm(dim=1)).max())


def between(values: Tensor, batches: int) -> float:
    """The same of equal samples in batches that are rolled by 0, 1, ..."""
    parts = values.double().reshape(len(values), -1).chunk(batches)
    return max(apart(part.roll(-i, 0), parts[0]) for i, part in enumerate(parts))
