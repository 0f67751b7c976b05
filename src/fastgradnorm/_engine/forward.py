r"""Products of gradients with one direction by forward mode: `⟨∇ℓ, v⟩ = u · Jv`.

The logits' derivative along the direction comes with the forward pass (`torch.func.jvp`) and meets
the loss' gradient u at the logits there: three passes' worth of products as by taps, but nothing is
kept to be pulled back through, and no output gradient is laid out beside its inputs. It sees what
PyTorch differentiates forwards as it does backwards: a function of the model's own, a hook on a
gradient, `no_grad` around what depends on parameters, which forward mode looks through, and a few
operations of PyTorch's that have two formulas are left to taps.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from fastgradnorm_kernels import accumulation_dtype
from fastgradnorm_kernels.levels import forwards
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp
from torch.nn import functional as F

from fastgradnorm._engine.passes import Passes
from fastgradnorm._engine.plan import Plan
from fastgradnorm._engine.vectors import Vectors
from fastgradnorm._errors import NOT_THE_MODELS
from fastgradnorm._model import Batch, Passage, Pieces, StandIns, Subject, Watch
from fastgradnorm._operations import tensors_in
from fastgradnorm._process import is_out_of_memory

_Cotangent = Callable[[Tensor], tuple[Tensor, Tensor]]
_Jvp = tuple[Tensor, Tensor]
# From a sample's logits, valid positions and label to a cotangent, and what that was divided by.
Cotangent = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]

# Directions of which forward mode is the cheaper way: in passes over the model three each, as
# against two for all together by taps and one each. On one core of an AMD EPYC (Zen 3), for a
# ResNet-18, one takes .80 of the time by taps; two would take 1.2.
_MOST = 1
# Multiplications of a sample in convolutions below which little is to be gained: what PyTorch loads
# for forward mode takes a second, once a process, as much as 150 such samples of 32x32 gain. Of
# transformers nothing is: 1.05 for a BERT, .98 for a ViT.
_LEAST = 200_000_000
# What PyTorch differentiates otherwise forwards: where two numbers are equal, or one is zero.
_TWO_FORMULAS = frozenset({"fmax", "scatter_reduce", "scatter_reduce_"})


def _too_little(plan: Plan) -> str | None:
    """Whether a sample's forward pass has few convolutions, in words."""
    rules = [u.rule for u in plan.uses if u.rule is not None and u.operation.startswith("conv")]
    shapes = [(rule.shape, rule.groups) for rule in rules]
    count = sum(groups * s.positions * s.inputs * s.outputs for s, groups in shapes)
    return None if count >= _LEAST else f"convolutions of a sample multiply {count:,} times: little"


@functools.cache
def _load() -> None:
    """What PyTorch loads for forward mode; it warns of itself then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jvp(torch.neg, (torch.zeros((), device="cpu"),), (torch.zeros((), device="cpu"),))


class NotForwardError(Exception):
    """What a model does is not seen by forward mode as by a pull-back."""


class Forwards(Watch):
    """The model with PyTorch's own operations, whose derivatives go forwards.

    Args:
        stand_ins: As in `Watch`.
        passage: As in `Watch`.
        leaves: As in `Watch`.
    """

    def __init__(self, stand_ins: StandIns, passage: Passage, leaves: Sequence[Tensor]) -> None:
        super().__init__(Pieces({}), stand_ins, passage, leaves)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if _is_own(*args) and any(map(_moves, tensors_in(args, kwargs or {}))):
            raise NotForwardError(
                f"the `jvp` of `{args[0].__name__}` need not be what its `backward` is"
            )
        if name in _TWO_FORMULAS and any(map(_moves, tensors_in(args, kwargs or {}))):
            raise NotForwardError(
                f"`{name}` has another derivative forwards where numbers are equal"
            )
        if name == "register_hook":
            raise NotForwardError("the model puts a hook on a gradient")
        if name == "__get__" and _moves(args[0]):
            attribute = getattr(getattr(func, "__self__", None), "__name__", "")
            if attribute == "requires_grad":
                return True  # as in a pull-back, by which a model may decide to put a hook there
            if attribute == "grad_fn":
                raise NotForwardError("the model looks at `grad_fn`")
        return super().__torch_function__(func, types, args, kwargs)

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not torch.is_grad_enabled() and any(map(_moves, tensors_in(args, kwargs))):
            raise NotForwardError("the model runs what depends on parameters under `no_grad`")
        output = super().run(func, args, kwargs)
        return _padded(*args, **kwargs)(output) if func is F.embedding else output


def _padded(
    ids: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> Callable[[Tensor], Tensor]:
    """What a lookup gives, without a derivative of the row that does not count."""
    if padding_idx is None:
        return lambda rows: rows
    padding = padding_idx if padding_idx >= 0 else padding_idx + len(weight)
    return lambda rows: torch.where((ids == padding)[..., None], rows.detach(), rows)


def _is_own(function: Any = None, *_: Any) -> bool:
    """Whether it is a function of the model's own that is called, with a `jvp` of its own."""
    made = isinstance(function, type) and issubclass(function, torch.autograd.Function)
    return made and function.jvp is not torch.autograd.Function.jvp


