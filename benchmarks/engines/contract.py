"""What another package's engine is here: from a model to squared norms of per-sample gradients.

None needs to be installed: packages are imported when an engine is made.
"""

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import size
from benchmarks.provenance import installed

Loss = Callable[[Tensor], Tensor]  # logits [N, C] to the loss of each sample [N]
SqNorms = Callable[[Any, Sequence[Loss]], Tensor]  # a batch and K losses to [N, K]


class MissingNormError(Exception):
    """A parameter has a gradient, and the engine left nothing for it to be read."""


@dataclass(frozen=True)
class Engine:
    """Another package's way to per-sample gradients.

    Attributes:
        name: Of the column.
        distribution: What to install.
        module: The package its own errors are raised in.
        ways: By name, from a model (a copy to work on) to the squared norms of its batches. The
            first is the one that the package's documentation shows.
    """

    name: str
    distribution: str
    module: str
    ways: Mapping[str, Callable[[nn.Module], SqNorms]]

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        return installed(self.distribution)


def label_losses(classes: int) -> list[Loss]:
    """The cross-entropy of each label."""

    def make(label: int) -> Loss:
        def loss(z: Tensor) -> Tensor:
            labels = torch.full((len(z),), label, device=z.device)
            return F.cross_entropy(z, labels, reduction="none")

        return loss

    return [make(label) for label in range(classes)]


def entropy_loss(z: Tensor) -> Tensor:
    """The entropy of each sample's posterior."""
    log_p = z.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that a gradient is wanted of, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def squares(per_sample: Tensor) -> Tensor:
    """Squared norm of each sample's gradient `[N]`, from `[N, *shape]`."""
    return per_sample.flatten(1).square().sum(1)


def total(model: nn.Module, batch: Any, read: Callable[[nn.Parameter], Tensor | None]) -> Tensor:
    """Squared norms `[N]` over all parameters; `read` finds one parameter's after a backward pass.

    Raises:
        MissingNormError: If a parameter has a gradient and `read` finds nothing.
    """
    parameters = trainable(model)
    found = torch.zeros(size(batch), dtype=next(iter(parameters.values())).dtype)
    for name, parameter in parameters.items():
        norms = read(parameter)
        if norms is not None:
            found = found.to(norms.device) + norms.detach()
        elif parameter.grad is not None:
            raise MissingNormError(f"no per-sample gradient or norm for `{name}`")
    return found


def expected(sq_norms: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """`Σ_c p_c ‖g_c‖` and `Σ_c p_c ‖g_c‖²` `[N]`, from squared norms and logits `[N, C]`."""
    p = z.detach().softmax(1)
    sq_norms = sq_norms.to(p)
    return (p * sq_norms.clamp_min(0).sqrt()).sum(1), (p * sq_norms).sum(1)


def is_refusal(error: BaseException, modules: Iterable[str]) -> bool:
    """Whether an exception says that something is not supported, or just happened.

    It says so if the engine's package raised it by a `raise` statement, if it is a
    `NotImplementedError`, or if its words are those of a missing rule of `vmap`.
    """
    if isinstance(error, (NotImplementedError, MissingNormError)):
        return True
    text = str(error).lower()
    if any(words in text for words in ("vmap:", "batching rule", "not supported", "unsupported")):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    inside = any(f"/{module.replace('.', '/')}" in last.filename for module in modules)
    return inside and (last.line or "").lstrip().startswith("raise")


def first_line(error: BaseException) -> str:
    """Type and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
