"""The small network for images, made for quick training on a CPU."""

import itertools

from torch import nn


def strided_cnn(channels: tuple[int, ...], features: int, classes: int) -> nn.Sequential:
    """Convolutions that halve the resolution, with batch normalisation, and a linear layer.

    Args:
        channels: Of the input and of each convolution's output.
        features: Channels times positions that reach the linear layer.
        classes: Logits.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))
