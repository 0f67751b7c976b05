"""The caller's own model, called as the caller calls it, and left as it was."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastgradnorm._errors import UnsupportedModelError
from fastgradnorm._model import (
    Batch,
    Held,
    Subject,
    Swapping,
    extract,
    marked,
    same,
    tensor_attributes,
)
from fastgradnorm._process import models_in_use, put_back_random_states
from fastgradnorm._witness.noting import ChangesItself, Noting
from fastgradnorm._witness.pulled import Gradients
from fastgradnorm._witness.rows import rows_of

R = TypeVar("R")
_CLOSE = 1e-3  # relative to the largest logit


class OwnModel:
    """The caller's model in eval mode, with its own parameters, buffers and hooks.

    Where it is on another device than is asked for, its parameters are of inference mode, or it
    changes them or takes derivatives by them while it runs, a copy of its module tree with usable
    ones is called instead.

    Args:
        subject: The model.

    Attributes:
        narrow: Whether a call has made numbers of 16 bits or fewer.
        cut_off: A reentrant checkpoint whose parameters have no gradient in training; None if none.
        carried: What the model keeps from one call to the next that gives the same samples other
            logits; None if there is nothing of that sort, or nothing was called yet.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        tensors = list(subject.parameters.values())
        self._state: _State | None = None
        self.narrow = False
        self.cut_off: str | None = None
        self.carried: str | None = None
        self._asked = False
        self._borrowed = all(t.device == subject.device and not t.is_inference() for t in tensors)
        if subject.differentiates:  # whose gradients would be left in the caller's parameters
            self._borrowed = False

    @property
    def written(self) -> list[str]:
        """Names of the buffers that the last call has written, to copies."""
        return [] if self._state is None else self._state.written

    def logits(self, batch: Batch) -> Tensor:
        """Logits `[n, *positions, C]` over the temperature, by one call without gradients.

        Raises:
            UnsupportedModelError: If there is no row of them for each sample.
        """

        def call() -> Tensor:
            with self._ready({}) as model, self.subject.graph():
                found = self._called(model, batch).detach()
                fresh, self._asked = self._borrowed and not self._asked, True
                kept = self._state.changed() if fresh and self._state is not None else None
                if kept is not None and not self._same_again(model, batch, found):
                    self.carried = kept
                return found

        return self._harmless(call)

    def each(self, batches: Sequence[Batch]) -> list[Tensor]:
        """The same of several, one call after the other: what they leave behind is seen as one."""

        def call() -> list[Tensor]:
            with self._ready({}) as model, self.subject.graph():
                return [self._called(model, batch).detach() for batch in batches]

        return self._harmless(call)

    def _same_again(self, model: nn.Module, batch: Batch, found: Tensor) -> bool:
        """Whether a further call, the other way round, finds the same logits.

        What is kept of the samples themselves changes nothing where they come as they came before.
        """
        back = batch.take(torch.arange(len(batch) - 1, -1, -1, device="cpu"))
        return _close(self._called(model, back).flip(0), found)

    def gradients(self, batch: Batch, names: Sequence[str]) -> Gradients:
        """The same by a call that is to be pulled back from, to the parameters of these names."""
        return self.with_graph(names, lambda m, to: Gradients(self._called(m, batch), to))

    def with_graph(
        self, names: Sequence[str], use: Callable[[nn.Module, dict[str, Tensor]], R]
    ) -> R:
        """What is made of the model, ready to be called, and of parameters to pull back to."""

        def call() -> R:
            leaves = self._leaves(names)
            with self._ready(leaves) as model, torch.enable_grad():
                return use(model, leaves)

        return self._harmless(call)

    def _harmless(self, call: Callable[[], R]) -> R:
        """The call; again on a copy if the model would change its own parameters."""
        try:
            return call()
        except ChangesItself:
            self._borrowed = False
            return call()

    def _noting(self) -> Noting:
        return Noting(self.subject.parameters.values() if self._borrowed else (), self)

    def _called(self, model: nn.Module, batch: Batch) -> Tensor:
        subject = self.subject
        with subject.autocast():
            if subject.options.by_output:
                ones = [
                    [leaf[i : i + 1].clone() for leaf in batch.leaves] for i in range(len(batch))
                ]
                return torch.stack([subject.scored(model, batch, one)[0] for one in ones])
            output = subject.called(model, batch, [leaf.clone() for leaf in batch.leaves])
        found = rows_of(extract(output), len(batch), subject.options.class_dim)
        temperature = subject.options.temperature
        return found if temperature == 1 else found / temperature

    def _leaves(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What is to be pulled back to."""
        if self._borrowed:
            return {name: self.subject.parameters[name] for name in names}
        return {n: v.detach().requires_grad_() for n, v in self.subject.values(names).items()}

    @contextlib.contextmanager
    def _ready(self, leaves: dict[str, Tensor]) -> Iterator[nn.Module]:
        if self._borrowed:
            model = self.subject.model
            with (
                models_in_use,
                _as_it_was(model, self.subject.training) as self._state,
                put_back_random_states(),
                self._noting(),
            ):
                yield model
            return
        view, stand_ins = self.subject.view(leaves)
        with put_back_random_states(), Swapping(stand_ins), self._noting():
            yield view


def _close(again: Tensor, logits: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    room = _CLOSE * float(logits.nan_to_num(0.0, 0.0, 0.0).abs().max()) if logits.numel() else 0.0
    same_shape = again.shape == logits.shape
    return same_shape and torch.allclose(again, logits, rtol=0.0, atol=room, equal_nan=True)


class _State:
    """What a model keeps while it is called.

    Attributes:
        written: Names of the buffers that were written, filled at the end.
    """

    def __init__(self, model: nn.Module, kept: Sequence[tuple[Tensor, Tensor, bool]]) -> None:
        self.written: list[str] = []
        self._paths = [path for path, _ in model.named_modules()]
        self._model, self._kept = model, kept
        self._held = Held(module.__dict__ for module in model.modules())

    def changed(self) -> str | None:
        """The name of an attribute or a buffer that is another now, if there is one."""
        found = self._held.changed()
        if found is not None:
            place, name = found
            return f"{self._paths[place]}.{name}".removeprefix(".")
        names = {id(copy): name for name, copy in self._model.named_buffers()}
        other = [names.get(id(b), "a tensor") for a, b, _ in self._kept if not same(a, b)]
        return next(iter([*_replaced(self._model, self._kept), *other]), None)


@contextlib.contextmanager
def _as_it_was(model: nn.Module, training: frozenset[int]) -> Iterator[_State]:
    """In eval mode inside, on buffers of its own; afterwards with all attributes of before.

    Args:
        model: The caller's.
        training: Modules, by `id`, that are in training mode all the same.
    """
    modules = list(model.modules())
    held = Held(module.__dict__ for module in modules)
    parameters = [(p, p.data, _sum(p)) for p in model.parameters()]
    names = {id(p): name for name, p in model.named_parameters()}
    kept = _lent(modules)
    for module in modules:
        module.training = id(module) in training
    state = _State(model, kept)
    try:
        yield state
    finally:
        state.written += _replaced(model, kept)
        held.put_back()
        changed = [names[id(p)] for p, data, total in parameters if _is_changed(p, data, total)]
        state.written += _written(model, kept)
    if changed:
        raise UnsupportedModelError(
            "`model` must leave its parameters as they are while it runs. Got "
            f"`{changed[0]}`, which its own call on a batch has changed. Change a copy of it."
        )


def _lent(modules: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor, bool]]:
    """Puts copies in the place of buffers and other tensors that modules hold.

    Those in containers stay, for they cannot be replaced; they are given their values back.
    Returns each of the caller's tensors, its copy, and whether the copy is what the model uses.
    """
    copies: dict[int, tuple[Tensor, Tensor]] = {}
    for module in modules:
        # Copies of the tree in other threads read the dictionary that was there.
        module.__dict__["_buffers"] = type(module._buffers)(module._buffers)
        for held in (module.__dict__, module._buffers):
            for name, value in held.items():
                if isinstance(value, Tensor) and not _stays(value):
                    copies.setdefault(id(value), (value, marked(value.detach().clone(), value)))
                    held[name] = copies[id(value)][1]
    nested = {
        key: tensor
        for module in modules
        for key, tensor in tensor_attributes(module).items()
        if key not in copies and all(tensor is not copy for _, copy in copies.values())
    }
    lent = [(tensor, copy, True) for tensor, copy in copies.values()]
    return lent + [(tensor, tensor.detach().clone(), False) for tensor in nested.values()]


def _stays(tensor: Tensor) -> bool:
    """Whether it is a parameter, or has no values that the model could change."""
    return isinstance(tensor, nn.Parameter) or tensor.is_meta


def _replaced(model: nn.Module, kept: Sequence[tuple[Tensor, Tensor, bool]]) -> list[str]:
    """Names of buffers in whose place the model has put other tensors."""
    lent = {id(copy) for _, copy, _ in kept}
    return [name for name, b in model.named_buffers() if not (id(b) in lent or b.is_meta)]


def _written(model: nn.Module, kept: Sequence[tuple[Tensor, Tensor, bool]]) -> list[str]:
    """Names of what was written; what is the caller's own has its values back."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    found = []
    for tensor, copy, lent in kept:
        if not same(tensor, copy):
            found.append(names.get(id(tensor), "a tensor"))
            if not lent:
                with torch.no_grad():
                    tensor.copy_(copy)
    return found


def _sum(parameter: Tensor) -> Tensor:
    """Of all bits: no copy of a model is kept to see whether it has changed."""
    with torch.no_grad():
        data = parameter.detach()
        if type(data) is not Tensor or data.layout != torch.strided:
            return torch.zeros((), dtype=torch.int64, device="cpu")  # of quantised weights, say
        if data.is_complex():
            data = torch.view_as_real(data.resolve_conj())
        data = data.reshape(-1)
        size = data.element_size()
        if all(count * size % 8 == 0 for count in (data.numel(), data.storage_offset())):
            return data.view(torch.int64).sum()  # a tenth of the time of narrower ones, widened
        width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        return data.view(width[size]).sum(dtype=torch.int64)


def _is_changed(parameter: Tensor, data: Tensor, total: Tensor) -> bool:
    """Puts back other memory that was assigned; whether values were changed in place."""
    there = parameter.data
    if there.data_ptr() != data.data_ptr() or there.dtype != data.dtype:
        parameter.data = data
    return not torch.equal(_sum(parameter), total)
