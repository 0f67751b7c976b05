"""One model: its scores beside a float64 loop over the model itself."""

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import fastgradnorm
from benchmarks.gpu.precision import IEEE

SAMPLES = 3
CLASSES = 3
# Largest relative error that counts as exact. Where scores in float32 are further from the loop in
# float64, rounding may have decided (of two activations near zero, or near a tie of a top-k): there
# scores in float64 have to agree with it, or, of models that do not run so, the loops in float32.
EXACT = {torch.float64: 1e-7, torch.float32: 1e-3}

_MOST = 1e12  # of a logit
_MOST_INSIDE = 1e18  # of what a module returns: squares leave float32's range

Batch = Tensor | Mapping[str, Tensor]
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of models and the small one that stands for it.

    Attributes:
        library: Where it is from.
        name: Of the family.
        build: Makes the model and a batch of `SAMPLES`; what it raises is why there is none.
    """

    library: str
    name: str
    build: Callable[[], tuple[nn.Module, Batch, str]]

    @property
    def key(self) -> str:
        return f"{self.library}/{self.name}"


def perturbed(model: nn.Module) -> nn.Module:
    """With no parameter or running statistic at a trivial value, in eval mode."""
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point() and (p.dim() <= 1 or bool((p == p.flatten()[0]).all())):
                p.add_(0.1 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.add_(0.1 * torch.randn_like(b))
            elif name.endswith("running_var"):
                b.mul_(0.75 + 0.5 * torch.rand_like(b))
    return model.eval()


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    output = model(batch) if isinstance(batch, Tensor) else model(**batch)
    if isinstance(output, Tensor):
        return output
    logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return logits


def _sample(batch: Batch, n: int) -> Batch:
    if isinstance(batch, Tensor):
        return batch[n : n + 1]
    return {key: value[n : n + 1] for key, value in batch.items()}


def _wide(tree: Any) -> Any:
    wide = lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x  # noqa: E731
    return tree_map(wide, tree)


def _on(tree: Any, device: str) -> Any:
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)


def loop_scores(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    """`Σ_c p_c ‖g_c‖` `[N]` by one `autograd.grad` a sample and class."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    scores = []
    for n in range(SAMPLES):
        with _ContiguousGradients():
            z = _logits(model, _sample(batch, n)) / temperature
        p = z.detach()[0].softmax(0)
        score = torch.zeros((), dtype=z.dtype, device=z.device)
        for c in range(len(p)):
            cotangent = p.clone()
            cotangent[c] = 0.0
            cotangent[c] = -cotangent.sum()
            grads = torch.autograd.grad(
                z, parameters, cotangent[None], retain_graph=True, allow_unused=True
            )
            square = sum(g.abs().square().sum() for g in grads if g is not None)
            score = score + p[c] * torch.as_tensor(square).sqrt()
        scores.append(score)
    return torch.stack(scores)


class _ContiguousGradients(TorchFunctionMode):
    """Lays gradients at the outputs of batch and instance norms out anew.

    PyTorch 2.13's pull-back of these in eval mode is wrong on a CPU for one sample with the
    channels last, as finite differences show (`tests/test_oracle.py`).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (F.batch_norm, F.instance_norm) and out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out


def _error(actual: Tensor, exact: Tensor) -> float:
    actual, exact = actual.cpu(), exact.cpu()
    if actual.shape != exact.shape or not bool(actual.isfinite().all()):
        return math.inf
    return float(((actual - exact).abs() / exact.abs().clamp_min(1e-300)).max())


def _ours(model: nn.Module, batch: Batch, temperature: float) -> tuple[Tensor, list[str]]:
    """By the package's defaults; with the reasons of the slow path."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scores = fastgradnorm.score_pool(model, [batch], temperature=temperature, progress=False)
    slow = [str(w.message) for w in told if issubclass(w.category, fastgradnorm.SlowPathWarning)]
    return scores, slow


@contextlib.contextmanager
def _largest(model: nn.Module) -> Iterator[list[float]]:
    """The largest number that each module returns."""
    sizes: list[float] = []

    def note(_: nn.Module, args: Any, output: Any) -> None:
        tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        sizes.extend(float(t.abs().max()) for t in tensors if t.is_floating_point() and t.numel())

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


class NotMade(Exception):
    """There is no such small model here; or it does not run by itself."""


