"""Other packages' squared per-sample gradient norms of a batch, class by class.

Each engine is used as its documentation says, with `F.cross_entropy` of one label for all samples
as the loss and one backward pass a class, and nothing done to the model that the package does not
ask for. None needs to be installed: packages are imported when an engine is made.
"""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import logits, size
from benchmarks.timing import installed

SqNorms = Callable[[Any], Tensor]  # batch to [N, C]


class MissingNormError(Exception):
    """A parameter has a gradient, and the engine left nothing for it to be read."""


@dataclass(frozen=True)
class Engine:
    """Another package's way to per-sample gradients.

    Attributes:
        name: Of the column.
        distribution: What to install.
        module: The package its own errors are raised in.
        make: From a model (a copy to work on) and the number of classes to the function of batches.
    """

    name: str
    distribution: str
    module: str
    make: Callable[[nn.Module, int], SqNorms]

    @property
    def version(self) -> str | None:
        """The installed version, or None."""
        return installed(self.distribution)


def _labels(batch: Any, label: int, like: Tensor) -> Tensor:
    return torch.full((size(batch),), label, device=like.device)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _by_backward(
    model: nn.Module,
    classes: int,
    backward: Callable[[Any, int], None],
    read: Callable[[nn.Parameter], Tensor | None],
) -> SqNorms:
    """One backward pass a class, after which `read` finds each parameter's squared norms `[N]`."""
    parameters = _trainable(model)

    def total(batch: Any) -> Tensor:
        found = torch.zeros(size(batch), dtype=next(iter(parameters.values())).dtype)
        for name, parameter in parameters.items():
            norms = read(parameter)
            if norms is not None:
                found = found.to(norms.device) + norms.detach()
            elif parameter.grad is not None:
                raise MissingNormError(f"no per-sample gradient or norm for `{name}`")
        return found

    def sq_norms(batch: Any) -> Tensor:
        columns = []
        for label in range(classes):
            for parameter in parameters.values():
                parameter.grad = None
            backward(batch, label)
            columns.append(total(batch))
        return torch.stack(columns, 1)

    return sq_norms


def _squares(per_sample: Tensor) -> Tensor:
    return per_sample.flatten(1).square().sum(1)


def _backpack(extension: str, attribute: str, model: nn.Module, classes: int) -> SqNorms:
    import backpack
    from backpack import extensions

    model, loss = backpack.extend(model), backpack.extend(nn.CrossEntropyLoss(reduction="sum"))

    def backward(batch: Any, label: int) -> None:
        z = logits(model, batch)
        with backpack.backpack(getattr(extensions, extension)()):
            loss(z, _labels(batch, label, z)).backward()

    def read(parameter: nn.Parameter) -> Tensor | None:
        found = getattr(parameter, attribute, None)
        if found is None or attribute == "batch_l2":
            return found
        return _squares(found)

    return _by_backward(model, classes, backward, read)


def _summed_loss(model: nn.Module) -> Callable[[Any, int], None]:
    def backward(batch: Any, label: int) -> None:
        z = logits(model, batch)
        F.cross_entropy(z, _labels(batch, label, z), reduction="sum").backward()

    return backward


def _opacus(model: nn.Module, classes: int) -> SqNorms:
    from opacus.grad_sample import GradSampleModule

    # It records in training mode only.
    wrapped = GradSampleModule(model.train(), loss_reduction="sum")
    step = _summed_loss(wrapped)

    def backward(batch: Any, label: int) -> None:
        wrapped.zero_grad()
        step(batch, label)

    def read(parameter: nn.Parameter) -> Tensor | None:
        found = getattr(parameter, "grad_sample", None)
        if isinstance(found, list):
            raise MissingNormError("several per-sample gradients for one parameter")
        return None if found is None else _squares(found)

    return _by_backward(wrapped, classes, backward, read)


