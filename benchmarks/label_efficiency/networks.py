"""The small networks for images and volumes, made for quick training on a CPU."""

from torch import nn


def strided_cnn(channels: tuple[int, ...], dims: int, features: int, classes: int) -> nn.Sequential:
    """Convolutions that halve the resolution, with batch normalisation, and a linear layer.

    Args:
        channels: Of the input and of each convolution's output.
        dims: 2 for images, 3 for volumes.
        features: Channels times positions that reach the linear layer.
        classes: Logits.
    """
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = []
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        layers += [conv(inputs, outputs, 4, stride=2, padding=1, bias=False), norm(outputs)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))
