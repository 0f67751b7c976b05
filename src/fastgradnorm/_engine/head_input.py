"""What the last layer is given and makes, where that layer alone is counted in closed form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fastgradnorm_kernels.functorch import in_memory
from fastgradnorm_kernels.switches import marked
from torch import Tensor

from fastgradnorm._engine.taps import untapped
from fastgradnorm._model import Passage, Pieces, PlanChangedError, StandIns, Watch


class HeadInput(Watch):
    """Keeps input and output of the one linear layer that holds a tracked parameter.

    Args:
        pieces: The parameters of that layer.
        stand_ins: As in `Watch`.
        passage: As in `Watch`.
        leaves: As in `Watch`.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
    """

    def __init__(
        self,
        pieces: Pieces,
        stand_ins: StandIns,
        passage: Passage,
        leaves: Sequence[Tensor],
        harmless: frozenset[tuple[str, str]],
    ) -> None:
        super().__init__(pieces, stand_ins, passage, leaves)
        self.harmless = harmless
        self.given: Tensor | None = None
        self.output: Tensor | None = None
        self._changed: Callable[[], bool] = lambda: True

    @property
    def linked(self) -> bool:
        """Whether what is made right now may have a gradient, but for those that none has here."""
        return torch.is_grad_enabled()

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if not self.linked:  # the model's own no_grad: nothing counts
            return self.run(func, args, kwargs)
        if func is not torch.nn.functional.linear or self.given is not None:
            raise PlanChangedError
        output: Tensor = self.run(func, args, kwargs)
        self.given, self.output = call["input"], output
        self._changed = marked(in_memory(output))
        return output

    def plain(
        self,
        func: Callable[..., Any],
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        return untapped(self, self.harmless, func, tensors, args, kwargs, linked=self.linked)

    def is_output(self, logits: Tensor) -> bool:
        """Whether these are the layer's output itself; if not, they may be a copy of it.

        Raises:
            PlanChangedError: If the output was changed in place since.
        """
        if self.output is None or self._changed():
            raise PlanChangedError
        found, made = in_memory(logits), in_memory(self.output)
        same = found.data_ptr() == made.data_ptr() and found.dtype == made.dtype
        return same and found.numel() == made.numel()
