"""Torch-function modes that watch a forward pass: first to plan it, then to put taps in it.

`Recorder` sees one plain pass over one sample and notes each use of a tracked parameter. `Tapping`
sees the passes that score: behind each planned operation it puts a tap, an identity whose backward
returns, besides the incoming gradient, the squared gradient norms of that operation's parameters.
So one backward pass streams the norms out, and no per-sample gradient is stored.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._C._functorch as functorch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastgradnorm import _rules
from fastgradnorm._attention import attention
from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._rules import Rule

_BRANCHES = frozenset({"__bool__", "__int__", "__float__", "__index__", "item"})


class DivergentControlFlowError(Exception):
    """The samples of one batch take different branches; `values` `[N]` tells which."""

    def __init__(self, values: Tensor) -> None:
        super().__init__("the samples of a batch take different branches")
        self.values = values


class PlanChangedError(Exception):
    """A forward pass used parameters in another way than the one the plan was made from."""


class Tap(torch.autograd.Function):
    """Identity on `y`. The "gradient" of `slots` is the squared norm of each planned parameter."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        y: Tensor, slots: Tensor, sq_norms: Callable[..., Tensor], *saved: Tensor
    ) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.sq_norms, *saved = inputs
        ctx.save_for_backward(*saved)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g, ctx.sq_norms(ctx.saved_tensors, g), None, *(None,) * len(ctx.saved_tensors)


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    found = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [v for v in value if isinstance(v, Tensor)]
    return found


