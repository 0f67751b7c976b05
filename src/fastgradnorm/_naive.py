"""A pool scored by plain autograd alone: the baseline of the benchmarks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgradnorm._engine import make_plan, plain_scores
from fastgradnorm._errors import ArgumentError
from fastgradnorm._keywords import scores_pool
from fastgradnorm._model import READING, Batch, Reader, Subject
from fastgradnorm._options import Options
from fastgradnorm._pool import Placement, make_pool
from fastgradnorm._process import OwnRandomState, autograd_ready


@scores_pool
def naive_score_pool(model: nn.Module, loader: Iterable[Any], options: Options) -> Any:
    """Scores as `score_pool` gives them, by the plain autograd loop.

    A batch of one, and a backward pass per class.

    The baseline of the benchmarks, and for pools of a few samples a way to check any model.

    Args:
        model: As in `score_pool`.
        loader: As in `score_pool`, whose batches are read alike, and whose order is judged.
        options: Keyword arguments, see `Options`; those about speed and checks have no effect.

    Returns:
        Scores `[N]`, or a dict of them for several schemes, on the CPU, in loader order.

    Raises:
        ValueError: If `loader` yields nothing, an option is wrong, or there is a `subset`.
        TypeError: If an argument is of a wrong type, or no option has its name.

    Warns:
        UserWarning: As `score_pool`, where scores come in another order than the dataset's, are
            fewer or more than its samples, or cannot be traced to them.

    Example:
        >>> model = nn.Linear(3, 2).eval()
        >>> for p in model.parameters(): _ = nn.init.zeros_(p)
        >>> naive_score_pool(model, [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])])
        tensor([1.0000, 1.4142])
    """
    options.refuse_subset("naive_score_pool")
    found: dict[str, list[Tensor]] = {scheme: [] for scheme in options.schemes}
    names = _Names()
    placement = Placement(loader, "naive_score_pool")
    with OwnRandomState(), autograd_ready():
        subjects = [Subject(model, part) for part in options.parts()]
        given = options.forward, options.mask, subjects[0].model, options.labels
        reader = Reader(subjects[0].device, *given)
        pool = make_pool(loader, None, options.seed)
        raws, draws = pool.open()
        for raw in raws:
            batch = reader.read(raw, None if draws is None else draws.size())
            placement.add(None if draws is None else draws.next(len(batch)), len(batch))
            for i in range(len(batch)):
                sample = batch.take(slice(i, i + 1))
                for subject in subjects:
                    with subject.gradients_kept():
                        tracked = names.of(subject, sample)
                        scored = plain_scores(subject, sample, tracked, subject.options)
                    for scheme, score in scored.scores.items():
                        found[scheme].append(score)
            reader.settle()
    if not names.seen:
        raise ArgumentError("`loader` must yield at least one sample. Got none.", "loader")
    placement.judge(pool.size, None if draws is None else draws.lost)
    return options.pick({scheme: torch.cat(values).cpu() for scheme, values in found.items()})


class _Names:
    """The parameters that count; of the last layer each sample's own, where there are several.

    Attributes:
        seen: Whether any sample was looked at.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Sequence[str]] = {}
        self.seen = False

    def of(self, subject: Subject, sample: Batch) -> Sequence[str]:
        """For a batch of one."""
        self.seen = True
        last = subject.options.params == "last_layer"
        key: list[Any] = [id(subject)]
        if last:
            key += [(leaf.shape, leaf.dtype) for leaf in sample.leaves]
            key += [sample.kind]
        known = self._known.get(tuple(key))
        if known is not None:
            return known
        with _Reads() as reads:
            names = make_plan(subject, sample).tracked
        if not last or not (reads.any or sample.kind is None):
            self._known[tuple(key)] = names
        return names


class _Reads(TorchFunctionMode):
    """Notes whether a model reads a value, by which it may choose its last layer."""

    any = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.any = self.any or getattr(func, "__name__", "") in READING
        return func(*args, **(kwargs or {}))
