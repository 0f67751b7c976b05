"""The caller's global state: kept from changing, and out of the way, while scores are computed."""

import contextlib
import ctypes
import gc
import pickle
import random
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from fastgradnorm_kernels import checkpoints, switches
from fastgradnorm_kernels.custom_functions import opened_functions
from torch.func import vjp

from fastgradnorm._process.precision import float32_as_asked
from fastgradnorm._process.quiet import NoWordOfFallbacks

# Bytes of the state of a Mersenne twister: its numbers, and a place in them.
_MT19937 = 4 * 624 + 4


@contextlib.contextmanager
def autograd_ready() -> Iterator[None]:
    """Gradients work inside, whatever mode the caller is in, and nothing is computed twice or kept.

    Checkpointed blocks run as they are, since `torch.func` has no checkpoints, and custom autograd
    functions run that know nothing of its transforms; the caches of
    `torch.nn.utils.parametrize` are out of use, since they outlive the copies of a model; the fast
    path of `nn.TransformerEncoder` is off, since it is none for gradients, and gives padded
    positions other values. Convolutions in float32 are as exact as matrix products.
    """
    with _Shared(), float32_as_asked(), torch.inference_mode(False), torch.enable_grad():
        yield


def check_transforms() -> None:
    """That gradients can be taken at all, wherever the caller is.

    Raises:
        RuntimeError: If a context of the caller's, such as one of hooks on saved tensors, is one in
            which PyTorch takes none by its transforms.
    """
    try:
        vjp(torch.neg, torch.zeros((), device="cpu"))
    except RuntimeError as error:
        raise RuntimeError(
            "Scores are made by PyTorch's transforms, which do not run where this was called: "
            f"{error} Leave contexts that change autograd before scoring, such as "
            "`torch.autograd.graph.save_on_cpu` and `saved_tensors_hooks`."
        ) from error


def tensors_ready() -> AbstractContextManager[Any]:
    """Tensors made inside can be used for gradients, whatever mode the caller is in."""
    if torch.is_inference_mode_enabled():
        return torch.inference_mode(False)
    return contextlib.nullcontext()


# Modes and buffers of a model are its own, not a thread's: what calls it, and what looks at all of
# it, take turns.
models_in_use = threading.RLock()

_running = 0  # blocks entered and not left, in all threads: what they change is the process's
_lock = threading.Lock()
_changes: list[AbstractContextManager[Any]] = []


class _Shared:
    """The first block of the process changes its state, the last one puts it back.

    Each batch is such a block: contexts that are classes take half the time of generators.
    """

    def __enter__(self) -> None:
        global _running
        with _lock:
            if _running == 0:
                for change in _CHANGES:
                    context = change()
                    context.__enter__()
                    _changes.append(context)
            _running += 1

    def __exit__(self, *_: object) -> None:
        global _running
        with _lock:
            _running -= 1
            if _running == 0:
                _put_back()


def _put_back() -> None:
    """All of it, also what comes after one that raises."""
    try:
        while _changes:
            _changes.pop().__exit__(None, None, None)
    finally:
        if _changes:
            _put_back()


def _uncompiled() -> AbstractContextManager[Any]:
    """What is compiled within a model runs as it was written: transforms cannot look into it.

    Only where something has been compiled: PyTorch's compiler takes long to import.
    """
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


class _NoFastPath(AbstractContextManager[None]):
    _before = False

    def __enter__(self) -> None:
        mha = torch.backends.mha
        self._before = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)

    def __exit__(self, *_: object) -> None:
        mha = torch.backends.mha
        if not mha.get_fastpath_enabled():  # else another has changed it since
            mha.set_fastpath_enabled(self._before)


_CHANGES: tuple[Callable[[], AbstractContextManager[Any]], ...] = (
    checkpoints.plain_checkpoints,
    switches.no_parametrize_cache,
    _NoFastPath,
    _uncompiled,
    opened_functions,
    NoWordOfFallbacks,
)


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No automatic garbage collection inside; after it, as it was.

    Nested transforms make thousands of small objects in circles, none of which holds a tensor. They
    set off collections that look at every object of the program, a tenth of the time of a pass.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def random_states() -> tuple[Any, ...]:
    """Of Python, NumPy and PyTorch, on all devices."""
    # A pass that is being captured may not look at those of a GPU.
    looks = torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing()
    cuda = torch.cuda.get_rng_state_all() if looks else []
    return _python_state(), _numpy_state(), torch.get_rng_state(), cuda


