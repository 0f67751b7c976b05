"""The models whose scores are held against plain autograd in float64: one a kind of layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import texts
from benchmarks.models import CNN, CNN3d, ResNet18, ViT, bert


class MLP(nn.Module):
    """Two hidden layers, one without a bias."""

    def __init__(self, classes: int, width: int = 256) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width, bias=False), nn.GELU()
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Grouped(nn.Module):
    """Grouped, depthwise, dilated and strided convolutions."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width, bias=False)
        self.dilated = nn.Conv2d(2 * width, width, 3, padding=2, dilation=2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.grouped(F.relu(self.stem(x))))
        return self.head(F.gelu(self.dilated(F.gelu(self.depthwise(x)))).mean((2, 3)))


class GroupNormNet(nn.Module):
    """Convolutions under group and instance normalisation, and max pools."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Recurrent(nn.Module):
    """Two layers of an LSTM, both directions."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].mean(1))


class Tied(nn.Module):
    """A language model's head: the table of the embedding is the matrix of the logits."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, width)
        nn.init.normal_(self.table.weight, std=0.1)  # as language models do: logits of size one
        self.position = nn.Parameter(0.1 * torch.randn(1, 32, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder(self.table(ids) + self.position[:, : ids.shape[1]])
        return F.linear(self.norm(x[:, -1]), self.table.weight)


class UNet(nn.Module):
    """Dense logits `[N, C, H, W]`, over a transposed convolution and a skip."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, width, 3, padding=1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = F.relu(self.down1(x))
        low = F.relu(self.down2(F.max_pool2d(high, 2)))
        return self.head(torch.cat([high, F.relu(self.up(low))], 1))


@dataclass(frozen=True)
class Subject:
    """A model that the engine is tried on.

    Attributes:
        build: Number of classes to model.
        draw: Number of samples to a batch.
        head: How the names of the last layer's parameters begin.
        dense: Whether logits have positions, where class combinations cannot be enumerated.
        cudnn: Whether plain autograd can use it: its LSTM has no backward in eval mode.
    """

    name: str
    build: Callable[[int], nn.Module]
    draw: Callable[[int], Any]
    head: str = "head."
    dense: bool = False
    cudnn: bool = True
    classes: int = 10

    def make(self, samples: int, dry: bool) -> tuple[nn.Module, Any]:
        """Model in eval mode and batch, the same ones every time, without trivial numbers."""
        torch.manual_seed(0)
        model = self.build(4 if dry and self.name != "tied" else self.classes).eval()
        with torch.no_grad():
            for name, tensor in model.named_buffers():
                if name.endswith("running_mean"):
                    tensor.normal_(0, 0.1)
                elif name.endswith("running_var"):
                    tensor.uniform_(0.8, 1.2)
            for parameter in model.parameters():
                if parameter.dim() == 1:  # biases and the scales of norms
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model, self.draw(samples)


def _images(*shape: int) -> Callable[[int], Tensor]:
    return lambda samples: torch.randn(samples, *shape)


def subjects(dry: bool) -> dict[str, Subject]:
    """All of them by name; small ones for a dry run."""
    side = 8 if dry else 32
    found = [
        Subject("mlp", lambda c: MLP(c, 8 if dry else 256), _images(64)),
        Subject("cnn6", CNN, _images(3, side, side)),
        Subject("resnet18", ResNet18, _images(3, side, side)),
        Subject("grouped", lambda c: Grouped(c, 8 if dry else 64), _images(3, side, side)),
        Subject("groupnorm", lambda c: GroupNormNet(c, 8 if dry else 64), _images(3, side, side)),
        Subject("vit", lambda c: ViT(c, 48 if dry else 192, 1 if dry else 4), _images(3, 64, 64)),
        Subject(
            "bert",
            lambda c: bert(c, layers=1 if dry else 2, width=64 if dry else 256, length=64),
            lambda n: texts(n, 8 if dry else 64),
            head="classifier.",
        ),
        Subject("lstm", lambda c: Recurrent(c, 8 if dry else 64), _images(7, 16), cudnn=False),
        Subject(
            "tied",
            lambda c: Tied(c, 16 if dry else 64),
            lambda n: torch.randint(0, 20, (n, 9)),
            head="table.",
            classes=20,
        ),
        Subject("cnn3d", CNN3d, _images(1, 16, 16, 16)),
        Subject("unet", lambda c: UNet(c, 4 if dry else 32), _images(3, side, side), dense=True),
    ]
    return {subject.name: subject for subject in found}
