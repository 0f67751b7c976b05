"""What is timed for a case, each column compared with the float64 loop before it may be timed."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks import floor, timing
from benchmarks.cases import first, logits, size
from benchmarks.engines import ENGINES
from benchmarks.engines.contract import expected, first_line, label_losses
from benchmarks.setting import OURS, RTOL, Setting

TOLERANCE = 1e-4  # largest relative error in float32 that lets a column be timed
CHECKED = 2  # samples compared with the float64 loop
NAIVE_SAMPLES = 4
# Largest error of a single estimated score, in standard errors of RTOL, that lets it be timed.
MOST_ERRORS = 6
VMAP_BYTES = 1 << 30  # of per-sample gradients at a time


@dataclass
class Column:
    """What is timed: a function that treats `samples` samples, and how its scores were checked.

    Attributes:
        run: Called once a reading.
        samples: How many it treats.
        score: Which of our columns it is to be compared with.
        error: Largest relative error of a score.
        memory: Whether its memory is measured.
        facts: For its row.
        kept: Whether freed memory is kept meanwhile, as our scorers keep it.
    """

    run: Callable[[], Any]
    samples: int
    score: str | None = None
    error: float | None = None
    memory: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    kept: bool = False


@dataclass
class Columns:
    """What to time, and why others are not."""

    found: dict[str, Column] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def check(self, name: str, column: Column, exact: Tensor, tolerance: float = TOLERANCE) -> None:
        """Adds a column whose `run` gives scores, if they are right."""
        column.error = relative_error(column.run(), exact)
        if column.error <= tolerance:
            self.found[name] = column
        else:
            self.refused[name] = f"wrong: relative error {column.error:.2g}"

    def attempt(self, name: str, add: Callable[[], None]) -> None:
        """Adds a column; what it raises is why it has no time."""
        try:
            add()
        except TimeoutError as error:
            self.refused[name] = str(error)
        except Exception as error:
            self.refused[name] = first_line(error)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest over the samples that both have."""
    count = min(len(actual), len(exact))
    actual, exact = actual.detach().cpu().double()[:count], exact.cpu().double()[:count]
    return float(((actual - exact) / exact).abs().max().nan_to_num(nan=float("inf")))


@dataclass
class Limits:
    """How many samples a column can treat within `cap` seconds a run, from one quick look.

    Attributes:
        cap: Seconds.
        per_pull: Seconds of one plain pull-back of one sample.
    """

    cap: float
    per_pull: float

    @classmethod
    def probe(cls, setting: Setting, cap: float) -> "Limits":
        """From one forward pass and the pull-backs of the floor."""
        frozen = timing.once(floor.frozen_run(setting), setting.device)
        forward = timing.once(setting.forward, setting.device)
        pulls = floor.timed_pulls(setting.classes) * setting.samples
        return cls(cap, max(1e-7, frozen - forward) / pulls)

    def samples(self, setting: Setting, work: float, most: int) -> int:
        """How many fit, where a class of a sample costs `work` pull-backs.

        Raises:
            TimeoutError: If not even one does.
        """
        each = work * setting.classes * self.per_pull
        if each > self.cap:
            raise TimeoutError(f"about {each:.0f} s a sample, over the cap of {self.cap:.0f} s")
        return max(1, min(most, int(self.cap / each)))


def floor_columns(setting: Setting) -> dict[str, Column]:
    """What the floor is made of, as fast as it can be."""
    runs = {floor.FORWARD: setting.forward, floor.PULLS: floor.frozen_run(setting)}
    return {
        name: Column(run, setting.samples, memory=False, kept=True) for name, run in runs.items()
    }


def own_columns(setting: Setting, cap: float) -> Columns:
    """Ours, what they replace, and what a user's time is otherwise spent on."""
    columns, limits = Columns(), Limits.probe(setting, cap)
    columns.found["forward only"] = Column(setting.forward, setting.samples)
    columns.found["training step"] = Column(setting.training(), setting.samples)
    columns.found |= floor_columns(setting)
    for score, options in OURS.items():
        columns.attempt(score, lambda s=score, o=options: _own(columns, setting, limits, s, o))
    columns.attempt("vmap(grad)", lambda: _vmap_grad(columns, setting, limits))
    name = f"rtol={RTOL}"
    columns.attempt(name, lambda: _rtol(columns, name, setting, limits))
    return columns


def _own(
    columns: Columns, setting: Setting, limits: Limits, score: str, options: Mapping[str, Any]
) -> None:
    work = {"expected": 2.0}.get(score)  # pull-backs' worth of time a class; others take little
    most = setting.samples if work is None else limits.samples(setting, work, setting.samples)
    exact = setting.exact(min(CHECKED, most), **options)

    def naive(label: str) -> None:
        few = min(NAIVE_SAMPLES, setting.samples)
        few = few if work is None else limits.samples(setting, 1.25 * work, few)
        columns.check(label, Column(setting.naive(few, **options), few), exact)

    label = "naive" if score == "expected" else f"naive {score}"
    columns.attempt(label, lambda: naive(label))
    columns.check(score, Column(setting.stream(most, **options), most, kept=True), exact)


def _vmap_grad(columns: Columns, setting: Setting, limits: Limits) -> None:
    """`torch.func`, class by class, every sample's gradient of it in memory."""
    bytes_each = 4 * sum(p.numel() for p in setting.model.parameters())
    most = max(1, min(setting.samples, VMAP_BYTES // bytes_each))
    most = limits.samples(setting, 6, most)
    sq_norms = ENGINES[0].ways["vmap(grad)"](copy.deepcopy(setting.model))
    batch, losses = first(setting.batch, most), label_losses(setting.classes)

    def run() -> Tensor:
        with torch.no_grad():
            z = logits(setting.model, batch)
        return expected(sq_norms(batch, losses), z)[0]

    exact = setting.exact(min(CHECKED, most), **OURS["expected"])
    columns.check("vmap(grad)", Column(run, most, "expected"), exact)


def _rtol(columns: Columns, name: str, setting: Setting, limits: Limits) -> None:
    """Estimated scores of the model with sharpened predictions, held against its exact ones."""
    most = limits.samples(setting, 2, setting.samples)
    options = {"scheme": "expected", "temperature": setting.sharp_temperature()}
    run = setting.stream(most, **options, rtol=RTOL)
    exact = setting.exact(min(CHECKED, most), **options)
    facts = {"temperature": options["temperature"]}
    column = Column(run, most, "expected", facts=facts, kept=True)
    columns.check(name, column, exact, MOST_ERRORS * RTOL)
    # Over the whole batch our own exact scores are the reference; they are checked above.
    full = setting.stream(most, **options)()
    errors = (run().double() - full.double()) / full.double()
    column.facts["rms_error"] = float(errors.square().mean().sqrt())
    column.facts["batch"] = size(setting.batch)
