"""What one pass starts on a GPU, counted on the emulated device: `python -m benchmarks launches`.

And whether passes that are captured there and replayed on other samples give the same bits.

Operators that PyTorch dispatches, less those that start nothing, and launches of our kernels. What
cuDNN and cuBLAS make of one operator, only a GPU tells: `python -m benchmarks gpu`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.provenance import provenance, store

ROOT = Path(__file__).parents[1]
DEVICE = ROOT / "tests" / "cuda"
# And how many there may be; float32 as kernels make it anywhere, and as on wide matrix units.
MODELS = {"resnet18": 450, "vit_b": 1200}
MODELS |= {f"{name}, exact products": most for name, most in MODELS.items()}
SAMPLES, CLASSES = 64, 10


def main(folder: Path | None, models: Iterable[str] = MODELS) -> int:
    """Counts, prints and stores; 1 if a model could not be run, or starts too much."""
    spec = importlib.util.spec_from_file_location("emulated_build", DEVICE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    if build.compiler() is None:
        print("The emulated device needs a C++ compiler. Found none.", file=sys.stderr)
        return 2
    paths = [build.built(), DEVICE, ROOT, ROOT / "src", ROOT / "kernels"]
    names = [f"count: {name}" for name in models]
    names += ["captured: all"] if set(models) == set(MODELS) else []
    command = [sys.executable, str(DEVICE / "inside.py"), *names]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    counted = [row for row in rows if row["name"].startswith("count: ")]
    captured = [row for row in rows if row["name"].startswith("captured: ")]
    for row in counted:
        most = list(row.get("by name", {}).items())[:12]
        said = row.get("raised", f"{row.get('operations')} operators and launches")
        print(f"{row['name']}: {said}; waits: {row.get('waits')}; {most}")
    wrong = [row for row in captured if not row.get("same") or row["reasons"]]
    print(f"{len(captured)} models captured and replayed, not the same bits: {wrong}")
    if folder is not None:
        document = {"provenance": provenance(), "samples": SAMPLES, "classes": CLASSES}
        print(f"written: {store('launches', document | {'rows': rows}, folder)}")
    found = {row["name"].removeprefix("count: "): row.get("operations", 1 << 30) for row in counted}
    return int(bool(wrong) or any(found[name] > MODELS[name] for name in found))
