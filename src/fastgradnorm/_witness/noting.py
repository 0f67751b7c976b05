"""What the caller's model does while it is called: seen, and stopped before it changes itself."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from fastgradnorm_kernels.checkpoints import cut_off
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgradnorm._model import Unharmed

_SETTERS = frozenset({"__set__", "__delete__", "__setitem__"})


class ChangesItself(BaseException):
    """The model is about to change a parameter; no error of its own, which it might catch."""


class Noted(Protocol):
    """What is noted of calls.

    Attributes:
        narrow: Whether one has made numbers of 16 bits or fewer.
        cut_off: A reentrant checkpoint whose parameters have no gradient in training.
    """

    narrow: bool
    cut_off: str | None


class Noting(Unharmed):
    """Watches the calls of a model.

    Args:
        parameters: What it must not change, nor their gradients; none of a copy.
        noted: What is seen is noted there.
    """

    def __init__(self, parameters: Iterable[Tensor], noted: Noted) -> None:
        super().__init__()
        self._noted, self._blocks = noted, contextlib.ExitStack()
        kept = [t for p in parameters for t in (p, p.grad) if t is not None and _has_memory(t)]
        self._memory = {tensor.untyped_storage().data_ptr() for tensor in kept}

    def __enter__(self) -> "Noting":
        if self._memory:  # copies have a gradient by what is looked at alone
            names = self._blocks.enter_context(cut_off())
            self._blocks.callback(self._note, names)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._blocks.close()

    def _note(self, names: Sequence[str]) -> None:
        if names:
            self._noted.cut_off = names[0]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._memory and (_writes(name) or kwargs.get("out") is not None):
            written = kwargs.get("out") if kwargs.get("out") is not None else args[:1]
            if any(self._is_kept(t) for t in pytree.tree_leaves(written)):
                raise ChangesItself
        out = super().__torch_function__(func, types, args, kwargs)
        if type(out) is Tensor and out.is_floating_point() and out.element_size() <= 2:
            self._noted.narrow = True
        return out

    def _is_kept(self, value: Any) -> bool:
        if not isinstance(value, Tensor) or not _has_memory(value):
            return False
        return value.untyped_storage().data_ptr() in self._memory


def _writes(name: str) -> bool:
    if name in _SETTERS or (name.startswith("__i") and name.endswith("__")):
        return True
    return name.endswith("_") and not name.endswith("__")


def _has_memory(tensor: Tensor) -> bool:
    try:
        return tensor.untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):  # of a subclass, or sparse
        return False
