"""kronfluence and bergson: hooks on modules of their own list, what has none is left out."""

import contextlib
import io
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks.attribution.contract import Products


def kronfluence(model: nn.Module, folder: str) -> Products:
    """Pairwise scores with the identity as curvature, in the model's own dtype."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    task, dtype = Classification(), next(model.parameters()).dtype
    model = prepare_model(model, task)
    options: dict[str, Any] = {"cpu": True, "disable_tqdm": True, "log_level": logging.ERROR}
    made = Analyzer("products", model, task, output_dir=folder, **options)
    shared = FactorArguments(strategy="identity", has_shared_parameters=True)
    arguments = ScoreArguments(
        score_dtype=dtype, per_sample_gradient_dtype=dtype, precondition_dtype=dtype
    )

    def products(x: Tensor, y: Tensor, q: Tensor, r: Tensor, chunk: int) -> Tensor:
        training, asked = TensorDataset(x, y), TensorDataset(q, r)
        with contextlib.redirect_stdout(io.StringIO()):
            made.fit_all_factors("identity", training, chunk, factor_args=shared)
            made.compute_pairwise_scores(
                "products",
                "identity",
                query_dataset=asked,
                train_dataset=training,
                per_device_query_batch_size=len(q),
                per_device_train_batch_size=chunk,
                score_args=arguments,
                overwrite_output_dir=True,
            )
        return made.load_pairwise_scores("products")["all_modules"].T  # type: ignore[index]

    return products


def bergson(model: nn.Module) -> Products:
    """Gradients of all its modules, biases too, without projection; and products of them."""
    from bergson.collector.gradient_collectors import TraceCollector
    from bergson.gradients import GradientProcessor

    dtype = next(model.parameters()).dtype

    def gradients(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        made = TraceCollector(
            model=model,
            processor=GradientProcessor(include_bias=True),
            device="cpu",
            dtype=dtype,
        )
        with made:
            F.cross_entropy(model(x), y, reduction="sum").backward()
        model.zero_grad()
        return {
            name: torch.cat([g.flatten(1) for g in each]) for name, each in made.mod_grads.items()
        }

    def products(x: Tensor, y: Tensor, q: Tensor, r: Tensor, chunk: int) -> Tensor:
        asked = gradients(q, r)
        rows = []
        for pair in zip(x.split(chunk), y.split(chunk), strict=True):
            found = gradients(*pair)
            rows.append(torch.stack([g @ asked[name].T for name, g in found.items()]).sum(0))
        return torch.cat(rows)

    return products


class _Positioned(nn.Module):
    """A linear layer that sees one position where it is given none."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, None])[:, 0] if x.dim() == 2 else self.layer(x)


def positioned(model: nn.Module) -> nn.Module:
    """The model with such layers, for a package whose inputs must be `[N, T, D]`."""
    for module in list(model.modules()):
        if isinstance(module, _Positioned):
            continue
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, _Positioned(child))
    return model
