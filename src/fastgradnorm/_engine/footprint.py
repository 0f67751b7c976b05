"""What a pass needs in memory, as far as one plain pass tells."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor

from fastgradnorm._engine.coverage import Coverage
from fastgradnorm._model import Subject, Use, parts
from fastgradnorm._operations import Rule, count, forms_tied

_MANY = 1 << 20


class SavedBytes:
    """Adds up what autograd keeps for one sample, parameters apart.

    The graph holds numbers, not tensors: an operation that holds its own output would be a circle
    that is never freed. What autocast makes of parameters is left out, on the CPU: there is one of
    each for all samples.

    Attributes:
        tensors: What the graph's numbers stand for; to be cleared when it is not pulled back from.
    """

    def __init__(self, parameters: Iterable[Tensor], autocast: torch.dtype | None = None) -> None:
        self._autocast = autocast
        parameters = [*parameters]
        self.seen = {p.untyped_storage().data_ptr() for p in parameters}
        self._casts = Counter((p.dtype, *sorted(p.shape)) for p in parameters)
        self.tensors: list[Tensor] = []
        self.total = 0

    def noted(self) -> AbstractContextManager[Any]:
        """A context in which whatever autograd keeps is noted."""
        hooks: AbstractContextManager[Any]
        hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack)
        return hooks

    def pack(self, tensor: Tensor) -> int:
        """Notes a tensor, and returns its number."""
        for storage in (part.untyped_storage() for part in parts(tensor)):
            if storage.data_ptr() not in self.seen:
                self.seen.add(storage.data_ptr())
                self.total += 0 if self._is_cast(tensor) else storage.nbytes()
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _is_cast(self, tensor: Tensor) -> bool:
        """Whether it is, by its shape, one of as many parameters, in autocast's dtype."""
        found = (torch.float32, *sorted(tensor.shape))
        narrow = tensor.device.type == "cpu" and tensor.dtype == self._autocast
        if not narrow or not self._casts[found]:
            return False
        self._casts[found] -= 1
        return True

    def unpack(self, number: int) -> Tensor:
        """The tensor of that number, for models that pull back while they run."""
        return self.tensors[number]


def transient_elements(uses: Sequence[Use], subject: Subject, coverage: Coverage) -> int:
    """The largest step of a pull-back: a gradient, what its rule makes of it, and copies."""
    outputs = max([count(use.output) for use in uses if use.output is not None], default=1)
    largest = max([count(subject.parameters[name]) for name in coverage.leftovers], default=0)
    return 4 * outputs + 2 * largest + _joined_elements(uses, {*coverage.joint_names})


def _joined_elements(uses: Sequence[Use], joined: Set[str]) -> int:
    """Of the parameters that several uses have: their positions, as they are and side by side.

    For a tied embedding, pairs of a lookup and a position too, or the gradient.
    """
    found: dict[str, list[tuple[Rule, str]]] = defaultdict(list)
    for use in uses:
        rule, joint = use.rule, None if use.rule is None else use.rule.joint
        piece = None if joint is None else use.slots.get(joint.slot)
        if rule is not None and joint is not None and piece is not None and piece.name in joined:
            found[piece.name].append((rule, joint.kind))
    return max(map(_side_by_side, found.values()), default=0)


def _side_by_side(rules: Sequence[tuple[Rule, str]]) -> int:
    outer = [(rule.groups, rule.shape) for rule, kind in rules if kind == "outer"]
    rows = [rule.shape for rule, kind in rules if kind == "rows"]
    sides = sum(
        groups * (shape.inputs + shape.outputs) * shape.positions for groups, shape in outer
    )
    sides += sum(shape.positions * shape.outputs for shape in rows)
    if not outer or not rows:
        return 2 * sides
    t, s = sum(shape.positions for _, shape in outer), sum(shape.positions for shape in rows)
    i, o = outer[0][1].inputs, outer[0][1].outputs
    return 2 * sides + (3 * i * o if forms_tied(t, s, i, o) else 4 * t * s)


def scratch_elements(use: Use) -> int:
    """A Gram matrix of the positions, and the patches of a convolution where they are formed."""
    assert use.rule is not None
    t, i, o, groups = _sizes(use.rule)
    if t == 1:
        return 0
    # The more cotangents share it, the likelier the Gram form.
    gram = kernels.choose_form(t, i, o, _MANY) == "ghost"
    given = sum(saved.numel() for saved in use.rule.saved)
    patches = t * i * groups if t * i * groups > given else 0
    if use.operation == "conv2d" and not gram:
        patches = 0
    return patches + groups * t * t * gram


def gradient_elements(use: Use) -> int:
    """Of the weight gradient, where the direct form is chosen for one cotangent."""
    assert use.rule is not None
    t, i, o, groups = _sizes(use.rule)
    return groups * i * o if kernels.choose_form(t, i, o, 1) == "direct" else 0


def _sizes(rule: Rule) -> tuple[int, int, int, int]:
    return rule.shape.positions, rule.shape.inputs, rule.shape.outputs, rule.groups
