"""Calls that choose samples, and long ones."""

import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gpu.call_cases import CALLS, QUIET, Call, Found, Make, call, cnn, images, mlp, rows
from fastgradnorm import (
    GradNormScorer,
    NonFiniteScoreError,
    acquire,
    score_and_predict,
    score_pool,
    select,
)

# Strategies.


def _chosen(strategy: str) -> Make:
    def make(device: str, dtype: torch.dtype) -> Found:
        model = mlp(device, dtype)
        pool = TensorDataset(rows(dtype, 200))
        chosen = acquire(
            model, pool, 9, labelled=range(20), strategy=strategy, verify=False, **QUIET
        )
        return {"indices": torch.as_tensor(chosen.indices).sort().values}

    return make


for _strategy in (
    *("auto", "herding", "adaptive", "maxherding", "uherding", "coreset", "badge", "typiclust"),
    *("lcmd", "probcover", "margin", "entropy", "top", "sketch/predicted/all/lcmd"),
):
    CALLS[f"acquire: {_strategy}"] = Call(_chosen(_strategy), 0.0)


@call("select", 0.0)
def _(device: str, dtype: torch.dtype) -> Found:
    scores = torch.rand(100, dtype=torch.float64).to(device)
    return {how: select(scores, 7, strategy=how) for how in ("top", "gumbel", "proportional")}


# Long runs.


@call("a checkpoint gone on with")
def _(device: str, dtype: torch.dtype) -> Found:
    model, data = mlp(device, dtype), TensorDataset(rows(dtype, 80))
    loader = DataLoader(data, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        options = {**QUIET, "checkpoint": Path(folder) / "scores", "latency": 0}
        stream = GradNormScorer(model, **options).stream(loader)
        first = [next(stream) for _ in range(4)]
        stream.close()
        found = GradNormScorer(model, **options).score(loader).values
    return {"first": torch.cat(first), "scores": found}


@call("scores and predictions")
def _(device: str, dtype: torch.dtype) -> Found:
    found, predicted = score_and_predict(cnn(device, dtype), images(dtype).split(8), **QUIET)
    return {"scores": found.values} | {
        name: each for name, each in predicted.items() if each.is_floating_point()
    }


@call("numbers that are not finite")
def _(device: str, dtype: torch.dtype) -> Found:
    model, data = mlp(device, dtype), rows(dtype)
    data[11, 3] = float("nan")
    try:
        score_pool(model, data.split(8), **QUIET)
    except NonFiniteScoreError as error:
        told = float("11" in str(error))
    else:
        told = 0.0
    kept = score_pool(model, data.split(8), on_nonfinite="keep", **QUIET)
    return {"told": 1 + told, "kept": kept[kept.isfinite()], "lost": (~kept.isfinite()).sum()}
