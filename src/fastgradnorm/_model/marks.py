"""What callers put on tensors themselves, which copies and stand-ins of them would not have.

Attributes in Python (a scale beside a quantised weight, flags of parallel layers), and classes of
parameters with methods of their own.
"""

from torch import Tensor, nn


def marked(tensor: Tensor, original: Tensor) -> Tensor:
    """The tensor, with the attributes of the original."""
    if tensor is not original and vars(original):
        vars(tensor).update(vars(original))
    return tensor


def as_parameter(tensor: Tensor, original: nn.Parameter) -> None:
    """Makes it a parameter as the original is, so that a module lets it be assigned.

    A class that looks into calls itself is left: what stands in is seen by modes alone.
    """
    kind = type(original)
    if type(tensor) is Tensor:
        plain = kind.__torch_function__ is nn.Parameter.__torch_function__
        tensor.__class__ = kind if plain and issubclass(kind, nn.Parameter) else nn.Parameter
    marked(tensor, original)