def _replace(value: Any, swaps: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return swaps.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(_replace(v, swaps) for v in value)
    return value


def _open(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """A composite function of `torch.nn.functional` that lets modes see what it calls inside.

    Such functions hand themselves over whole to an active mode. In this copy that check says no.
    """
    if not isinstance(func, types.FunctionType) or "has_torch_function" not in func.__globals__:
        return None
    hidden = {name: lambda *_: False for name in func.__globals__ if name.startswith("has_torch_f")}
    opened = types.FunctionType(
        func.__code__,
        {**func.__globals__, **hidden},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """In operations that have vmap rules; the fused one has none."""
    others = [d for d in range(v.dim()) if d != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / norm)


def _raw_values(tensor: Tensor) -> Tensor:
    """One value a sample, out of its functorch wrappers."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor.reshape(-1)


def _is_batched(tensor: Any) -> bool:
    while isinstance(tensor, Tensor) and functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


class Watch(TorchFunctionMode):
    """What both passes share: stray parameters, branches, composite functions, refusals.

    Args:
        names: Names of the tracked tensors, by `id`.
        swaps: Tracked tensors by the `id` of the caller's own parameters, for models that reach
            them past the module tree.
        backend: What computes the norms.
    """

    def __init__(self, names: Mapping[int, str], swaps: Mapping[int, Tensor], backend: str) -> None:
        super().__init__()
        self.names, self.swaps, self.backend = names, swaps, backend

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _BRANCHES and _is_batched(args[0]):
            values = _raw_values(args[0])
            if not bool((values == values[0]).all()):
                raise DivergentControlFlowError(values)
            return func(values[0])
        if name == "__get__":
            return func(*args, **kwargs)
        if any(id(t) in self.swaps for t in _tensors(args, kwargs)):
            args = [_replace(a, self.swaps) for a in args]
            kwargs = {k: _replace(v, self.swaps) for k, v in kwargs.items()}
        if func is F.embedding_bag:
            return self._embedding_bag(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            output = attention(*args, **kwargs)
            if output is not None:
                return output
        if func is torch._weight_norm:
            with self:
                return _weight_norm(*args, **kwargs)
        call = _rules.bind(func, args, kwargs)
        if call is not None:
            if call.get("sparse"):  # a sparse gradient has no vmap rule, and the same values
                call = {**call, "sparse": False}
                args, kwargs = _rules.unbind(func, call), {}
            self._check(func, call)
            return self.ruled(func, call, args, kwargs)
        tracked = [self.names[id(t)] for t in _tensors(args, kwargs) if id(t) in self.names]
        composite = bool(tracked) or func is F.multi_head_attention_forward
        if composite and (opened := _open(func)) is not None:
            with self:
                return opened(*args, **kwargs)
        return self.plain(func, tracked, args, kwargs)

    def _check(self, func: Callable[..., Any], call: Mapping[str, Any]) -> None:
        if func is F.batch_norm and call["training"]:
            raise UnsupportedModelError(
                "batch normalisation without running statistics mixes samples, so that no sample "
                "has a gradient of its own. Use track_running_stats=True, or GroupNorm."
            )
        if func is F.embedding and call["max_norm"] is not None:
            raise UnsupportedModelError(
                "an embedding with `max_norm` changes its weight whenever it is used. Renormalise "
                "the weight once and set `max_norm=None`."
            )

    def _embedding_bag(
        self, input: Tensor, weight: Tensor, offsets: Any = None, **rest: Any
    ) -> Any:
        """Bags as rows: looked up and then reduced, so that the embedding's rule sees them."""
        padding, weights = rest.get("padding_idx"), rest.get("per_sample_weights")
        if input.dim() != 2 or offsets is not None:
            raise UnsupportedModelError(
                "embedding bags with offsets join samples in one row of ids. Pass ids [N, T]."
            )
        options = {k: v for k, v in rest.items() if k in ("max_norm", "norm_type")}
        with self:
            rows = F.embedding(input, weight, padding, **options)  # [B, T, D]
            keep = torch.ones_like(input, dtype=torch.bool)
            if padding is not None:
                keep = input != (padding if padding >= 0 else padding + len(weight))
            mode = rest.get("mode", "mean")
            if mode == "max":
                bags = rows.masked_fill(~keep[..., None], -torch.inf).amax(1)
                return torch.where(keep.any(1, keepdim=True), bags, torch.zeros_like(bags))
            scale = keep.to(rows.dtype) if weights is None else keep * weights
            bags = (rows * scale[..., None]).sum(1)
            if mode == "mean":
                return bags / keep.sum(1, keepdim=True).clamp_min(1)
            return bags

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """A call of an operation that has a rule."""
        raise NotImplementedError

    def plain(
        self,
        func: Callable[..., Any],
        tracked: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """A call of any other operation, on the `tracked` parameters among its arguments."""
        return func(*args, **kwargs)


@dataclass
class Use:
    """One call on tracked parameters.

    Attributes:
        operation: The function's name.
        layer: Path of the module it was called in.
        slots: Parameter names by argument name, for those the rule accounts for.
        others: Further tracked parameters among its arguments.
        rule: The rule, or None.
        output: What it returned.
    """

    operation: str
    layer: str
    slots: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    rule: Rule | None = None
    output: Tensor | None = None


class Recorder(Watch):
    """Notes each use of a tracked parameter in a plain forward pass with autograd.

    `layers` is the path of modules being run; whoever runs the model keeps it up to date.
    """

    def __init__(self, names: Mapping[int, str], swaps: Mapping[int, Tensor], backend: str) -> None:
        super().__init__(names, swaps, backend)
        self.uses: list[Use] = []
        self.layers: list[str] = []
        self.harmless: set[tuple[str, str]] = set()
        self._sources: dict[int, tuple[Tensor, Use, bool]] = {}

    @property
    def layer(self) -> str:
        """Path of the module being run."""
        return self.layers[-1] if self.layers else ""

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if not any(id(t) in self.names for t in _tensors(args, kwargs)):
            return self.plain(func, (), args, kwargs)
        rule = _rules.make_rule(func, call, self.backend)
        output = func(*args, **kwargs)
        slots = {
            slot: self.names[id(call[slot])]
            for slot in (rule.slots if rule else ())
            if id(call[slot]) in self.names
        }
        others = [
            self.names[id(t)]
            for slot, value in call.items()
            if slot not in slots
            for t in _tensors([value], {})
            if id(t) in self.names
        ]
        self._note(Use(func.__name__, self.layer, slots, tuple(others), rule, output))
        return output

    def plain(
        self,
        func: Callable[..., Any],
        tracked: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        inputs = _tensors(args, kwargs)
        outputs = _tensors([output], {})
        fresh = [t for t in outputs if t.requires_grad and all(t is not i for i in inputs)]
        if tracked and fresh:
            self._note(Use(name, self.layer, others=tuple(tracked), output=fresh[0]))
        elif tracked:
            self.harmless.update((parameter, name) for parameter in tracked)
        elif len(fresh) == 1:
            self._follow(name, inputs, fresh[0])
        return output

    def _note(self, use: Use) -> None:
        self.uses.append(use)
        if use.output is not None:
            self._sources[id(use.output)] = (use.output, use, True)

    def _follow(self, name: str, inputs: Sequence[Tensor], output: Tensor) -> None:
        """An operation on nothing but an earlier output: its output still comes from that one."""
        known = [self._sources.get(id(t)) for t in inputs if t.requires_grad]
        if len(known) == 1 and known[0] is not None:
            _, use, exact = known[0]
            self._sources[id(output)] = (output, use, exact and name in _SAME_VALUES)

    def source(self, tensor: Tensor) -> tuple[Use | None, bool]:
        """The use that `tensor` comes from alone, and whether it only reshapes its output."""
        _, use, exact = self._sources.get(id(tensor), (None, None, False))
        return use, exact


_SAME_VALUES = frozenset({
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "float", "to",
    "movedim", "__getitem__",
})  # fmt: skip


@dataclass(frozen=True)
class PlannedTap:
    """One tapped operation: its function's name, and parameter names by argument name, in order."""

    operation: str
    slots: Mapping[str, str]


class Tapping(Watch):
    """Puts a tap behind each planned operation.

    Args:
        names: Names of the tracked tensors, by `id`.
        swaps: As in `Watch`.
        backend: What computes the norms.
        plan: Taps by parameter name.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        inputs: The taps' zero inputs, by the plan's index.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        swaps: Mapping[int, Tensor],
        backend: str,
        plan: Sequence[PlannedTap],
        harmless: frozenset[tuple[str, str]],
        inputs: Sequence[Tensor],
    ) -> None:
        super().__init__(names, swaps, backend)
        self.index = {name: i for i, tap in enumerate(plan) for name in tap.slots.values()}
        self.plan, self.harmless, self.inputs = plan, harmless, inputs
        self.spent: set[int] = set()

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        found = {self.names[id(t)] for t in _tensors(args, kwargs) if id(t) in self.names}
        if not found:
            return func(*args, **kwargs)
        index = self.index[next(iter(found))]
        slots = self.plan[index].slots
        same = found == set(slots.values()) and all(
            self.names.get(id(call.get(slot))) == name for slot, name in slots.items()
        )
        rule = _rules.make_rule(func, call, self.backend) if same else None
        if rule is None or index in self.spent:
            raise PlanChangedError
        self.spent.add(index)

        def sq_norms(saved: Sequence[Tensor], g: Tensor) -> Tensor:
            by_slot = rule.sq_norms(saved, g)
            return torch.stack([by_slot[slot] for slot in slots])

        output = func(*args, **kwargs)
        return Tap.apply(  # type: ignore[no-untyped-call]
            output, self.inputs[index], sq_norms, *rule.saved
        )

    def plain(
        self,
        func: Callable[..., Any],
        tracked: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if any((parameter, name) not in self.harmless for parameter in tracked):
            raise PlanChangedError
        return func(*args, **kwargs)


class HeadInput(Watch):
    """Keeps the input `[D]` of the one linear layer that holds a tracked parameter."""

    def __init__(self, names: Mapping[int, str], swaps: Mapping[int, Tensor], backend: str) -> None:
        super().__init__(names, swaps, backend)
        self.features: Tensor | None = None

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if any(id(t) in self.names for t in _tensors(args, kwargs)):
            if func is not F.linear or self.features is not None:
                raise PlanChangedError
            self.features = call["input"].reshape(-1)
        return func(*args, **kwargs)
