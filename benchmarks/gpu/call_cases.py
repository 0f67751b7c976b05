"""The calls: each makes what users make, on a device and in a dtype, and returns numbers."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import (
    GradNormScorer,
    gradient_dots,
    gradient_sketch,
    mean_gradient,
    score_pool,
    sketch_dots,
    store_sketches,
)

Found = dict[str, Any]
Make = Callable[[str, torch.dtype], Found]


class Call(NamedTuple):
    """One call.

    Attributes:
        make: Of device and dtype to what it returns, by name.
        tolerance: Of the numbers, relative to the largest.
    """

    make: Make
    tolerance: float = 2e-5


CALLS: dict[str, Call] = {}
QUIET: dict[str, Any] = {"progress": False}
SAMPLES = 37


def call(name: str, tolerance: float = 2e-5) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CALLS[name] = Call(make, tolerance)
        return make

    return keep


def cnn(device: str, dtype: torch.dtype) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),  # larger ones have no deterministic pull-back
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    return model.eval().to(device, dtype)


def mlp(device: str, dtype: torch.dtype, outputs: int = 5) -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, outputs))
    return model.eval().to(device, dtype)


def images(dtype: torch.dtype, samples: int = SAMPLES) -> Tensor:
    return torch.randn(samples, 3, 12, 12).to(dtype)


def rows(dtype: torch.dtype, samples: int = SAMPLES) -> Tensor:
    return torch.randn(samples, 12).to(dtype)


def labels(samples: int = SAMPLES) -> Tensor:
    return torch.randint(5, (samples,))


def labelled(dtype: torch.dtype, batch: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(rows(dtype), labels()), batch_size=batch)


# Loaders.


@call("workers and pinned memory")
def _(device: str, dtype: torch.dtype) -> Found:
    model, data = cnn(device, dtype), TensorDataset(images(dtype, 100))
    pinned = device == "cuda"
    loader = DataLoader(data, batch_size=8, num_workers=2, pin_memory=pinned)
    return {"scores": score_pool(model, loader, **QUIET)}


@call("a shuffled loader")
def _(device: str, dtype: torch.dtype) -> Found:
    model, data = mlp(device, dtype), TensorDataset(rows(dtype))
    order = torch.Generator().manual_seed(3)
    loader = DataLoader(data, batch_size=8, shuffle=True, generator=order)
    found = GradNormScorer(model, **QUIET).score(loader)
    return {"scores": found.values, "indices": found.indices}


@call("batches of one")
def _(device: str, dtype: torch.dtype) -> Found:
    model = cnn(device, dtype)
    return {"scores": score_pool(model, [x[None] for x in images(dtype)], **QUIET)}


@call("texts of many lengths")
def _(device: str, dtype: torch.dtype) -> Found:
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    parts = (nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    model = nn.Sequential(*parts, _Mean(), nn.Linear(16, 5)).eval().to(device, dtype)
    lengths = torch.randint(3, 40, (12,)).tolist()
    batches = [torch.randint(50, (3, length)) for length in lengths]
    return {"scores": score_pool(model, batches, **QUIET)}


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@call("batches on the device, the model on the host")
def _(device: str, dtype: torch.dtype) -> Found:
    model = mlp("cpu", dtype)
    batches = [x.to(device) for x in rows(dtype).split(8)]
    return {"scores": score_pool(model, batches, **QUIET)}


@call("the model on the host, scored on the device")
def _(device: str, dtype: torch.dtype) -> Found:
    model = cnn("cpu", dtype)
    return {"scores": score_pool(model, images(dtype).split(8), device=device, **QUIET)}


@call("memory written again by a loader")
def _(device: str, dtype: torch.dtype) -> Found:
    model, given = mlp(device, dtype), rows(dtype, 64)
    memory = torch.empty(8, 12, dtype=dtype, pin_memory=device == "cuda")

    def batches() -> Iterator[Tensor]:
        for part in given.split(8):
            yield memory.copy_(part)

    return {"scores": score_pool(model, batches(), **QUIET)}


# Schemes and losses.


@call("labels")
def _(device: str, dtype: torch.dtype) -> Found:
    model = mlp(device, dtype)
    scorer = GradNormScorer(
        model, loss="cross_entropy", scheme=("loss", "el2n", "entropy"), group_by="module", **QUIET
    )
    found = scorer.score(labelled(dtype))
    columns = {
        f"{scheme} of {group}": squares
        for scheme, scores in found.items()
        for group, squares in scores.by_group.items()
    }
    assert columns
    return {name: found[name].values for name in ("loss", "el2n", "entropy")} | columns


@call("a loss of the caller's own")
def _(device: str, dtype: torch.dtype) -> Found:
    model = mlp(device, dtype)

    def loss(output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output, batch[1].to(output.device), label_smoothing=0.1)

    forward = lambda model, batch: model(batch[0])  # noqa: E731
    return {
        "scores": score_pool(model, labelled(dtype), loss=loss, forward=forward, **QUIET),
        "huber": score_pool(
            mlp(device, dtype, 1),
            DataLoader(TensorDataset(rows(dtype), torch.randn(SAMPLES, 1).to(dtype)), 8),
            loss=nn.HuberLoss(),
            **QUIET,
        ),
    }


@call("other likelihoods")
def _(device: str, dtype: torch.dtype) -> Found:
    model, batches = mlp(device, dtype, 3), rows(dtype).split(8)
    return {
        "gaussian": score_pool(model, batches, likelihood="gaussian", **QUIET),
        "bernoulli": score_pool(model, batches, likelihood="bernoulli", **QUIET),
        "one logit": score_pool(mlp(device, dtype, 1), batches, **QUIET),
    }


@call("last layer, temperature, subset")
def _(device: str, dtype: torch.dtype) -> Found:
    model, batches = cnn(device, dtype), images(dtype).split(8)
    data = DataLoader(TensorDataset(images(dtype)), 8)
    found = GradNormScorer(model, subset=9, **QUIET).score(data)
    return {
        "last": score_pool(model, batches, params="last_layer", temperature=2.0, **QUIET),
        "subset": found.values,
        "indices": found.indices,
    }


# Products, sketches, mean gradients.


def _directions(model: nn.Module, count: int) -> list[dict[str, Tensor]]:
    return [
        {name: torch.randn(p.shape).to(p.device, p.dtype) for name, p in model.named_parameters()}
        for _ in range(count)
    ]


@call("products")
def _(device: str, dtype: torch.dtype) -> Found:
    model, loader = cnn(device, dtype), DataLoader(TensorDataset(images(dtype), labels()), 8)
    few, many = _directions(model, 1), _directions(model, 9)
    options = {"loss": "cross_entropy", **QUIET}
    return {
        "one": gradient_dots(model, loader, few, **options),
        "nine": gradient_dots(model, loader, many, **options),
        "cosines": gradient_dots(model, loader, many, cosine=True, **options),
    }


@call("products by Adam's metric")
def _(device: str, dtype: torch.dtype) -> Found:
    model, loader = mlp(device, dtype), labelled(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in loader:
        F.cross_entropy(model(x.to(device)), y.to(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
    directions = _directions(model, 3)
    options = {"loss": "cross_entropy", "metric": optimizer, **QUIET}
    return {"dots": gradient_dots(model, loader, directions, **options)}


@call("mean gradients")
def _(device: str, dtype: torch.dtype) -> Found:
    model = mlp(device, dtype)
    return dict(mean_gradient(model, labelled(dtype), loss="cross_entropy", **QUIET))


@call("sketches")
def _(device: str, dtype: torch.dtype) -> Found:
    model, loader = mlp(device, dtype), labelled(dtype)
    plain = gradient_sketch(model, loader, 64, **QUIET)
    found = gradient_sketch(model, loader, 64, loss="cross_entropy", norms=True, **QUIET)
    convolved = gradient_sketch(cnn(device, dtype), images(dtype).split(8), 64, **QUIET)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        store = store_sketches(model, loader, path, 64, loss="cross_entropy", **QUIET)
        kernel = sketch_dots(store, whiten=0.1)
    sketches, norms = found if isinstance(found, tuple) else (found, plain)
    return {"plain": plain, "loss": sketches, "norms": norms, "images": convolved, "kernel": kernel}
