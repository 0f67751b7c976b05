"""What our scores are held against: plain steps, plain loops, and the parts of the floor."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import floor, timing
from benchmarks.cases import first, logits, move, pieces, size
from benchmarks.engines import ENGINES, Engine
from benchmarks.engines.contract import Loss, SqNorms, label_losses
from benchmarks.gpu.precision import Mode
from benchmarks.gpu.reference import expected
from benchmarks.setting import Setting
from benchmarks.twins import twins

Run = Callable[[], Any]
NAIVE_SAMPLES = 2
VMAP_CHUNKS = (128, 32, 8, 2)
RIVALS = ("backpack", "opacus")  # packages
WRONG = 0.1  # relative error of squared norms in bfloat16; what is wrong errs by more


def autocast(mode: Mode, device: str) -> AbstractContextManager[Any]:
    """What makes plain PyTorch compute as our scorer does with the option."""
    if mode.autocast is None:
        return nullcontext()
    return torch.autocast(device, mode.autocast)


def under(mode: Mode, device: str, run: Run) -> Run:
    """The function under the mode's autocast."""

    def cast() -> Any:
        with autocast(mode, device):
            return run()

    return cast


def layouts(setting: Setting) -> dict[str, Setting]:
    """The setting as it is, and with the channels last where it has images."""
    found = {"contiguous": setting}
    if isinstance(setting.batch, Tensor) and setting.batch.dim() == 4:
        last = copy.copy(setting)
        last.model = copy.deepcopy(setting.model).to(memory_format=torch.channels_last)
        last.batch = setting.batch.contiguous(memory_format=torch.channels_last)
        found["channels last"] = last
    return found


def fastest(setting: Setting, mode: Mode, make: Callable[[Setting], Run]) -> tuple[str, Run]:
    """The function in the layout in which it is faster."""
    best: tuple[float, str, Run] | None = None
    for name, form in layouts(setting).items():
        run = under(mode, setting.device, make(form))
        seconds = timing.once(run, setting.device)
        if best is None or seconds < best[0]:
            best = seconds, name, run
    assert best is not None
    return best[1:]


def forward(setting: Setting) -> Run:
    """Logits without gradients."""
    return setting.forward


def training(setting: Setting) -> Run:
    """One step of stochastic gradient descent."""
    return Setting.training(setting)


def pulls(setting: Setting) -> Run:
    """A forward pass and plain pull-backs to the input."""
    return floor.frozen_run(setting)


def vmap_grad(setting: Setting, mode: Mode) -> tuple[int, Run]:
    """Per-sample gradients of one class by `torch.func`, in the chunk that is fastest a sample.

    Raises:
        Exception: What the smallest chunk raised, if none runs.
    """
    # Under `vmap`, autocast leaves operands of two types; so the model itself is narrow.
    model = copy.deepcopy(setting.model).to(dtype=mode.autocast)
    _, chunk, run = _fastest_chunk(ENGINES[0].ways["vmap(grad)"](model), setting, mode)
    return chunk, run


def _fastest_chunk(sq_norms: SqNorms, setting: Setting, mode: Mode) -> tuple[float, int, Run]:
    """Seconds a sample, the chunk and the run of one class's norms in the fastest chunk."""
    losses = label_losses(setting.classes)[:1]
    best: tuple[float, int, Run] | None = None
    failure: Exception | None = None
    for chunk in sorted({min(c, size(setting.batch)) for c in VMAP_CHUNKS}, reverse=True):
        part = move(first(setting.batch, chunk), setting.device, mode.autocast)
        run = partial(sq_norms, part, losses)
        try:
            each = timing.once(run, setting.device) / chunk
        except Exception as error:
            failure = error
            continue
        if best is None or each < best[0]:
            best = each, chunk, run
        elif each > 1.2 * best[0]:
            break
    if best is None:
        raise failure or RuntimeError("no chunk was tried")
    return best


def rivals() -> list[Engine]:
    """The packages made for gradients or norms of samples, of those that are installed."""
    return [e for e in ENGINES if e.module in RIVALS and e.version is not None]


def rival(engine: Engine, setting: Setting, mode: Mode) -> tuple[dict[str, Any], int, Run]:
    """What was changed of the model, chunk and run of one class's norms by another package.

    In the least changed form of the model that it gets right.

    Raises:
        Exception: What the least changed form met, if none is right.
    """
    failure: Exception | None = None
    few = move(first(setting.batch, 2), setting.device, mode.autocast)
    losses = label_losses(setting.classes)[:1]
    for form, twin in twins(setting.model).items():
        for way, make in engine.ways.items():
            try:
                model = copy.deepcopy(twin).to(dtype=mode.autocast)
                exact = _plain_sq_norms(setting, few, mode, losses)
                sq_norms = make(model)
                error = float((sq_norms(few, losses).to(exact) / exact - 1).abs().max())
                if error > WRONG:
                    raise ArithmeticError(f"wrong: relative error {error:.2g}")
                _, chunk, run = _fastest_chunk(sq_norms, setting, mode)
            except Exception as error:
                failure = failure or error
                continue
            facts = {"way": ", ".join(filter(None, (form, way))), "chunk": chunk}
            return facts | {"version": engine.version, "sq_norms_err": error}, chunk, run
    raise failure or RuntimeError("no way to try")


def _plain_sq_norms(setting: Setting, few: Any, mode: Mode, losses: list[Loss]) -> Tensor:
    """Squared norms `[n, 1]` of one class, sample by sample, by plain autograd."""
    model = copy.deepcopy(setting.model).to(dtype=mode.autocast)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for part in pieces(few, 1):
        (loss,) = losses[0](logits(model, part))
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append(sum(g.double().square().sum() for g in grads if g is not None))
    return torch.stack([torch.as_tensor(each) for each in found])[:, None]


def naive(setting: Setting, mode: Mode) -> tuple[int, Run]:
    """The plain autograd loop over a few samples, as anybody would write it."""
    few = min(NAIVE_SAMPLES, setting.samples)
    parts, model = pieces(first(setting.batch, few), 1), setting.model
    parameters: list[Tensor] = list(model.parameters())

    def run() -> None:
        for part in parts:
            with autocast(mode, setting.device):
                log_p = logits(model, part)[0].float().log_softmax(0)
            expected(log_p, parameters)

    return few, run


def smaller(setting: Setting, samples: int) -> Setting:
    """The same on its first samples."""
    found = copy.copy(setting)
    found.samples, found.batch = samples, first(setting.batch, samples)
    return found


def norm_flops(setting: Setting, score: str) -> float:
    """Operations of the norm products of one sample."""
    pulled = floor.pull_backs(score, setting.classes)
    return float(floor.norm_flops(setting.model, setting.batch, pulled)) if pulled else 0.0


def floor_seconds(
    setting: Setting, score: str, forward_seconds: float, pulls_seconds: float, products: float
) -> float:
    """Seconds of the whole batch at least, from measured parts; see `benchmarks/floor.py`."""
    each = max(0.0, pulls_seconds - forward_seconds) / floor.timed_pulls(setting.classes)
    pulled = floor.pull_backs(score, setting.classes)
    return forward_seconds + pulled * each + setting.samples * products
