"""Which samples a prediction comes from, judged by training without half of them (LDS).

The linear datamodelling score (Park et al., 2023): models are trained on random halves of the
training set; for each test image, the rank correlation over the halves of its loss with what the
attributions of the samples in a half add up to. Nobody reaches 1, as trainings differ by their
seeds: the ceiling is what some trainings on the halves tell of others.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recipes.training import Digits, Trained, pool, train
from fastgradnorm import gradient_dots, gradient_sketch, mean_gradient, sketch_dots

LOSS: dict[str, Any] = {"loss": "cross_entropy", "progress": False}


def run(
    given: Digits, halves: int, seeds: int, epochs: int, models: int, dim: int
) -> list[dict[str, Any]]:
    """Scores of each way of attributing, as a mean over test images with a 95 % interval."""
    chosen = [
        torch.randperm(len(given.y), generator=torch.Generator().manual_seed(500 + i))
        for i in range(halves)
    ]
    inside = torch.stack([order < len(given.y) // 2 for order in chosen])  # [halves, N]
    losses = torch.stack([_losses(given, inside[i], seeds, epochs) for i in range(halves)], 1)
    known = losses.mean(0)  # [halves, Q]
    rows = []
    attributed: dict[str, Tensor] = {}
    for seed in range(models):
        trained = train(given.x, given.y, epochs, 10_000 + seed, keep=_kept(epochs))
        for name, values in ways(trained, given, dim).items():
            attributed[name] = attributed.get(name, 0) + values
    for name, values in attributed.items():
        # What helps a prediction lowers its loss.
        rows.append({"way": name, "lds": _score(-(inside.double() @ values.double()), known)})
    most = seeds // 2
    ceiling = _score(losses[:most].mean(0), losses[most:].mean(0)) if most else None
    told = f"other trainings on the same halves ({most} tell of {seeds - most})"
    return [*rows, *([{"way": told, "lds": ceiling}] if ceiling is not None else [])]


def _kept(epochs: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, epochs // 4), max(1, epochs // 2), epochs}))


def _losses(given: Digits, inside: Tensor, seeds: int, epochs: int) -> Tensor:
    """Of test images `[seeds, Q]`, after training on a part."""
    found = []
    for seed in range(seeds):
        model = train(given.x[inside], given.y[inside], epochs, seed).model
        with torch.no_grad():
            found.append(F.cross_entropy(model(given.test_x), given.test_y, reduction="none"))
    return torch.stack(found)


def ways(trained: Trained, given: Digits, dim: int) -> dict[str, Tensor]:
    """Attributions `[N, Q]`, by way."""
    model, training = trained.model, pool(given.x, given.y)
    tests = list(zip(given.test_x.split(1), given.test_y.split(1), strict=True))

    def directions(model: nn.Module) -> list[dict[str, Tensor]]:
        return [mean_gradient(model, [test], verify=False, **LOSS) for test in tests]

    mine = directions(model)
    metric = {"metric": trained.optimizer, "cosine": True}
    states = [(state, 1.0) for state in trained.states]
    rows = gradient_sketch(model, training, dim, **LOSS)
    asked = gradient_sketch(model, pool(given.test_x, given.test_y), dim, **LOSS)
    tilted = {"loss": _odds, "progress": False}
    of_odds = gradient_sketch(model, training, dim, **tilted)
    asked_odds = gradient_sketch(model, pool(given.test_x, given.test_y), dim, **tilted)
    with torch.no_grad():
        wrong = 1 - model(given.x).softmax(1).gather(1, given.y[:, None])
    generator = torch.Generator().manual_seed(0)
    return {
        "exact products": gradient_dots(model, training, mine, **LOSS),
        "exact cosines": gradient_dots(model, training, mine, cosine=True, **LOSS),
        "products over 3 checkpoints (TracIn)": gradient_dots(
            model, training, directions, checkpoints=states, **LOSS
        ),
        "cosines in Adam's metric (as LESS, one checkpoint)": gradient_dots(
            model, training, mine, **metric, **LOSS
        ),
        f"sketches of {dim}, plain": sketch_dots(rows, asked),
        f"sketches of {dim}, whitened by 0.1": sketch_dots(rows, asked, whiten=0.1),
        f"sketches of {dim}, whitened by 0.001": sketch_dots(rows, asked, whiten=0.001),
        f"log-odds sketches of {dim}, whitened by 0.1, times 1 - p (as TRAK)": wrong
        * sketch_dots(of_odds, asked_odds, whiten=0.1),
        "random": torch.rand(len(given.y), len(tests), generator=generator),
    }


def _odds(logits: Tensor, batch: Any) -> Tensor:
    """`-log(p / (1 - p))` of the label (Park et al., 2023)."""
    z, y = logits[0], batch[1][0]
    others = z.masked_fill(torch.arange(len(z)) == y, -torch.inf)
    return others.logsumexp(0) - (z * (torch.arange(len(z)) == y)).sum()


def _score(predicted: Tensor, known: Tensor) -> dict[str, float]:
    """Mean over test images `[halves, Q]` of the rank correlation over halves."""
    each = _spearman(predicted.double(), known.double())
    half = 1.96 * float(each.std()) / len(each) ** 0.5
    return {"mean": float(each.mean()), "interval": half}


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    ranks = [each.argsort(0).argsort(0).double() for each in (a, b)]
    centred = [each - each.mean(0) for each in ranks]
    sizes = centred[0].norm(dim=0) * centred[1].norm(dim=0)
    return (centred[0] * centred[1]).sum(0) / sizes
