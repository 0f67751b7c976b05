"""Which samples to train on for a task that only a few examples are known of, as LESS does it.

The pool holds digits turned by 0, 90, 180 and 270 degrees; the task are digits turned by 90, of
which 30 are known. LESS (Xia et al., 2024): a first training on a part of the pool leaves a few
checkpoints; at each of them a sample's gradient, divided as Adam's steps are, is sketched and
divided by its length, and so is the mean gradient of each subtask's examples (here: a digit's),
undivided by Adam. The influence on a subtask is the sum over checkpoints of learning rate times
inner product; a sample counts by the subtask that it helps most. LESS moves Adam's moments by the
sample before it divides; here they stay as they are.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recipes.training import CLASSES, Digits, accuracy, network, pool, summary, train
from fastgradnorm import gradient_dots, gradient_sketch, mean_gradient, score_pool

LOSS: dict[str, Any] = {"loss": "cross_entropy", "progress": False, "verify": False}
TURN, KNOWN, SHARE, RATE = 1, 30, 0.1, 3e-3
_State = tuple[nn.Module, torch.optim.Optimizer]


def run(given: Digits, seeds: int, epochs: int, dim: int) -> list[dict[str, Any]]:
    """Test accuracy on the task by how a tenth of the pool is chosen, and how much of it fits."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        part, turns, known, task = _drawn(given, seed)
        count = round(SHARE * len(part.y))
        states = _warmed(part, count, seed)
        every = torch.arange(len(part.y))
        chosen = {
            name: s.topk(count).indices for name, s in _scores(states, part, known, dim).items()
        }
        generator = torch.Generator().manual_seed(seed)
        chosen["random"] = torch.randperm(len(part.y), generator=generator)[:count]
        own = every[turns == TURN]
        chosen["random among the task's own turn"] = own[
            torch.randperm(len(own), generator=generator)[:count]
        ]
        chosen["the whole pool"] = every
        for name, kept in chosen.items():
            model = train(part.x[kept], part.y[kept], epochs, seed).model
            fit = float((turns[kept] == TURN).double().mean())
            found.setdefault(name, []).append((accuracy(model, task), fit))
    return [
        {
            "chosen": name,
            "accuracy": summary([each[0] for each in values]),
            "fits": summary([each[1] for each in values]),
            "each": values,
        }
        for name, values in found.items()
    ]


def _drawn(given: Digits, seed: int) -> tuple[Digits, Tensor, Digits, Digits]:
    """The pool and its turns; the task's examples; the task's test images."""
    generator = torch.Generator().manual_seed(2000 + seed)
    turns = torch.randint(0, 4, given.y.shape, generator=generator)
    x = torch.stack([each.rot90(int(k), (-2, -1)) for each, k in zip(given.x, turns, strict=True)])
    turned = given.test_x.rot90(TURN, (-2, -1))
    order = torch.randperm(len(given.test_y), generator=generator)
    count = min(KNOWN, len(order) // 2)
    few, rest = order[:count], order[count:]
    known = Digits(turned[few], given.test_y[few], turned[few], given.test_y[few])
    task = Digits(x, given.y, turned[rest], given.test_y[rest])
    return Digits(x, given.y, task.test_x, task.test_y), turns, known, task


def _warmed(part: Digits, count: int, seed: int) -> list[_State]:
    """Three checkpoints of a training on a tenth of the pool, each with its optimizer."""
    with torch.random.fork_rng():
        torch.manual_seed(500 + seed)
        some = torch.randperm(len(part.y))[:count]
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), RATE)
        found: list[_State] = []
        for epoch in range(1, 31):
            for rows in some[torch.randperm(len(some))].split(32):
                optimizer.zero_grad()
                F.cross_entropy(model(part.x[rows]), part.y[rows]).backward()
                optimizer.step()
            if epoch % 10 == 0:
                other = copy.deepcopy(model).eval()
                own = torch.optim.Adam(other.parameters(), RATE)
                own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                found.append((other, own))
    return found


def _scores(states: list[_State], part: Digits, known: Digits, dim: int) -> dict[str, Tensor]:
    """Of the pool `[N]`, the highest to be chosen, by way."""
    of_adam = [_sketched(*state, part, known, dim) for state in states]
    of_plain = [_sketched(state[0], None, part, known, dim) for state in states]
    exact = [_exact(*state, part, known) for state in states]
    last = states[-1][0]
    with torch.no_grad():
        features = [F.normalize(last[:-1](x), dim=1) for x in (part.x, known.x)]
    return {
        f"sketches of {dim}, Adam's metric, 3 checkpoints (as LESS)": _best(of_adam),
        "the same, as many for each digit": _evenly(of_adam),
        "exact cosines, Adam's metric, 3 checkpoints": _best(exact),
        f"sketches of {dim}, plain, 3 checkpoints": _best(of_plain),
        f"sketches of {dim}, Adam's metric, last checkpoint": _best(of_adam[-1:]),
        "nearest in the last layer's features": (features[0] @ features[1].T).amax(1),
        "highest loss norm (GraNd), which knows no task": score_pool(
            last, pool(part.x, part.y), **LOSS
        ),
    }


def _best(influences: list[Tensor]) -> Tensor:
    """Of the subtask that a sample helps most; the learning rate is the same at all checkpoints."""
    return torch.stack(influences).sum(0).mul(RATE).amax(1)


def _evenly(influences: list[Tensor]) -> Tensor:
    """The best of each subtask first, then the second best."""
    ranks = torch.stack(influences).sum(0).argsort(0, descending=True).argsort(0)
    return -ranks.amin(1).double()


def _subtasks(known: Digits) -> list[list[tuple[Tensor, Tensor]]]:
    """The examples of each digit there is one of."""
    rows = [known.y == c for c in range(CLASSES)]
    return [[(known.x[r], known.y[r])] for r in rows if bool(r.any())]


def _sketched(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    part: Digits,
    known: Digits,
    dim: int,
) -> Tensor:
    """Cosines `[N, subtasks]` of sketches, each divided by its length."""
    rows = gradient_sketch(model, pool(part.x, part.y), dim, metric=optimizer, **LOSS)
    asked = torch.stack(
        [gradient_sketch(model, each, dim, **LOSS).mean(0) for each in _subtasks(known)]
    )
    return F.normalize(rows, dim=1) @ F.normalize(asked, dim=1).T


def _exact(
    model: nn.Module, optimizer: torch.optim.Optimizer, part: Digits, known: Digits
) -> Tensor:
    asked = [mean_gradient(model, each, **LOSS) for each in _subtasks(known)]
    given = {"metric": optimizer, "cosine": True}
    return gradient_dots(model, pool(part.x, part.y), asked, **given, **LOSS)
