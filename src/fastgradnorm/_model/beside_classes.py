"""Where attributes of objects and classes are looked for: also in classes that they are of."""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from fastgradnorm._model.code_names import is_of_packages
from fastgradnorm._model.plain_values import GONE, is_setting

# Whose functions and objects are no caller's, beside those of Python itself.
_OTHERS = frozenset({"fastgradnorm", "lightning", "numpy", "pytorch_lightning", "torch"})


def is_other(thing: Any) -> bool:
    """Whether a function, class or module of code is none of the caller's."""
    return is_of_packages(thing, _OTHERS)


def own_bases(kind: type) -> Iterator[type]:
    """The caller's classes that a module is of; of PyTorch's the first."""
    for each in kind.__mro__:
        if each is nn.Module:
            return
        yield each
        if is_other(each):
            return


def spaces(value: Any) -> list[Mapping[str, Any]]:
    """Where attributes of an object, a class or a module are looked for, one after another."""
    if isinstance(value, ModuleType):
        return [vars(value)]
    kinds = (value if isinstance(value, type) else type(value)).__mro__
    own = [] if isinstance(value, type) else [vars(value)]
    return [*own, *(vars(kind) for kind in kinds if not is_other(kind))]


def found(places: Sequence[Mapping[str, Any]], name: str, default: Any = GONE) -> Any:
    """What is there by a name, in the first of these that has it."""
    for place in places:
        if name in place:
            return place[name]
    return default


def names_of(value: Any) -> dict[str, None]:
    """Names of its attributes, and of settings that its class has for those that have none."""
    own, *others = spaces(value)
    told = [n for s in others for n, v in s.items() if n[:2] != "__" and _is_plain(v)]
    return dict.fromkeys([*own, *told])


def _is_plain(value: Any) -> bool:
    return is_setting(value, False) and not callable(value)


def is_in_base(kind: type, name: str) -> bool:
    """Whether a class has it of a base of the caller's, and not itself."""
    return name not in vars(kind) and any(name in vars(each) for each in own_bases(kind))
