"""CIFAR-10, 32x32: a small CNN on the CPU; ResNet-18 and the paper's protocol on a GPU."""

import io
import itertools
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe
from benchmarks.label_efficiency.data_files import first_existing
from benchmarks.label_efficiency.networks import strided_cnn
from benchmarks.models import ResNet18


def load(root: Path, device: str = "cpu", train: int | None = None) -> ArrayTask:
    """All training images to label, or the first `train`; to test on all, on the CPU 2,000.

    On a GPU the protocol of Wang et al. (AAAI 2022, arXiv 2112.05683): 10 % of the labels at the
    start, 5 % in each of 7 cycles, from a fresh random half of the pool; ResNet-18, SGD 0.1 with
    momentum 0.9 and weight decay 5e-4, divided by ten after 80 % of 200 epochs.
    """
    path = first_existing(
        "CIFAR-10", [root / "cifar10_25k_5k_jpeg.npz", root / "cifar-10-batches-py"]
    )
    small = device == "cpu"
    (x, y), (test_x, test_y) = _read(path, train, 2_000 if small else None)
    scale, shift = 1 / (255 * 0.25), -0.47 / 0.25  # about mean 0, variance 1 in each channel
    share = len(y) // 20
    return ArrayTask(
        name="cifar" if small else "cifar_gpu",
        title=f"CIFAR-10, 10 classes, {'a four-layer CNN' if small else 'ResNet-18'}",
        train_set=Arrays(x, y, scale, shift),
        test_set=Arrays(test_x, test_y, scale, shift),
        network=network if small else partial(ResNet18, 10),
        recipe=Recipe(steps=300, augment=flip)
        if small
        else Recipe(
            steps=0, epochs=200, batch_size=128, rate=0.1, optimiser="sgd", weight_decay=5e-4,
            augment=flip_and_shift,
        ),
        plan=Plan(start=200, budget=200, cycles=5, subset=1_500)
        if small
        else Plan(start=2 * share, budget=share, cycles=7, subset=len(y) // 2),
        device=device,
    )  # fmt: skip


def _read(
    path: Path, train: int | None, test: int | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The first training and test images `[N, 3, 32, 32]`, uint8, and labels, in either format."""
    if path.is_dir():
        batches = [path / f"data_batch_{i}" for i in range(1, 6)]
        return _pickled(batches, train), _pickled([path / "test_batch"], test)
    with np.load(path) as stored:
        arrays = dict(stored)
    return _jpeg(arrays, "train", train), _jpeg(arrays, "test", test)


def _pickled(paths: list[Path], count: int | None) -> tuple[Tensor, Tensor]:
    batches = [pickle.loads(path.read_bytes(), encoding="bytes") for path in paths]
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch[b"labels"] for batch in batches])
    return torch.from_numpy(images[:count]), torch.from_numpy(labels[:count]).long()


def _jpeg(arrays: dict[str, np.ndarray], part: str, count: int | None) -> tuple[Tensor, Tensor]:
    from PIL import Image

    labels = torch.from_numpy(arrays[f"{part}_labels"]).long()[:count]
    files, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"][: len(labels) + 1]
    images = [
        np.asarray(Image.open(io.BytesIO(files[begin:end].tobytes())))
        for begin, end in itertools.pairwise(offsets)
    ]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked, labels


def flip(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors half of the images."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, x.flip(-1), x), y


def flip_and_shift(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors half of the images, and moves each by up to 4 pixels."""
    x, y = flip(x, y, generator)
    size = x.shape[-1]
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    starts = torch.randint(0, 9, (2, len(x), 1), generator=generator)
    rows, columns = starts + torch.arange(size)
    each = torch.arange(len(x))[:, None, None, None]
    channels = torch.arange(x.shape[1])[None, :, None, None]
    return padded[each, channels, rows[:, None, :, None], columns[:, None, None, :]], y


def network() -> nn.Module:
    """Three convolutions."""
    return strided_cnn((3, 32, 64, 128), features=2048, classes=10)
