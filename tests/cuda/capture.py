"""Graphs of the device that is not there: what was started while one was captured, started again.

As strict as CUDA's: a wait for the device, or a copy from memory of the host, cannot be captured;
numbers of the host are as they were then; addresses are, too, so that memory from outside that was
given back since is an error. What is captured has not run: memory made meanwhile holds NaN after
it, and before each replay.
"""

import contextlib

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves, tree_map

_active = None


def is_active():
    """Whether a graph is being captured."""
    return _active is not None


def refuse(what):
    """Raises if a graph is being captured."""
    if _active is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")


def note(func, perform, given, inner, output):
    """An operation that has run: `given` as it was called, `inner` and `output` on the CPU."""
    if _active is not None:
        schema = func._schema
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        starts = "empty" not in schema.name  # memory without values
        _active.add(perform, given, inner, output, writes, starts)


def note_launch(perform, given, inner):
    """A kernel that was launched."""
    if _active is not None:
        _active.add(perform, given, inner, None, True, True)


class Graph:
    """In place of `torch.cuda.CUDAGraph`.

    Attributes:
        steps: What was started, in order.
    """

    def __init__(self):
        self.steps = []
        self._own = {}  # memory made in it, by address: kept, as a graph's pool keeps it

    def add(self, perform, given, inner, output, writes, starts):
        made = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
        read = [t for t in tree_leaves(inner) if isinstance(t, torch.Tensor)]
        known = {t.untyped_storage().data_ptr() for t in read}
        fresh = [t for t in made if t.untyped_storage().data_ptr() not in known]
        host = {id(t) for t in tree_leaves(given) if type(t) is torch.Tensor}
        arguments = tree_map(lambda value: self._placed(value, id(value) in host), inner)
        for tensor in fresh:
            self._own[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        if (writes or fresh) and starts:
            self.steps.append((perform, arguments, fresh))

    def _placed(self, value, on_host):
        """What finds an argument again: a number of the host is as it is now."""
        if not isinstance(value, torch.Tensor):
            return value
        if on_host:
            return value.clone()
        own = value.untyped_storage().data_ptr() in self._own
        return value if own or not value.untyped_storage().nbytes() else Outside(value)

    def forget(self):
        """Puts NaN wherever a replay must write first."""
        for storage in self._own.values():
            storage.copy_(torch.UntypedStorage(storage.nbytes()).fill_(0xFF))

    def replay(self):
        self.forget()
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            for perform, (args, kwargs), fresh in self.steps:
                args, kwargs = tree_map(_found, (args, kwargs))
                made = [t for t in tree_leaves(perform(*args, **kwargs)) if torch.is_tensor(t)]
                for tensor, again in zip(fresh, made if fresh else [], strict=True):
                    tensor.copy_(again)


class Outside:
    """A tensor in memory that was there before the capture, and need not be any more."""

    def __init__(self, tensor):
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._layout = tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
        self._dtype = tensor.dtype

    def tensor(self):
        if self._storage.expired():
            raise RuntimeError("a captured operation reads memory that was given back")
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._layout)


def _found(argument):
    return argument.tensor() if isinstance(argument, Outside) else argument


@contextlib.contextmanager
def capturing(graph, pool):
    """In place of `torch.cuda.graph`."""
    global _active
    assert _active is None
    _active = graph
    try:
        yield
    finally:
        _active = None
    graph.forget()
