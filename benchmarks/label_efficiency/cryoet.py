"""Which molecule is in a subtomogram: real densities, simulated imaging, a small 3-D CNN."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe
from benchmarks.label_efficiency.densities import read_densities
from benchmarks.label_efficiency.subtomograms import Imaging, simulate

CACHE = Path(__file__).parent / "cache"
POOL, TEST = 3_000, 500
SHIFT = 0.1  # of the box: the largest molecules fill it, and a quarter would cut them


def load(
    root: Path, device: str = "cpu", snr: float = 0.5, pool: int = POOL, test: int = TEST
) -> ArrayTask:
    """Simulated subtomograms to label, and some to test on, of 13 classes."""
    return from_densities(read_densities(root), Imaging(snr=snr, shift=SHIFT), pool, test, device)


def load_few(
    root: Path, device: str = "cpu", snr: float = 0.5, pool: int = POOL, test: int = TEST
) -> ArrayTask:
    """The same with fewer labels and a third of the steps less: half the time."""
    task = load(root, device, snr, pool, test)
    recipe, plan = replace(task.recipe, steps=300), Plan(start=80, budget=80, cycles=3, subset=800)
    return replace(task, name=f"{task.name}_few", recipe=recipe, plan=plan)


def load_paper(
    root: Path, device: str = "cpu", snr: float = 0.5, pool: int = POOL, test: int = TEST
) -> ArrayTask:
    """The paper's budget: a tenth of the pool, then a twentieth a cycle of a half."""
    task = load(root, device, snr, pool, test)
    plan = Plan(start=pool // 10, budget=pool // 20, cycles=4, subset=pool // 2)
    return replace(task, name=f"{task.name}_paper", plan=plan)


def from_densities(
    densities: list[Tensor], imaging: Imaging, pool: int, test: int, device: str = "cpu"
) -> ArrayTask:
    """The task over any densities, one a class; simulated once, then read from a cache."""
    volumes, labels = _simulated(densities, imaging, pool + test)
    return ArrayTask(
        name=f"cryoet_{imaging.snr:g}",
        title=f"simulated subtomograms of real structures, 32x32x32, {len(densities)} classes, "
        f"SNR {imaging.snr:g}, a small 3-D CNN",
        train_set=Arrays(volumes[:pool], labels[:pool]),
        test_set=Arrays(volumes[pool:], labels[pool:]),
        network=lambda: network(len(densities)),
        recipe=Recipe(steps=450, rate=2e-2, augment=turn_and_shift),
        plan=Plan(start=150, budget=150, cycles=4, subset=800),
        batch_size=100,
        device=device,
    )


def _simulated(densities: list[Tensor], imaging: Imaging, count: int) -> tuple[Tensor, Tensor]:
    """Volumes `[N, 1, 32, 32, 32]` in half precision, and labels, classes equally likely."""
    digest = hashlib.sha256(repr((imaging, count)).encode())
    for density in densities:
        digest.update(density.numpy().tobytes())
    path = CACHE / f"subtomograms_{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(len(densities), (count,), generator=generator)
        parts = [simulate(densities, part, imaging, generator).half() for part in labels.split(100)]
        CACHE.mkdir(exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(partial, volumes=torch.cat(parts).numpy(), labels=labels.numpy())
        partial.replace(path)  # two processes may write at the same time
    with np.load(path) as stored:
        return torch.from_numpy(stored["volumes"]), torch.from_numpy(stored["labels"])


def turn_and_shift(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors a batch along random axes, which keeps the wedge, and moves it by up to 3 voxels."""
    axes = [axis for axis in (-3, -2, -1) if torch.rand((), generator=generator) < 0.5]
    moves = torch.randint(-3, 4, (3,), generator=generator).tolist()
    return x.roll(moves, (-3, -2, -1)).flip(axes), y


class MeanOverPositions(nn.Module):
    """Maps `[B, D, ...]` to `[B, D]`: a molecule counts wherever it lies."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def network(classes: int) -> nn.Module:
    """Three convolutions on the volume at half its resolution, and the mean over positions."""

    def block(inputs: int, outputs: int, size: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv3d(inputs, outputs, size, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm3d(outputs), nn.ReLU()]

    return nn.Sequential(
        nn.AvgPool3d(2), *block(1, 16, 4, 2), *block(16, 32, 4, 2), *block(32, 64, 3, 1),
        MeanOverPositions(), nn.Linear(64, classes),
    )  # fmt: skip
