"""Taps: how one backward pass gives squared gradient norms instead of gradients.

A tap is an identity put behind an operation, or on a parameter. Its backward returns, besides the
incoming gradient, as the "gradient" of an extra input, what the rule makes of it: the squared norms
of the operation's parameters. No per-sample gradient of a parameter is stored.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastgradnorm_kernels import KernelError, computed_by
from torch import Tensor

from fastgradnorm._engine.timing import Clock
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import (
    Followed,
    Passage,
    Piece,
    Pieces,
    PlanChangedError,
    StandIns,
    Watch,
    constant,
)
from fastgradnorm._operations import Joint, SingleLevel, current_level, numbers, table, unwrap, wrap
from fastgradnorm._process import is_out_of_memory


def tap(level: int | None, *inputs: Any) -> Tensor:
    """Identity on the first of `inputs` of a `Tap`, within the `vjp` of nesting level `level`.

    An identity needs no rule for the transforms around that one, so that a light function will do,
    for a fraction of the time. Inside transforms of the model's own it takes the whole way.
    """
    light = level is not None and current_level() == level
    output: Tensor = (LightTap.within if light else Tap.apply)(*inputs)
    return output


class Tap(torch.autograd.Function):
    """Identity on `y`; the "gradient" of `extra` is `read(saved, gradient of y)`."""

    @staticmethod
    def forward(y: Tensor, extra: Tensor, read: Callable[..., Tensor], *saved: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.read, *saved = inputs
        ctx.save_for_backward(*saved)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g, ctx.read(ctx.saved_tensors, g), None, *(None,) * len(ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], y: Tensor, extra: Tensor, *_: Any) -> Any:
        """Samples: the identity, as the derivative is taken inside, sample by sample."""
        if extra.requires_grad:  # the derivative is yet to be taken: this is inside of it
            raise RuntimeError("the model calls vmap itself")
        return y.view_as(y), in_dims[0]


class LightTap(SingleLevel):
    """`Tap` at one level."""

    @staticmethod
    def forward(y: Tensor, extra: Tensor, read: Callable[..., Tensor], *saved: Tensor) -> Tensor:
        # The same values in a wrapper of its own: a view could not be changed in place.
        return wrap(unwrap(y))

    setup_context = staticmethod(Tap.setup_context)
    backward = staticmethod(Tap.backward)


@contextlib.contextmanager
def _rule_of(func: Callable[..., Any]) -> Iterator[None]:
    """What a rule raises is no fault of the model's, though its pull-back calls the rule."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
            raise
        name = getattr(func, "__name__", str(func))
        raise KernelError(
            f"the rule of `{name}` failed. {type(error).__name__}: {error}", name
        ) from error


def tap_parameter(
    name: str, parameter: Tensor, extra: Tensor, reached: set[int | str], clock: Clock | None
) -> Tensor:
    """For a leftover: the gradient of all its uses, added up by autograd, squared and dropped.

    Called, as `Tapping` is made, right inside the `vjp`. Its name is put into `reached` when a
    pull-back comes by.
    """

    def read(_: Sequence[Tensor], g: Tensor) -> Tensor:
        reached.add(name)
        return numbers(g).square().sum()[None]

    read = read if clock is None else clock.timing([name], read)
    return tap(current_level(), parameter, extra, read)


@dataclass(frozen=True)
class PlannedTap:
    """One operation to tap.

    Attributes:
        key: What the use looks like, see `Use.key`.
        single: Arguments that are parameters used here alone, in the order of their norms.
        joint: The argument that is a parameter used elsewhere too, if there is one.
        output_shape: Of the operation's output, for a joint parameter.
        output_dtype: Likewise.
        transposed: Whether the joint parameter is used transposed.
    """

    key: tuple[Any, ...]
    single: tuple[str, ...]
    joint: str | None
    output_shape: tuple[int, ...]
    output_dtype: torch.dtype
    transposed: bool = False


