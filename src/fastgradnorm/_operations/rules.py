"""Operation to squared-norm rule: what a call's inputs say about its parameters' gradients.

A rule sees one call inside `vmap` over samples, so every tensor belongs to one sample: a leading
batch dimension is 1, or counts more positions where the model folded some into it (windows,
frames).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import fastgradnorm_kernels as kernels
import torch
from torch import Tensor

SqNorms = Callable[[Sequence[Tensor], Tensor], Mapping[str, Tensor]]
Parts = Callable[[Sequence[Tensor], Tensor], tuple[Tensor, Tensor]]
Call = Mapping[str, Any]  # arguments by name


@dataclass(frozen=True)
class Shape:
    """Positions, inputs and outputs of one call: T, I, O."""

    positions: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Joint:
    """What a use adds to a parameter that is used several times.

    Attributes:
        kind: `"outer"`: the gradient is `Σ_t g_t a_tᵀ` per group, `parts` gives a `[G, T, I]` and g
            `[G, T, O]`. `"rows"`: it adds g_t to row id_t, `parts` gives ids `[T]` and g `[T, O]`.
        slot: The argument that is the parameter.
        parts: `(saved, gradient at the output) -> (a, g)`.
        padding_idx: The row that does not count.
        flipped: The parameter is `[I, O]`, not `[O, I]`.
    """

    kind: Literal["outer", "rows"]
    slot: str
    parts: Parts
    padding_idx: int | None = None
    flipped: bool = False


@dataclass(frozen=True)
class Rule:
    """How the squared norms of one call's parameters follow from the gradient at its output.

    Attributes:
        slots: Names of the arguments it accounts for.
        saved: Tensors of the call that the backward pass needs.
        sq_norms: `(saved, gradient at the output) -> {slot: squared norm}`, at least for those
            slots that are tracked parameters.
        shape: T, I and O of the weight.
        groups: Independent parts of the weight.
        joint: For parameters that may be used several times.
    """

    slots: tuple[str, ...]
    saved: tuple[Tensor, ...]
    sq_norms: SqNorms
    shape: Shape = field(default_factory=lambda: Shape(1, 1, 1))
    groups: int = 1
    joint: Joint | None = None


# (arguments by name, names of those that are tracked parameters, backend) -> rule, or None if it
# does not apply to these arguments
RuleMaker = Callable[[Call, Collection[str], str], Rule | None]


@dataclass(frozen=True)
class Entry:
    """A rule with the names and defaults of its operation's arguments."""

    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    make: RuleMaker

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name."""
        return {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}


_TABLE: dict[Callable[..., Any], Entry] = {}


def add(func: Callable[..., Any], make: RuleMaker, required: str, **defaults: Any) -> None:
    """Puts an operation into the table; `required` names its first arguments."""
    names = tuple(required.split())
    _TABLE[func] = Entry((*names, *defaults), defaults, make)


def bind(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
    """The arguments of a call by name, or None for an operation without a rule."""
    entry = _TABLE.get(func)
    return None if entry is None else entry.bind(args, kwargs)


def unbind(func: Callable[..., Any], call: Call) -> tuple[Any, ...]:
    """The positional arguments of a bound call."""
    return tuple(call[name] for name in _TABLE[func].names)


def make_rule(
    func: Callable[..., Any], call: Call, tracked: Collection[str], backend: str
) -> Rule | None:
    """The rule of a bound call, or None where it does not apply to these arguments."""
    return _TABLE[func].make(call, tracked, backend)


def register_rule(
    func: Callable[..., Any], rule: Callable[[Call], Rule | None], names: Sequence[str]
) -> None:
    r"""Teach the engine an operation of your own.

    Without a rule an operation is exact too, but the per-sample gradients of its parameters are
    formed, which costs memory. `verify=True` compares a rule with autograd.

    Args:
        func: The function as PyTorch's `__torch_function__` protocol shows it: an operation of
            torch, or a Python function wrapped by `torch.overrides.wrap_torch_function`.
        rule: Given the arguments of a call by name, each tensor that of one sample, returns a
            `Rule` (what to save, and each parameter's squared norm from it and the gradient at the
            output), or None where it does not apply.
        names: Names of the positional arguments, in order.

    Raises:
        TypeError: If `func` or `rule` cannot be called.

    Example:
        >>> @torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
        ... def amplify(x, gain):  # [1, D] times one number
        ...     return x * gain
        >>> def amplify_rule(call):
        ...     def sq_norms(saved, g):  # d loss / d gain = sum of x * g
        ...         return {"gain": (saved[0] * g).sum().square()}
        ...     return Rule(slots=("gain",), saved=(call["x"],), sq_norms=sq_norms)
        >>> register_rule(amplify, amplify_rule, names=["x", "gain"])
    """
    for name, value in (("func", func), ("rule", rule)):
        if not callable(value):
            raise TypeError(f"`{name}` must be callable. Got {type(value).__name__}.")
    _TABLE[func] = Entry(tuple(names), {}, lambda call, tracked, backend: rule(call))


def outer_sq_norm(a: Tensor, g: Tensor, backend: str) -> Tensor:
    """`‖Σ_t g_t a_tᵀ‖²` summed over groups, for a `[G, T, I]`, g `[G, T, O]`."""
    norms: Tensor = kernels.weight_sq_norm(a, g[:, None], backend)
    return norms.sum()


def joint_sq_norm(uses: Sequence[tuple[Joint, Sequence[Tensor], Tensor]], backend: str) -> Tensor:
    """Squared norm of a parameter's gradient over several uses: positions of all, joined."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {"outer": [], "rows": []}
    for joint, saved, g in uses:
        parts[joint.kind].append(joint.parts(saved, g))
    total = uses[0][2].new_zeros((), dtype=kernels.accumulation_dtype(uses[0][2].dtype))
    outer, rows = None, None
    if parts["outer"]:
        a, g = (torch.cat([p[i] for p in parts["outer"]], 1) for i in (0, 1))
        outer, total = (a, g), total + outer_sq_norm(a, g, backend)
    if parts["rows"]:
        ids, g = (torch.cat([p[i] for p in parts["rows"]]) for i in (0, 1))
        padding = uses[0][0].padding_idx
        squared = kernels.embedding_sq_norm(ids[None], g[None, None], padding, backend)[0, 0]
        rows, total = (ids, g), total + squared
    if outer is not None and rows is not None:
        # Cross terms of an embedding tied to a head: row id_s meets position t through both
        # factors.
        (a, g), (ids, row_grads) = outer, rows
        chosen = g[0].gather(1, ids[None].expand(g.shape[1], -1))  # [T, S]
        total = total + 2 * ((a[0] @ row_grads.mT) * chosen).sum()
    return total


def can_join(rules: Sequence[Rule], slots: Sequence[str]) -> bool:
    """Whether uses of one parameter, each under a rule, can be joined."""
    joints = [rule.joint for rule in rules]
    if any(j is None or j.slot != slot for j, slot in zip(joints, slots, strict=True)):
        return False
    known = [j for j in joints if j is not None]
    if len({r.groups for r in rules}) > 1 or len({j.flipped for j in known}) > 1:
        return False
    kinds = {j.kind for j in known}
    shapes = {
        (r.shape.inputs, r.shape.outputs) for r in rules if r.joint and r.joint.kind == "outer"
    }
    if len(shapes) > 1 or (len(kinds) > 1 and known[0].flipped):
        return False
    paddings = {j.padding_idx for j in known if j.kind == "rows"}
    return len(paddings) <= 1 and (len(kinds) == 1 or paddings == {None})