_PYTHON: Any = random.getstate.__self__  # type: ignore[attr-defined]  # of whom its functions draw
_python_seen: tuple[bytes, Any] | None = None  # the memory of that, and the state it tells
# Where CPython has it: behind what every object begins with. Elsewhere there may be less.
_BEGINNING, _SIZE = object.__basicsize__, random.Random.__basicsize__


def _python_state() -> Any:
    """Python's, which takes long to be told: not again while its memory holds the same numbers."""
    global _python_seen
    if sys.implementation.name != "cpython" or _SIZE < _BEGINNING + _MT19937:
        return random.getstate()
    memory = ctypes.string_at(id(_PYTHON) + _BEGINNING, _MT19937)
    if _python_seen is not None:
        seen, state = _python_seen
        if seen == memory and state[2] is _PYTHON.gauss_next:
            return state
    state = random.getstate()
    _, numbers, _ = state
    told = memory == struct.pack("=625I", numbers[-1], *numbers[:-1])
    _python_seen = (memory, state) if told else None
    return state


_seen: tuple[Any, int, bytes, Any] | None = None  # a generator of NumPy's, and its latest state


def _numpy_state() -> Any:
    """NumPy's, which takes long to be told: not again while its memory holds the same numbers."""
    global _seen
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if type(generator) is not np.random.MT19937:  # as the caller has set it
        return np.random.get_state(legacy=False)
    seen = None if _seen is None or _seen[0] is not generator else _seen
    address = generator.ctypes.state_address if seen is None else seen[1]
    memory = ctypes.string_at(address, _MT19937)
    if seen is not None and seen[2] == memory:
        return seen[3]
    state: Any = np.random.get_state()
    _, words, place, kept, _ = state
    told = memory == words.tobytes() + place.to_bytes(4, sys.byteorder)
    # A normal number that is kept for the next draw lies elsewhere. Numbers are drawn, and the
    # memory is another, before there is one.
    _seen = (generator, address, memory, state) if told and not kept else None
    return state


def same_random_states(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Whether nothing was drawn between two looks at them."""
    return not any(_drawn(a, b))


def _drawn(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[bool, ...]:
    """The same of each kind of generators apart, in their order."""
    (python, legacy, cpu, cuda), (others, legacies, cpus, cudas) = a, b
    if isinstance(legacy, dict) or isinstance(legacies, dict):  # of another than the usual one
        same = pickle.dumps(legacy) == pickle.dumps(legacies)
    else:
        same = legacy is legacies or (
            legacy[2:] == legacies[2:]  # a place in the numbers, which are anew after the last one
            and bool(np.array_equal(legacy[1], legacies[1]))
        )
    with switches.unwatched():  # what watches a model takes these for none of its tensors
        device = cpu is cpus or torch.equal(cpu, cpus), all(map(torch.equal, cuda, cudas))
    moved = python is not others and python != others
    return moved, not same, not device[0], not device[1]


def _set_random_states(states: tuple[Any, ...], drawn: tuple[bool, ...]) -> None:
    """Sets those of the kinds that have drawn: to set NumPy's takes longer than small batches."""
    global _seen
    (python, legacy, cpu, cuda), (of_python, of_numpy, of_cpu, of_cuda) = states, drawn
    if of_python:
        random.setstate(python)
    if of_numpy:
        _seen = None
        np.random.set_state(legacy)
    if of_cpu:
        torch.set_rng_state(cpu)
    if of_cuda:
        torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def put_back_random_states() -> Iterator[None]:
    """What is drawn inside leaves all random states as they were."""
    before = random_states()
    try:
        yield
    finally:
        _set_random_states(before, _drawn(before, random_states()))


class OwnRandomState:
    """Random states of Python, numpy and torch that are the block's own.

    They start as the caller's; what the block draws leaves the caller's as they were, also after an
    exception. Entered again, they go on where they were left: loaders may draw from batch to batch.
    """

    def __init__(self) -> None:
        self._own: tuple[Any, ...] | None = None
        self._callers: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._callers = random_states()
        if self._own is not None:
            _set_random_states(self._own, _drawn(self._own, self._callers))

    def __exit__(self, *_: object) -> None:
        self._own = random_states()
        _set_random_states(self._callers, _drawn(self._own, self._callers))
