"""Whether gradients grow with what is pulled back, as derivatives do.

Cotangents are divided by their size before they are pulled back, and one may stand for its
multiples. A function of the model's own may clip what comes by in its backward pass, and so may a
hook: then every cotangent has to be pulled back as it is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

# Of what is pulled back: turned round, smaller, and so large that a limit that others may meet is
# met here.
_TIMES = (-1.0, 1 / 16, 1024.0)
# Relative, of sums in two orders; and in half precision, where large ones may be none.
_ALIKE, _ALIKE_HALF = 1e-3, 0.1


def has_own(logits: Tensor) -> bool:
    """Whether a function of the model's own, or a module's backward hook, is in their graph."""
    waiting: list[Any] = [logits.grad_fn]
    seen = {*waiting}  # kept, so that no `id` is used again
    while waiting:
        node = waiting.pop()
        if isinstance(node, BackwardCFunction):
            return True
        parents = {parent for parent, _ in node.next_functions} if node is not None else set()
        waiting += parents - seen
        seen |= parents
    return False


def in_proportion(logits: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Whether gradients of some parameters do so, by a few pull-backs of one sample's logits."""
    count = torch.arange(1.0, logits.numel() + 1, device=logits.device)
    some = count.cos().view(logits.shape).to(logits.dtype)
    half = torch.finfo(logits.dtype).bits < 32
    first = _pulled(logits, leaves, some)
    if first is None or not all(bool(g.isfinite().all()) for g in first):
        return True  # there is none to compare with
    for times in _TIMES[: 2 if half else 3]:
        other = _pulled(logits, leaves, some * times)
        for a, b in zip(first, other or first, strict=True):
            room = (_ALIKE_HALF if half else _ALIKE) * float(a.abs().max())
            if not bool(((b / times - a).abs() <= room).all()):
                return False
    return True


def _pulled(logits: Tensor, leaves: Sequence[Tensor], cotangent: Tensor) -> list[Tensor] | None:
    """Gradients; None of a graph that cannot be pulled back from here."""
    try:
        found = torch.autograd.grad(
            logits, list(leaves), cotangent, retain_graph=True, allow_unused=True
        )
    except RuntimeError:  # what it is, the pass itself tells
        return None
    return [g.to_dense() for g in found if g is not None and g.numel()]
