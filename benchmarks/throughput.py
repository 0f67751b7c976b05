"""Samples a second of our scores, of what they replace, and of the least they could cost.

    python -m benchmarks throughput [--case resnet18] [--classes 10] [--quick] [--peers]

All columns of a case are timed in one process, in turn, round by round; ratios are medians over
rounds. Before anything is timed, the scores are compared with the plain autograd loop in float64,
and a column that is wrong gets no time.

The floor of a score is what no method on this machine can beat that needs K pull-backs: one forward
pass, K plain pull-backs to the input with frozen parameters, and the norm products in the form of
fewest operations, at the rate of a large matrix product measured in the same run.
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import peers, timing
from benchmarks.cases import Case, first, logits, move
from fastgradnorm import GradNormScorer, naive_score_pool
from fastgradnorm._batches import as_batch
from fastgradnorm._options import Options
from fastgradnorm._planning import make_plan
from fastgradnorm._subject import Subject

# Largest relative error in float32 that lets a column be timed.
TOLERANCE = 1e-4
CHECKED = 2  # samples compared with the float64 loop
NAIVE_SAMPLES = 4
PULLED = 10  # pull-backs of the floor that are timed; more are extrapolated

# Our columns: scheme, parameters.
OURS = {
    "expected": ("expected", "all"),
    "entropy": ("entropy", "all"),
    "last layer": ("expected", "last_layer"),
}


@dataclass
class Column:
    """What is timed: a function that treats `samples` samples, and the error of its scores."""

    run: Callable[[], Any]
    samples: int
    error: float | None = None
    memory: bool = True


@dataclass
class Setting:
    """One case on one device."""

    case: Case
    classes: int
    samples: int
    device: str
    model: nn.Module = field(init=False)
    batch: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.batch = self.case.make(self.classes, self.samples, self.device)

    def exact(self) -> dict[str, Tensor]:
        """Scores of the first samples by the float64 loop, by the name of our columns."""
        model = copy.deepcopy(self.model).double()
        batch = [move(first(self.batch, CHECKED), self.device, torch.float64)]
        full = naive_score_pool(model, batch, scheme=("expected", "entropy"))
        return full | {"last layer": naive_score_pool(model, batch, params="last_layer")}

    def stream(self, scheme: str, params: str) -> Callable[[], Tensor]:
        """Scores of the batch, as a pool that goes on and on gets them."""
        options: dict[str, Any] = {"scheme": scheme, "params": params}
        scorer = GradNormScorer(self.model, **options, verify=False, progress=False)
        scores = scorer.stream(itertools.repeat(self.batch))
        return lambda: next(scores)

    def floor(self) -> Callable[[], Any]:
        """A forward pass, and plain pull-backs to the input with frozen parameters."""
        model, batch = copy.deepcopy(self.model).requires_grad_(False), self.batch
        if self.case.embeddings is not None:
            embed = model.get_submodule(self.case.embeddings)
            source = embed(batch["input_ids"]).detach()
            rest = {name: tensor for name, tensor in batch.items() if name != "input_ids"}
        pulled = min(self.classes, PULLED)
        cotangents = torch.randn(pulled, self.samples, self.classes, device=self.device)

        def run() -> None:
            if self.case.embeddings is None:
                leaf = batch.detach().requires_grad_()
                z = logits(model, leaf)
            else:
                leaf = source.detach().requires_grad_()
                z = logits(model, {"inputs_embeds": leaf, **rest})
            for i, cotangent in enumerate(cotangents):
                torch.autograd.grad(z, leaf, cotangent, retain_graph=i + 1 < pulled)

        return run

    def training(self) -> Callable[[], Any]:
        """One step of stochastic gradient descent on the batch."""
        model = copy.deepcopy(self.model).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        labels = torch.randint(self.classes, (self.samples,), device=self.device)

        def run() -> None:
            F.cross_entropy(logits(model, self.batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def forward(self) -> None:
        """Logits alone."""
        with torch.no_grad():
            logits(self.model, self.batch)

    def naive(self, scheme: str, params: str) -> tuple[Callable[[], Tensor], int]:
        """The plain autograd loop over a few of the samples."""
        options: dict[str, Any] = {"scheme": scheme, "params": params}
        count = min(NAIVE_SAMPLES if self.classes <= 10 else 1, self.samples)
        some = [first(self.batch, count)]
        return lambda: naive_score_pool(self.model, some, **options), count


def norm_flops(model: nn.Module, batch: Any, cotangents: int) -> int:
    """Operations of one sample's norm products, each in its cheapest form."""
    subject = Subject(model, Options())
    plan = make_plan(subject, as_batch(first(batch, 1), subject.device))
    total = 0
    for use in plan.uses:
        if use.rule is None or "weight" not in use.slots:
            continue
        t, i, o = use.rule.shape.positions, use.rule.shape.inputs, use.rule.shape.outputs
        forms = ["closed form"] if t == 1 else ["ghost", "direct"]
        costs = [kernels.form_flops(form, t, i, o, cotangents) for form in forms]
        total += min(costs) * use.rule.groups
    return total


