"""Time and memory of the packages at equal work: products of 16 samples with 4 queries.

Where packages count Linear and Conv2d only, the model is also taken with everything else frozen, so
that all of them do the same. A package is timed if its products are right, in the fastest of some
batch sizes; memory is that of a process of its own.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import alone, timing
from benchmarks.attribution.contract import Package, error_of, exact_products, sizes_of
from benchmarks.attribution.packages import OURS, PACKAGES
from benchmarks.cases import CASES, TINY
from benchmarks.engines.contract import first_line
from benchmarks.footprint import resident_peak

CLASSES, TOLERANCE, CHECKED = 10, 1e-3, 2


class _Texts(nn.Module):
    """A text model of ids alone, 0 being padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        return output


@dataclass(frozen=True)
class Work:
    """Products of some samples with some queries.

    Attributes:
        case: Name of the model.
        linear: Whether only linear layers and convolutions count.
        samples: How many.
        queries: How many.
    """

    case: str
    linear: bool = False
    samples: int = 16
    queries: int = 4

    @property
    def title(self) -> str:
        """Of its column."""
        name = (TINY if self.case == TINY.name else CASES[self.case]).title
        return name + (", Linear and Conv2d only" if self.linear else "")

    def make(self) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The model, and samples, labels, queries, labels."""
        case = TINY if self.case == TINY.name else CASES[self.case]
        model, batch = case.make(CLASSES, self.samples + self.queries)
        if isinstance(batch, dict):
            model, batch = _Texts(model).eval(), batch["input_ids"]
        if self.linear:
            model.requires_grad_(False)
            for module in model.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.requires_grad_(True)
        labels = torch.arange(len(batch)) % CLASSES
        n = self.samples
        return model, (batch[:n], labels[:n], batch[n:], labels[n:])


WORKS = (
    Work("cnn6"),
    Work("resnet18"),
    Work("resnet18", linear=True),
    Work("bert"),
    Work("bert", linear=True),
)
LEAST = (Work(TINY.name, samples=2, queries=2),)


def measure(work: Work, rounds: int, budget: float, fresh: bool = True) -> list[dict[str, Any]]:
    """A row a package: times, memory and error, or why there are none."""
    model, given = work.make()
    known = _known(model, given)
    runs: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for package in (OURS, *PACKAGES):
        row = {"work": work.title, "package": package.name}
        found = _prepared(package, model, given, known)
        if "run" in found:
            runs[package.name] = found.pop("run")
            row["peak_bytes"] = _memory(work, package, found, fresh)
        rows[package.name] = {**row, **found}
    others = [name for name in runs if name != OURS.name]
    times = timing.side_by_side(runs, rounds, budget, usual=others)
    for name, each in times.items():
        rows[name] |= each.summary()
        rows[name]["times_ours"] = timing.ratio(each, times[OURS.name], clock="cpu")
    return list(rows.values())


def _known(model: nn.Module, given: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Products in float64 of the first samples and queries, and their gradients' norms."""
    wide = copy.deepcopy(model).double()
    few = [
        part[:CHECKED].double() if part.is_floating_point() else part[:CHECKED] for part in given
    ]
    sizes = sizes_of(wide, *few[:2]), sizes_of(wide, *few[2:])
    return exact_products(wide, few[0], few[1], few[2], few[3]), sizes


def _prepared(
    package: Package,
    model: nn.Module,
    given: Sequence[Tensor],
    known: tuple[Tensor, tuple[Tensor, Tensor]],
) -> dict[str, Any]:
    """A run in the fastest way and batch size, or a reason."""
    if package.distribution and package.version is None:
        return {"reason": "not installed"}
    best: dict[str, Any] = {}
    reason = ""
    for way in package.ways:
        for chunk in sorted({len(given[0]), max(1, len(given[0]) // 4)}, reverse=True):
            try:
                products = package.ways[way](copy.deepcopy(model))
                run = partial(products, *given, chunk)
                error = error_of(run()[:CHECKED, :CHECKED].double(), *known)
                if error > TOLERANCE:
                    raise ArithmeticError(f"wrong by {error:.2g}")
                seconds = timing.clocked(run)
            except Exception as failure:
                told = str(failure) if isinstance(failure, ArithmeticError) else first_line(failure)
                reason = reason or told
                continue
            if not best or seconds < best["seconds"]:
                best = {"run": run, "seconds": seconds, "way": way, "chunk": chunk, "error": error}
        if best:
            best.pop("seconds")
            return best
    return {"reason": reason}


def _memory(work: Work, package: Package, found: dict[str, Any], fresh: bool) -> int | None:
    told = {"package": package.name, "way": found["way"], "chunk": found["chunk"]}
    peak = alone.call("benchmarks.attribution.speed:cell", {**vars(work), **told}, fresh)
    return peak.get("peak_bytes")


def cell(package: str, way: str, chunk: int, **work: Any) -> dict[str, Any]:
    """How far memory rises, once the package has run something small."""
    chosen = next(each for each in (OURS, *PACKAGES) if each.name == package)
    small, few = LEAST[0].make()
    chosen.ways[way](small)(*few, 2)
    model, given = Work(**work).make()
    run = chosen.ways[way](model)
    return {"peak_bytes": resident_peak(lambda: run(*given, chunk))}
