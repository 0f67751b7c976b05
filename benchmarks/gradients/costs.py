"""Times beside a training step on the same samples, and memory beside `vmap(grad)`.

Of whole calls over a few batches, in processor time, in turn with the step round by round. Memory
is of a process of its own: of norm and sketch together, as they are and with `max_memory`, and of
`vmap(grad)`, on one batch.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import timing
from benchmarks.cases import TINY, Case, logits
from benchmarks.engines.contract import label_losses
from benchmarks.engines.transformed import per_sample_gradients
from benchmarks.footprint import resident, resident_peak
from benchmarks.gpu.large_models import LARGE
from benchmarks.usual_memory import usual_memory
from fastgradnorm import gradient_dots, gradient_sketch, score_pool

CLASSES, MANY, BATCH, BATCHES = 10, 16, 4, 2
LIMIT = 240  # MiB of `max_memory`, where memory is what users lack
LIMITED = f"norm and sketch in {LIMIT} MiB"
FIGURES = (
    "loss norm",
    "sketch",
    "norm and sketch",
    LIMITED,
    "product with 1 direction",
    f"products with {MANY}",
)
MEMORY = ("norm and sketch", LIMITED, "vmap(grad)")
OPTIONS: dict[str, Any] = {"loss": "cross_entropy", "progress": False, "verify": False}
Run = Callable[[], Any]


def title(name: str) -> str:
    """Of a model's row."""
    return _case(name).title


def _case(name: str) -> Case:
    return TINY if name == TINY.name else LARGE[name]


def cost(name: str, what: str, dim: int, batch: int, rounds: int) -> dict[str, float]:
    """One figure and the training step, in turn: seconds, and how many steps it takes.

    The step has the C library's usual memory settings, as in a process of its own. Both are run on
    one batch before.
    """
    model, given = _case(name).make(CLASSES, batch)
    labels = torch.randint(CLASSES, (batch,))
    pool = [(given, labels)] * BATCHES
    ours = _run(model, pool, what, dim)
    found = {what: timing.Seconds(), "step": timing.Seconds()}
    runs: dict[str, Run] = {what: ours, "step": lambda: _train(model, pool)}
    _run(model, pool[:1], what, dim)()
    _train(model, pool[:1])
    for _ in range(rounds):
        for key, run in runs.items():
            with usual_memory() if key == "step" else contextlib.nullcontext():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                found[key].cpu.append(time.process_time() - cpu)
                found[key].wall.append(time.perf_counter() - wall)
    times = [a / b for a, b in zip(found[what].cpu, found["step"].cpu, strict=True)]
    return {
        "over_step": timing.ratio(found[what], found["step"], clock="cpu"),
        "least": min(times),
        "most": max(times),
        "seconds": found[what].summary()["cpu_seconds_median"],
        "step_seconds": found["step"].summary()["cpu_seconds_median"],
        "batches": BATCHES,
        "resident_bytes": resident(),
    }


def _run(model: nn.Module, pool: list[Any], what: str, dim: int) -> Run:
    options = {**OPTIONS, "forward": lambda model, batch: logits(model, batch[0])}
    if what == LIMITED:
        options["max_memory"] = LIMIT * 2**20
    if what == "loss norm":
        return partial(score_pool, model, pool, **options)
    if "sketch" in what:
        return partial(gradient_sketch, model, pool, dim, norms="norm" in what, **options)
    count = MANY if str(MANY) in what else 1
    directions = [
        {name: torch.randn_like(p) for name, p in model.named_parameters()} for _ in range(count)
    ]
    return partial(gradient_dots, model, pool, directions, **options)


def _train(model: nn.Module, pool: list[Any]) -> None:
    """Steps that leave the model as it was, so that no copy of it is needed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    for given, labels in pool:
        F.cross_entropy(logits(model, given), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():  # a batch norm's statistics
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


def memory(name: str, batch: int, what: str, dim: int) -> dict[str, Any]:
    """How far memory rises for one batch, once something small has run."""
    peak = 0
    for case, count in ((TINY, 2), (_case(name), batch)):
        model, given = case.make(CLASSES, count)
        labels = torch.randint(CLASSES, (count,))
        run = _run(model, [(given, labels)], what, dim)
        if what == "vmap(grad)":
            run = partial(per_sample_gradients(model, label_losses(CLASSES)[0]), given)
        peak = resident_peak(run)
    return {"peak_bytes": peak}
