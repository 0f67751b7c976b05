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
from fastgradnorm._model.beside import Beside
from fastgradnorm._model.glance import Glance
from fastgradnorm._model.plain_values import GONE, differ, is_setting
from fastgradnorm._process import models_in_use

# What a parameter is called of which each call makes another: by `torch.nn.utils.weight_norm`,
# `spectral_norm` and `prune`.
_MADE = ("g", "orig")
# What every module has, of which parameters, buffers, modules and hooks are looked at on their own.
_OF_MODULES = frozenset(nn.Module().__dict__)


class Unchanged:
    """What a model consists of at this moment, to be looked at again.

    Args:
        model: The caller's.
        functions: What else runs it, by name; None of those that are not given.
    """

    def __init__(self, model: nn.Module, functions: Mapping[str, Any]) -> None:
        with models_in_use:  # while another thread calls it, it is not as its owner has it
            self._look(model, functions)

    def _look(self, model: nn.Module, functions: Mapping[str, Any]) -> None:
        classes: dict[type, dict[str, Any]] = {}
        self._parts = [_Part(path, module, classes) for path, module in model.named_modules()]
        self._beside = Beside()
        self._told = self._settled = False
        modules = [part.module for part in self._parts]
        self._glance, self._parameters = Glance(modules), [*model.parameters()]
        self._places = [*map(_place, self._parameters)]
        for part in self._parts:
            part.add_to(self._beside)
        for name, function in functions.items():
            self._beside.add_function(f"`{name}`", function)
        self._beside.add_classes(classes)

    @property
    def generators(self) -> dict[str, Any]:
        """Of random numbers, that the model or what it calls holds, by what they are called."""
        return dict(self._beside.generators.values())

    def settle(self) -> None:
        """After the first run: what that has changed, such as counters, is not looked at again."""
        if not self._settled:
            self._settled = True
            self._beside.settle()

    def check(self) -> None:
        """Warns, once, of other settings and buffers.

        Raises:
            ArgumentError: If a parameter or a module is another one.
        """
        with models_in_use:
            self._check()

    def _check(self) -> None:
        same = self._glance.holds() and [*map(_place, self._parameters)] == self._places
        parts = [] if same else self._parts
        for part in parts:
            changed = part.other_parts()
            if changed is not None:
                raise ArgumentError(
                    "`model` must have the same parameters and modules while a pool is scored. Got "
                    f"`{changed}`, which is another one than when that began, or is frozen or "
                    "trained since. Change values in place, or score by a call for each model.",
                    "model",
                )
        if self._told:
            return
        settings = (part.other_settings() for part in parts)
        own = next((name for name in settings if name is not None), None)
        beside = self._beside.other() if own is None else None
        if own is None and beside is None:
            return
        self._told = True
        which = "as it was then" if beside is None else "as it was then, or as it is now"
        warnings.warn(
            f"`model` was changed while a pool was scored: {beside or f'`{own}`'} is another one "
            f"than when that began, and scores are of the model {which}. Score by a call for each "
            "of its states.",
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
        self._path, self.module = f"model.{path}".rstrip("."), module
        self._modules = dict(module._modules)
        held = module._parameters.items()
        self._parameters = [(name, p, _place(p)) for name, p in held if p is not None]
        self._names, self._count = set(module.__dict__), len(module.__dict__)
        made = [n for n in module.__dict__ if any(f"{n}_{m}" in module._parameters for m in _MADE)]
        self._settings = [
            each for each in _settings(module.__dict__ | module._buffers) if each[0] not in made
        ]
        if type(module) not in classes:
            classes[type(module)] = dict(_settings(_of_class(type(module))))
        self._class = classes[type(module)]
        self._hooks = forward_hooks(module)

    def add_to(self, beside: Beside) -> None:
        """What its attributes hold and its functions read."""
        for name, value in self.module.__dict__.items():
            if name not in _OF_MODULES:
                beside.add_value(f"{self._path}.{name}", value, name[:1] == "_")
                if callable(value) and not isinstance(value, nn.Module):
                    beside.add_function(f"`{self._path}.{name}`", value)
        for hook in self._hooks.values():
            beside.add_function(f"a hook of `{self._path}`", hook)

    def other_parts(self) -> str | None:
        """The name of a parameter or module that is another one."""
        module = self.module
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
        held, buffers = self.module.__dict__, self.module._buffers
        for name, value in self._settings:
            now = held.get(name, GONE)
            now = buffers.get(name, GONE) if now is GONE else now
            if now is not value and differ(now, value):
                return f"{self._path}.{name}"
        # What calls left there, or stands before the class' own.
        added = held.keys() - self._names if len(held) != self._count else frozenset[str]()
        for name in added & self._class.keys():
            if differ(held[name], self._class[name]):
                return f"{self._path}.{name}"
        return None if forward_hooks(self.module) == self._hooks else f"{self._path}'s hooks"


def _settings(held: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in held.items():
        if name not in _OF_MODULES and is_setting(value, name[:1] == "_"):
            yield name, value


def _of_class(kind: type) -> dict[str, Any]:
    """What a class of the caller's says of its modules, and how they run."""
    found: dict[str, Any] = {}
    if kind.__module__.partition(".")[0] == "torch":
        return {"forward": getattr(kind, "forward", GONE)}
    for each in kind.__mro__:
        if each is nn.Module:
            break
        names = [name for name in vars(each) if not name.startswith("__")]
        found = {name: getattr(kind, name, GONE) for name in names} | found
    return found


def _place(parameter: Tensor) -> tuple[int, bool]:
    """Where its memory begins, as far as that can be told; and whether it is trained."""
    try:
        return parameter.data_ptr(), parameter.requires_grad
    except (RuntimeError, NotImplementedError):  # of subclasses
        return 0, parameter.requires_grad
