"""Models drawn at random from the tests' wider grammar, beside the float64 loop.

    python -m benchmarks fuzz

Hypothesis draws them, in parts of a hundred with a seed each; a part that is stored is not drawn
again, so that a run may be stopped and gone on with.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.provenance import installed, load, provenance, store

NAME = "fuzz"
COUNT, PART = 2000, 100


def disagreement(spec: Any) -> str | None:
    """What is wrong with the scores of a `WideSpec`; None if nothing is.

    Slow paths and warnings are no fault, but a warning that is an error to the caller is raised.
    """
    from fastgradnorm import SlowPathWarning, score_pool
    from tests.support import oracle, wider

    model, batch = spec.build()
    for n, one in enumerate(wider.ones(batch)):
        with torch.no_grad():
            if not wider.call(model, one).isfinite().all():
                return f"no finite logits of sample {n}"
    table = oracle.norms(model, wider.ones(batch), call=wider.call)
    options: dict[str, Any] = {"scheme": oracle.SCHEMES, "verify": False, "progress": False}
    if isinstance(batch, tuple):
        options["forward"] = wider.call
    for reduction in oracle.REDUCTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPathWarning)
            scores = score_pool(model, [batch], reduction=reduction, **options)
        for scheme in oracle.SCHEMES:
            exact = table.scores(scheme, reduction)
            error = ((scores[scheme] - exact).abs() / exact.abs().clamp_min(1e-12)).max()
            if not error <= spec.rtol:
                return f"{scheme}, {reduction}: relative error {float(error):.1e}"
    return None


def _part(seed: int, count: int) -> dict[str, Any]:
    """Models drawn with one seed: how many, and those whose scores are wrong or fail."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings

    from tests.support.wider import WideSpec, specs

    drawn: list[WideSpec] = []
    failures = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(specs)
    def draw(spec: WideSpec) -> None:
        drawn.append(spec)

    draw()
    for spec in drawn[:count]:
        try:
            found = disagreement(spec)
        except Exception as error:  # whatever is raised is a failure
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if found is not None:
            failures.append({"model": repr(spec), "failure": found})
            print(f"{found}\n    {spec}", flush=True)
    return {"seed": seed, "models": len(drawn[:count]), "failures": failures}


def main(folder: Path | None, *, count: int = COUNT) -> int:
    """Draws the parts that are not stored yet; 1 if a model failed.

    Args:
        folder: Where results are, and are gone on with; nowhere if None.
        count: Of models, in all.
    """
    stored = None if folder is None else load(NAME, folder)
    parts = {} if stored is None else {part["seed"]: part for part in stored["parts"]}
    facts = provenance()
    facts["versions"]["hypothesis"] = installed("hypothesis")
    warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
    for seed in range(-(-count // PART)):
        if seed in parts:
            continue
        size = min(PART, count - seed * PART)
        parts[seed] = _part(seed, size) | {"commit": facts["commit"]}
        if folder is not None:
            results = {
                "provenance": facts,
                "models": sum(part["models"] for part in parts.values()),
                "failures": sum(len(part["failures"]) for part in parts.values()),
                "parts": [parts[key] for key in sorted(parts)],
            }
            store(NAME, results, folder)
        print(f"seed {seed}: {size} models, {len(parts[seed]['failures'])} failed", flush=True)
    failed = sum(len(part["failures"]) for part in parts.values())
    print(f"{sum(part['models'] for part in parts.values())} models, {failed} failed")
    return int(failed > 0)
