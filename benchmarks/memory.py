"""Peak memory of scoring a long text encoder, beside that of training it at the same batch.

    python -m benchmarks memory

Each figure comes from a process of its own: how far resident memory rises above what it was when
model and batch were in place.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks import timing
from benchmarks.cases import encoder, logits, texts
from fastgradnorm import GradNormScorer

CLASSES = 10


def _training(batch: int, length: int) -> Callable[[], Any]:
    model = encoder(CLASSES).train()
    data, labels = texts(batch, length), torch.randint(CLASSES, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def run() -> None:
        F.cross_entropy(logits(model, data), labels).backward()
        optimizer.step()

    return run


def _scoring(scheme: Any) -> Callable[[int, int], Callable[[], Any]]:
    def make(batch: int, length: int) -> Callable[[], Any]:
        scorer = GradNormScorer(encoder(CLASSES), scheme=scheme, verify=False)
        data = texts(batch, length)
        return lambda: scorer.score_batch(data)

    return make


RUNS: dict[str, Callable[[int, int], Callable[[], Any]]] = {
    "training step": _training,
    "entropy": _scoring("entropy"),
    "expected": _scoring("expected"),
}


def main(batch: int, length: int, store: bool = True) -> int:
    """Measures, prints and stores."""
    rows = []
    for name in RUNS:
        command = [sys.executable, "-m", "benchmarks.memory", name, str(batch), str(length)]
        command.append(str(torch.get_num_threads()))
        root = Path(__file__).parents[1]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed\n{done.stderr}", file=sys.stderr)
            return 1
        rows.append({"column": name, **json.loads(done.stdout.splitlines()[-1])})
        base = rows[0]["peak_bytes"]
        rows[-1]["over_training_step"] = rows[-1]["peak_bytes"] / base
        print(
            f"{name:16s}{rows[-1]['peak_bytes'] / 2**20:8.0f} MiB"
            f"{rows[-1]['over_training_step']:8.2f} x a training step",
            flush=True,
        )
    if store:
        setting = {"layers": 12, "width": 256, "batch": batch, "length": length, "classes": CLASSES}
        facts = {"setting": setting, "provenance": timing.provenance(), "rows": rows}
        print(f"written: {timing.store('memory', facts)}")
    return 0


def _alone(name: str, batch: int, length: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.ones(256, 256) @ torch.ones(256, 256)  # threads and libraries have their memory
    run = RUNS[name](batch, length)
    print(json.dumps({"peak_bytes": timing.resident_peak(run)}))


if __name__ == "__main__":
    _alone(sys.argv[1], *(int(argument) for argument in sys.argv[2:5]))
