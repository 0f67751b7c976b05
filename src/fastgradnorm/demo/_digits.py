"""The data: scikit-learn's handwritten digits, and who sees which of them."""

from dataclasses import dataclass

import torch
from sklearn import datasets
from torch import Tensor

from fastgradnorm.demo._settings import Settings


@dataclass(frozen=True)
class Digits:
    """1,797 images, of which some are for testing only.

    Attributes:
        images: ``[N, 1, 8, 8]``, float32, 0 (paper) to 1 (ink).
        labels: ``[N]``, int64.
        test: Indices of the held-out images, the same in every repetition.
        rest: Indices of all others.
    """

    images: Tensor
    labels: Tensor
    test: Tensor
    rest: Tensor

    def split(self, settings: Settings, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of the images labelled at first, and of the pool, in random order."""
        shuffled = self.rest[_permutation(len(self.rest), seed)]
        pool = shuffled[settings.start_labels :]
        return shuffled[: settings.start_labels], pool[: settings.pool_limit]

    def batches(self, indices: Tensor, settings: Settings) -> list[Tensor]:
        """The images at `indices`, in order, in batches ``[B, 1, 8, 8]``."""
        return list(self.images[indices].split(settings.batch_size))


def load_digits(settings: Settings) -> Digits:
    """The digits that come with scikit-learn; nothing is downloaded."""
    images, labels = datasets.load_digits(return_X_y=True)
    order = _permutation(len(labels), seed=0)
    return Digits(
        images=torch.tensor(images, dtype=torch.float32, device="cpu").div(16).reshape(-1, 1, 8, 8),
        labels=torch.tensor(labels, dtype=torch.int64, device="cpu"),
        test=order[: settings.test_images],
        rest=order[settings.test_images :],
    )


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")
