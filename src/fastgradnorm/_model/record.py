"""The watching of a plain pass over one sample: each use of a tracked parameter, as it happens."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fastgradnorm_kernels.functorch import is_transforming
from fastgradnorm_kernels.switches import marked
from torch import Tensor
from torch.nn import functional as F

from fastgradnorm._errors import ArgumentError
from fastgradnorm._model.origin import Origins
from fastgradnorm._model.passage import Passage
from fastgradnorm._model.standins import StandIns
from fastgradnorm._model.views import Piece, Pieces
from fastgradnorm._model.watch import Followed, mixing_error, takes_statistics
from fastgradnorm._operations import Rule, table, tensors_in

# fmt: off
_SAME_VALUES = frozenset({
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "contiguous", "clone", "float",
    "to", "movedim", "__getitem__",
})
# fmt: on
# What a bias may be added by.
_ADDED = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "sub_", "__isub__"})
_ADDED |= {"__sub__", "__rsub__", "rsub", "subtract"}
# To autograd a view that is made under `no_grad` is none, though it says that it has a gradient, as
# in the `forward` of a custom function: no number of reads in the graph may match that of its base.
_UNLIKE_ANY = 1 << 40


@dataclass
class Use:
    """One call on tracked parameters.

    Attributes:
        operation: The function's name.
        layer: Path of the module it was called in.
        slots: What the rule accounts for, by argument name.
        others: Further tracked pieces among its arguments.
        rule: The rule, or None.
        output: What it returned.
        made: Arguments that are made of parameters alone, such as a weight that is normalised.
        added: Parameters that were added to what came out, as a bias by itself.
    """

    operation: str
    layer: str
    slots: dict[str, Piece] = field(default_factory=dict)
    others: tuple[Piece, ...] = ()
    rule: Rule | None = None
    output: Tensor | None = None
    made: tuple[Tensor, ...] = ()
    added: tuple[Piece, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """What the same use looks like in another pass."""
        return self.operation, *sorted(self.slots.items())

    @property
    def names(self) -> set[str]:
        """Of the parameters among its arguments."""
        return {piece.name for piece in (*self.slots.values(), *self.others)}


# Dimensions behind the channels. Without one for samples, what comes first is taken for channels.
_SPACE: dict[Callable[..., Any], int] = {
    **dict.fromkeys((F.conv1d, F.conv_transpose1d), 1),
    **dict.fromkeys((F.conv2d, F.conv_transpose2d), 2),
    **dict.fromkeys((F.conv3d, F.conv_transpose3d), 3),
}


def _check_batched(x: Tensor, space: int, name: str, layer: str) -> None:
    """Raises `ArgumentError` if a layer takes a batch for one sample."""
    if x.dim() == space + 1:
        wanted = ", ".join(["N", "channels", *("D", "H", "W")[-space:]])
        place = f"model.{layer}".rstrip(".")
        raise ArgumentError(
            f"`loader` must yield batches [{wanted}]. Got {list(x.shape)} for one sample of the "
            f"loader, which `{name}` in `{place}` takes as one sample without a batch, and its "
            "first dimension for channels. If these are samples, make batches of them: "
            "`DataLoader(samples, batch_size=64)`; if they lack the channels, add them: "
            "`x.unsqueeze(1)`.",
            "loader",
        )


class Recorder(Followed):
    """Notes each use of a tracked parameter in a plain forward pass with autograd.

    `layers` is the path of modules being run; whoever runs the model keeps it up to date.

    Attributes:
        uses: In order.
        reads: How often each tracked tensor was an argument of something differentiable, by `id`.
        harmless: (parameter, function) pairs that read a parameter without a gradient.
        nested: Parameters used within transforms of the model's own, where no use can be told from
            one that the logits do not depend on.
        statistics: Path of the module of each norm by the statistics of a batch, in order.
        origins: What tensors are made of, if that is to be known.
        given: What the model is given, a batch of one sample.
    """

    given: Sequence[Tensor] = ()

    def __init__(
        self,
        pieces: Pieces,
        stand_ins: StandIns,
        passage: Passage,
        origins: Origins | None = None,
    ) -> None:
        super().__init__(pieces, stand_ins, passage)
        self.follower = self.origins = origins
        self.uses: list[Use] = []
        self.layers: list[str] = []
        self.reads: Counter[int] = Counter()
        self.harmless: set[tuple[str, str]] = set()
        self.nested: set[str] = set()
        self.statistics: list[str] = []
        self._sources: dict[int, tuple[Tensor, Use, bool]] = {}
        self._changed: dict[int, Callable[[], bool]] = {}  # in place, by a use's `id`

    @property
    def layer(self) -> str:
        """Path of the module being run."""
        return self.layers[-1] if self.layers else ""

    def check(self, func: Callable[..., Any], call: Mapping[str, Any]) -> None:
        if takes_statistics(func, call):
            self.statistics.append(self.layer)
            if call["input"].numel() <= call["input"].shape[1]:
                raise mixing_error()  # one value each: of one sample
        space = _SPACE.get(func)
        if space is not None and any(call["input"] is x for x in self.given):
            _check_batched(call["input"], space, func.__name__, self.layer)
        super().check(func, call)

    def ruled(
        self,
        func: Callable[..., Any],
        call: Mapping[str, Any],
        slots: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        rule = table.make_rule(func, call, slots)
        output = func(*args, **kwargs)
        covered = {s: self.pieces.of(call[s]) for s in slots if rule and s in rule.slots}
        found = {slot: piece for slot, piece in covered.items() if piece is not None}
        rest = [value for name, value in call.items() if name not in found]
        others = tuple(self.pieces.among(tensors_in(rest, {})))
        if not output.requires_grad:  # under no_grad, or one that a transform is to follow
            self._note_nested(found.values())
            self._note_nested(others)
            return output
        made = self._made({name: value for name, value in call.items() if name not in found})
        self._note(Use(func.__name__, self.layer, found, others, rule, output, made), args, kwargs)
        return output

    def _made(self, call: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Arguments without a piece that are made of parameters."""
        if self.origins is None:
            return ()
        return tuple(t for t in self.origins.without_sample(call) if self.pieces.of(t) is None)

    def plain(
        self,
        func: Callable[..., Any],
        tensors: Sequence[Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        outputs = tensors_in([output], {})
        fresh = [t for t in outputs if t.requires_grad and all(t is not i for i in tensors)]
        tracked = self.pieces.among(tensors)
        if tracked and fresh:
            if self.pieces.note_view(func, args, kwargs, output):
                self.reads[id(args[0])] += 1 if torch.is_grad_enabled() else _UNLIKE_ANY
            else:
                use = Use(name, self.layer, others=tuple(tracked), output=fresh[0])
                self._note(use, args, kwargs)
        elif tracked and torch.is_grad_enabled():
            self.harmless.update((piece.name, name) for piece in tracked)
            self._note_nested(tracked)
        elif len(fresh) == 1 and not self._is_made_layer(func, args, kwargs, fresh[0]):
            self._follow(name, tensors, fresh[0])
        if self.origins is not None and name in _ADDED and torch.is_grad_enabled():
            self._note_bias(tensors, outputs[0])
        return output

    def _note_bias(self, tensors: Sequence[Tensor], output: Tensor) -> None:
        """Of a layer that is written out, as `x @ weight + bias`, the last part."""
        made = self._made({str(i): t for i, t in enumerate(tensors)})
        beside = [t for t in tensors if self.pieces.of(t) is not None or any(t is m for m in made)]
        layers = [t for t in tensors if t.requires_grad and all(t is not b for b in beside)]
        if len(layers) != 1 or not beside or layers[0].shape != output.shape:
            return
        _, use, _ = self._sources.get(id(layers[0]), (None, Use("", ""), False))
        if use.slots or use.made:
            added = (*use.added, *self.pieces.among(beside))
            joined = replace(use, added=added, made=(*use.made, *made))
            self._sources[id(output)] = output, joined, False

    def _is_made_layer(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Tensor,
    ) -> bool:
        """Of a layer all whose parameters are made, as a weight that is normalised, and no bias."""
        operation = table.known(func)
        made = () if operation.rule is None else self._made(operation.bind(args, kwargs))
        if made:
            use = Use(getattr(func, "__name__", ""), self.layer, output=output, made=made)
            self._sources[id(output)] = output, use, True
            self._changed[id(use)] = marked(output)
        return bool(made)

    def _note_nested(self, pieces: Iterable[Piece]) -> None:
        if torch.is_grad_enabled() and is_transforming():
            self.nested.update(piece.name for piece in pieces)

    def _note(self, use: Use, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.uses.append(use)
        self.reads.update(id(t) for t in tensors_in(args, kwargs) if self.pieces.of(t) is not None)
        if use.output is not None:
            self._sources[id(use.output)] = (use.output, use, True)
            self._changed[id(use)] = marked(use.output)

    def _follow(self, name: str, inputs: Sequence[Tensor], output: Tensor) -> None:
        """An operation on nothing but an earlier output: its output still comes from that one."""
        known = [self._sources.get(id(t)) for t in inputs if t.requires_grad]
        if len(known) == 1 and known[0] is not None:
            earlier, use, exact = known[0]
            exact = exact and name in _SAME_VALUES and _same_values(earlier, output)
            self._sources[id(output)] = (output, use, exact)

    def source(self, tensor: Tensor) -> tuple[Use | None, bool]:
        """The use that `tensor` comes from alone, and whether it only reshapes its output."""
        _, use, exact = self._sources.get(id(tensor), (None, None, False))
        return use, exact and use is not None and not self._changed[id(use)]()


def _same_values(first: Tensor, second: Tensor) -> bool:
    """In the same order: indices may choose some, or change places."""
    if first.numel() != second.numel():
        return False
    return bool((first.detach().flatten() == second.detach().flatten()).all())
