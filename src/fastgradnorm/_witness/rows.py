"""Logits as a model returns them, a row for each sample."""

from torch import Tensor

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._validate import fail


def rows_of(logits: Tensor, count: int, class_dim: int) -> Tensor:
    """Logits of `count` samples, the classes last."""
    if logits.dim() == 1 and len(logits) == count:
        return logits[:, None]  # single logits, squeezed
    if logits.dim() < 2 or len(logits) != count:
        raise UnsupportedModelError(
            f"`model` must return logits [N, C, ...], a row for each sample. Got "
            f"{list(logits.shape)} from its own call on {count} samples of a batch, though it "
            "takes each of them alone. Keep the batch dimension first in the model's output, or "
            "pass `forward=lambda model, batch: ...` that does."
        )
    if not 1 - logits.dim() <= class_dim < logits.dim():
        raise fail("class_dim", f"a dimension of the logits {list(logits.shape)}", class_dim)
    return logits.movedim(class_dim, -1)
