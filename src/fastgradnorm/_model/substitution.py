"""The modes of plain passes, which keep them from harm."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastgradnorm._model.standins import StandIns
from fastgradnorm._operations import ASKED, CONTROL_FLOW, FORMS, in_python, tensors_in

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


class Unharmed(TorchFunctionMode):
    """Keeps clear of four faults of PyTorch's backward passes.

    On a CPU, in PyTorch 2.13, the backward pass of a group norm crashes the process if its input
    has the channels last in memory and needs no gradient; and that of an instance norm, or of a
    batch norm in eval mode, is wrong if its input is contiguous and its gradient, of one sample,
    has the channels last. All are given contiguous tensors. On a GPU, recurrent layers of
    cuDNN cannot be pulled back from in eval mode; those of PyTorch can. And the gradient of a
    cross-entropy has no digits left where its label is certain.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if (called := in_python(func)) is not None:
            with self:
                return called(*args, **kwargs)
        if func in CONTROL_FLOW:  # traced, they drop the gradients of what a branch closes over
            with self:
                return CONTROL_FLOW[func](*args, **kwargs)
        if func in ASKED:
            return ASKED[func](*args, **kwargs)
        if func in FORMS:
            found = FORMS[func](*args, **kwargs)
            if found is not None:
                return found
        if func is F.group_norm and args:
            args = [args[0].contiguous(), *args[1:]]
        recurrent = func in _RECURRENT and any(t.is_cuda for t in tensors_in(args, kwargs))
        with _without_cudnn() if recurrent else contextlib.nullcontext():
            out = func(*args, **kwargs)
        if func in _MISREAD and out.requires_grad:
            out.register_hook(Tensor.contiguous)
        return out


class Swapping(Unharmed):
    """Uses what stands for the caller's tensors, and keeps clear of those faults."""

    def __init__(self, stand_ins: StandIns) -> None:
        super().__init__()
        self.stand_ins = stand_ins

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        done = self.stand_ins.answer(func, args, kwargs, self)
        if done is not None:
            return done[0]
        tensors = tensors_in(args, kwargs)
        args, kwargs = self.stand_ins.swap(args, kwargs, tensors) or (args, kwargs)
        return super().__torch_function__(func, types, args, kwargs)
