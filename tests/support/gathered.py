"""Pools whose samples are gathered over batches."""

import torch
from torch.utils.data import DataLoader, TensorDataset

SIZES = [1, 3, 20, 58]
N = 58


def inputs(n=N, width=10):
    """Of the test's small network."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(4))


def of(x, size):
    """A loader of these samples."""
    return DataLoader(TensorDataset(x), size)