class Tapping(Followed):
    """Puts a tap behind each planned operation.

    Args:
        pieces: The planned parameters.
        stand_ins: As in `Watch`.
        passage: As in `Watch`.
        leaves: As in `Watch`.
        plan: The taps.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        norms: Zeros for the norms of single parameters, one tensor a tap.
        carriers: Zeros of the outputs' shapes for taps with joint parameters, else None.
        reached: Where the number of a tap is put when a pull-back comes by.
        clock: Measures the rules, if given.

    Attributes:
        joints: For each tap with a joint parameter that was reached, how it adds to that, and the
            tensors saved for it.
    """

    def __init__(
        self,
        pieces: Pieces,
        stand_ins: StandIns,
        passage: Passage,
        leaves: Sequence[Tensor],
        plan: Sequence[PlannedTap],
        harmless: frozenset[tuple[str, str]],
        norms: Sequence[Tensor],
        carriers: Sequence[Tensor | None],
        reached: set[int | str],
        clock: Clock | None = None,
    ) -> None:
        super().__init__(pieces, stand_ins, passage, leaves)
        self.plan, self.harmless, self.norms, self.carriers = plan, harmless, norms, carriers
        self.reached, self.clock = reached, clock
        self.level = current_level()
        self.joints: dict[int, tuple[Joint, tuple[Tensor, ...]]] = {}
        self._waiting: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for i, tap in reversed(list(enumerate(plan))):
            self._waiting[tap.key].append(i)

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        found: dict[str, Piece | None] = {slot: self.pieces.of(call[slot]) for slot in slots}
        waiting = self._waiting.get((func.__name__, *sorted(found.items())))
        rule = table.make_rule(func, call, slots) if waiting else None
        if not torch.is_grad_enabled():  # the model's own no_grad: nothing counts
            return self.run(func, args, kwargs)
        if not waiting or rule is None:
            raise PlanChangedError
        index = waiting.pop()
        planned, carrier = self.plan[index], self.carriers[index]
        output: Tensor = self.run(func, args, kwargs)
        if carrier is not None:
            if output.shape != carrier.shape or rule.joint is None:
                raise PlanChangedError
            joint = rule.joint.of_transposed() if planned.transposed else rule.joint
            self.joints[index] = (joint, rule.saved)
            output = tap(self.level, output, carrier, lambda saved, g: self._seen(index, g))
        if not planned.single:
            return output
        # Not the rule, whose tensors would stay until all is done: autograd lets go of those that
        # it has saved as soon as the last pull-back is through.
        sq_norms = rule.sq_norms

        def read(saved: Sequence[Tensor], g: Tensor) -> Tensor:
            with _rule_of(func), computed_by(self.passage.settings.backend):
                by_slot = sq_norms(saved, self._seen(index, g))
            norms = [by_slot[slot] for slot in planned.single]
            return torch.stack(norms) if len(norms) > 1 else norms[0][None]

        if self.clock is not None:
            names = [piece.name for slot in planned.single if (piece := found[slot]) is not None]
            read = self.clock.timing(names, read)
        return tap(self.level, output, self.norms[index], read, *rule.saved)

    def _seen(self, index: int, g: Tensor) -> Tensor:
        self.reached.add(index)
        return g

    def check_all(self) -> None:
        """Raises `PlanChangedError` unless every planned operation was run."""
        if any(self._waiting.values()):
            raise PlanChangedError

    def plain(
        self,
        func: Callable[..., Any],
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        linked = torch.is_grad_enabled()
        return untapped(self, self.harmless, func, tensors, args, kwargs, linked=linked)


def untapped(
    mode: Watch,
    harmless: frozenset[tuple[str, str]],
    func: Callable[..., Any],
    tensors: Sequence[Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    linked: bool,
) -> Any:
    """Calls an operation without a rule, which may read tracked parameters.

    Args:
        mode: What watches the pass.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        func: The operation.
        tensors: All among its arguments.
        args: Those by position.
        kwargs: Those by name.
        linked: Whether what it makes may have a gradient.

    Raises:
        PlanChangedError: If it makes something of a parameter that a plan knows nothing of.
    """
    tracked = mode.pieces.among(tensors)
    output = mode.run(func, args, kwargs)
    if not tracked or mode.pieces.note_view(func, args, kwargs, output) or not linked:
        return output
    name = getattr(func, "__name__", str(func))
    if any((piece.name, name) not in harmless for piece in tracked):
        raise PlanChangedError
    made = constant(func, args, kwargs, output)
    if made is None:
        raise PlanChangedError
    return made[0]