def _moves(value: Any) -> bool:
    """Whether it has a derivative along the direction."""
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


class ForwardMode:
    """Makes products with one direction, as long as that is possible.

    Args:
        subject: The model.
        directions: By parameter.
        alone: Whether the products are all that is asked for.
    """

    def __init__(self, subject: Subject, directions: Mapping[str, Vectors], alone: bool) -> None:
        self._directions = directions
        self._reason, self._little = self._asked(subject, alone), cast(str | None, None)

    @property
    def why(self) -> str | None:
        """Why the last ones were made by taps; None if they were not."""
        return self._reason or self._little

    def _asked(self, subject: Subject, alone: bool) -> str | None:
        values = subject.values(list(self._directions))
        count = len(next(iter(self._directions.values())))
        if not alone:
            return "norms are asked for too"
        if count > _MOST:
            return f"{count} directions take less so"
        if subject.device.type != "cpu":
            return "passes are captured on a GPU"
        if subject.options.autocast is not None:
            return "autocast narrows derivatives"
        if any(accumulation_dtype(v.dtype.to_real()) != v.dtype.to_real() for v in values.values()):
            return "parameters are narrow"
        hooked = subject.hooked()
        return None if hooked is None else f"{hooked} has a backward hook"

    def products(
        self,
        passes: Passes,
        plan: Plan,
        batch: Batch,
        cotangent: Cotangent,
        valid: Tensor | None,
        target: Tensor | None,
    ) -> Tensor | None:
        """`[N, 1]` of all samples; None where they have to be made by taps, from now on."""
        if passes.settings.spread:
            self._reason = "the model writes values of its samples into a tensor they share"
        self._little = _too_little(plan)
        if self.why is not None:
            return None
        _load()
        subject = passes.subject

        def one(
            passage: Passage,
            leaves: Sequence[Tensor],
            valid: Tensor | None,
            label: Tensor | None,
        ) -> Tensor:
            def of(logits: Tensor) -> tuple[Tensor, Tensor]:
                return cotangent(logits, valid, label)

            return sample_dot(subject, batch, passage, leaves, self._directions, of)

        try:
            found: Tensor = passes.run(f"forward dots {id(plan)}", one, batch, valid, target)
        except (RuntimeError, NotImplementedError, TypeError, NotForwardError) as error:
            if is_out_of_memory(error) or isinstance(error, NOT_THE_MODELS):
                raise
            subject.blamed = False  # whether it is the model's fault is for taps to find
            self._reason = str(error).strip().partition("\n")[0]
            return None
        return found


def sample_dot(
    subject: Subject,
    batch: Batch,
    passage: Passage,
    leaves: Sequence[Tensor],
    directions: Mapping[str, Vectors],
    cotangent: _Cotangent,
) -> Tensor:
    """Of one sample, inside `vmap`: `[1]`; arguments as in `sample_dots`."""
    values = subject.values(list(directions))

    def forward(values: dict[str, Tensor]) -> Tensor:
        view, stand_ins = subject.view(values)
        with forwards(), Forwards(stand_ins, passage, leaves):
            return subject.tempered(view, batch, [leaf[None].clone() for leaf in leaves])

    moved = {name: _like(directions[name].one(0), value) for name, value in values.items()}
    logits, derivative = cast(_Jvp, jvp(forward, (values,), (moved,)))
    unit, scale = cotangent(logits.detach())
    wide = accumulation_dtype(subject.dtype)
    found: Tensor = (unit.to(wide) * derivative.to(wide)).sum() * scale
    return found[None]


def _like(direction: Tensor, value: Tensor) -> Tensor:
    """A direction as a tensor of the parameter's kind; complex ones are two numbers each."""
    if value.is_complex():
        return torch.view_as_complex(direction.contiguous()).to(value.dtype)
    return direction.to(value.dtype)
