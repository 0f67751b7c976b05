"""Recurrent classifiers beside the plain loop, a training step, and forward and plain pull-backs.

    python -m benchmarks recurrent [--threads 1]

64 samples of 60 steps, in processor time, all columns in turn round by round. The last layer is
timed verified, as only then it is found by a plain forward pass.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import tables, timing
from benchmarks.provenance import provenance, store
from fastgradnorm import GradNormScorer, naive_score_pool

KINDS: dict[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CLASSES, WIDTH, WORDS = 6, 96, 1000
SCORES: dict[str, dict[str, Any]] = {
    "expected": {"scheme": "expected", "verify": False},
    "entropy": {"scheme": "entropy", "verify": False},
    "last layer": {"params": "last_layer"},
}
_NAIVE = 8  # samples of the plain loop, whose cost a sample does not depend on their number


class Classifier(nn.Module):
    """Embedding, recurrent layers, the mean over steps, a linear layer."""

    def __init__(self, kind: str, layers: int, both: bool, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.rnn = KINDS[kind](width, width, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(width * (1 + both), CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits `[N, C]` of ids `[N, T]`."""
        return self.after(self.embed(ids))

    def after(self, x: Tensor) -> Tensor:
        """Logits of what the embedding gives."""
        logits: Tensor = self.head(self.rnn(x)[0].mean(1))
        return logits


def tiny(folder: Path | None) -> int:
    """Every step on models of a few hundred parameters."""
    return main(folder, (3, 2), 4, [(1, False), (2, True)], 0.0)


def main(
    folder: Path | None,
    shape: tuple[int, int] = (64, 60),
    width: int = WIDTH,
    layouts: Sequence[tuple[int, bool]] = ((1, False), (1, True), (2, False), (2, True)),
    budget: float = 5.0,
) -> int:
    """Times each kind, by layers and whether both directions are read; prints and stores."""
    rows = []
    for kind, (layers, both) in itertools.product(KINDS, layouts):
        torch.manual_seed(0)
        model = Classifier(kind, layers, both, width).eval()
        row = {"model": kind, "layers": layers, "directions": 1 + both}
        rows.append(row | _row(model, torch.randint(WORDS, shape), budget))
        print(_told(rows[-1]), flush=True)
    if folder is not None:
        store("recurrent", {"provenance": provenance(), "rows": rows}, folder)
    return int(any(row["error"] > 1e-5 for row in rows))


def page(results: dict[str, Any]) -> str:
    """A row a classifier, for the documentation."""
    heads = {
        "naive_over_expected": "expected, times the plain loop",
        "expected_over_pulls": "expected / forward and pull-backs",
        "entropy_over_step": "entropy / training step",
        "last_layer_over_forward": "last layer / forward",
    }
    lines = ["| | " + " | ".join(heads.values()) + " |", "|---|" + "---:|" * len(heads)]
    for row in results["rows"]:
        layers = "one layer" if row["layers"] == 1 else f"{row['layers']} layers"
        ways = "" if row["directions"] == 1 else ", both directions"
        cells = [f"{row[key]:.2f}" for key in heads]
        lines.append(f"| {row['model']}, {layers}{ways} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + tables.source(results, "recurrent")


def _row(model: Classifier, ids: Tensor, budget: float) -> dict[str, Any]:
    runs: dict[str, Callable[[], Any]] = {}
    for name, options in SCORES.items():
        scorer = GradNormScorer(model, **options, latency=0, progress=False)
        scores = scorer.stream(itertools.repeat(ids))
        runs[name] = lambda scores=scores: next(scores)  # type: ignore[misc]
    exact = naive_score_pool(copy.deepcopy(model).double(), [ids[:_NAIVE]], progress=False)
    found = runs["expected"]()[:_NAIVE].double()
    usual = {
        "naive": lambda: _loop(model, ids[:_NAIVE]),
        "training step": _training(model, ids),
        "forward": lambda: _forward(model, ids),
        "forward and pulls": _pulls(model, ids),
    }
    times = timing.side_by_side(runs | usual, 15, budget, usual=[*usual])
    share = len(ids) / min(_NAIVE, len(ids))
    ratios = {
        "expected_over_pulls": ("expected", "forward and pulls", 1.0),
        "entropy_over_step": ("entropy", "training step", 1.0),
        "last_layer_over_forward": ("last layer", "forward", 1.0),
        "naive_over_expected": ("naive", "expected", share),
    }
    row: dict[str, Any] = {
        key: timing.ratio(times[a], times[b], per, "cpu") for key, (a, b, per) in ratios.items()
    }
    row["seconds"] = {name: each.summary()["cpu_seconds_median"] for name, each in times.items()}
    return row | {"error": float(((found - exact) / exact).abs().max())}


def _loop(model: Classifier, ids: Tensor) -> list[Tensor]:
    """Expected gradient length by plain autograd, a sample and a label at a time, and no more."""
    parameters, found = [*model.parameters()], []
    for one in ids.split(1):
        losses = -model(one)[0].log_softmax(-1)
        score = torch.zeros(())
        for label, loss in enumerate(losses):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=label + 1 < CLASSES)
            squares = torch.stack([g.square().sum() for g in gradients]).sum()
            score = score + (-loss.detach()).exp() * squares.sqrt()
        found.append(score)
    return found


def _forward(model: Classifier, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids)
        return logits


def _training(model: Classifier, ids: Tensor) -> Callable[[], Any]:
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    labels = torch.randint(CLASSES, (len(ids),))

    def run() -> None:
        F.cross_entropy(model(ids), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _pulls(model: Classifier, ids: Tensor) -> Callable[[], Any]:
    model = copy.deepcopy(model).requires_grad_(False)
    cotangents = torch.randn(CLASSES, len(ids), CLASSES)

    def run() -> None:
        x = model.embed(ids).requires_grad_()
        logits = model.after(x)
        for i, cotangent in enumerate(cotangents):
            torch.autograd.grad(logits, x, cotangent, retain_graph=i + 1 < CLASSES)

    return run


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['model']:<4} {row['layers']} layers {row['directions']} directions: expected "
        f"{row['expected_over_pulls']:.2f} of forward and pulls, "
        f"{row['naive_over_expected']:.1f} x naive; entropy {row['entropy_over_step']:.2f} steps; "
        f"last layer {row['last_layer_over_forward']:.2f} forwards; error {row['error']:.1e}"
    )
