"""The loss of one sample, of what the model returns for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_transforming
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fastgradnorm._errors import LossError
from fastgradnorm._model.labels import Item
from fastgradnorm._operations import tensors_in
from fastgradnorm._options import Options
from fastgradnorm._schemes import find_target, takes_logits
from fastgradnorm._validate import fail, type_name

_DECLARED = "problem_type"


class _Reading(TorchFunctionMode):
    """Refuses tensors that do not hold one entry a sample."""

    def __init__(self, constants: Mapping[int, str]) -> None:
        super().__init__()
        self._constants = constants

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for tensor in tensors_in(args, kwargs or {}):
            if id(tensor) in self._constants and getattr(func, "__name__", "") != "__get__":
                raise LossError(
                    "`loss` must read what holds one entry a sample. It read "
                    f"`batch{self._constants[id(tensor)]}`, {type_name(tensor)}, which does not. "
                    "Give constants to the loss itself: a closure, or `functools.partial`."
                )
        return func(*args, **(kwargs or {}))


def sample_loss(options: Options, logits: Any, output: Any, item: Item) -> Tensor:
    """The loss `[1]` of one sample.

    Args:
        options: With a `loss` that is no name of a function of the logits.
        logits: From what a model returns to its logits.
        output: What it returned for the sample.
        item: The sample's part of its batch.

    Raises:
        ValueError: If it is no single number, or a label is out of range.
    """
    loss: Any = options.loss

    def call() -> Any:
        if loss == "model":
            return _of_model(output)
        if takes_logits(loss):
            return loss(logits(output), find_target(item.content, options.target))
        return loss(output, item.content)

    try:
        with _Reading(item.constants) if item.constants else nullcontext():
            found = call()
    except (IndexError, RuntimeError) as error:
        if is_transforming():  # several samples at once; it is judged of each alone
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        label = find_target(item.content, options.target) if takes_logits(loss) else None
        if label is not None and _wants_classes(loss, logits(output), label):
            raise LossError(
                "`target` must be whole numbers of classes for this loss. Got numbers with a "
                "fraction. Use `labels.long()`, or loss='mse' for values. "
                f"{type(error).__name__}: {error}"
            ) from error
        beyond = _beyond(call)
        if beyond is None:
            raise
        raise LossError(
            f"`loss` must be given labels within the model's classes. Got {beyond[0]}, which is "
            f"out of range for {beyond[1]}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
        got = type_name(found)
        raise LossError(
            f"`loss` must be a function that returns one number, a floating-point tensor, for one "
            f"sample. Got {got}. Take its mean or sum (`reduction='mean'`), and keep it a tensor."
        )
    return found.reshape(1)


def _wants_classes(loss: Callable[..., Any], logits: Any, label: Any) -> bool:
    """Whether a loss that failed on a label with a fraction runs on whole numbers."""
    if not (isinstance(label, Tensor) and label.is_floating_point()):
        return False
    try:
        loss(logits, label.long())
    except Exception:  # of the caller's: then that is not why it failed
        return False
    return True


class _Failing(TorchFunctionMode):
    """Keeps the arguments of the call that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.args: list[Any] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.args = self.args or pytree.tree_leaves((args, kwargs))
            raise


def _beyond(call: Callable[[], Any]) -> tuple[int, int] | None:
    """A label for which there is no class in what a failing call reads, and how many it has."""
    with _Failing() as failing, suppress(Exception):
        call()
    tensors = [arg for arg in failing.args if isinstance(arg, Tensor)]
    labels = [arg for arg in failing.args if type(arg) is int]
    read = [t for t in tensors if t.is_floating_point()]
    counts = [size for t in read for size in t.shape] or labels
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    given = [int(value) for t in tensors if t.dtype in whole for value in t.flatten().unique()]
    most = max(counts, default=0)
    least = 0 if given else -most  # a number alone may be a place from the end
    wrong = [value for value in given or labels if value >= most or value < least]
    return (wrong[-1], most) if most and wrong else None


def _of_model(output: Any) -> Any:
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    found = getattr(output, "loss", None)
    if found is None and isinstance(output, (tuple, list)) and output:
        first = output[0]
        found = first if isinstance(first, Tensor) and first.numel() == 1 else None
    if found is None and isinstance(output, Tensor) and output.numel() == 1:
        found = output
    if found is None:
        raise fail(
            "loss",
            "'cross_entropy' or a function for a model that returns no loss",
            "model",
            f"It returned {type_name(output)}. It must return `loss` when it is given `labels`.",
        )
    return found


@contextmanager
def undeclared(model: nn.Module) -> Iterator[None]:
    """Models of transformers that are given labels note in their configuration what these are."""
    configs = {id(c): c for m in model.modules() if (c := m.__dict__.get("config")) is not None}
    kept = [(c, c.problem_type) for c in configs.values() if _DECLARED in vars_of(c)]
    try:
        yield
    finally:
        for config, before in kept:
            if config.problem_type != before:
                config.problem_type = before


def vars_of(item: Any) -> dict[str, Any]:
    """Its attributes, if it has a dictionary of them."""
    found = getattr(item, "__dict__", None)
    return found if isinstance(found, dict) else {}
