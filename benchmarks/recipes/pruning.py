"""Which samples a training set can do without: trained anew on what is kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.recipes.training import Digits, accuracy, pool, summary, train
from fastgradnorm import acquire, score_pool


def run(
    given: Digits, seeds: int, shares: tuple[float, ...], early: int, epochs: int
) -> list[dict[str, Any]]:
    """Test accuracy by what is kept, and how much of the training set is left out."""
    found: dict[tuple[float, str], list[float]] = {}
    for seed in range(seeds):
        whole = train(given.x, given.y, epochs, seed).model
        found.setdefault((0.0, "all"), []).append(accuracy(whole, given))
        young = train(given.x, given.y, early, 100 + seed).model
        for share in shares:
            count = round((1 - share) * len(given.y))
            for name, choose in WAYS.items():
                kept = choose(young, given, count, seed)
                model = train(given.x[kept], given.y[kept], epochs, seed).model
                found.setdefault((share, name), []).append(accuracy(model, given))
    return [
        {"left_out": share, "kept": name, "accuracy": summary(values), "each": values}
        for (share, name), values in found.items()
    ]


def _highest(scheme: str) -> Callable[[nn.Module, Digits, int, int], Tensor]:
    def choose(model: nn.Module, given: Digits, count: int, seed: int) -> Tensor:
        options: dict[str, Any] = {"scheme": scheme, "progress": False}
        if scheme == "loss":
            options["loss"] = "cross_entropy"
        scores = score_pool(model, pool(given.x, given.y), **options)
        return scores.argsort(descending=True)[:count]

    return choose


def _herded(model: nn.Module, given: Digits, count: int, seed: int) -> Tensor:
    """By coverage, weighted with the gradient norm; no label is read."""
    found = acquire(model, given.x.split(128), count, seed=seed, progress=False)
    return torch.as_tensor(found.indices)


def _drawn(model: nn.Module, given: Digits, count: int, seed: int) -> Tensor:
    return torch.randperm(len(given.y), generator=torch.Generator().manual_seed(seed))[:count]


WAYS: dict[str, Callable[[nn.Module, Digits, int, int], Tensor]] = {
    "loss norm (GraNd)": _highest("loss"),
    "EL2N": _highest("el2n"),
    "herding by gradient norm": _herded,
    "random": _drawn,
}
