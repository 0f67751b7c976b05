"""Passes captured as CUDA graphs beside the same passes as they are: scores, and time a batch."""

from typing import Any

import torch

from benchmarks import timing
from benchmarks.cases import first
from benchmarks.gpu import precision
from benchmarks.gpu.large_models import case
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.report import Report
from benchmarks.setting import Setting
from fastgradnorm import GradNormScorer
from fastgradnorm._engine.replay import as_they_are
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool import make_engine
from fastgradnorm._process.states import autograd_ready

CLASSES = 10
EXPECTED: dict[str, Any] = {}
ENTROPY: dict[str, Any] = {"scheme": "entropy"}
LAST: dict[str, Any] = {"params": "last_layer"}
CELLS: list[tuple[str, int, Mode, dict[str, Any]]] = [
    ("resnet18", 64, precision.BF16, EXPECTED),
    ("bert128", 8, precision.BF16, EXPECTED),
    ("vit_b", 8, precision.BF16, EXPECTED),
    ("resnet18", 64, precision.FLOAT32, EXPECTED),
    ("bert128", 64, precision.BF16, ENTROPY),
    ("resnet18", 256, precision.BF16, ENTROPY),
    ("resnet18", 256, precision.BF16, LAST),
    ("resnet50", 16, precision.BF16, EXPECTED),
]


def run(report: Report) -> None:
    """One row a model, mode and scheme."""
    for name, batch, mode, options in CELLS[:2] if report.dry else CELLS:
        key = f"{name}, batch {batch}, {mode.name}, {options or 'expected'}"
        if report.wanted(key, 0 if report.dry else 6):
            with report.step(key) as row, mode.set():
                size = 4 if report.dry else batch
                setting = Setting(case(name, report.dry), CLASSES, size, report.device)
                compare(row, setting, {**options, "autocast": mode.autocast}, report)
        if not report.dry:
            torch.cuda.empty_cache()


def compare(row: dict[str, Any], setting: Setting, options: dict[str, Any], report: Report) -> None:
    """Four batches and a smaller one, both ways; then the time of a batch."""
    sizes = [setting.samples] * 4 + [3 * setting.samples // 4]
    batches = [first(setting.batch, size) for size in sizes]
    scorer = GradNormScorer(setting.model, **options, latency=0, verify=False, progress=False)
    with as_they_are():
        plain = [scores.clone() for scores in scorer.stream(batches)]
    engine = make_engine(scorer.model, scorer.options)
    with autograd_ready():
        found = []
        for raw in batches:
            scored = engine.score(as_batch(raw, engine.subject.device))
            found.append(next(iter(scored.scores.values())).cpu())
    replays = engine.passes.replays
    row["replayed"], row["reason"] = replays.replayed, replays.reason
    pairs = list(zip(plain, found, strict=True))
    row["same_bits"] = [bool(torch.equal(a, b)) for a, b in pairs]
    row["difference"] = max(float(((a - b).abs() / a.abs()).max()) for a, b in pairs)
    report.save()
    rounds = 1 if report.dry else 7
    stream = setting.stream(**options)
    captured = [timing.clocked(stream, report.device) for _ in range(3 + rounds)]
    row["first_seconds"], row["capture_seconds"] = captured[0], captured[1]
    row["replay_seconds"] = timing.quantile(captured[3:], 0.5)
    stream = setting.stream(**options)
    with as_they_are():
        eager = [timing.clocked(stream, report.device) for _ in range(1 + rounds)]
    row["eager_seconds"] = timing.quantile(eager[1:], 0.5)
    row["samples"] = setting.samples


def table(document: dict[str, Any]) -> list[str]:
    """A line a row."""
    return [
        f"{row['key']}: {1e3 * row['eager_seconds']:.1f} ms as it is, "
        f"{1e3 * row['replay_seconds']:.1f} ms replayed "
        f"({row['eager_seconds'] / row['replay_seconds']:.1f}x, "
        f"{row['samples'] / row['replay_seconds']:.0f}/s), "
        f"captured in {row['capture_seconds']:.2f} s, {row['replayed']} replays, "
        f"difference {row['difference']:.0e}, same bits {row['same_bits']}, {row['reason'] or ''}"
        for row in document["rows"]
        if "eager_seconds" in row
    ]


def summary(document: dict[str, Any]) -> list[str]:
    """The same, shorter."""
    return [
        f"{row['key']}: {row['eager_seconds'] / row['replay_seconds']:.1f}x, "
        f"difference {row['difference']:.0e}, {row['reason'] or 'captured'}"
        for row in document["rows"]
        if "eager_seconds" in row
    ]
