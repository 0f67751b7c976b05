"""Small models that per-sample gradient engines get wrong, through each of them.

    python -m benchmarks traps

Float64 (float32 where an engine knows no other), against a plain autograd loop written here. What
is compared are the scores `Σ_c p_c ‖g_c‖` and `Σ_c p_c ‖g_c‖²` of each sample, made from an
engine's squared norms of each class's gradient. Engines that are not installed leave their column
empty.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastgradnorm
from benchmarks.engines import ENGINES, Engine
from benchmarks.engines.contract import expected, first_line, is_refusal, label_losses
from benchmarks.provenance import RESULTS, provenance, store
from benchmarks.trap_cases import Trap
from benchmarks.trap_models import TRAPS

OURS = "fastgradnorm"
# Largest relative error that counts as exact.
EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}

Outcome = dict[str, Any]


def loop_scores(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """`Σ_c p_c ‖g_c‖` and `Σ_c p_c ‖g_c‖²`, by one `autograd.grad` a sample and class.

    Cotangents `p - e_c` are written so that none is a difference of numbers near one.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for sample in batch.split(1):
        z = model(sample)
        p = z.detach()[0].softmax(0)
        first = second = torch.zeros((), dtype=z.dtype)
        for c in range(len(p)):
            cotangent = p.clone()
            cotangent[c] = 0.0
            cotangent[c] = -cotangent.sum()
            grads = torch.autograd.grad(
                z, parameters, cotangent[None], retain_graph=True, allow_unused=True
            )
            square = sum(g.square().sum() for g in grads if g is not None)
            first, second = first + p[c] * square.sqrt(), second + p[c] * square
        rows.append((first, second))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def relative_error(actual: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """Largest over scores and samples; infinite where a score is not finite or of another shape."""
    worst = 0.0
    for a, e in zip(actual, exact, strict=True):
        if a.shape != e.shape or not bool(a.isfinite().all()):
            return math.inf
        worst = max(worst, float(((a - e).abs() / e.abs().clamp_min(1e-300)).max()))
    return worst


def _ours(trap: Trap) -> list[tuple[Tensor, Tensor]]:
    """By the package's defaults, without the check on the first samples that hides faults."""
    model, batches = trap.make()
    options = {"scheme": ("expected", "expected_squared"), "verify": False, "progress": False}
    scorer = fastgradnorm.GradNormScorer(model, **options)  # type: ignore[arg-type]
    scores = list(scorer.stream(batches))
    return [(found["expected"], found["expected_squared"]) for found in scores]


def _theirs(engine: Engine, trap: Trap, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    model, batches = trap.make(dtype)
    z = [model(batch).detach() for batch in batches]
    losses = label_losses(z[0].shape[1])
    sq_norms = next(iter(engine.ways.values()))(copy.deepcopy(model))
    return [
        expected(sq_norms(batch, losses), found) for batch, found in zip(batches, z, strict=True)
    ]


def judge(
    trap: Trap,
    run: Callable[[], list[tuple[Tensor, Tensor]]],
    modules: tuple[str, ...],
    dtype: torch.dtype = torch.float64,
) -> Outcome:
    """One engine on one trap."""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = run()
    except Exception as error:  # whatever an engine raises is its outcome
        kind = "refused" if is_refusal(error, modules) else "crashed"
        return {"outcome": kind, "message": first_line(error)}
    if trap.refuse:
        return {"outcome": "wrong", "error": None, "message": "must be refused: " + trap.refuse}
    model, batches = trap.make()
    error = max(
        relative_error(a, loop_scores(model, batch))
        for a, batch in zip(found, batches, strict=True)
    )
    kind = "exact" if error <= EXACT[dtype] else "wrong"
    outcome: Outcome = {"outcome": kind, "error": error}
    if dtype != torch.float64:
        outcome["dtype"] = str(dtype).removeprefix("torch.")
    if any(issubclass(w.category, fastgradnorm.SlowPathWarning) for w in told):
        outcome["message"] = "sample by sample"
    return outcome


def _judge_engine(engine: Engine, trap: Trap) -> Outcome:
    """In float64, and where it does not run in that, in float32."""
    for dtype in EXACT:
        run = lambda dtype=dtype: _theirs(engine, trap, dtype)  # noqa: E731
        outcome = judge(trap, run, (engine.module,), dtype)
        if "found Double" not in outcome.get("message", ""):
            break
    return outcome


def measure(traps: Sequence[Trap]) -> dict[str, Any]:
    """Every engine on every trap."""
    columns = [OURS, *(engine.name for engine in ENGINES)]
    present = {e.name: e.version for e in ENGINES if e.version is not None}
    rows = []
    for trap in traps:
        row: dict[str, Any] = {"trap": trap.name, "group": trap.group}
        row[OURS] = judge(trap, lambda trap=trap: _ours(trap), ("fastgradnorm",))  # type: ignore[misc]
        for engine in ENGINES:
            if engine.name not in present:
                row[engine.name] = {"outcome": "not installed", "message": engine.distribution}
                continue
            row[engine.name] = _judge_engine(engine, trap)
        rows.append(row)
        print(f"{trap.group + ': ' + trap.name:52s}" + cell(row[OURS]), flush=True)
    facts = provenance()
    facts["versions"] |= {e.distribution: e.version for e in ENGINES}
    return {
        "provenance": facts,
        "exact_below": EXACT[torch.float64],
        "engines": columns,
        "rows": rows,
    }


def cell(outcome: Outcome, strong: str = "") -> str:
    """An outcome in a table."""
    kind = outcome["outcome"]
    if kind == "exact" and outcome.get("message"):
        return "exact, slow"
    if kind != "wrong":
        return "" if kind == "not installed" else str(kind)
    error = outcome["error"]
    return f"{strong}wrong{strong}" + ("" if error is None else f", {_percent(error)}")


def _percent(error: float) -> str:
    if not math.isfinite(error):
        return "not finite"
    return f"{100 * error:.2g} %" if error < 10 else f"{error:.0e}x"


def _counts(results: dict[str, Any], engine: str) -> str:
    outcomes = [row[engine]["outcome"] for row in results["rows"]]
    if "not installed" in outcomes:
        return "not installed"
    kinds = ("exact", "wrong", "refused", "crashed")
    return ", ".join(f"{outcomes.count(k)} {k}" for k in kinds if k in outcomes)


def table(results: dict[str, Any]) -> str:
    """All outcomes, as Markdown."""
    engines = results["engines"]
    lines = ["| | " + " | ".join(engines) + " |", "|---" * (len(engines) + 1) + "|"]
    for row in results["rows"]:
        cells = [cell(row[engine], "**") for engine in engines]
        lines.append(f"| {row['group']}: {row['trap']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(results: dict[str, Any]) -> str:
    """How many outcomes of each kind, by engine, as Markdown."""
    versions = results["provenance"]["versions"]
    kinds = ("exact", "wrong", "refused", "crashed")
    lines = ["| engine | " + " | ".join(kinds) + " |", "|---|" + "---:|" * len(kinds)]
    distributions = {engine.name: engine.distribution for engine in ENGINES}
    for engine in results["engines"]:
        outcomes = [row[engine]["outcome"] for row in results["rows"]]
        if "not installed" in outcomes:
            continue
        version = versions.get(distributions.get(engine, ""), "")
        name = f"{engine} {version}".strip() if engine != OURS else f"**{OURS}**"
        counts = " | ".join(str(outcomes.count(kind)) for kind in kinds)
        lines.append(f"| {name} | {counts} |")
    return "\n".join(lines)


def main(folder: Path | None = RESULTS, *, fewer: bool = False) -> int:
    """Measures, prints and stores; 1 if one of our own outcomes is wrong or a crash.

    Args:
        folder: Where results go; nowhere if None.
        fewer: Only some of the traps.
    """
    results = measure(TRAPS[::10] if fewer else TRAPS)
    print()
    for engine in results["engines"]:
        print(f"{engine:24s}{_counts(results, engine)}")
    if folder is not None:
        path = store("traps", results, folder)
        text = f"# Traps\n\n{summary(results)}\n\n{table(results)}\n"
        path.with_suffix(".md").write_text(text)
        print(f"\nwritten: {path}, {path.with_suffix('.md')}")
    ours = [row[OURS]["outcome"] for row in results["rows"]]
    return int(any(outcome in ("wrong", "crashed") for outcome in ours))
