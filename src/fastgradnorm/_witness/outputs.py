"""Which of a model's outputs was scored, which dimension as the classes, and what was left out."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from fastgradnorm._model import Subject, extract
from fastgradnorm._witness.findings import Finding
from fastgradnorm._witness.graph import comes_from, parameters_behind
from fastgradnorm._witness.probe import Seen, with_graph

_CURE = "pass `forward=lambda model, batch: model(batch)[i]` with the i of the logits"
_NAMED = 3  # parameters, of those that are told
_ALSO = 4  # samples that are looked at where one leaves out what may be the head


def which_output(seen: Seen) -> list[Finding]:
    """Looks at tuples and lists, whose first element is scored: whether another was meant.

    The parameters behind each output tell: features go through more of them before they are logits,
    and a loss through none after.
    """
    scored, others = seen.scored, _others(seen)
    own = parameters_behind(scored, seen.leaves)
    for place, other in others:
        behind = parameters_behind(other, seen.leaves)
        further = [name for name in seen.leaves if name in behind - own]
        got = f"{_shape(scored)} first, and at [{place}] {_shape(other)}"
        if own < behind and other.shape[-1] != scored.shape[-1]:
            return [
                Finding(
                    "another output",
                    f"`model` must return its logits first. Got {got}, which goes further, through "
                    f"{_list(further)}: the first looks like features, and their softmax has no "
                    f"meaning. Return the logits first, or {_CURE}.",
                    "refuse",
                )
            ]
        single = scored.numel() == 1 and other.dim() > 1 and other.shape[-1] > 1
        if single and own == behind and not comes_from(other, scored):
            return [
                Finding(
                    "another output",
                    f"`model` must return its logits first. Got {got}, from which the first is "
                    "made without a parameter in between: it looks like a loss, and would be "
                    f"scored as a single logit. Return the logits first, or {_CURE}.",
                    "refuse",
                )
            ]
    return _left_out(seen, own, others)


def _left_out(
    seen: Seen, own: frozenset[str], others: Sequence[tuple[int, Tensor]]
) -> list[Finding]:
    for place, other in others:
        behind = parameters_behind(other, seen.leaves) - own
        further = [name for name in seen.leaves if name in behind]
        if further:
            return [
                Finding(
                    "another output",
                    f"`model` returned {len(others) + 1} outputs, of which the first, "
                    f"{_shape(seen.scored)}, is scored. {_list(further)} reach the one at [{place}]"
                    f", {_shape(other)}, alone, and count as zero. If the logits are there, "
                    f"{_CURE}.",
                )
            ]
    return []


def parameters_left_out(seen: Seen, subject: Subject, told: bool) -> list[Finding]:
    """Names trainable parameters that the logits do not depend on.

    Where they come after all that count, and one takes what was scored, it looks like the head;
    unless it is `told` already that they reach another output.
    """
    behind = parameters_behind(seen.scored, seen.leaves)
    names = [name for name in subject.chosen if name in seen.leaves]
    idle = [name for name in names if name not in behind]
    if not idle:
        return []
    message = (
        f"{len(idle)} of {len(names)} trainable parameters take no part in the logits of the "
        f"sample looked at, and count as zero: {_list(idle)}."
    )
    last = max((i for i, name in enumerate(names) if name in behind), default=-1)
    heads = [name for name in names[last + 1 :] if _takes(subject.parameters[name], seen.logits)]
    if told or not heads or seen.is_named or subject.options.forward is not None:
        return [Finding("parameters left out", message, "note")]
    if any(name in also for also in _behind_others(seen, subject) for name in heads):
        return [Finding("parameters left out", message, "note")]  # each sample has its own
    return [
        Finding(
            "parameters left out",
            f"{message} `{heads[0]}` would take outputs like those that were scored, as a head "
            "does: if the logits are made there, `model` returned something else, and scores are "
            "of that. Return the logits, or set `requires_grad_(False)` on what is not used.",
        )
    ]


def cut_off(block: str | None) -> list[Finding]:
    """Tells of a checkpointed block that training leaves out, by its name."""
    if block is None:
        return []
    return [
        Finding(
            "cut off by a checkpoint",
            f"`torch.utils.checkpoint` runs `{block}` with use_reentrant=True, and none of the "
            "tensors that it is given needs a gradient: in training, its parameters have none. In "
            "scores they count, as they do with use_reentrant=False. Use that in training, too, or "
            "leave them out by `params`.",
        )
    ]


def _takes(weight: Tensor, scored: Tensor) -> bool:
    """Whether a layer's weight fits what was scored, `[n, C, ...]`, flattened, or last in it."""
    sizes = {*scored.shape[1:2], *scored.shape[-1:], scored[0].numel()}
    return weight.dim() > 1 and weight.shape[1] in sizes


def _behind_others(seen: Seen, subject: Subject) -> Iterator[frozenset[str]]:
    """The parameters behind the logits of a few more samples."""
    for i in range(1, min(_ALSO, len(seen.samples))):
        leaves, output = with_graph(subject, seen.samples.take(slice(i, i + 1)))
        yield parameters_behind(extract(output), leaves)


def _others(seen: Seen) -> list[tuple[int, Tensor]]:
    """The further outputs of a sequence whose first is scored, with a graph, by place."""
    output: Any = seen.output
    if not isinstance(output, (tuple, list)) or output[0] is not seen.scored:
        return []
    return [
        (place, other)
        for place, other in enumerate(output)
        if place and isinstance(other, Tensor) and other.requires_grad and other.dim() > 0
    ]


def _shape(output: Tensor) -> str:
    return f"[{', '.join(['N', *map(str, output.shape[1:])])}]"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
