"""How far the squared norm of a sketch is from that of the gradient, over seeds.

Of one sample of each of three models as large in positions as people use them, with random
weights. Beside the error, what follows from the gradient itself: rows and columns of a parameter
that share a bucket meet as wholes. The engine's own sketch, by TensorSketch where that is less
work, is held against the sketch of the gradient that autograd forms.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import TINY, Case, logits, texts
from benchmarks.models import bert
from fastgradnorm import gradient_sketch
from fastgradnorm._operations import ParameterMap

CLASSES = 10
LEAST = "least"
MODELS = ("ResNet-18, 224x224", "BERT (4 x 256), 512 tokens", "ViT-B/16, 224x224")


def _resnet(classes: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    widths, depths = [64, 128, 256, 512], [2, 2, 2, 2]
    config = ResNetConfig(
        hidden_sizes=widths, depths=depths, layer_type="basic", num_labels=classes
    )
    return ResNetForImageClassification(config)


def _vit(classes: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(num_labels=classes))  # its defaults are B/16


def _case(name: str) -> Case:
    if name == LEAST:
        return TINY
    build, draw = _MADE[MODELS.index(name)]
    return Case(name, name, build, draw, 2)


def _picture(samples: int) -> Tensor:
    return torch.randn(samples, 3, 224, 224)


_MADE: tuple[tuple[Callable[[int], nn.Module], Callable[[int], Any]], ...] = (
    (_resnet, _picture),
    (bert, lambda samples: texts(samples, 512)),
    (_vit, _picture),
)


def cell(name: str, seeds: int, dim: int) -> dict[str, Any]:
    """Of the first sample: rms error over seeds with its 95 % interval, over `√(2 / dim)`."""
    model, given = _case(name).make(CLASSES, 1)
    labels = torch.zeros(1, dtype=torch.int64)
    gradients = _gradients(model, given, labels)
    square = sum(float(g.double().square().sum()) for g in gradients.values())
    errors, first = list[float](), torch.zeros(dim)
    for seed in range(seeds):
        total = torch.zeros(dim, dtype=torch.float64)
        for key, g in gradients.items():
            total += ParameterMap(key, g, dim, seed).formed(g).double()
        errors.append(float(total.square().sum()) / square - 1)
        first = total if seed == 0 else first
    own = sum(_of_rows(g, dim) for g in gradients.values()) / square**2
    options: dict[str, Any] = {"loss": "cross_entropy", "progress": False, "seed": 0}
    options["forward"] = lambda model, batch: logits(model, batch[0])
    sketch = gradient_sketch(model, [(given, labels)], dim, **options)[0].double()
    return {
        **_summary(torch.tensor(errors, dtype=torch.float64), (2 / dim) ** 0.5),
        "expected_over_least": (1 + own) ** 0.5,
        "parameters": sum(g.numel() for g in gradients.values()),
        "forms_apart": float((sketch - first).norm()) / square**0.5,
    }


def _gradients(model: nn.Module, given: Any, labels: Tensor) -> dict[str, Tensor]:
    F.cross_entropy(logits(model, given), labels).backward()
    named = {n: p.grad.detach() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return named


def _summary(errors: Tensor, least: float) -> dict[str, float | int]:
    """The interval is that of the mean square, by the spread of the squares."""
    squares = errors.square()
    mean, half = float(squares.mean()), 1.96 * float(squares.std()) / len(errors) ** 0.5
    return {
        "rms_over_least": mean**0.5 / least,
        "low": max(0.0, mean - half) ** 0.5 / least,
        "high": (mean + half) ** 0.5 / least,
        "bias": float(errors.mean()),
        "bias_half": 1.96 * float(errors.std()) / len(errors) ** 0.5,
        "seeds": len(errors),
    }


def _of_rows(gradient: Tensor, dim: int) -> float:
    """What one parameter adds to the variance beside `‖g‖⁴`, in units of `2 / dim`.

    Rows of one block of `dim` never meet; two of other blocks do with all their elements at once.
    """
    g = gradient.reshape(len(gradient) if gradient.dim() else 1, -1)
    across = 0.0
    small = g if len(g) <= g.shape[1] else g.T
    whole = float((small @ small.T).double().square().sum())
    for side in (g, g.T):
        blocks = [float(_gram(block).double().square().sum()) for block in side.split(dim)]
        across += whole - sum(blocks)
    squares = g.double().square()
    sides = squares.sum(0).square().sum() + squares.sum(1).square().sum()
    return across + float(squares.square().sum() - sides)


def _gram(rows: Tensor) -> Tensor:
    small = rows if len(rows) <= rows.shape[1] else rows.T
    return small @ small.T
