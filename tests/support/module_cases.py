"""PyTorch's own modules and inputs, scored and compared with the float64 loop; prints JSON.

    python -m tests.support.module_cases

In a process of its own, for `torch.testing._internal` freezes `torch.backends`, patches scripted
functions and sets variables of the environment when it is imported.

A module of `module_db` stands between a scale of its first floating-point input and a linear head
over all it returns. In the form `whole`, one sample is all inputs of a sample input, whatever their
dimensions mean; in the form `rows`, where the module treats the rows of its only input alike, each
row is a sample.
"""

import gc
import json
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import fastgradnorm
from tests.support import oracle
from tests.support.cases import perturb

SAMPLES, CLASSES, EXACT = 2, 3, 1e-8
# Modules with hundreds of inputs, products of options with two to four values: every seventh, in
# which each value of each option is there, beside each of another.
MANY, NTH = ("LinearCrossEntropyLoss",), 7


class Between(nn.Module):
    """A scale, the module, and a head; leaves `x0`, `x1`, ... are `[N, ...]`."""

    def __init__(self, module: nn.Module, leaves: list[Any], structure: Any, rows: bool):
        super().__init__()
        self.module, self.rows, self.structure = module, rows, structure
        # Lists in a tuple, so that these tensors are no samples and no buffers.
        self.fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.first = next(i for i, leaf in enumerate(leaves) if is_float(leaf))
        shape = leaves[self.first].shape[1:] if rows else leaves[self.first].shape
        self.scale = nn.Parameter(0.8 + 0.2 * torch.rand(shape, dtype=torch.float64))
        called = leaves if rows else [x[None] if isinstance(x, Tensor) else x for x in leaves]
        with torch.no_grad():
            size = self.features(called).shape[1]
        self.head = nn.Linear(size, CLASSES, dtype=torch.float64)

    def features(self, leaves: list[Any]) -> Tensor:
        """`[N, D]`."""
        leaves = list(leaves)
        leaves[self.first] = leaves[self.first] * self.scale
        if self.rows:
            return self.called(leaves, len(leaves[self.first]))
        samples = [
            [leaf[n] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            for n in range(len(leaves[self.first]))
        ]
        return torch.cat([self.called(sample, 1) for sample in samples])

    def called(self, leaves: list[Any], count: int) -> Tensor:
        args, kwargs = tree_unflatten(leaves, self.structure)
        found = [y for y in tree_flatten(self.module(*args, **kwargs))[0] if is_float(y)]
        return torch.cat([y.reshape(count, -1) for y in found], 1)

    def forward(self, **given: Tensor) -> Tensor:
        leaves = [given.get(f"x{i}", fixed) for i, fixed in enumerate(self.fixed)]
        return self.head(self.features(leaves))


def is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def several(leaf: Any) -> Any:
    """Samples `[N, ...]` of a leaf: floats are shrunk a little, which keeps them in any domain."""
    if not isinstance(leaf, Tensor):
        return leaf
    copies = leaf.detach().expand(SAMPLES, *leaf.shape).clone()
    return copies * (0.6 + 0.4 * torch.rand_like(copies)) if is_float(leaf) else copies


def alike(module: nn.Module, x: Tensor) -> bool:
    """Whether the rows of the input give the rows of the output, one by one."""
    try:
        with torch.no_grad():
            y, one = module(x), module(x[:1])
    except Exception:  # no input of that module's
        return False
    alone = isinstance(y, Tensor) and is_float(y) and y.dim() > 0 and len(x) > 0
    return alone and len(y) == len(x) and len(one) == 1 and torch.allclose(y[:1], one)


def cases() -> Iterator[tuple[str, Any]]:
    """A name and what makes the model and its batch, None where there is no float in or out."""
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        given = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=False, training=False
        )
        for index, made in enumerate(given):
            kind = info.name.removeprefix("nn.")
            if made.forward_input is None or (kind in MANY and index % NTH):
                continue
            yield f"{kind}-{index}" + f"-{made.desc}" * bool(made.desc), (info.module_cls, made)


def build(cls: type[nn.Module], made: Any, rows: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    options = tree_map(lambda x: x, made.constructor_input.kwargs)
    if "dtype" in cls.__init__.__code__.co_varnames:
        options.setdefault("dtype", torch.float64)
    module = cls(*made.constructor_input.args, **options).double().eval()
    leaves, structure = tree_flatten((made.forward_input.args, made.forward_input.kwargs))
    leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
    tree = tree_unflatten(leaves, structure)
    with torch.no_grad():
        module(*tree[0], **tree[1])  # a lazy one has its parameters now
    perturb(module)
    if not any(map(is_float, leaves)):
        raise LookupError("no floating-point input")
    if rows and not (len(leaves) == 1 and alike(module, leaves[0])):
        raise LookupError("rows are no samples")
    model = Between(module, leaves, structure, rows).eval()
    batch = {f"x{i}": several(x) for i, x in enumerate(leaves) if isinstance(x, Tensor)}
    if rows:
        batch = {key: x.flatten(0, 1)[: 2 * SAMPLES] for key, x in batch.items()}
    return model, batch


def judge(cls: type[nn.Module], made: Any, rows: bool) -> dict[str, Any] | None:
    try:
        model, batch = build(cls, made, rows)
    except LookupError:
        return None
    size = len(next(iter(batch.values())))
    samples = [{key: x[n : n + 1] for key, x in batch.items()} for n in range(size)]
    table = oracle.norms(model, samples, call=lambda model, batch: model(**batch))
    if not table.logits.isfinite().all():
        return None  # powers of negative numbers, empty averages: there is nothing to compare
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            scores = fastgradnorm.score_pool(
                model, [batch], scheme=oracle.SCHEMES, verify=False, progress=False
            )
    except (fastgradnorm.UnsupportedModelError, fastgradnorm.CoverageError) as error:
        return {"outcome": "refused", "message": str(error)}
    except Exception:
        return {"outcome": "crashed", "message": traceback.format_exc(limit=-3)}
    worst = 0.0
    for scheme in oracle.SCHEMES:
        exact = table.scores(scheme)
        difference = (scores[scheme] - exact).abs() / exact.abs().clamp_min(1e-12)
        worst = max(worst, float(difference.nan_to_num(torch.inf).max()))
    slow = [str(w.message) for w in told if issubclass(w.category, fastgradnorm.SlowPathWarning)]
    outcome = "wrong" if worst > EXACT else "slow" if slow else "exact"
    return {"outcome": outcome, "message": slow[0] if slow else f"{worst:.1e}"}


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    found = {}
    gc.freeze()  # no collection looks through what was imported
    gc.set_threshold(10_000, 20, 20)
    for name, (cls, made) in cases():
        for rows in (False, True):
            key = f"{name}-{'rows' if rows else 'whole'}"
            if wanted and not key.startswith(tuple(wanted)):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row = judge(cls, made, rows)
            if row is not None:
                found[key] = row
    print(json.dumps(found, indent=0))


if __name__ == "__main__":
    main()