def judge(family: Family, device: str = "cpu") -> Outcome:
    """Builds the family's model on the CPU and tells what came of its scores on a device."""
    torch.manual_seed(0)
    try:
        model, batch, which, temperature = _checked(family)
        own, own_batch = copy.deepcopy(model).to(device), _on(batch, device)
        if device != "cpu":
            with torch.no_grad():
                _logits(own, own_batch)
            own.train().eval()
        loop = _loop(model, batch, temperature, device)
    except Exception as fault:  # of the model, or of making it: nothing to score
        return {"outcome": "not made", "message": _line(fault)}
    facts: Outcome = {"model": which, "parameters": sum(p.numel() for p in model.parameters())}
    facts |= {"loop": str(loop.dtype).removeprefix("torch.")} | loop.elsewhere
    try:
        scores, slow = _ours(own, own_batch, temperature)
        error = facts["error"] = _error(scores, loop.scores)
        unsure = error > EXACT[torch.float32] and loop.dtype == torch.float64
        if unsure and not loop.elsewhere:  # where it is, the device may not have float64 to ask
            wide = copy.deepcopy(model).double().to(device)
            scores, more = _ours(wide, _wide(own_batch), temperature)
            error = facts["error_float64"] = _error(scores, loop.scores)
            slow = slow or more
    except Exception as fault:  # whatever is raised is the outcome
        return facts | {"outcome": _kind(fault), "message": _line(fault)}
    wrong = not error <= EXACT[torch.float64 if "error_float64" in facts else torch.float32]
    kind = "wrong" if wrong else "slow" if slow else "exact"
    return facts | {"outcome": kind} | ({"message": slow[0]} if slow else {})


def _checked(family: Family) -> tuple[nn.Module, Batch, str, float]:
    """The model, a batch that it can be scored on, which it is, and a temperature."""
    model, batch, which = family.build()
    model = perturbed(model)
    with torch.no_grad(), _largest(model) as sizes:
        logits = _logits(model, batch)
    if logits.dim() != 2 or not bool(logits.isfinite().all()):
        raise NotMade(f"logits {list(logits.shape)}, or not finite")
    if float(logits.abs().max()) > _MOST:  # squares of activations leave float32's range
        raise NotMade(f"random weights give logits of {float(logits.abs().max()):.0e}")
    if max(sizes, default=0.0) > _MOST_INSIDE:
        raise NotMade(f"random weights give activations of {max(sizes):.0e}")
    # Some keep what they make of parameters, without a gradient in `no_grad`: till they train.
    model.train().eval()
    # So that no posterior is nearly certain, where float32 logits decide all digits.
    return model, batch, which, max(1.0, float(logits.std()))


@dataclass(frozen=True)
class _Loop:
    """What the loop gave.

    Attributes:
        elsewhere: Where it was made on the CPU for a device: that, and what the device said.
    """

    scores: Tensor
    dtype: torch.dtype
    elsewhere: Outcome


def _loop(model: nn.Module, batch: Batch, temperature: float, device: str) -> _Loop:
    """In float64 if the model runs in it, for many have float32 written in them.

    In either it is made on the CPU where the device refuses, as it does to pull back through a
    recurrent network in eval mode.
    """
    said: list[Exception] = []
    for dtype in (torch.float64, torch.float32):
        for place in dict.fromkeys((device, "cpu")):
            elsewhere = {"loop_on": place, "device_said": _line(said[-1])} if said else {}
            try:
                twin, own = copy.deepcopy(model), _on(batch, place)
                if dtype == torch.float64:
                    twin, own = twin.double(), _wide(own)
                with contextlib.nullcontext() if place == "cpu" else IEEE.set():
                    scores = loop_scores(twin.to(place), own, temperature).cpu()
                if not bool(scores.isfinite().all()):
                    raise NotMade(f"the loop in {dtype} gives {scores.tolist()}")
                return _Loop(scores, dtype, {} if place == device else elsewhere)
            except Exception as error:
                said.append(error)
                if place.startswith("cuda"):
                    torch.cuda.synchronize()  # raises where the device is lost
    raise said[-1]


def _kind(error: Exception) -> str:
    """A refusal is one of the package's own errors, raised as such."""
    refusals = (fastgradnorm.UnsupportedModelError, fastgradnorm.CoverageError)
    return "refused" if isinstance(error, refusals) else "crashed"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
