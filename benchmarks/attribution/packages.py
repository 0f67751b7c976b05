"""The packages, each used as its documentation says."""

import contextlib
import copy
import io
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.attribution.contract import Package, Products, counted, loader
from benchmarks.attribution.hooked import bergson, kronfluence, positioned
from fastgradnorm import gradient_dots, mean_gradient


def ours(model: nn.Module) -> Products:
    """Each query's gradient as a direction, and the products with all of them."""

    def products(x: Tensor, y: Tensor, q: Tensor, r: Tensor, chunk: int) -> Tensor:
        options: dict[str, Any] = {"loss": "cross_entropy", "progress": False, "verify": False}
        asked = [
            mean_gradient(model, [pair], **options)
            for pair in zip(q.split(1), r.split(1), strict=True)
        ]
        batches = list(zip(x.split(chunk), y.split(chunk), strict=True))
        return gradient_dots(model, batches, asked, **options)

    return products


def dattri(model: nn.Module) -> Products:
    """`TracInAttributor` with one checkpoint and no projection: `vmap(grad)` of both sides."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        x, y = data
        z = torch.func.functional_call(model, params, x.unsqueeze(0))
        return F.cross_entropy(z, y.unsqueeze(0))

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    names: Any = counted(model)  # without layers' names frozen parameters count too
    made = TracInAttributor(task, torch.ones(1), normalized_grad=False, layer_name=names)
    made.projector_kwargs = None  # its argument None means 512 numbers

    def products(x: Tensor, y: Tensor, q: Tensor, r: Tensor, chunk: int) -> Tensor:
        with contextlib.redirect_stderr(io.StringIO()):
            return made.attribute(loader(x, y, chunk), loader(q, r, len(q)))

    return products


def trak(model: nn.Module) -> Products:
    """TRAK's gradients as `TRAKer` takes them, `vmap(grad)`, and products of them."""
    from trak.gradient_computers import FunctionalGradientComputer

    class Loss:
        @staticmethod
        def get_output(model: Any, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            z = torch.func.functional_call(model, (weights, buffers), x.unsqueeze(0))
            return F.cross_entropy(z, y.unsqueeze(0))

    parts: Any = model, Loss, None, next(model.parameters()).dtype, "cpu"
    made = FunctionalGradientComputer(*parts, grad_wrt=counted(model))

    def gradients(x: Tensor, y: Tensor) -> list[Tensor]:
        found: Any = made.compute_per_sample_grad((x, y))
        return [g.detach().flatten(1) for g in found.values()]

    def products(x: Tensor, y: Tensor, q: Tensor, r: Tensor, chunk: int) -> Tensor:
        asked = gradients(q, r)
        rows = []
        for pair in zip(x.split(chunk), y.split(chunk), strict=True):
            both = zip(gradients(*pair), asked, strict=True)
            rows.append(torch.stack([g @ v.T for g, v in both]).sum(0))
        return torch.cat(rows)

    return products


def captum(model: nn.Module, by_sample: bool = True) -> Products:
    """`TracInCP` of one checkpoint: one `autograd.grad` a sample, or its hooks on whole batches."""
    from captum.influence import TracInCP

    def layers() -> list[str] | None:
        if counted(model) is None:
            return None
        own = {name: list(m.parameters(recurse=False)) for name, m in model.named_modules()}
        return [name for name, given in own.items() if any(p.requires_grad for p in given)]

    def products(x: Tensor, y: Tensor, q: Tensor, r: Tensor, chunk: int) -> Tensor:
        made = TracInCP(
            model,
            loader(x, y, chunk),
            ["as it is"],
            lambda model, name: 1.0,
            layers=layers(),
            loss_fn=nn.CrossEntropyLoss(reduction="none" if by_sample else "sum"),
            batch_size=None,
            sample_wise_grads_per_batch=not by_sample,
        )
        found: Tensor = made.influence((q, r))  # type: ignore[assignment]
        return found.detach().T

    return products


def _in_a_folder(model: nn.Module) -> Products:
    def products(*given: Any) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            return kronfluence(copy.deepcopy(model), folder)(*given)  # it wraps what it is given

    return products


OURS = Package("fastgradnorm", "", ("fastgradnorm",), {"products": ours})
PACKAGES = (
    Package("captum TracInCP", "captum", ("captum",), {"by sample": captum}),
    Package(
        "captum TracInCP, hooks",
        "captum",
        ("captum",),
        {"hooks": lambda model: captum(model, by_sample=False)},
        "all layers but Linear and Conv2d",
    ),
    Package("dattri TracIn", "dattri", ("dattri",), {"vmap(grad)": dattri}),
    Package("TRAK's gradients", "traker", ("trak",), {"vmap(grad)": trak}),
    Package(
        "kronfluence, identity",
        "kronfluence",
        ("kronfluence",),
        {"hooks": _in_a_folder},
        "all layers but Linear and Conv2d",
    ),
    Package(
        "bergson",
        "bergson",
        ("bergson",),
        {"hooks": bergson, "heads given a position": lambda model: bergson(positioned(model))},
        "all layers but Linear and convolutions, all inputs but [N, T, D]",
    ),
)
