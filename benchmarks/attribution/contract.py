"""What a package for influence is here: from a model to products of loss gradients.

All is asked of the cross-entropy at known labels: `⟨∇ℓ(x_i), ∇ℓ(q_j)⟩` over all trainable
parameters, for training samples `x_i` and queries `q_j`, without a projection, a curvature or
several checkpoints. What a package does by default is switched off where it can be, so that only
the gradients that it has are compared. None needs to be installed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.engines.contract import is_refusal
from benchmarks.provenance import installed

# Training samples, their labels, queries and their labels, samples at a time: products [N, Q].
Products = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Package:
    """A package's way to products.

    Attributes:
        name: Of the column.
        distribution: What to install; empty for our own.
        modules: In which its own errors are raised.
        ways: By name, from a model (a copy to work on) to the products; those after the first are
            tried where those before refuse or crash.
        leaves_out: What its documentation or its code says it does not count.
    """

    name: str
    distribution: str
    modules: tuple[str, ...]
    ways: Mapping[str, Callable[[nn.Module], Products]]
    leaves_out: str = ""

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        return installed(self.distribution)

    def refuses(self, error: BaseException) -> bool:
        """Whether an error says that something is not supported; an assertion with words does."""
        told = isinstance(error, AssertionError) and bool(str(error))
        return told or is_refusal(error, self.modules)


def loader(x: Tensor, y: Tensor, chunk: int) -> DataLoader[Any]:
    """Samples in order, so many at a time."""
    return DataLoader(TensorDataset(x, y), batch_size=chunk, shuffle=False)


def counted(model: nn.Module) -> list[str] | None:
    """Names of trainable parameters; None: all are."""
    named = dict(model.named_parameters())
    names = [name for name, p in named.items() if p.requires_grad]
    return None if len(names) == len(named) else names


def exact_products(model: nn.Module, x: Tensor, y: Tensor, q: Tensor, r: Tensor) -> Tensor:
    """`[N, Q]` by one `autograd.grad` a sample, on the model called with that sample alone."""
    return _gradients(model, x, y) @ _gradients(model, q, r).T


def error_of(found: Tensor, exact: Tensor, sizes: tuple[Tensor, Tensor]) -> float:
    """Largest difference over `‖g_i‖ ‖g_j‖`; infinite where it is no number or of another shape."""
    if found.shape != exact.shape or not bool(found.isfinite().all()):
        return float("inf")
    scale = (sizes[0][:, None] * sizes[1]).clamp_min(1e-300)
    return float(((found.to(exact) - exact).abs() / scale).max())


def sizes_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """`‖g_i‖` `[N]`."""
    return _gradients(model, x, y).norm(dim=1)


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """`[N, P]`; the cotangent `p - e_y` is written so that none is a difference of near numbers."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for sample, label in zip(x.split(1), y.tolist(), strict=True):
        z = model(sample)
        cotangent = z.detach()[0].softmax(0)
        cotangent[label] = 0.0
        cotangent[label] = -cotangent.sum()
        grads = torch.autograd.grad(z, parameters, cotangent[None], allow_unused=True)
        pairs = zip(grads, parameters, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        )
    return torch.stack(rows)
