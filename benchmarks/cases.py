"""Models and inputs by name: what the commands measure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import CNN, CNN3d, ResNet18, Small, ViT, bert


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
        Case("cnn6", "6-conv CNN, 32x32", CNN, _images(3, 32, 32), 64),
        Case("resnet18", "ResNet-18, 32x32", ResNet18, _images(3, 32, 32), 64),
        Case("vit", "ViT-Tiny-like, 64x64", ViT, _images(3, 64, 64), 64),
        Case(
            "bert",
            "BERT-like (4 x 256), 64 tokens",
            bert,
            lambda samples: texts(samples, 64),
            64,
            embeddings="bert.embeddings.word_embeddings",
        ),
        Case("cnn3d", "3-D CNN, 32x32x32", CNN3d, _images(1, 32, 32, 32), 16, quick=2),
    ]
}
# For pools of 100,000 samples.
SMALL = Case("small", "2-conv CNN, 16x16", Small, _images(3, 16, 16), 256)
# For tests of the commands; never part of a measurement.
TINY = Case("tiny", "2-conv CNN, 8x8", lambda classes: Small(classes, 4), _images(3, 8, 8), 2, 2)


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


def pieces(batch: Any, samples: int) -> list[Any]:
    """A batch in parts of so many samples at most."""
    starts = range(0, size(batch), samples)
    if isinstance(batch, dict):
        return [{name: tensor[i : i + samples] for name, tensor in batch.items()} for i in starts]
    return [batch[i : i + samples] for i in starts]
