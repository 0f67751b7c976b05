"""A task over arrays in memory, and how a network learns from labelled ones."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Metrics = Callable[[Tensor, Tensor], dict[str, float]]


class Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Inputs `[N, ...]`, stored small (bytes, half precision), and labels, on the CPU.

    An item is the input as float32, `x * scale + shift`, and its label.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, scale: float = 1.0, shift: float = 0.0
    ) -> None:
        self.inputs, self.labels = inputs, labels
        self._scale, self._shift = scale, shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.inputs[i].float() * self._scale + self._shift, self.labels[i]

    def head(self, n: int) -> "Arrays":
        """The first `n` items."""
        return Arrays(self.inputs[:n], self.labels[:n], self._scale, self._shift)


@dataclass(frozen=True)
class Recipe:
    """Training: a fixed number of full batches, so that more labels cost no more time.

    Attributes:
        steps: Optimiser steps, where `epochs` is not given.
        batch_size: Samples a step.
        rate: Highest learning rate.
        optimiser: `"adamw"`: a rise over the first tenth, then cosine decay to zero. `"sgd"`:
            momentum 0.9, divided by ten after 80 % of the steps.
        weight_decay: Of the optimiser.
        epochs: Passes over what is labelled, instead of `steps`.
        augment: Changes a batch `(inputs, labels)` at random.
    """

    steps: int
    batch_size: int = 32
    rate: float = 3e-3
    optimiser: str = "adamw"
    weight_decay: float = 1e-2
    epochs: int | None = None
    augment: Augment | None = None


def stacked(dataset: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """All inputs `[N, ...]` and labels `[N, ...]` of a map-style dataset."""
    items = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    return torch.stack([x for x, _ in items]), torch.stack([torch.as_tensor(y) for _, y in items])


def fit(model: nn.Module, labelled: Dataset[Any], recipe: Recipe, seed: int) -> None:
    """Trains in place with cross-entropy; equal arguments give equal bits on the CPU."""
    inputs, labels = stacked(labelled)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    size, steps = recipe.batch_size, recipe.steps
    if recipe.epochs is not None:
        steps = max(1, recipe.epochs * len(labels) // size)
    passes = -(-steps * size // len(labels))
    order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(passes)])
    optimiser, schedule = _optimiser(model, recipe, steps)
    model.train()
    for picked in order[: steps * size].split(size):
        x, y = inputs[picked], labels[picked]
        if recipe.augment is not None:
            x, y = recipe.augment(x, y, generator)
        loss = F.cross_entropy(model(x.to(device)), y.to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    model.zero_grad()


def _optimiser(
    model: nn.Module, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    if recipe.optimiser == "sgd":
        sgd = torch.optim.SGD(
            model.parameters(), recipe.rate, momentum=0.9, weight_decay=recipe.weight_decay
        )
        return sgd, torch.optim.lr_scheduler.MultiStepLR(sgd, [int(0.8 * steps)])
    adamw = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=recipe.weight_decay)

    def share(step: int) -> float:
        rise = max(1, steps // 10)
        if step < rise:
            return (step + 1) / rise
        done = torch.tensor((step - rise) / max(1, steps - rise))
        return float(0.5 * (1 + torch.cos(torch.pi * done)))

    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, share)


@torch.no_grad()
def predict(model: nn.Module, dataset: Arrays, batch_size: int) -> Tensor:
    """Logits of a whole dataset, on the CPU, in eval mode."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat(
        [model(x.to(device)).cpu() for x, _ in DataLoader(dataset, batch_size=batch_size)]
    )


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of samples `[N]` classified rightly, and the mean negative log-likelihood in nats."""
    return {
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "nll": float(F.cross_entropy(logits.double(), labels)),
    }


@dataclass(frozen=True)
class Plan:
    """How labels are bought: `start` at random, `budget` a cycle out of `subset` random ones."""

    start: int
    budget: int
    cycles: int
    subset: int


@dataclass
class ArrayTask:
    """A pool, a test set, a network and its training: what an active learner needs.

    Attributes:
        name: Of the results.
        title: What is learnt from what, for the page.
        train_set: The pool, labels included.
        test_set: Never labelled.
        network: Makes an untrained network.
        recipe: Its training.
        plan: How many labels, when.
        metrics: Of logits and labels; the first is the headline.
        batch_size: For scoring and testing.
        score_options: Further keywords for `score_pool`.
        device: Of the networks.
    """

    name: str
    title: str
    train_set: Arrays
    test_set: Arrays
    network: Callable[[], nn.Module]
    recipe: Recipe
    plan: Plan
    metrics: Metrics = accuracy
    batch_size: int = 256
    score_options: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def pool(self) -> Dataset[Any]:
        """What can be labelled."""
        return self.train_set

    def make_model(self, seed: int) -> nn.Module:
        """An untrained network; the global random state is as before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network().to(self.device)

    def train(self, model: nn.Module, labelled: Dataset[Any], seed: int) -> None:
        """Trains in place."""
        fit(model, labelled, self.recipe, seed)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on the test set."""
        return self.metrics(predict(model, self.test_set, self.batch_size), self.test_set.labels)

    def quick(self, plan: Plan, steps: int, train: int, test: int) -> "ArrayTask":
        """The same task with fewer of everything, to see that it runs."""
        return replace(
            self,
            plan=plan,
            recipe=replace(self.recipe, steps=steps, epochs=None),
            train_set=self.train_set.head(train),
            test_set=self.test_set.head(test),
        )
