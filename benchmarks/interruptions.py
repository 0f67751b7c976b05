"""A long run killed at random moments and gone on with, against one that was left alone.

    python -m benchmarks interruptions

A process scores a pool with a checkpoint and is killed (SIGKILL) ten times, each time after it has
gone some random way on; the next one goes on. Then the scores must be those of an undisturbed run,
bit for bit.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import SMALL, TINY
from benchmarks.provenance import provenance, store
from fastgradnorm import GradNormScorer, PoolScores

BATCH = 256
_CHILD = "from benchmarks.interruptions import score; import sys; score(*sys.argv[1:])"


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    samples: int
    kills: int
    tiny: bool


FULL, LEAST = Sizes(100_000, 10, tiny=False), Sizes(1_024, 1, tiny=True)


def score(samples: str, tiny: str, checkpoint: str, result: str) -> None:
    """In a process of its own: scores the pool, from where the checkpoint is."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, data = (TINY if tiny == "True" else SMALL).make(10, BATCH)

    def loader() -> Iterator[torch.Tensor]:
        for done in range(0, int(samples), BATCH):
            torch.manual_seed(done)  # each batch is another one, and the same each time
            yield torch.rand_like(data)[: int(samples) - done]

    scorer = GradNormScorer(model, checkpoint=checkpoint or None, verify=False, progress=False)
    scorer.score(loader()).save(result)


def _start(sizes: Sizes, checkpoint: str, result: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(sizes.samples), str(sizes.tiny)]
    command += [checkpoint, str(result)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1])


def _batches(path: Path) -> int:
    """Batches that a checkpoint holds; its first line is not one."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def _interrupted(sizes: Sizes, folder: Path) -> tuple[PoolScores, list[int]]:
    """The scores, and how many batches were done at each kill."""
    checkpoint, result = folder / "run.jsonl", folder / "interrupted.npz"
    draws, kills = random.Random(0), []
    whole = -(-sizes.samples // BATCH)
    while not result.exists():
        process = _start(sizes, str(checkpoint), result)
        if len(kills) < sizes.kills:
            left = whole - _batches(checkpoint)
            on = draws.randint(1, max(1, left // (sizes.kills - len(kills) + 1)))
            target = _batches(checkpoint) + on
            while process.poll() is None and _batches(checkpoint) < target:
                time.sleep(0.01)
            time.sleep(0.05 * draws.random())  # in the middle of a batch, or of a write
            if process.poll() is None:
                process.kill()
                kills.append(_batches(checkpoint))
        if process.wait() > 0:
            raise RuntimeError(f"the run failed: exit status {process.returncode}")
    return PoolScores.load(result), kills


def main(sizes: Sizes, folder: Path | None) -> int:
    """Runs, compares, prints and stores, if there is a folder for it; 1 if a bit differs."""
    with tempfile.TemporaryDirectory() as name:
        alone = Path(name) / "alone.npz"
        start = time.perf_counter()
        if _start(sizes, "", alone).wait():
            raise RuntimeError("the undisturbed run failed")
        seconds = time.perf_counter() - start
        scores, kills = _interrupted(sizes, Path(name))
        expected = PoolScores.load(alone)
    row: dict[str, Any] = {
        "samples": sizes.samples,
        "batch": BATCH,
        "kills": len(kills),
        "batches_done_at_kills": kills,
        "bit_equal": bool(torch.equal(scores.values, expected.values)),
        "seconds_undisturbed": seconds,
    }
    print(
        f"{sizes.samples:,} samples, killed {len(kills)} times after {kills} batches: "
        f"{'the same bits' if row['bit_equal'] else 'OTHER SCORES'} as undisturbed"
    )
    if folder:
        found = {"provenance": provenance(), "rows": [row]}
        print(f"written: {store('interruptions', found, folder)}")
    return int(not row["bit_equal"] or len(kills) < sizes.kills)
