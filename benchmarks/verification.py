"""What verification costs of scoring a pool: its seconds stand in the provenance of the scores."""

from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.provenance import provenance, store
from fastgradnorm import GradNormScorer

SIZES = (500, 10_000)
WAYS: dict[str, dict[str, Any]] = {
    "expected": {"scheme": "expected"},
    "entropy": {"scheme": "entropy"},
    "last layer": {"scheme": "expected", "params": "last_layer"},
}
_BATCH, _DISTINCT = 64, 1024  # images that are drawn; larger pools repeat them


def main(folder: Path | None, sizes: tuple[int, ...] = SIZES, case: str = "resnet18") -> int:
    """Scores pools of CIFAR-sized images by each way; prints a table, and stores it."""
    rows = [_row(case, way, size) for size in sizes for way in WAYS]
    for row in rows:
        print(
            f"{row['way']:<10} {row['samples']:>6} samples: {row['seconds']:.1f} s, of which "
            f"verification {row['verification_seconds']:.2f} s, {100 * row['share']:.1f} %; "
            f"{row['rows']} rows, {row['gradients_of']} samples' gradients"
        )
    if folder is not None:
        store("verification", {"provenance": provenance(), "rows": rows}, folder)
    return 0


def _row(case: str, way: str, size: int) -> dict[str, Any]:
    model, images = CASES[case].make(10, min(size, _DISTINCT))
    batches = images.split(_BATCH)
    full, rest = divmod(size, _BATCH)
    loader = [batches[i % len(batches)][:_BATCH] for i in range(full)]
    loader += [batches[0][:rest]] if rest else []
    scorer = GradNormScorer(model, progress=False, **WAYS[way])
    scorer.score([batches[0]])  # what is made once in a process
    facts = scorer.score(loader).provenance
    verified = facts["verified"]
    return {
        "model": case,
        "way": way,
        "samples": size,
        "seconds": facts["seconds"],
        "verification_seconds": verified["seconds"],
        "share": verified["seconds"] / (facts["seconds"] - verified["seconds"]),
        "rows": verified["rows"],
        "gradients_of": verified["samples"],
    }
