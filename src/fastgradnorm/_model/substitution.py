"""Parameters that a model reaches past its module tree: replaced where they are used.

Also what keeps the plain passes of the referee from harm.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastgradnorm._model.views import tensors_in


def swap(
    args: Sequence[Any], kwargs: Mapping[str, Any], swaps: Mapping[int, Tensor]
) -> tuple[Sequence[Any], Mapping[str, Any], bool]:
    """The arguments of a call with `swaps[id(t)]` for tensors t, and whether there were any."""
    if not any(id(t) in swaps for t in tensors_in(args, kwargs)):
        return args, kwargs, False
    replaced = {key: _replace(value, swaps) for key, value in kwargs.items()}
    return [_replace(value, swaps) for value in args], replaced, True


def _replace(value: Any, swaps: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return swaps.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(_replace(v, swaps) for v in value)
    return value


_MISREAD = frozenset({F.batch_norm, F.instance_norm})


class Swapping(TorchFunctionMode):
    """Does nothing but that, for the plain passes, and keeps them clear of two faults of PyTorch.

    On a CPU, in PyTorch 2.13, the backward pass of a group norm crashes the process if its input
    has the channels last in memory and needs no gradient; and that of an instance norm, or of a
    batch norm in eval mode, is wrong if its input is contiguous and its gradient, of one sample,
    has the channels last. All are given contiguous tensors.
    """

    def __init__(self, swaps: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.swaps = swaps

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs, _ = swap(args, kwargs or {}, self.swaps)
        if func is F.group_norm and args:
            args = [args[0].contiguous(), *args[1:]]
        out = func(*args, **kwargs)
        if func in _MISREAD and out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out
