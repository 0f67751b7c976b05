"""Peak memory of scoring a batch, beside that of training on it and of `vmap(grad)`.

    python -m benchmarks memory

Each figure comes from a process of its own: how far resident memory rises above what it was when
model and batch were in place, and a tiny model had been run in the same way. What PyTorch loads
once (with its first derivative under `torch.func`, the modules of its compiler) is told apart.
`vmap(grad)` is taken twice: per-sample gradients of *one* class,
which is the least it can hold (others follow when these are freed), and of all classes at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import alone, footprint, plots
from benchmarks.cases import CASES, TINY, logits, texts
from benchmarks.engines.contract import label_losses
from benchmarks.engines.transformed import per_sample_gradients
from benchmarks.models import encoder
from benchmarks.provenance import RESULTS, provenance, store
from fastgradnorm import GradNormScorer

TITLES = {
    "resnet18": "ResNet-18, 32x32",
    "encoder": "BERT-like (12 x 256), 512 tokens",
    "tiny": TINY.title,
}
ONE, ALL = "vmap(grad), one class", "vmap(grad), all classes"
SPARE = 3  # times the gradients that a run of `vmap(grad)` over classes may need


def _make(model: str, classes: int, batch: int, length: int) -> tuple[nn.Module, Any]:
    if model == "encoder":
        return encoder(classes), texts(batch, length)
    case = TINY if model == "tiny" else CASES[model]
    return case.make(classes, batch)


def _training(model: nn.Module, batch: Any, classes: int) -> Callable[[], Any]:
    model.train()
    labels = torch.zeros(len(logits(model, batch)), dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def run() -> None:
        F.cross_entropy(logits(model, batch), labels).backward()
        optimizer.step()

    return run


def _one_class(model: nn.Module, batch: Any, classes: int) -> Callable[[], Any]:
    return lambda: per_sample_gradients(model, label_losses(1)[0])(batch)


def _all_classes(model: nn.Module, batch: Any, classes: int) -> Callable[[], Any]:
    """The same under a second `vmap`, over classes."""
    rows = torch.eye(classes)

    def run() -> Any:
        def of_label(row: Tensor) -> dict[str, Tensor]:
            gradients = per_sample_gradients(model, lambda z: -(z.log_softmax(1) * row).sum(1))
            return gradients(batch)

        return torch.func.vmap(of_label)(rows)

    return run


def _scoring(**options: Any) -> Callable[[nn.Module, Any, int], Callable[[], Any]]:
    def make(model: nn.Module, batch: Any, classes: int) -> Callable[[], Any]:
        scorer = GradNormScorer(model, **options)
        return lambda: scorer.score_batch(batch)

    return make


RUNS: dict[str, Callable[[nn.Module, Any, int], Callable[[], Any]]] = {
    "training step": _training,
    ONE: _one_class,
    ALL: _all_classes,
    "expected": _scoring(scheme="expected"),
    "entropy": _scoring(scheme="entropy"),
    "last layer": _scoring(params="last_layer"),
}


def cell(model: str, column: str, classes: int, batch: int, length: int = 0) -> dict[str, Any]:
    """How far memory rises, or why it was not measured."""
    network, data = _make(model, classes, batch, length)
    least = footprint.tensor_bytes(network) * batch * {ONE: 1, ALL: classes}.get(column, 0)
    found: dict[str, Any] = {"least_bytes": least} if least else {}
    if column == ALL and SPARE * least > footprint.available():
        return {**found, "reason": f"{least / 2**30:.1f} GiB of gradients alone"}
    small, rows = _make("tiny", classes, 2, 0)
    found["loaded_bytes"] = footprint.resident_peak(RUNS[column](small, rows, classes))
    run = RUNS[column](network, data, classes)
    return {**found, "peak_bytes": footprint.resident_peak(run)}


@dataclass(frozen=True)
class Subject:
    """A model and batch, and the columns measured on it."""

    model: str
    batch: int
    columns: Sequence[str]
    length: int = 0
    classes: int = 10


def subjects(batch: int = 32, texts: int = 8, length: int = 512) -> list[Subject]:
    """A convolutional network beside `vmap(grad)`, a long encoder beside training it."""
    long = ("training step", "expected", "entropy", "last layer")
    return [Subject("resnet18", batch, tuple(RUNS)), Subject("encoder", texts, long, length)]


def main(found: Sequence[Subject], folder: Path | None = RESULTS, fresh: bool = True) -> int:
    """Measures, prints and stores; 1 if a column failed."""
    rows, failed = [], False
    for subject in found:
        print(f"{TITLES[subject.model]}, batch {subject.batch}, {subject.classes} classes")
        for column in subject.columns:
            setting: dict[str, Any] = {"model": subject.model, "column": column}
            setting |= {"classes": subject.classes, "batch": subject.batch}
            setting["length"] = subject.length
            row = {**setting, "title": TITLES[subject.model]}
            row |= alone.call("benchmarks.memory:cell", setting, fresh)
            failed |= "reason" in row and "least_bytes" not in row
            rows.append(row)
            _compare(rows, subject.model)
            print(_line(row), flush=True)
    if folder is not None:
        results = {"provenance": provenance(), "rows": rows}
        path = store("memory", results, folder)
        print(f"written: {path}, {plots.memory(results, path.with_suffix('.png'))}")
    return int(failed)


def _compare(rows: Sequence[dict[str, Any]], model: str) -> None:
    row = rows[-1]
    peaks = {r["column"]: r.get("peak_bytes") for r in rows if r["model"] == model}
    for key, base in (("over_training_step", "training step"), ("over_vmap_grad", ONE)):
        if peaks.get(base) and row.get("peak_bytes") is not None:
            row[key] = row["peak_bytes"] / peaks[base]


def _line(row: dict[str, Any]) -> str:
    if "reason" in row:
        return f"  {row['column']:26s}{row['reason']}"
    text = f"  {row['column']:26s}{row['peak_bytes'] / 2**20:8.0f} MiB"
    text += f" (libraries {row['loaded_bytes'] / 2**20:4.0f})"
    if "over_training_step" in row:
        text += f"{row['over_training_step']:8.2f} x a training step"
    if "over_vmap_grad" in row:
        text += f"{row['over_vmap_grad']:8.2f} x vmap(grad) of one class"
    return text


def tiny(folder: Path | None) -> int:
    """Every step on a model of a few hundred parameters, in this process."""
    return main([Subject("tiny", 2, tuple(RUNS), classes=3)], folder, fresh=False)
