"""Parameters that a model reaches past its module tree: replaced where they are used.

Also what keeps the plain passes of the referee from harm.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
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
_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


@contextlib.contextmanager
def _without_cudnn() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = before


class Swapping(TorchFunctionMode):
    """Does nothing but that, for the plain passes, and keeps them clear of three faults of PyTorch.

    On a CPU, in PyTorch 2.13, the backward pass of a group norm crashes the process if its input
    has the channels last in memory and needs no gradient; and that of an instance norm, or of a
    batch norm in eval mode, is wrong if its input is contiguous and its gradient, of one sample,
    has the channels last. All are given contiguous tensors. On a GPU, recurrent layers of
    cuDNN cannot be pulled back from in eval mode; those of PyTorch can.
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
        recurrent = func in _RECURRENT and any(t.is_cuda for t in tensors_in(args, kwargs))
        with _without_cudnn() if recurrent else contextlib.nullcontext():
            out = func(*args, **kwargs)
        if func in _MISREAD and out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out
