"""Which labels are wrong: a tenth of them is flipped, and samples are ranked by what they score."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recipes.training import CLASSES, Digits, pool, summary, train
from fastgradnorm import gradient_sketch, score_pool, sketch_dots


def run(given: Digits, seeds: int, epochs: tuple[int, ...], dim: int) -> list[dict[str, Any]]:
    """Area under the curve of wrong labels, by what ranks them and after how many epochs on all."""
    found: dict[tuple[int, str], list[float]] = {}
    for seed in range(seeds):
        y, wrong = flipped(given.y, seed)
        states = train(given.x, y, max(epochs), seed, keep=epochs)
        for epoch, state in zip(sorted(epochs), states.states, strict=True):
            states.model.load_state_dict(state)
            for name, scores in ranked(states.model, given.x, y, dim, seed).items():
                found.setdefault((epoch, name), []).append(area(scores, wrong))
    return [
        {"epochs": epoch, "score": name, "auc": summary(values), "each": values}
        for (epoch, name), values in found.items()
    ]


def flipped(y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of which a tenth is another one, and which those are."""
    generator = torch.Generator().manual_seed(1000 + seed)
    wrong = torch.zeros(len(y), dtype=torch.bool)
    wrong[torch.randperm(len(y), generator=generator)[: len(y) // 10]] = True
    other = (y + torch.randint(1, CLASSES, y.shape, generator=generator)) % CLASSES
    return torch.where(wrong, other, y), wrong


def ranked(model: nn.Module, x: Tensor, y: Tensor, dim: int, seed: int) -> dict[str, Tensor]:
    """Scores, the highest of what looks wrong."""
    batches = pool(x, y)
    of_loss = score_pool(
        model, batches, scheme=["loss", "el2n"], loss="cross_entropy", progress=False
    )
    sketches = gradient_sketch(model, batches, dim, loss="cross_entropy", progress=False)
    with torch.no_grad():
        z = model(x)
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf).amax(1)
    return {
        "loss norm (GraNd)": of_loss["loss"],
        "EL2N": of_loss["el2n"],
        "self-influence, whitened sketches": sketch_dots(sketches, whiten=0.1),
        "loss": F.cross_entropy(z, y, reduction="none"),
        "margin": others - own,
        "random": torch.rand(len(y), generator=torch.Generator().manual_seed(seed)),
    }


def area(scores: Tensor, wrong: Tensor) -> float:
    """Of the pairs of a wrong and a right label, the share in which the wrong one scores higher."""
    bad, good = scores[wrong].double(), scores[~wrong].double()
    gaps = bad[:, None] - good
    return float(((gaps > 0).double() + 0.5 * (gaps == 0)).mean())
