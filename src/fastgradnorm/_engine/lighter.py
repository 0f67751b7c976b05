"""A traced pass with fewer operators and shorter calls of them: the same bits in less time.

Where a pass is little work, an operator on a few numbers costs what calling it costs. So what
depends on no number is made once; what is made twice is made once; what changes no bit is left out;
and operators are called by PyTorch's own functions, which take half the time of their registered
names. A graph that writes into a tensor is left as it is, but for the calls.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastgradnorm_kernels.switches import marked
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from fastgradnorm._model import same
from fastgradnorm._operations import DIRECTLY

# Tensors of a shape alone.
_SHAPED = {
    "aten.ones_like.default",
    "aten.zeros_like.default",
    "aten.full_like.default",
    "aten.new_ones.default",
    "aten.new_zeros.default",
    "aten.new_full.default",
}
# What a factor, a divisor or an exponent of one leaves as it is.
_NEUTRAL = {"aten.mul.Tensor", "aten.div.Tensor", "aten.pow.Tensor_Scalar"}
# What is no zero with a sign and not below it, whatever it is made of; and where its operands are.
_POSITIVE = {"aten.abs.default", "aten.exp.default"}
_KEEP_SIGNS = {"aten.mul.Tensor", "aten.div.Tensor", "aten.sqrt.default", "aten.clamp_min.default"}
_KEEP_SIGNS |= {"aten.sum.dim_IntList", "aten.amax.default", "aten.cat.default"}
_KEEP_SIGNS |= {"aten.stack.default", "aten.pow.Tensor_Scalar"}

# Functions of PyTorch that are the operator of their name, called with the same arguments.
_FUNCTIONS = (
    "abs add addmm amax amin argmax argmin baddbmm bmm cat clamp clamp_max clamp_min clone "
    "convolution cos cumsum div embedding eq erf exp ge gt index_select le log logsumexp lt "
    "masked_fill maximum mean minimum mm mul ne neg pow reciprocal relu rsqrt rsub sigmoid "
    "sign sin sqrt stack sub sum tanh where "
)


def lighter(traced: GraphModule, args: Sequence[Tensor]) -> None:
    """Leaves out of a graph what changes nothing.

    Args:
        traced: The graph, of registered operators.
        args: What it was traced with.
    """
    seen = _Seen(traced)
    with torch.no_grad():
        seen.run(*args)
    if seen.written:
        return
    _made_once(traced, seen)
    _said_once(traced, seen)
    _without_effect(traced, seen)
    traced.graph.eliminate_dead_code()


class _Seen(Interpreter):
    """Runs a graph once, and notes what its operators make.

    Attributes:
        made: Shape, strides and dtype of each tensor.
        shaped: Those that depend on no number.
        ones: Constants that are one everywhere.
        returned: Nodes in whose memory something lies that is returned.
        written: Whether an operator writes into what another has made.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.made: dict[Node, tuple[Any, ...]] = {}
        self.shaped: dict[Node, Tensor] = {}
        self.ones: set[Node] = set()
        self.returned: set[Node] = set()
        self.written = False
        self._base: dict[Node, Node] = {}

    def run_node(self, n: Node) -> Any:
        given = {node: self.env[node] for node in n.all_input_nodes}
        marks = [marked(each) for each in given.values() if isinstance(each, Tensor)]
        made = super().run_node(n)
        self.written |= any(mark() for mark in marks)
        if n.op == "output":
            bases = {self._base.get(node, node) for node in given}
            self.returned = {node for node in self.made if self._base[node] in bases}
        if isinstance(made, Tensor):
            memory = made.untyped_storage().data_ptr()
            self._base[n] = n
            for node, each in given.items():
                inside = isinstance(each, Tensor) and each.untyped_storage().data_ptr() == memory
                if inside or (not isinstance(each, Tensor) and node in self._base):
                    self._base[n] = self._base[node]
            self.made[n] = tuple(made.shape), made.stride(), made.dtype
            draws = torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
            if n.op == "call_function" and not draws and (not given or str(n.target) in _SHAPED):
                self.shaped[n] = made
        elif given and n.op == "call_function":  # several at once, which may be views of one
            self._base[n] = self._base.get(next(iter(given)), n)
        return made


