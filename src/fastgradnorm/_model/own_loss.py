"""The loss of one sample, of what the model returns for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from fastgradnorm_kernels.functorch import is_transforming
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgradnorm._errors import LossError
from fastgradnorm._model.beyond import has_classes_last, out_of_range
from fastgradnorm._model.labels import Item
from fastgradnorm._model.opened import vars_of
from fastgradnorm._operations import tensors_in
from fastgradnorm._options import Options
from fastgradnorm._schemes import (
    find_target,
    reads_classes,
    takes_logits,
    with_classes_first,
)
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
            z, label = logits(output), find_target(item.content, options.target)
            if reads_classes(loss):
                z, label = with_classes_first(z, label, options.class_dim)
            return loss(z, label)
        return loss(output, item.content)

    try:
        with _Reading(item.constants) if item.constants else nullcontext():
            found = call()
    except (IndexError, RuntimeError) as error:
        if is_transforming():  # several samples at once; it is judged of each alone
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        label = find_target(item.content, options.target) if takes_logits(loss) else None
        last = reads_classes(loss) and has_classes_last(logits(output), label, options.class_dim)
        if last and label is not None:
            raise LossError(
                "`class_dim` must say where the classes are. Got "
                f"{options.class_dim}, and labels {list(label.shape)} for outputs "
                f"{list(logits(output).shape)}, whose last dimension they have one of each for. "
                f"Pass `class_dim=-1`. {type(error).__name__}: {error}",
                "class_dim",
            ) from error
        if label is not None and _wants_classes(loss, logits(output), label):
            raise LossError(
                "`target` must be whole numbers of classes for this loss. Got numbers with a "
                "fraction. Use `labels.long()`, or loss='mse' for values. "
                f"{type(error).__name__}: {error}",
                "target",
            ) from error
        beyond = out_of_range(call, error)
        if beyond is None:
            raise
        raise beyond from error
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
        advice = "Take its mean or sum (`reduction='mean'`), and keep it a tensor."
        if found is None and getattr(output, "loss", found) is None and hasattr(output, "loss"):
            advice = "The model made no loss, for it is given no labels: `loss='model'` does so."
        raise LossError(
            f"`loss` must be a function that returns one number, a floating-point tensor, for one "
            f"sample. Got {type_name(found)}. {advice}"
        )
    return found.reshape(1)


def loss_failed(options: Options, error: Exception) -> LossError:
    """What to raise where a loss fails by itself."""
    if takes_logits(options.loss):
        called = "(logits, target)`. What needs more, or other things, goes into a function `("
    else:
        called = "loss(output, batch)`, whose labels are such as `batch[1]`: a function of logits "
        called += "and labels goes into one of `("
    return LossError(
        "`loss` must run on what the model returns for one sample, and that sample's part of the "
        f"batch. It failed: {type(error).__name__}: {str(error).rstrip('.')}. It is called as "
        f"`{called}output, batch)`."
    )


def _wants_classes(loss: Callable[..., Any], logits: Any, label: Any) -> bool:
    """Whether a loss that failed on a label with a fraction runs on whole numbers."""
    if not (isinstance(label, Tensor) and label.is_floating_point()):
        return False
    try:
        loss(logits, label.long())
    except Exception:  # of the caller's: then that is not why it failed
        return False
    return True


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
            f"It returned {type_name(output)}. It must return `loss` when it is given `labels`, or "
            "of a batch as it is that has none. `target=` tells where labels are.",
        )
    return found


def output_of(model: nn.Module, options: Options, item: Item) -> Any:
    """What a model returns for a sample whose loss is wanted.

    Raises:
        ValueError: If it is given a label that it has no class for.
    """
    try:
        with undeclared(model):
            return item.call(model)
    except (IndexError, RuntimeError) as error:
        if options.loss != "model" or is_transforming():
            raise
        beyond = out_of_range(lambda: item.call(model), error, of_losses=True)
        if beyond is None:
            raise
        raise beyond from error


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
