"""Fashion-MNIST, 28x28: IDX files from Debian's package, or as torchvision stores them."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.label_efficiency.arrays import Arrays, ArrayTask, Plan, Recipe
from benchmarks.label_efficiency.data_files import first_existing
from benchmarks.label_efficiency.networks import strided_cnn

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def load(root: Path, device: str = "cpu") -> ArrayTask:
    """20,000 images to label, 2,000 to test on."""
    folder = first_existing(
        "Fashion-MNIST",
        [
            root / "fashion-mnist" / "train-images-idx3-ubyte.gz",
            root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz",
            DEBIAN / "train-images-idx3-ubyte.gz",
        ],
    ).parent

    def part(name: str, count: int) -> Arrays:
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")[:count, None]
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")[:count].long()
        return Arrays(images, labels, 1 / (255 * 0.353), -0.286 / 0.353)  # mean 0, variance 1

    return ArrayTask(
        name="fashion",
        title="Fashion-MNIST, 28x28, 10 classes, a four-layer CNN",
        train_set=part("train", 20_000),
        test_set=part("t10k", 2_000),
        network=network,
        recipe=Recipe(steps=250),
        plan=Plan(start=100, budget=100, cycles=5, subset=1_500),
        device=device,
    )


def load_few(root: Path, device: str = "cpu") -> ArrayTask:
    """The same from two labels a class on."""
    task = load(root, device)
    plan = Plan(start=20, budget=20, cycles=5, subset=1_500)
    return replace(task, name="fashion_few", plan=plan)


def load_paper(root: Path, device: str = "cpu", train: int = 20_000) -> ArrayTask:
    """The same at the paper's budget: a tenth of the pool, then a twentieth a cycle of a half.

    Args:
        root: Folder of the data.
        device: Of the networks.
        train: Images to label; 4,000 take a fifth of the time.
    """
    task = load(root, device)
    return replace(
        task,
        name="fashion_paper" if train == 20_000 else f"fashion_{train // 1000}k_paper",
        train_set=task.train_set.head(train),
        recipe=Recipe(steps=250, epochs=12),
        plan=Plan(start=train // 10, budget=train // 20, cycles=6, subset=train // 2),
    )


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes: two zeros, type 8, dimensions, sizes in big endian, data."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"`path` must be an IDX file of bytes. Got {path}.")
    sizes = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    return torch.from_numpy(values.reshape(sizes).copy())


def network() -> nn.Module:
    """Three convolutions."""
    return strided_cnn((1, 16, 32, 64), features=576, classes=10)
