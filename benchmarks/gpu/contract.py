"""The models of the emulated device's contract (`tests/cuda/contract.py`) on the device itself.

Each is scored and held against float64 on the CPU, its second pass is watched for waits, a pass
that was captured and replayed is held against one that was not, and its sketches against the CPU's.
"""

import copy
import itertools
import traceback
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import move
from benchmarks.gpu.report import Report
from benchmarks.gpu.slices import share_out
from benchmarks.gpu.syncs import places
from fastgradnorm import (
    SCHEMES,
    GradNormScorer,
    SlowPathWarning,
    gradient_sketch,
    naive_score_pool,
)
from fastgradnorm._engine.replay import as_they_are
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool import make_engine
from fastgradnorm._process.states import autograd_ready
from tests.cuda.contract import CASES, Case

SLICES = 5
DRY = ("mlp", "norms", "tied")
SKETCHED = 1e-5  # how far sketches may be off the CPU's, relative


def run(report: Report) -> None:
    """Every case, in a few processes."""
    share_out(report, "contract", [f"{i}/{SLICES}" for i in range(1 if report.dry else SLICES)])


def one(report: Report, only: str) -> None:
    """The cases of one slice."""
    index, count = map(int, only.split("/"))
    for name in DRY if report.dry else [*CASES][index::count]:
        for what, judge in {"scores": _scored, "captured": _captured, "sketch": _sketched}.items():
            case = CASES[name]
            # Half the numbers, draws and other likelihoods are no matter of sketches.
            if what == "sketch" and (case.options.keys() - {"verify", "backend"}):
                continue
            key = f"{name}: {what}"
            if report.wanted(key, 0 if report.dry else 2):
                with report.step(key) as row, warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    row["what"] = what
                    torch.manual_seed(0)
                    torch.use_deterministic_algorithms(case.deterministic)
                    try:
                        judge(row, case, report)
                    except Exception as error:
                        row["first"] = _first(error)
                        raise
                    finally:
                        torch.use_deterministic_algorithms(False)
                    row["slow"] = [str(w.message)[:300] for w in told if _is_slow(w)]
                    row["told"] = sorted({str(w.message)[:200] for w in told if not _is_slow(w)})


def _first(error: BaseException) -> list[str]:
    """Where the first of the errors behind an error was raised."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return [line[:300] for line in traceback.format_exception(error)[-12:]]


def _is_slow(told: warnings.WarningMessage) -> bool:
    return issubclass(told.category, SlowPathWarning) or "performance drop" in str(told.message)


def _made(case: Case) -> tuple[nn.Module, Any]:
    """Model and batch, no parameter at a trivial value."""
    model, inputs = case.make().eval(), case.inputs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, inputs


def _scorer(model: nn.Module, case: Case) -> GradNormScorer:
    options = {"verify": False, **case.options}
    return GradNormScorer(model, scheme=tuple(SCHEMES), progress=False, latency=0, **options)


def _scored(row: dict[str, Any], case: Case, report: Report) -> None:
    """Errors beside float64, and the waits of a pass that is neither the first nor captured."""
    model, inputs = _made(case)
    left_out = ("autocast", "rtol", "backend")
    options: dict[str, Any] = {k: v for k, v in case.options.items() if k not in left_out}
    options["verify"] = False
    wide = move(inputs, "cpu", torch.float64)
    twin = copy.deepcopy(model).double()
    options.pop("verify")
    exact = naive_score_pool(twin, [wide], scheme=tuple(SCHEMES), **options)
    stream = _scorer(model.to(report.device), case).stream(
        itertools.repeat(move(inputs, report.device))
    )
    with as_they_are():
        found = next(stream)
        next(stream)
        row["places"] = places(lambda: next(stream), cuda=not report.dry)
    row["errors"] = {
        name: float(((found[name].double().cpu() - exact[name]).abs() / exact[name]).amax())
        for name in SCHEMES
    }
    row["error"] = max(row["errors"].values())
    row["tolerance"] = case.tolerance
    # The scores of a batch are handed out on the host: one wait for it.
    row["waits"] = sum(row["places"].values())
    row["allowed"] = case.waits + 1
    row["ok"] = row["error"] <= case.tolerance and row["waits"] <= row["allowed"]


def _captured(row: dict[str, Any], case: Case, report: Report) -> None:
    """Whether a pass that is replayed gives the scores of one that is not."""
    model, first = _made(case)
    batches = [first, case.inputs(), case.inputs()]
    scorer = _scorer(model.to(report.device), case)
    with autograd_ready():
        engine = make_engine(scorer.model, scorer.options)
        *before, last = [
            as_batch(move(inputs, report.device), engine.subject.device) for inputs in batches
        ]
        for batch in before:  # the first is run as it is, the second captured
            engine.score(batch)
        with as_they_are():
            expected = {k: v.cpu() for k, v in engine.score(last).scores.items()}
        found = {k: v.cpu() for k, v in engine.score(last).scores.items()}
        runs = [each.passes.replays for each in (engine, engine.also) if each is not None]
    row["same_bits"] = all(torch.equal(found[s], expected[s]) for s in SCHEMES)
    row["error"] = max(_off(found[s], expected[s]) for s in SCHEMES)
    row["replayed"] = sum(each.replayed for each in runs)
    row["reasons"] = [str(each.reason) for each in runs if each.reason is not None]
    replayed = row["replayed"] >= case.repeats and not row["reasons"]
    row["ok"] = row["error"] <= case.tolerance and (replayed or report.dry)


def _sketched(row: dict[str, Any], case: Case, report: Report) -> None:
    """How far sketches are off those of the CPU."""
    model, inputs = _made(case)
    options: dict[str, Any] = {**case.options, "dim": 8, "progress": False, "verify": False}
    here = gradient_sketch(model, [inputs], **options)
    model = model.to(report.device)
    there = gradient_sketch(model, [move(inputs, report.device)] * 2, **options)
    again = gradient_sketch(model, [move(inputs, report.device)] * 2, **options)
    row["error"] = float((there[: len(here)].cpu() - here).norm() / here.norm())
    row["same_bits"] = bool(torch.equal(there, again))
    row["ok"] = row["error"] <= SKETCHED


def _off(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).abs() / expected.abs()).amax())


def table(document: dict[str, Any]) -> list[str]:
    """A line for each that is not as it should be, or slow."""
    lines = []
    for row in document["rows"]:
        if "ok" not in row or (row["ok"] and not row["slow"]):
            continue
        facts = {k: row[k] for k in ("error", "waits", "replayed", "same_bits") if k in row}
        places = [*row.get("places", {}).items()][:2]
        more = [row.get("reasons"), row.get("slow"), places if not row.get("ok") else None]
        lines.append(f"{row['key']}: {facts} {[each for each in more if each]}"[:600])
    return lines


def summary(document: dict[str, Any]) -> list[str]:
    """How many are right, by what was asked."""
    lines = []
    for what in ("scores", "captured", "sketch"):
        rows = [row for row in document["rows"] if row.get("what") == what and "ok" in row]
        good = sum(row["ok"] for row in rows)
        bits = [row["same_bits"] for row in rows if "same_bits" in row]
        slow = [row["key"] for row in rows if row["slow"]]
        bad = [row["key"] for row in rows if not row["ok"]]
        same = f", the same bits in {sum(bits)}" if bits else ""
        lines.append(f"{what}: {good} of {len(rows)} right{same}; not: {bad}; slow: {slow}")
    return lines
