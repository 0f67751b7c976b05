"""Any model against the referee: float32 from the engine's own logits, float64 to nine digits."""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgradnorm import score_pool
from tests.support import oracle, recorder
from tests.support.asserts import assert_close_relative

FLOAT32, FLOAT64 = 1e-4, 1e-9
Batch = Tensor | Mapping[str, Tensor]
Call = Callable[[nn.Module, Any], Tensor]


class Wide(TorchFunctionMode):
    """Keeps float64 where a model asks for float32, as many do in softmax, norms and rotations."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        wide = bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float64
        if wide and func is Tensor.float:
            return args[0]
        if wide and kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if wide and func is Tensor.to:
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        return func(*args, **kwargs)


def take(batch: Batch, index: slice) -> Batch:
    """Some samples of a batch, as a batch."""
    if isinstance(batch, Tensor):
        return batch[index]
    return {key: value[index] for key, value in batch.items()}


def size(batch: Batch) -> int:
    """The number of samples."""
    return len(batch if isinstance(batch, Tensor) else next(iter(batch.values())))


def ones(batch: Batch) -> list[Batch]:
    """Batches of one."""
    return [take(batch, slice(n, n + 1)) for n in range(size(batch))]


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Calls the model as `score_pool` does, on a tensor or with keywords."""
    output = model(batch) if isinstance(batch, Tensor) else model(**batch)
    return output if isinstance(output, Tensor) else output.logits


def recorded(model: nn.Module, batch: Batch, call: Call = logits_of, **options: Any) -> Any:
    """Scores of one batch, and the logits `[N, C]` they started from."""

    def forward(model: nn.Module, given: tuple[Batch, Tensor]) -> Tensor:
        return recorder.forward(lambda batch: call(model, batch), given)

    recorder.batches(torch.empty(0), 1)  # forgets what it saw before
    batches = [(batch, torch.arange(size(batch)))]
    scores = score_pool(model, batches, forward=forward, verify=False, progress=False, **options)
    return scores, recorder.logits()


def assert_no_parameter_is_idle(table: oracle.Norms, idle: Collection[str]) -> None:
    """Some sample has a gradient in every parameter but those whose names begin with `idle`."""
    still = (table.entropy_norms == 0).all(0).tolist()
    names = [name for name, zero in zip(table.names, still, strict=True) if zero]
    unexpected = [name for name in names if not name.startswith(tuple(idle))]
    assert not unexpected, f"no sample has a gradient in {unexpected}"
    missing = [name for name in idle if not any(n.startswith(name) for n in names)]
    assert not missing, f"not idle: {missing}"


def assert_agrees(
    model: nn.Module, batch: Batch, call: Call = logits_of, idle: Collection[str] = ()
) -> None:
    """Every scheme agrees with the referee, in float32, in float64, and in a plain verified call.

    Args:
        call: From the model and a batch to the logits, `[N, C]`.
        idle: Beginnings of the names of parameters that the logits do not depend on.
    """
    scores, logits = recorded(model, batch, call, scheme=oracle.SCHEMES)
    table = oracle.norms(model, ones(batch), logits=logits, call=call)
    assert torch.allclose(table.logits, logits.double(), 1e-3, 1e-3)
    assert_no_parameter_is_idle(table, idle)
    plain = score_pool(model, [batch], scheme=oracle.SCHEMES, progress=False)
    for scheme in oracle.SCHEMES:
        assert scores[scheme].dtype == torch.float32
        assert_close_relative(scores[scheme], table.scores(scheme), FLOAT32, scheme)
        assert_close_relative(plain[scheme], scores[scheme], 1e-5, f"{scheme}, a plain call")

    assert_agrees_in_float64(model, batch, call)


def assert_agrees_in_float64(model: nn.Module, batch: Batch, call: Call = logits_of) -> None:
    """Every scheme and reduction, of the same model in float64."""
    wide = copy.deepcopy(model).double()
    batch = oracle.in_float64(batch)
    with Wide():
        table = oracle.norms(wide, ones(batch), call=call)
    for reduction in oracle.REDUCTIONS:
        options = {"scheme": oracle.SCHEMES, "reduction": reduction, "verify": False}
        with Wide():
            scores = score_pool(wide, [batch], progress=False, **options)
        for scheme in oracle.SCHEMES:
            expected = table.scores(scheme, reduction)
            what = f"{scheme} {reduction}, float64"
            assert scores[scheme].dtype == torch.float64
            assert_close_relative(scores[scheme], expected, FLOAT64, what)