def _opacus_ghost(model: nn.Module, classes: int) -> SqNorms:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(model.train(), loss_reduction="sum")
    backward = _summed_loss(wrapped)

    def sq_norms(batch: Any) -> Tensor:
        columns = []
        for label in range(classes):
            wrapped.zero_grad()
            backward(batch, label)
            columns.append(wrapped.get_norm_sample().detach().square())
        return torch.stack(columns, 1)

    return sq_norms


def _expanded_weights(model: nn.Module, classes: int) -> SqNorms:
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    def backward(batch: Any, label: int) -> None:
        for parameter in model.parameters():
            parameter.grad_sample = None
        options = {"batch_size": size(batch), "loss_reduction": "sum"}
        call = call_for_per_sample_grads(model, **options)
        output = call(**batch) if isinstance(batch, dict) else call(batch)
        z = output if isinstance(output, Tensor) else output.logits
        F.cross_entropy(z, _labels(batch, label, z), reduction="sum").backward()

    def read(parameter: nn.Parameter) -> Tensor | None:
        found = getattr(parameter, "grad_sample", None)
        return None if found is None else _squares(found)

    return _by_backward(model, classes, backward, read)


def _vmap_grad(model: nn.Module, classes: int) -> SqNorms:
    from torch.func import functional_call, grad, vmap

    parameters = {name: p.detach() for name, p in _trainable(model).items()}

    def loss(values: dict[str, Tensor], sample: Any, label: Tensor) -> Tensor:
        if isinstance(sample, dict):
            batch = {name: tensor[None] for name, tensor in sample.items()}
            output = functional_call(model, values, (), batch)
        else:
            output = functional_call(model, values, (sample[None],))
        z = output if isinstance(output, Tensor) else output.logits
        return F.cross_entropy(z, label[None])

    def sq_norms(batch: Any) -> Tensor:
        columns = []
        for label in range(classes):
            y = torch.tensor(label, device=next(iter(parameters.values())).device)
            grads = vmap(grad(loss), (None, 0, None))(parameters, batch, y)
            columns.append(sum(_squares(g) for g in grads.values()))
        return torch.stack(columns, 1)

    return sq_norms


def _torchjd(model: nn.Module, classes: int) -> SqNorms:
    from torchjd.autogram import Engine as Autogram

    engine = Autogram(model, batch_dim=0)

    def sq_norms(batch: Any) -> Tensor:
        columns = []
        for label in range(classes):
            z = logits(model, batch)
            losses = F.cross_entropy(z, _labels(batch, label, z), reduction="none")
            columns.append(engine.compute_gramian(losses).diagonal())
        return torch.stack(columns, 1)

    return sq_norms


def _nngeometry(model: nn.Module, classes: int) -> SqNorms:
    from nngeometry.backend import TorchHooksJacobianBackend

    backend = TorchHooksJacobianBackend(model=model)

    def sq_norms(batch: Any) -> Tensor:
        jacobian = backend.get_jacobian((batch,))  # [C, N, P]
        p = logits(model, batch).detach().softmax(1)
        residuals = p[:, None] - torch.eye(classes, dtype=p.dtype)  # [N, labels, C]
        return torch.einsum("nkc,cnp->nkp", residuals, jacobian).square().sum(-1)

    return sq_norms


ENGINES = (
    Engine("torch.func", "torch", "torch", _vmap_grad),
    Engine("ExpandedWeights", "torch", "torch.nn.utils._expanded_weights", _expanded_weights),
    Engine(
        "BackPACK BatchL2Grad",
        "backpack-for-pytorch",
        "backpack",
        lambda model, classes: _backpack("BatchL2Grad", "batch_l2", model, classes),
    ),
    Engine(
        "BackPACK BatchGrad",
        "backpack-for-pytorch",
        "backpack",
        lambda model, classes: _backpack("BatchGrad", "grad_batch", model, classes),
    ),
    Engine("Opacus hooks", "opacus", "opacus", _opacus),
    Engine("Opacus ghost", "opacus", "opacus", _opacus_ghost),
    Engine("TorchJD autogram", "torchjd", "torchjd", _torchjd),
    Engine("nngeometry", "nngeometry", "nngeometry", _nngeometry),
)


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