def _made_once(traced: GraphModule, seen: _Seen) -> None:
    """What depends on no number is a constant of the graph."""
    for count, (node, made) in enumerate(seen.shaped.items()):
        traced.register_buffer(f"shaped{count}", made)
        with traced.graph.inserting_before(node):
            constant = traced.graph.get_attr(f"shaped{count}")
        node.replace_all_uses_with(constant)
        seen.made[constant] = seen.made[node]
        if bool((made == 1).all()):
            seen.ones.add(constant)
        if node in seen.returned:
            seen.returned.add(constant)


def _said_once(traced: GraphModule, seen: _Seen) -> None:
    """Of equal operators on equal operands the first stands for all."""
    known: dict[str, Node] = {}
    for node in traced.graph.nodes:
        draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op != "call_function" or draws or node not in seen.made or node in seen.returned:
            continue
        first = known.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
        if first is not node:
            node.replace_all_uses_with(first)


def _without_effect(traced: GraphModule, seen: _Seen) -> None:
    """What gives back the bits that it is given is left out, or is a view of them."""
    for node in traced.graph.nodes:
        if node.op != "call_function" or node not in seen.made or node in seen.returned:
            continue
        same = _unchanged(node, seen.ones)
        if same is not None and seen.made.get(same) == seen.made[node]:
            node.replace_all_uses_with(same)
        elif _sums_single(node, seen) and _is_positive(node.args[0]):
            shape, *_ = seen.made[node]
            with traced.graph.inserting_before(node):
                view = traced.graph.call_method("view", (node.args[0], shape))
            seen.made[view] = seen.made[node]
            node.replace_all_uses_with(view)


def _unchanged(node: Node, ones: set[Node]) -> Any:
    """An operand that has the same bits as what is made of it, if they agree in shape and dtype."""
    name, args = str(node.target), node.args
    if name == "aten.cat.default":
        joined = args[0]
        return joined[0] if isinstance(joined, list | tuple) and len(joined) == 1 else None
    if name not in _NEUTRAL:
        return None
    if not isinstance(args[1], Node):
        return args[0] if args[1] == 1 else None
    if name != "aten.mul.Tensor":
        return None
    return args[0] if args[1] in ones else args[1] if args[0] in ones else None


def _sums_single(node: Node, seen: _Seen) -> bool:
    """Whether it is a sum of one number each, which lie in their order."""
    given, *rest = node.args
    if str(node.target) != "aten.sum.dim_IntList" or not isinstance(given, Node):
        return False
    dims, made = rest[0], seen.made.get(given)
    if made is None or not isinstance(dims, list | tuple) or not dims:
        return False
    shape, stride, dtype = made
    in_order = torch.empty(shape, device="meta").stride() == stride
    return in_order and dtype == seen.made[node][2] and all(shape[dim] == 1 for dim in dims)


def _is_positive(node: Any) -> bool:
    """Whether no number is below zero, or is the zero with a sign, which sums take away."""
    if not isinstance(node, Node) or not node.args:
        return False
    name, others = str(node.target), [a for a in node.args[1:] if isinstance(a, int | float)]
    if name in _POSITIVE or (name == "aten.pow.Tensor_Scalar" and others == [2]):
        return True
    if getattr(node.target, "is_view", False) or node.op == "call_method":
        return _is_positive(node.args[0])
    if name not in _KEEP_SIGNS or any(other < 0 for other in others):
        return False
    return all(map(_is_positive, node.all_input_nodes))


def by_functions(traced: GraphModule, args: Sequence[Tensor]) -> None:
    """Calls operators by PyTorch's functions of their names, where these make the same.

    Our own, of recurrences, are called by what they do.

    Args:
        traced: The graph, of registered operators.
        args: What it was traced with.
    """
    calling = _Calling(traced)
    with torch.no_grad():
        calling.run(*args)
    for node, function in calling.functions.items():
        node.target = function


class _Calling(Interpreter):
    """Runs a graph once, and finds the functions that stand for its operators."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.functions: dict[Node, Callable[..., Any]] = {}

    def run_node(self, n: Node) -> Any:
        made = super().run_node(n)
        if str(n.target) in DIRECTLY:
            self.functions[n] = DIRECTLY[str(n.target)]
            return made
        package, _, name = str(n.target).partition(".")
        name, _, overload = name.partition(".")
        if package == "aten" and name in _FUNCTIONS.split() and overload != "out":
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            try:
                other = getattr(torch, name)(*args, **kwargs)
            except (TypeError, RuntimeError):  # it is called in another way
                return made
            if isinstance(made, Tensor) and made.stride() == other.stride() and same(made, other):
                self.functions[n] = getattr(torch, name)
        return made
