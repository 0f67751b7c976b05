r"""CIFAR-10 in fixed features, learnt from its images alone: a network on them trains in no time.

Patches of 6x6 pixels of the pool, each of mean zero and deviation one, are whitened (ZCA) and
clustered (k-means). An image has a number for each centre and each quadrant: the sum over positions
of :math:`\max(0, \bar z - z_k)`, where :math:`z_k` is the patch's distance to centre k and
:math:`\bar z` the mean of its distances (Coates, Ng and Lee, "An Analysis of Single-Layer Networks
in Unsupervised Feature Learning", AISTATS 2011). No label has a part in it.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.label_efficiency import cifar, cryoet
from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe

PATCH = 6  # pixels along an edge
CENTRES = 128
TRAIN, TEST = 4_000, 2_000
_PATCHES = 40_000  # that centres are found of
_ROUNDS = 15  # of k-means


def load(root: Path, device: str = "cpu", train: int = TRAIN) -> ArrayTask:
    """4,000 images to label, 2,000 to test on, as 512 numbers each."""
    task = cifar.load(root, "cpu", train)
    images, tested = task.train_set.inputs, task.test_set.inputs[: min(TEST, train)]
    x, test_x = _features(images, tested)
    return replace(
        task,
        name="cifar_fixed",
        title=f"CIFAR-10 as {x.shape[1]} features learnt without labels, 10 classes, "
        "a perceptron of one hidden layer",
        train_set=Arrays(x, task.train_set.labels),
        test_set=Arrays(test_x, task.test_set.labels[: len(test_x)]),
        network=network,
        recipe=Recipe(steps=150),
        plan=Plan(start=100, budget=100, cycles=5, subset=1_500),
        device=device,
    )


def load_paper(root: Path, device: str = "cpu", train: int = TRAIN) -> ArrayTask:
    """The same at the paper's budget: a tenth of the pool, then a twentieth a cycle of a half."""
    return replace(
        load(root, device, train),
        name="cifar_fixed_paper",
        recipe=Recipe(steps=300),
        plan=Plan(start=train // 10, budget=train // 20, cycles=6, subset=train // 2),
    )


def network() -> nn.Module:
    """A hidden layer of 128."""
    return nn.Sequential(nn.Linear(4 * CENTRES, 128), nn.ReLU(), nn.Linear(128, 10))


def _features(images: Tensor, tested: Tensor) -> tuple[Tensor, Tensor]:
    """Features `[N, 4 * CENTRES]` of the pool, of mean zero and deviation one, and of the test."""
    digest = hashlib.sha256(repr((PATCH, CENTRES, _PATCHES, _ROUNDS)).encode())
    for part in (images, tested):
        digest.update(part.numpy().tobytes())
    path = cryoet.CACHE / f"cifar_fixed_{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        made = describe(images, images), describe(images, tested)
        mean, spread = made[0].mean(0), made[0].std(0).clamp(min=1e-6)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        pool, test = (((part - mean) / spread).numpy() for part in made)
        np.savez(partial, pool=pool, test=test)
        partial.replace(path)  # two processes may write at the same time
    with np.load(path) as stored:
        return torch.from_numpy(stored["pool"]), torch.from_numpy(stored["test"])


def describe(pool: Tensor, images: Tensor) -> Tensor:
    """Features `[N, 4 * CENTRES]` of images, by centres of the patches of a pool.

    Args:
        pool: Images `[M, 3, H, W]`, bytes, whose patches are clustered.
        images: Those that are described, `[N, 3, H, W]`.
    """
    generator = torch.Generator().manual_seed(0)
    picked = torch.randint(len(pool), (min(_PATCHES // 20, len(pool)),), generator=generator)
    patches = _patches(pool[picked]).flatten(0, 1)
    patches = patches[torch.randperm(len(patches), generator=generator)[:_PATCHES]]
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    whiten = vectors @ torch.diag((values.clamp(min=0) + 0.1).rsqrt()) @ vectors.T
    centres = _centres((patches - mean) @ whiten, generator)
    return torch.cat([_quadrants(part, mean, whiten, centres) for part in images.split(50)])


def _patches(images: Tensor) -> Tensor:
    """All patches `[N, positions, 3 * PATCH**2]`, each of mean zero and deviation one."""
    found = F.unfold(images.float(), PATCH).mT
    centred = found - found.mean(-1, keepdim=True)
    return centred / (centred.var(-1, keepdim=True) + 10).sqrt()  # 10: flat patches stay small


def _centres(points: Tensor, generator: torch.Generator) -> Tensor:
    """Lloyd's k-means from random points; a centre without points stays where it is."""
    centres = points[torch.randperm(len(points), generator=generator)[:CENTRES]].clone()
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        held = counts > 0
        centres[held] = sums[held] / counts[held, None]
    return centres


def _quadrants(images: Tensor, mean: Tensor, whiten: Tensor, centres: Tensor) -> Tensor:
    """How near each quadrant's patches are to each centre, summed, `[N, 4 * centres]`."""
    distance = torch.cdist((_patches(images) - mean) @ whiten, centres)  # [N, positions, centres]
    near = (distance.mean(-1, keepdim=True) - distance).clamp(min=0)
    side = images.shape[-1] - PATCH + 1
    grid = near.unflatten(1, (side, side)).movedim(-1, 1)  # [N, centres, side, side]
    return (F.adaptive_avg_pool2d(grid, 2) * (side / 2) ** 2).flatten(1)
