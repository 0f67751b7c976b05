"""The classifier: a small CNN with group norm, and how it is trained and used."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURE = "3 convolutions with group norm, 1 linear layer"


def fit(images: Tensor, labels: Tensor, *, steps: int, seed: int) -> nn.Module:
    """A network trained on ``images [N, 1, 8, 8]``, in eval mode; a seed fixes it."""
    model = _build_network(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=9e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (32,), generator=generator, device="cpu")
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of `images` that `model` names correctly."""
    return float((probabilities(model, images).argmax(1) == labels).double().mean())


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Predicted probabilities ``[N, 10]``."""
    logits: Tensor = model(images)
    return logits.softmax(1)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _build_network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
