"""The models that throughput is measured on, with random weights, in eval mode."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CNN(nn.Module):
    """Six 3x3 convolutions, three resolutions."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (64, 128, 256):
            for i, o in ((inputs, width), (width, width)):
                layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            inputs = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            self.skip = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y + self.skip(x), inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 with the stem for 32x32 images: a 3x3 convolution, no pooling."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        blocks, i = [], 64
        for o, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [_Block(i, o, first), _Block(o, o, 1)]
            i = o
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT-Tiny's width, depth and heads on 64x64 images: 64 patches and a class token."""

    def __init__(self, classes: int, width: int = 192, depth: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(_EncoderBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class CNN3d(nn.Module):
    """Four 3x3x3 convolutions on volumes, group-normalised."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (1, 16, 32, 64, 128)
        for i, o in pairwise(widths):
            layers += [nn.Conv3d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.ReLU()]
            layers.append(nn.MaxPool3d(2))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3, 4)))


def _bert(classes: int, layers: int = 4, width: int = 256, length: int = 512) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        max_position_embeddings=length,
        num_labels=classes,
    )
    return BertForSequenceClassification(config)


def encoder(classes: int = 10) -> nn.Module:
    """Twelve layers for 512 tokens, for the measurement of memory; eval mode."""
    torch.manual_seed(0)
    return _bert(classes, layers=12).eval()


def texts(samples: int, length: int) -> dict[str, Tensor]:
    """Token ids and attention masks, padded to different lengths."""
    ends = torch.randint(length // 2, length + 1, (samples, 1))
    ends[0] = length
    mask = (torch.arange(length) < ends).long()
    return {"input_ids": torch.randint(1, 30000, (samples, length)) * mask, "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    """A model and its inputs.

    Attributes:
        name: On the command line.
        title: In tables.
        build: Number of classes to model.
        draw: Number of samples to batch.
        samples: Batch size of a full measurement; `quick` of a short one.
        embeddings: Path of the layer that turns ids into floats, for text.
    """

    name: str
    title: str
    build: Callable[[int], nn.Module]
    draw: Callable[[int], Any]
    samples: int
    quick: int = 4
    embeddings: str | None = None

    def make(self, classes: int, samples: int, device: str = "cpu") -> tuple[nn.Module, Any]:
        """Model and batch, the same ones every time."""
        torch.manual_seed(0)
        model = self.build(classes).eval()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(0, 0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.8, 1.2)
        return model.to(device), move(self.draw(samples), device)


def _images(*shape: int) -> Callable[[int], Tensor]:
    return lambda samples: torch.randn(samples, *shape)


CASES = {
    case.name: case
    for case in [
        Case("cnn6", "6-conv CNN, 32x32", CNN, _images(3, 32, 32), 32),
        Case("resnet18", "ResNet-18, 32x32", ResNet18, _images(3, 32, 32), 16),
        Case("vit", "ViT-Tiny-like, 64x64", ViT, _images(3, 64, 64), 16),
        Case(
            "bert",
            "BERT-like (4 x 256), 64 tokens",
            _bert,
            lambda samples: texts(samples, 64),
            16,
            embeddings="bert.embeddings.word_embeddings",
        ),
        Case("cnn3d", "3-D CNN, 32x32x32", CNN3d, _images(1, 32, 32, 32), 8, quick=2),
    ]
}


def move(batch: Any, device: str | torch.device, dtype: torch.dtype | None = None) -> Any:
    """A tensor or mapping on a device; floating-point tensors in `dtype`."""
    if isinstance(batch, dict):
        return {name: move(tensor, device, dtype) for name, tensor in batch.items()}
    return batch.to(device, dtype if batch.is_floating_point() else None)


def first(batch: Any, samples: int) -> Any:
    """The first samples of a batch."""
    if isinstance(batch, dict):
        return {name: tensor[:samples] for name, tensor in batch.items()}
    return batch[:samples]


def size(batch: Any) -> int:
    """Number of samples."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)


def logits(model: nn.Module, batch: Any) -> Tensor:
    """Logits `[N, C]` of a batch."""
    output = model(**batch) if isinstance(batch, dict) else model(batch)
    return output if isinstance(output, Tensor) else output.logits
