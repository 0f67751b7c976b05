"""Whether the dimension that is scored as the classes is one of positions."""

from collections.abc import Sequence

from torch import Tensor

from fastgradnorm._engine import Plan
from fastgradnorm._model import Batch
from fastgradnorm._witness.findings import Finding

_CURE = (
    "Pass `class_dim=-1` if the last dimension is the classes; `class_dim=-{from_end}` says that "
    "the second one is."
)


def class_dimension(logits: Tensor, samples: Batch, plan: Plan, class_dim: int) -> list[Finding]:
    """Looks at dense outputs `[N, C, *positions]` for the order `[N, *positions, C]`.

    Args:
        logits: Of the samples, as the model returned them.
        samples: What they are of.
        plan: How they are scored.
        class_dim: As asked for; other than 1, it is the caller's own word.
    """
    if class_dim != 1 or logits.dim() < 3:
        return []
    reason = _reason(tuple(logits.shape), samples, plan)
    if reason is None:
        return []
    shape = ", ".join(["N", *map(str, logits.shape[1:])])
    return [
        Finding(
            "class dimension",
            f"`class_dim` is 1: of logits [{shape}] the {logits.shape[1]} of dimension 1 are "
            f"scored as classes, at each of the other positions. But {reason}. "
            + _CURE.format(from_end=logits.dim() - 1),
        )
    ]


def _reason(shape: Sequence[int], samples: Batch, plan: Plan) -> str | None:
    """Why the last dimension looks like the classes."""
    mask = samples.attention_mask
    if len(shape) == 3 and mask is not None and mask.shape[1] == shape[1] != shape[2]:
        return f"`attention_mask` has that length, {mask.shape[1]}, so that these are positions"
    last = plan.uses[-1] if plan.uses else None
    made = None if last is None or last.output is None else tuple(last.output.shape[1:])
    if last is not None and last.operation == "linear" and made == tuple(shape[1:]):
        return f"a linear layer made them, `model.{last.layer}`, whose outputs come last"
    for leaf in samples.leaves:
        if _positions_first(shape, tuple(leaf.shape), leaf.is_floating_point()):
            return f"an input {list(leaf.shape)} has positions of just these lengths"
    return None


def _positions_first(shape: Sequence[int], given: Sequence[int], floating: bool) -> bool:
    """Whether outputs keep the positions of an input, with the classes after them."""
    places = len(shape) - 2
    if len(given) == 2 and not floating:  # words
        return places == 1 and given[1] == shape[1] != shape[2]
    if places < 2 or len(given) != places + 2 or not floating:
        return False  # one dimension of an input may be channels as well as positions
    before, after = tuple(shape[1:-1]), tuple(shape[2:])
    channels_first, channels_last = tuple(given[2:]), tuple(given[1:-1])
    if before == channels_first != after:
        return True
    return before == channels_last != after and given[-1] < min(channels_last)
