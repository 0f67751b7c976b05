"""A long run killed at random moments and gone on with, against one that was left alone.

    python -m benchmarks interruptions

A process scores a pool with a checkpoint and is killed (SIGKILL) ten times, each time after it has
gone some random way on; the next one goes on. It kills itself, from a thread beside the work: one
that watched it from outside would come too late where the pool is small or the machine is busy.
Then the scores must be those of an undisturbed run, bit for bit. The same for sketches of a small
model that are written into a folder, byte by byte.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cases import SMALL, TINY, Case
from benchmarks.provenance import provenance, store
from fastgradnorm import GradNormScorer, PoolScores, store_sketches

BATCH = 256
DIM = 512  # of sketches
_FILES = {"score": "interruptions", "sketch": "interrupted_sketches"}
_CHILD = "from benchmarks import interruptions as i; import sys; i.{what}(*sys.argv[1:])"


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    samples: int
    kills: int
    tiny: bool


FULL, LEAST = Sizes(100_000, 10, tiny=False), Sizes(1_024, 1, tiny=True)


def score(samples: str, tiny: str, checkpoint: str, result: str, end: str) -> None:
    """In a process of its own: scores the pool, from where the checkpoint is."""
    model, loader = _pool(TINY if tiny == "True" else SMALL, int(samples), end)
    scorer = GradNormScorer(model, checkpoint=checkpoint or None, verify=False, progress=False)
    scorer.score(loader).save(result)


def sketch(samples: str, tiny: str, checkpoint: str, result: str, end: str) -> None:
    """In a process of its own: writes sketches into the checkpoint's folder."""
    model, loader = _pool(TINY, int(samples), end)
    options: dict[str, Any] = {"verify": False, "progress": False}
    store_sketches(model, loader, Path(checkpoint).parent, DIM, **options)
    Path(result).write_text("done")


def _pool(case: Case, samples: int, end: str) -> tuple[nn.Module, Iterator[torch.Tensor]]:
    """A model and batches. `end`: which batch, and how many seconds after it, ends the process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, data = case.make(10, BATCH)
    last, seconds = (float(each) for each in end.split()) if end else (0.0, 0.0)

    def loader() -> Iterator[torch.Tensor]:
        for done in range(0, samples, BATCH):
            torch.manual_seed(done)  # each batch is another one, and the same each time
            if end and done // BATCH + 1 == last:
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            yield torch.rand_like(data)[: samples - done]
        if end:
            signal.pause()  # the work was faster than its end is

    return model, loader()


def _start(
    what: str, sizes: Sizes, checkpoint: str, result: Path, end: str = ""
) -> subprocess.Popen[bytes]:
    child = _CHILD.format(what=what)
    command = [sys.executable, "-W", "ignore", "-c", child, str(sizes.samples), str(sizes.tiny)]
    command += [checkpoint, str(result), end]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1])


def _batches(what: str, path: Path) -> int:
    """Batches that a checkpoint holds: lines but the first, or rows beside it."""
    if what == "sketch":
        rows = path.with_name(f"{path.name}.bin")
        return rows.stat().st_size // (4 * DIM * BATCH) if rows.exists() else 0
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def _interrupted(what: str, sizes: Sizes, checkpoint: Path, result: Path) -> list[int]:
    """How many batches were done at each kill."""
    draws, kills = random.Random(0), []
    whole = -(-sizes.samples // BATCH)
    while not result.exists():
        end = ""
        if len(kills) < sizes.kills:
            done = _batches(what, checkpoint)
            on = draws.randint(1, max(1, (whole - done) // (sizes.kills - len(kills) + 1)))
            # Some time after a batch was asked for: in the middle of one, or of a write.
            end = f"{min(whole, done + on)} {0.05 * draws.random()}"
        status = _start(what, sizes, str(checkpoint), result, end).wait()
        if end and status == -signal.SIGKILL:
            kills.append(_batches(what, checkpoint))
        elif status:
            raise RuntimeError(f"the run failed: exit status {status}")
    return kills


def main(sizes: Sizes, folder: Path | None, whats: Sequence[str] = ("score", "sketch")) -> int:
    """Runs, compares, prints and stores, if there is a folder for it; 1 if a bit differs."""
    wrong = False
    for what in whats:
        with tempfile.TemporaryDirectory() as name:
            row = _row(what, sizes, Path(name))
        told = "the same bits" if row["bit_equal"] else "OTHER BITS"
        print(
            f"{what}: {sizes.samples:,} samples, killed {row['kills']} times after "
            f"{row['batches_done_at_kills']} batches: {told} as undisturbed",
            flush=True,
        )
        if folder:
            found = {"provenance": provenance(), "rows": [row]}
            print(f"written: {store(_FILES[what], found, folder)}")
        wrong |= not row["bit_equal"] or row["kills"] < sizes.kills
    return int(wrong)


def _row(what: str, sizes: Sizes, folder: Path) -> dict[str, Any]:
    alone, part = folder / "alone" / "gradients", folder / "part" / "gradients"
    results = folder / "alone.npz", folder / "part.npz"
    for path in (alone, part):
        path.parent.mkdir()
    start = time.perf_counter()
    if _start(what, sizes, str(alone) if what == "sketch" else "", results[0]).wait():
        raise RuntimeError("the undisturbed run failed")
    seconds = time.perf_counter() - start
    kills = _interrupted(what, sizes, part, results[1])
    row: dict[str, Any] = {"what": what, "samples": sizes.samples, "batch": BATCH}
    if what == "sketch":
        written = [path.with_name("gradients.bin").read_bytes() for path in (alone, part)]
        equal, row["bytes"] = written[0] == written[1], len(written[0])
    else:
        first, second = (PoolScores.load(path).values for path in results)
        equal = torch.equal(first, second)
    return {
        **row,
        "kills": len(kills),
        "batches_done_at_kills": kills,
        "bit_equal": bool(equal),
        "seconds_undisturbed": seconds,
    }
