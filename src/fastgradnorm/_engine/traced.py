"""Passes of little work traced once as lists of operators, and replayed: on the CPU.

What nested transforms do in Python takes milliseconds a pass, whatever the pass computes. A traced
one is the operators that were run, one after another, with the same operands: the same bits. Views
of views are one view each. What a model reads to take its branches, and whether a norm has lost its
digits, is looked at after each replay; where it is otherwise, the pass is run as it is.
"""

import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from fastgradnorm._engine.lighter import by_functions, lighter
from fastgradnorm._version import release

# What has a shape, or gives the host a value, that depends on numbers.
_REFUSED = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
# Sizes, strides, and where in its memory a tensor begins.
_Layout = tuple[tuple[int, ...], tuple[int, ...], int]


def is_safe_here() -> bool:
    """Whether what this thread traces leaves the process as it was.

    A PyTorch that is built for CUDA and finds no GPU notes, while it traces, a guard that is in the
    memory of the thread. Before 2.13 it went on to read that after the thread had ended
    (https://github.com/pytorch/pytorch/pull/178950), and the process was gone. The main thread
    does not end.
    """
    if threading.current_thread() is threading.main_thread():
        return True
    mended = release(str(torch.__version__)) >= (2, 13)
    return mended or not torch.backends.cuda.is_built() or torch.cuda.is_available()


class NotTraceableError(Exception):
    """Replays of a pass would not be that pass."""


class Traced:
    """One pass as a list of operators, for tensors of the shapes it was traced with.

    Args:
        run: Makes a tree of tensors of some tensors.
        args: Such tensors. Those of a replay have the same shapes, strides and dtypes.

    Raises:
        NotTraceableError: If replays may differ from the pass itself.
        RuntimeError: Where it cannot be traced.
    """

    def __init__(self, run: Callable[..., Any], args: Sequence[Tensor]) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # which takes long to import

        traced = make_fx(run)(*args)
        traced.graph.eliminate_dead_code()
        lighter(traced, args)
        with torch.no_grad():
            layouts = _Layouts(traced)
            layouts.run(*args)
        _keep_apart(traced, layouts)
        _with_fewer_views(traced, layouts)
        _settle_views(traced)
        traced.graph.eliminate_dead_code()
        by_functions(traced, args)
        traced.recompile()
        self._graph = traced
        # Modules look up what they hold in several places; this one has it at once.
        targets = [str(node.target) for node in traced.graph.nodes if node.op == "get_attr"]
        names = {target.partition(".")[0] for target in targets}
        self._held = SimpleNamespace(**{name: getattr(traced, name) for name in names})
        self._run = type(traced).forward

    def __call__(self, args: Sequence[Tensor]) -> Any:
        """What the pass makes of these."""
        with torch.no_grad():
            return self._run(self._held, *args)

    def __len__(self) -> int:
        """How many operators it has."""
        return sum(node.op == "call_function" for node in self._graph.graph.nodes)


class _Layouts(Interpreter):
    """Runs a graph once, and notes how its tensors lie in whose memory.

    Attributes:
        views: Of each view of what an operator made: the node that did, and the layout.
        fresh: Of what operators made, where it may be viewed by `as_strided`: the layout.
        lasting: What is in the memory of arguments and constants.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.views: dict[Node, tuple[Node, _Layout]] = {}
        self.fresh: dict[Node, _Layout] = {}
        self._dtypes: dict[Node, torch.dtype] = {}
        self._several: dict[Node, Node] = {}  # views of one tensor, made at once: its node
        self.lasting: set[Node] = set()
        self._given: set[int] = set()  # memory of the arguments, which lie elsewhere each time
        self._kept: set[int] = set()  # memory of constants

    def run_node(self, n: Node) -> Any:
        _check(n, self.env)
        draws = torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
        if n.kwargs.get("generator") is not None:  # which would not begin anew
            raise NotTraceableError(f"`{n.target}` draws random numbers of the model's own")
        before = torch.get_rng_state() if draws else None
        made = super().run_node(n)
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            raise NotTraceableError(f"`{n.target}` draws random numbers")
        if isinstance(made, Tensor):
            memory = made.untyped_storage().data_ptr()
            if n.op == "placeholder":
                self._given.add(memory)
            elif n.op == "get_attr":
                self._kept.add(memory)
            if memory in self._given or memory in self._kept:
                self.lasting.add(n)
            if memory not in self._given and not made.is_conj() and not made.is_neg():
                self._note(n, made)
        elif _is_view(n) and n.args[0] in (self.fresh.keys() | self.views.keys()):
            self._several[n] = n.args[0]  # type: ignore[assignment]
        return made

    def _note(self, n: Node, made: Tensor) -> None:
        parent = n.args[0] if n.args and isinstance(n.args[0], Node) else None
        if n.target is operator.getitem:
            parent = self._several.get(n.args[0])  # type: ignore[arg-type]
        elif not _is_view(n):
            parent = None
        base = self.views[parent][0] if parent in self.views else parent
        layout = tuple(made.shape), made.stride(), int(made.storage_offset())
        if base in self.fresh and self._dtypes[base] == made.dtype:
            self.views[n] = base, layout
        else:
            self.fresh[n], self._dtypes[n] = layout, made.dtype


def _check(n: Node, values: Mapping[Node, Any]) -> None:
    """Raises `NotTraceableError` for what gives other shapes for other numbers."""
    tags = getattr(n.target, "tags", ())
    if str(n.target) == "aten.index.Tensor":  # by a mask, or by numbers
        indices = [values[index] for index in n.args[1] if isinstance(index, Node)]  # type: ignore[union-attr]
        if all(index.dtype not in (torch.bool, torch.uint8) for index in indices):
            return
    if any(tag in tags for tag in _REFUSED):
        raise NotTraceableError(f"`{n.target}` gives other shapes for other numbers")


def _is_view(n: Node) -> bool:
    return n.op == "call_method" or bool(getattr(n.target, "is_view", False))


def _with_fewer_views(traced: GraphModule, layouts: _Layouts) -> None:
    """Each view is taken of the memory itself, once, and none that is the tensor."""
    graph, known = traced.graph, dict[Any, Node]()
    for node, (base, layout) in layouts.views.items():
        if layout == layouts.fresh[base]:
            node.replace_all_uses_with(base)
        elif (base, layout) in known:
            node.replace_all_uses_with(known[base, layout])
        else:
            with graph.inserting_before(node):
                view = graph.call_function(torch.as_strided, (base, *layout))
            node.replace_all_uses_with(view)
            known[base, layout] = view


def _keep_apart(traced: GraphModule, layouts: _Layouts) -> None:
    """What is returned is in no memory that is the caller's, or that replays share."""
    graph = traced.graph
    (output,) = (node for node in graph.nodes if node.op == "output")

    def own(node: Node) -> Node:
        if node not in layouts.lasting:
            return node
        with graph.inserting_before(output):
            return graph.call_function(torch.clone, (node,))

    output.args = pytree.tree_map_only(Node, own, output.args)


def _settle_views(traced: GraphModule) -> None:
    """Views of constants are taken once; they follow what is written to these."""
    for count, node in enumerate(list(traced.graph.nodes)):
        base = node.args[0] if node.target == torch.as_strided else None
        if not isinstance(base, Node) or base.op != "get_attr":
            continue
        constant = operator.attrgetter(str(base.target))(traced)
        traced.register_buffer(f"view{count}", constant.detach().as_strided(*node.args[1:]))
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.get_attr(f"view{count}"))
