"""Whether the caller's model is another than it was when scoring began.

Passes run on copies of the module tree that are made from what was there then. Values that are
changed in place are followed, for they are in the same memory; other tensors in their place, other
modules and other settings would be ignored in silence.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from fastgradnorm_kernels.switches import forward_hooks
from torch import Tensor, nn

from fastgradnorm._errors import ArgumentError, DoubtfulScoresWarning
from fastgradnorm._process import models_in_use

_PLAIN = (bool, float, int, str, Tensor)
# Of what a model keeps to itself: counters, flags and tensors are mostly what is remembered of
# calls, which whoever runs the model meanwhile changes.
_PRIVATE = (float, str)
# What a parameter is called of which each call makes another: by `torch.nn.utils.weight_norm`,
# `spectral_norm` and `prune`.
_MADE = ("g", "orig")
_GONE = object()


class Unchanged:
    """What a model consists of at this moment, to be looked at again.

    Args:
        model: The caller's.
    """

    def __init__(self, model: nn.Module) -> None:
        classes: dict[type, dict[str, Any]] = {}
        self._parts = [_Part(path, module, classes) for path, module in model.named_modules()]
        self._told = False

    def check(self) -> None:
        """Warns, once, of other settings and buffers.

        Raises:
            ArgumentError: If a parameter or a module is another one.
        """
        with models_in_use:
            self._check()

    def _check(self) -> None:
        for part in self._parts:
            changed = part.other_parts()
            if changed is not None:
                raise ArgumentError(
                    "`model` must have the same parameters and modules while a pool is scored. Got "
                    f"`{changed}`, which is another one than when that began, or is frozen or "
                    "trained since. Change values in place, or score by a call for each model.",
                    "model",
                )
        for part in [] if self._told else self._parts:
            setting = part.other_settings()
            if setting is not None and not self._told:
                self._told = True
                warnings.warn(
                    f"`model` was changed while a pool was scored: `{setting}` is another one than "
                    "when that began, and scores are of the model as it was then. Score by a call "
                    "for each of its states.",
                    DoubtfulScoresWarning,
                    stacklevel=4,
                )


class _Part:
    """One module.

    Args:
        path: Its name.
        module: Itself.
        classes: What classes say of their modules; to which that of its own is added.
    """

    def __init__(self, path: str, module: nn.Module, classes: dict[type, dict[str, Any]]) -> None:
        self._path, self._module = f"model.{path}".rstrip("."), module
        self._modules = dict(module._modules)
        held = module._parameters.items()
        self._parameters = [(name, p, _place(p)) for name, p in held if p is not None]
        self._names = set(module.__dict__)
        made = [n for n in module.__dict__ if any(f"{n}_{m}" in module._parameters for m in _MADE)]
        self._settings = [
            each for each in _settings(module.__dict__ | module._buffers) if each[0] not in made
        ]
        if type(module) not in classes:
            classes[type(module)] = dict(_settings(_of_class(type(module))))
        self._class = classes[type(module)]
        self._hooks = forward_hooks(module)

    def other_parts(self) -> str | None:
        """The name of a parameter or module that is another one."""
        module = self._module
        here, before = module._modules, self._modules
        if here != before:  # modules are equal if they are the same
            other = next(k for k in (*here, *before) if here.get(k) is not before.get(k))
            return f"{self._path}.{other}"
        for name, parameter, place in self._parameters:
            if module._parameters.get(name) is not parameter or _place(parameter) != place:
                return f"{self._path}.{name}"
        known = {name for name, *_ in self._parameters}
        added = [k for k, p in module._parameters.items() if p is not None and k not in known]
        return f"{self._path}.{added[0]}" if added else None

    def other_settings(self) -> str | None:
        """The name of an attribute, buffer or hook that is another one."""
        held, buffers = self._module.__dict__, self._module._buffers
        for name, value in self._settings:
            now = held.get(name, _GONE)
            now = buffers.get(name, _GONE) if now is _GONE else now
            if now is not value and not _equal(now, value):
                return f"{self._path}.{name}"
        added = held.keys() - self._names  # what calls left there, or stands before the class'
        for name in added & self._class.keys():
            if not _equal(held[name], self._class[name]):
                return f"{self._path}.{name}"
        return None if forward_hooks(self._module) == self._hooks else f"{self._path}'s hooks"


def _settings(held: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in held.items():
        kinds = _PRIVATE if name[0] == "_" else _PLAIN
        several = type(value) is tuple and all(type(each) in kinds for each in value)
        if (type(value) in kinds or several or callable(value)) and name != "training":
            yield name, value


def _of_class(kind: type) -> dict[str, Any]:
    """What a class of the caller's says of its modules, and how they run."""
    found: dict[str, Any] = {}
    if kind.__module__.partition(".")[0] == "torch":
        return {"forward": getattr(kind, "forward", _GONE)}
    for each in kind.__mro__:
        if each is nn.Module:
            break
        names = [name for name in vars(each) if not name.startswith("__")]
        found = {name: getattr(kind, name, _GONE) for name in names} | found
    return found


def _equal(now: Any, before: Any) -> bool:
    """Whether two settings, which are two objects, have one value; of tensors that is unknown."""
    if any(isinstance(each, Tensor) for each in (now, before)):
        return False
    try:
        return bool(now == before)
    except Exception:  # such as of arrays of several numbers
        return False


def _place(parameter: Tensor) -> tuple[int, bool]:
    """Where its memory begins, as far as that can be told; and whether it is trained."""
    try:
        return parameter.data_ptr(), parameter.requires_grad
    except (RuntimeError, NotImplementedError):  # of subclasses
        return 0, parameter.requires_grad
