"""The models whose speed is told: as large as people use them, with random weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, texts
from benchmarks.models import ResNet18, Small, ViT, bert


class _Bottleneck(nn.Module):
    def __init__(self, i: int, width: int, stride: int) -> None:
        super().__init__()
        o = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(i, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, o, 1, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + self.skip(x))


class ResNet50(nn.Module):
    """ResNet-50 for 224x224 images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, i = list[nn.Module](), 64
        for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for index in range(depth):
                blocks.append(_Bottleneck(i, width, stride if index == 0 else 1))
                i = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class ViTB16(ViT):
    """ViT-B/16 for 224x224 images."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, 768, 12, 12)
        self.patches = nn.Conv2d(3, 768, 16, stride=16)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 197, 768))


def _images(side: int) -> Callable[[int], Tensor]:
    return lambda samples: torch.randn(samples, 3, side, side)


def _base(length: int) -> Case:
    return Case(
        f"bert{length}",
        f"BERT-base, {length} tokens",
        lambda classes: bert(classes, layers=12, width=768, length=512),
        lambda samples: texts(samples, length),
        64,
        embeddings="bert.embeddings.word_embeddings",
    )


LARGE = {
    case.name: case
    for case in [
        Case("resnet18", "ResNet-18, 32x32", ResNet18, _images(32), 1024),
        Case("vit_b", "ViT-B/16, 224x224", ViTB16, _images(224), 64),
        _base(128),
        Case("resnet50", "ResNet-50, 224x224", ResNet50, _images(224), 64),
        _base(512),
    ]
}
# Stand-ins of a dry run, under the names of the large ones.
_TEXT = Case(
    "tiny text",
    "BERT-like (1 x 64), 8 tokens",
    lambda classes: bert(classes, layers=1, width=64, length=16),
    lambda samples: texts(samples, 8),
    2,
    embeddings="bert.embeddings.word_embeddings",
)
_IMAGE = Case("tiny", "2-conv CNN, 6x6", lambda classes: Small(classes, 2), _images(6), 2)


def case(name: str, dry: bool) -> Case:
    """A large model by name, or what stands for it in a dry run."""
    if not dry:
        return LARGE[name]
    return _TEXT if name.startswith("bert") else _IMAGE
