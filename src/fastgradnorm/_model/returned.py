"""What a model returns, as logits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._validate import fail, type_name


def extract(output: Any) -> Tensor:
    """The logits of what a model returns."""
    if isinstance(output, tuple) and any(hasattr(output, name) for name in ("logits", "out")):
        output = getattr(output, "logits" if hasattr(output, "logits") else "out")
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    elif isinstance(output, Mapping):
        output = next((output[key] for key in ("logits", "out") if key in output), output)
    else:
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise UnsupportedModelError(
            "`model` must return logits: a tensor, a tuple (first), a mapping with 'out' or "
            f"'logits', or an object with `.logits`. Got {type_name(output)}. "
            "Pass `forward=lambda model, batch: ...` that returns them."
        )
    if output.dim() == 0:
        raise fail(
            "model",
            "a classifier that returns logits [N, C, ...]",
            output,
            "One number is a loss, or a mean over samples. If logits stand elsewhere in what it "
            "returns, pass `forward=lambda model, batch: ...` that returns them.",
        )
    if not output.is_floating_point():
        raise fail("model", "a classifier that returns floating-point logits", output)
    return output


def one_sample(logits: Tensor, class_dim: int) -> Tensor:
    """Logits of a batch of one, without the batch dimension and with the classes last."""
    if logits.numel() == 0:
        raise fail("model", "a classifier that returns logits of at least one class", logits)
    if logits.dim() == 1 and len(logits) == 1:
        return logits  # a single logit, squeezed
    if logits.dim() < 2 or logits.shape[0] != 1:
        raise fail(
            "model",
            "a classifier that returns logits [N, C, ...], here [1, C, ...] for one sample",
            logits,
            "Keep the batch dimension (`squeeze(-1)`, not `squeeze()`). If these are samples and "
            "no batches, make batches of them: `DataLoader(samples, batch_size=64)`.",
        )
    if not 1 - logits.dim() <= class_dim < logits.dim():
        raise fail("class_dim", f"a dimension of the logits {list(logits.shape)}", class_dim)
    return classes_last(logits, class_dim)[0]


def classes_last(logits: Tensor, class_dim: int) -> Tensor:
    """The same with the classes in the last dimension; no view of it where they are."""
    return logits if class_dim in (-1, logits.dim() - 1) else logits.movedim(class_dim, -1)
