"""An operation as the table has it: its arguments, its rule, and what stands for it under vmap."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastgradnorm._operations.rules import Call, Rule

# (arguments by name, names of those that are tracked parameters) -> rule, or None if it does not
# apply to these arguments
RuleMaker = Callable[[Call, Collection[str]], Rule | None]


@dataclass(frozen=True)
class Operation:
    """What is known of an operation. Whatever is None, PyTorch's own way is right.

    Attributes:
        names: Of its positional arguments, if it has a rule.
        defaults: Of those that have some.
        rule: Makes the rule of a call.
        form: The same values in a way that suits vmap better, called out of the mode.
        several: Whether `form` is for passes from which several cotangents are pulled back.
        has_layout: Whether `form` is told, by `channels_last`, how its output may lie in memory.
        narrow: Whether autocast multiplies in a narrow dtype there.
        opened: The same values by other operations, each of which the mode sees in turn. It gives
            None where it does not apply.
    """

    names: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rule: RuleMaker | None = None
    form: Callable[..., Any] | None = None
    has_layout: bool = False
    narrow: bool = False
    several: bool = False
    opened: Callable[..., Any] | None = None

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name."""
        return {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}


def ruled(
    rule: RuleMaker,
    required: str,
    form: Callable[..., Any] | None = None,
    has_layout: bool = False,
    narrow: bool = False,
    **defaults: Any,
) -> Operation:
    """An operation with a rule; `required` names its first arguments."""
    names = tuple(required.split())
    return Operation((*names, *defaults), defaults, rule, form, has_layout, narrow)
