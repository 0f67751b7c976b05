"""Tensors on the device that is not there: they say "cuda" and hold tensors of the CPU.

Real values, so that scores can be compared. Whatever mixes devices raises, as on a GPU; every
operation, every copy between devices and every read of a value is counted, with the lines of ours
that asked for it. Convolutions and matrix products round float32 to TF32 where PyTorch's switches
would let a GPU do so. Triton's kernels run in its interpreter. To be imported before `torch`.
"""

import collections
import contextlib
import os
import threading
import traceback
from functools import partial

import emulated_device

os.environ["TRITON_INTERPRET"] = "1"

import capture
import torch
import triton.runtime.interpreter as interpreter
from arithmetic import values, widened
from fused import FUSED
from noted import told
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

emulated_device.install()
torch.__future__.set_overwrite_module_params_on_conversion(True)

DEVICE = torch.device("cuda", 0)
# Operations that wait for the device, since the host wants a value or a size that depends on one.
_READS = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "unique_consecutive",
        "masked_select", "is_nonzero", "equal", "allclose", "bincount", "histc",
        "repeat_interleave.Tensor", "linalg_solve", "linalg_inv",
    )
)  # fmt: skip
_INDEXED = frozenset(
    {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
)
_WITHOUT_ORDER = frozenset({"aten::cumsum", "aten::scatter_add", "aten::scatter_add_"})


class Counts:
    """What happened on the device: operations, launches of kernels, waits, by name or place."""

    def __init__(self):
        self.operations, self.launches, self.waits = (collections.Counter() for _ in range(3))
        self.threads, self.noted = set(), []

    def clear(self):
        for counter in (self.operations, self.launches, self.waits, self.threads, self.noted):
            counter.clear()

    def wait(self, what):
        capture.refuse(what)
        frames = traceback.extract_stack()
        places = [
            f"{os.path.basename(frame.filename)}:{frame.lineno}"
            for frame in frames
            if "fastgradnorm" in frame.filename and "tests" not in frame.filename
        ]
        self.waits[f"{what} < " + " < ".join(reversed(places[-3:]))] += 1


COUNTS = Counts()


class OnDevice(torch.Tensor):
    """A tensor on the device; `inner` is on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def __repr__(self):
        return f"OnDevice({self.inner})"

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return OnDevice(inner["inner"])

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()

    def tolist(self):
        COUNTS.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")


def _inner(value):
    return value.inner if isinstance(value, OnDevice) else value


def _outer(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) else value


def _means_device(device):
    return device is not None and torch.device(device).type == "cuda"


def run(func, args, kwargs):
    """One operation, of which the result or an argument is on the device."""
    name = func._schema.name
    COUNTS.operations[name] += 1
    COUNTS.threads.add(threading.get_ident())
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, OnDevice)]
    _refuse_mixed(name, tensors, ours)
    _note_waits(name, args, tensors, ours)
    if torch.are_deterministic_algorithms_enabled() and name in _WITHOUT_ORDER and ours:
        assert not ours[0].is_floating_point(), f"{name} has no deterministic implementation"
    if name in OPDEFS and ours:  # our own: its function runs on the device, as it would there
        with Mode():
            return OPDEFS[name]._init_fn(*args, **kwargs)
    given, named = tree_map(_inner, args), tree_map(_inner, kwargs)
    here = bool(ours)
    if named.get("device") is not None:
        here = _means_device(named["device"])
        named["device"] = torch.device("cpu")
    named.pop("pin_memory", None)
    if name == "aten::_fused_sdp_choice":
        return 0  # by the formula, as PyTorch's own autograd goes here
    if name in ("aten::lift_fresh", "aten::lift_fresh_copy") and not ours:
        return func(*given, **named)
    output = values(func, *given, **named)
    if name == "aten::_to_copy" and not here and named.get("non_blocking"):
        output.fill_(torch.nan)  # it is there later, and nobody has waited
    if here:
        capture.note(func, partial(values, func), (args, kwargs), (given, named), output)
    if name == "aten::copy_":
        return args[0]
    output = tree_map(_outer, output) if here else output
    own = ours and name != "aten::_to_copy" and name not in FUSED
    return return_and_correct_aliasing(func, args, kwargs, output) if own else output


def _refuse_mixed(name, tensors, ours):
    plain = [t for t in tensors if not isinstance(t, OnDevice)]
    allowed = name in _INDEXED or name in ("aten::copy_", "aten::_to_copy")
    if ours and not allowed and any(t.dim() for t in plain):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
            f"and cpu! ({name})"
        )


def _note_waits(name, args, tensors, ours):
    if name in _READS and ours:
        COUNTS.wait(name)
    if name in _INDEXED and ours:
        index = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
        if any(t.dtype in (torch.bool, torch.uint8) for t in index):
            COUNTS.wait(f"{name} by a mask")
        if not all(isinstance(t, OnDevice) for t in index):
            COUNTS.wait(f"{name} by an index of the host")
    if name == "aten::copy_" and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
        COUNTS.wait("copy between devices")


class Mode(TorchDispatchMode):
    """Makes tensors on the device, and runs what is given some."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        to_device = _means_device(kwargs.get("device"))
        here = any(isinstance(t, OnDevice) for t in leaves)
        copies = func._schema.name == "aten::_to_copy" and kwargs.get("device") is not None
        if copies and here != to_device:
            COUNTS.wait("copy to the device" if to_device else "copy to the host")
        if to_device or here:
            return run(func, args, kwargs)
        return func(*args, **kwargs)


class _Entered:
    """`torch.cuda.device`."""

    def __init__(self, device):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


_ANSWERS = {
    "get_device_capability": lambda device=None: (9, 0),
    "mem_get_info": lambda device=None: (70 << 30, 80 << 30),
    "memory_reserved": lambda device=None: 0,
    "memory_allocated": lambda device=None: 0,
    "device": _Entered,
    "synchronize": lambda device=None: COUNTS.wait("synchronize"),
    "current_device": lambda: 0,
    "empty_cache": lambda: None,
    "get_device_name": lambda device=None: "emulated",
    "is_bf16_supported": lambda *_, **__: True,
    "_lazy_init": lambda: None,
}


_GRAPHS = {
    "CUDAGraph": capture.Graph,
    "graph": capture.capturing,
    "graph_pool_handle": lambda: None,
}


def _launched(launch, kernel, grid, warmup, *args, **kwargs):
    with torch._C._DisableTorchDispatch(), widened(args) as given:
        return launch(kernel, *given, grid=grid, warmup=warmup, **kwargs)


def _interpreted(launch, launched):
    def run(self, *args, grid, warmup, **kwargs):
        COUNTS.launches[self.fn.__name__] += 1
        if not launched:
            return COUNTS.noted.append(told(self, args, kwargs))
        kinds = {type(t) for t in args if isinstance(t, torch.Tensor)}
        if len(kinds) != 1 or not issubclass(*kinds, OnDevice):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        named = {key: _inner(value) for key, value in kwargs.items()}
        start = partial(_launched, launch, self, grid, warmup)
        capture.note_launch(start, (args, kwargs), (tuple(map(_inner, args)), named))
        return start(*map(_inner, args), **named)

    return run


@contextlib.contextmanager
def device(launched=True, graphs=False):
    """Within, tensors can be on "cuda"; kernels that are not launched leave what there was.

    Args:
        launched: Whether kernels are.
        graphs: Whether passes may be captured.
    """
    import torch.cuda.amp.common as amp

    patches = [(torch.cuda, name, answer) for name, answer in _ANSWERS.items()]
    patches.append((amp, "amp_definitely_not_available", lambda: False))
    if graphs:
        patches += [(torch.cuda, name, answer) for name, answer in _GRAPHS.items()]
        patches.append((torch.backends.cuda, "is_built", lambda: True))
    launch = interpreter.InterpretedFunction.run
    patches.append((interpreter.InterpretedFunction, "run", _interpreted(launch, launched)))
    before = [getattr(owner, name) for owner, name, _ in patches]
    lifts = torch._C._only_lift_cpu_tensors()
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        torch._C._set_only_lift_cpu_tensors(True)
        with Mode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        for (owner, name, _), value in zip(patches, before, strict=True):
            setattr(owner, name, value)