def columns(setting: Setting, with_peers: bool) -> tuple[dict[str, Column], dict[str, str]]:
    """What to time, checked; and why others are not."""
    exact = setting.exact()
    found = {
        "forward only": Column(setting.forward, setting.samples),
        "training step": Column(setting.training(), setting.samples),
        "floor": Column(setting.floor(), setting.samples, memory=False),
    }
    refused: dict[str, str] = {}
    for name, (scheme, params) in OURS.items():
        run, count = setting.naive(scheme, params)
        label = "naive" if name == "expected" else f"naive {name}"
        _add(found, refused, label, Column(run, count), exact[name], run)
    for name, (scheme, params) in OURS.items():
        run = setting.stream(scheme, params)
        _add(found, refused, name, Column(run, setting.samples), exact[name], run)
    if with_peers:
        for engine in peers.ENGINES:
            _add_peer(found, refused, engine, setting, exact["expected"])
    return found, refused


def _add(
    found: dict[str, Column],
    refused: dict[str, str],
    name: str,
    column: Column,
    exact: Tensor,
    run: Callable[[], Tensor],
) -> None:
    actual = run().detach().cpu().double()[: len(exact)]
    column.error = float(((actual - exact[: len(actual)]) / exact[: len(actual)]).abs().max())
    if column.error <= TOLERANCE:
        found[name] = column
    else:
        refused[name] = f"wrong: relative error {column.error:.2g}"


def _add_peer(
    found: dict[str, Column],
    refused: dict[str, str],
    engine: peers.Engine,
    setting: Setting,
    exact: Tensor,
) -> None:
    if engine.version is None:
        refused[engine.name] = "not installed"
        return
    try:
        sq_norms = engine.make(copy.deepcopy(setting.model), setting.classes)
        z = logits(setting.model, setting.batch).detach()

        def run() -> Tensor:
            return peers.expected(sq_norms(setting.batch), z)[0]

        _add(found, refused, engine.name, Column(run, setting.samples), exact, run)
    except Exception as error:  # whatever it raises is why it has no time
        refused[engine.name] = peers.first_line(error)


def measure(
    setting: Setting, rounds: int, budget: float, with_peers: bool = False
) -> list[dict[str, Any]]:
    """One row a column."""
    found, refused = columns(setting, with_peers)
    rate = timing.matrix_rate(setting.device)
    runs = {name: column.run for name, column in found.items()}
    times = timing.side_by_side(runs, rounds, budget, setting.device)
    rate = max(rate, timing.matrix_rate(setting.device))
    floors = _floors(setting, times, rate)
    rows = []
    for name, column in found.items():
        if name == "floor":
            continue
        seconds = times[name]
        row: dict[str, Any] = {"column": name, "samples": column.samples, **seconds.summary()}
        row["samples_per_second"] = column.samples / row["seconds_median"]
        if "naive" in times:
            per = column.samples / found["naive"].samples
            row["speedup_over_naive"] = timing.ratio(times["naive"], seconds, per)
            row["cpu_speedup_over_naive"] = timing.ratio(times["naive"], seconds, per, "cpu")
        if name in floors:
            per = 1 / column.samples
            own = f"naive {name}" if f"naive {name}" in times else "naive"
            if own in times:
                share = column.samples / found[own].samples
                row["speedup_over_own_naive"] = timing.ratio(times[own], seconds, share)
            row["over_floor"] = timing.ratio(seconds, floors[name], per)
            row["cpu_over_floor"] = timing.ratio(seconds, floors[name], per, "cpu")
            row["over_training_step"] = timing.ratio(seconds, times["training step"])
            row["over_forward"] = timing.ratio(seconds, times["forward only"])
        row["error"] = column.error
        if column.memory:
            row["peak_bytes"] = timing.peak_bytes(column.run, setting.device)
        rows.append(row)
    for name, floor in floors.items():
        rows.append({"column": f"floor, {name}", "samples": 1, **floor.summary()})
        rows[-1]["samples_per_second"] = 1 / rows[-1]["seconds_median"]
    rows += [{"column": name, "reason": reason} for name, reason in refused.items()]
    source = timing.provenance(setting.device)
    facts = {
        "case": setting.case.name,
        "title": setting.case.title,
        "classes": setting.classes,
        "matrix_rate": rate,
        "device": source["device"],
        "threads": source["machine"]["threads"],
        "torch": source["versions"]["torch"],
        "commit": source["commit"],
        "date": source["date"],
    }
    return [{**facts, **row} for row in rows]


def _floors(
    setting: Setting, times: Mapping[str, timing.Seconds], rate: float
) -> dict[str, timing.Seconds]:
    """Seconds a sample of each score's floor, round by round."""
    pulled = min(setting.classes, PULLED)
    floors = {}
    for name in OURS:
        pulls = {"expected": 1 if setting.classes == 2 else setting.classes, "entropy": 1}.get(name)
        products = norm_flops(setting.model, setting.batch, pulls) / rate if pulls else 0.0
        clocks = []
        for clock in ("wall", "cpu"):
            pairs = zip(
                getattr(times["floor"], clock), getattr(times["forward only"], clock), strict=True
            )
            clocks.append(
                [
                    (f + (pulls or 0) * max(0.0, all_ - f) / pulled) / setting.samples + products
                    for all_, f in pairs
                ]
            )
        floors[name] = timing.Seconds(*clocks)
    return floors


def samples_for(case: Case, classes: int, quick: bool) -> int:
    """Batch size: smaller where there are many classes."""
    samples = case.quick if quick else case.samples
    return max(CHECKED, samples * 10 // max(10, classes))
