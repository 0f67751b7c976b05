"""What else is private of PyTorch, named here and nowhere else: switches and attributes.

Each has a note: what it is for, and when it can go. Each proves itself when it is first used, and
has a public form that takes its place where it does not.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from fastgradnorm_kernels.assigning import assigned
from fastgradnorm_kernels.proof import proves


def _never(*args: Any) -> Any:
    raise AssertionError("stands for a function that this PyTorch does not have")


# Functions that a mode is to know, which needs no proof. By which parametrizations normalise a
# weight: can go when it has a rule for `vmap`.
weight_norm: Callable[..., Any] = getattr(torch, "_weight_norm", _never)
# With which forward mode begins: can go when `torch.func.linearize` can be nested in transforms.
make_dual: Callable[..., Any] = getattr(torch, "_make_dual", _never)
# What packs, unpacks and pads sequences: can go when `vmap` runs them.
pack_padded: Callable[..., Any] = getattr(torch, "_pack_padded_sequence", _never)
pad_packed: Callable[..., Any] = getattr(torch, "_pad_packed_sequence", _never)
pad_several: Callable[..., Any] = getattr(getattr(torch._C, "_nn", None), "pad_sequence", _never)


def compiled_from(model: Any) -> nn.Module | None:
    """The module that `torch.compile` made `model` from, or None if it is none of its results.

    Can go when PyTorch tells in public. Its type is the proof.
    """
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else None


def unwatched() -> AbstractContextManager[None]:
    """A context on which no torch-function mode looks, if any. Can go when they open nothing."""
    make: Any = getattr(torch._C, "DisableTorchFunction", contextlib.nullcontext)
    return cast(AbstractContextManager[None], make())


@proves("torch._C.DisableTorchFunction", "attention is computed by its formula")
def has_unwatched() -> bool:
    """Whether a mode sees nothing in that context, and everything after it."""
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, dtype=torch.float32, device="cpu")
    with Mode():
        with unwatched():
            x.square()
        nothing = not seen
        x.square()
    return nothing and bool(seen)


def marked(tensor: Tensor) -> Callable[[], bool]:
    """Tells from now on whether the tensor has been changed in place.

    `Tensor._version` counts such changes. Can go when PyTorch tells in public.
    """
    if has_version() and not tensor.is_inference():
        before = tensor._version
        return lambda: tensor._version != before
    copy = tensor.detach().clone()
    return lambda: not torch.allclose(tensor.detach(), copy, 0, 0, equal_nan=True)


def is_untouched(fresh: Tensor) -> bool:
    """Whether a fresh copy has not been changed in place. Can go with `marked`."""
    return has_version() and fresh._version == 0


def writes(tensor: Tensor) -> Any:
    """How often it was changed in place, to be compared later. Can go with `marked`.

    Where that cannot be told it is equal to nothing else.
    """
    try:
        return tensor._version if has_version() else object()
    except RuntimeError:  # of tensors that were made in inference mode
        return object()


@proves("torch.Tensor._version", "tensors are compared, and copied, instead")
def has_version() -> bool:
    """Whether a change in place counts, also through a view, and reading does not."""
    tensor = torch.zeros(2, dtype=torch.float32, device="cpu")
    before = tensor._version
    tensor.square()
    read = tensor._version
    tensor[:1].add_(1)
    return before == read == 0 < tensor._version


_PROBE = "fastgradnorm_probe"  # a name that no module has, for the caches are by name and `id`


class _Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def _is_caching() -> bool:
    """Whether the caller is in `parametrize.cached`: seen from what it does."""
    module = nn.Module()
    module.register_parameter(_PROBE, nn.Parameter(torch.ones(1, device="cpu")))
    parametrize.register_parametrization(module, _PROBE, _Twice())
    return getattr(module, _PROBE) is getattr(module, _PROBE)


# Whether `parametrize` caches. Can go when a cache knows its module by more than its `id`.
_CACHE = {"_cache_enabled": 0}


def no_parametrize_cache() -> AbstractContextManager[None]:
    """A context in which parametrized tensors are made anew, also within `parametrize.cached`."""
    if has_no_parametrize_cache():
        return assigned(parametrize, _CACHE)
    return _other_properties() if _is_caching() else contextlib.nullcontext()


@proves("torch.nn.utils.parametrize", "classes of parametrized modules change meanwhile")
def has_no_parametrize_cache() -> bool:
    """Whether that stops a cache that is on, and lets it go on afterwards."""
    with parametrize.cached():
        with assigned(parametrize, _CACHE):
            stopped = not _is_caching()
        return stopped and _is_caching()


@contextlib.contextmanager
def _other_properties() -> Iterator[None]:
    """Parametrized modules make their tensors themselves, past what caches them."""
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]
    places = {
        (type(m), name)
        for m in modules
        if parametrize.is_parametrized(m)
        for name in m.parametrizations
    }
    before = {(kind, name): vars(kind)[name] for kind, name in places if name in vars(kind)}
    try:
        for (kind, name), old in before.items():
            setattr(kind, name, property(_maker(name), old.fset))
        yield
    finally:
        for (kind, name), old in before.items():
            setattr(kind, name, old)


def _maker(name: str) -> Callable[[Any], Any]:
    return lambda module: module.parametrizations[name]()


def has_backward_hooks(module: nn.Module | Tensor) -> bool:
    """Whether something runs in pull-backs through it. Goes when PyTorch has a public list."""
    names = ("_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name, None) for name in names)


def forward_hooks(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """What runs before and after a module, by number; of which there is no public list."""
    return _found(module, "_forward_pre_hooks", "_forward_hooks")


def global_hooks() -> dict[int, Callable[..., Any]]:
    """Likewise before and after every module."""
    return _found(nn.modules.module, "_global_forward_pre_hooks", "_global_forward_hooks")


def _found(holder: Any, *names: str) -> dict[int, Callable[..., Any]]:
    held = (getattr(holder, name, None) or {} for name in names)
    return {number: hook for each in held for number, hook in each.items()}


@contextlib.contextmanager
def without_hooks(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Hooks on tensors do not run inside: those of parameters are for training.

    There is no public list of them. Goes when PyTorch has one, or a mode without hooks.
    """
    hooks = [getattr(tensor, "_backward_hooks", None) for tensor in tensors]
    kept = [None if found is None else dict(found) for found in hooks]
    for found in hooks:
        if found is not None:
            found.clear()
    try:
        yield
    finally:
        for found, before in zip(hooks, kept, strict=True):
            if found is not None and before is not None:
                found.update(before)
