"""Runs in a process of its own, on the emulated device; prints what it found, a line of JSON each.

`python inside.py [names of cases]`, with the built device on the path. "planted ..." are cases into
which a fault is put.
"""

import collections
import copy
import json
import sys
import threading
import warnings

import emulator  # before torch
import torch
from contract import CASES
from planted import PLANTED

from fastgradnorm import (
    SCHEMES,
    GradNormScorer,
    SlowPathWarning,
    gradient_sketch,
    naive_score_pool,
)
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool import make_engine
from fastgradnorm._pool.run import score_verified
from fastgradnorm._process.states import autograd_ready
from fastgradnorm._witness.witness import Witness

# Operations that start nothing on the device: they look at memory otherwise, or ask for some.
FREE = frozenset(
    f"aten::{name}"
    for name in (
        "view", "_unsafe_view", "permute", "select", "unsqueeze", "squeeze", "slice", "detach",
        "transpose", "t", "expand", "split", "split_with_sizes", "unbind", "alias", "as_strided",
        "empty", "empty_like", "empty_strided", "new_empty", "reshape", "_reshape_alias", "unfold",
    )
)  # fmt: skip


def moved(inputs):
    if isinstance(inputs, dict):
        return {key: value.to("cuda") for key, value in inputs.items()}
    return inputs.to("cuda")


def converted(model, where):
    """A copy on a device or in a dtype, with parameters shared as they were.

    `Module.to` makes parameters anew where tensors are of a class of their own.
    """
    shared = collections.defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared[id(parameter)].append(name)
    copied = copy.deepcopy(model).to(where)
    for first, *others in shared.values():
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(copied.get_submodule(owner), leaf, copied.get_parameter(first))
    return copied


def scored(case, fault):
    """Scores of a second pass, and what happened on the device in it."""
    torch.manual_seed(0)
    model, inputs = case.make().eval(), case.inputs()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    exact = _exact(model, inputs, case.options)
    with warnings.catch_warnings(record=True) as told, emulator.device(), fault():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*Casting complex.*|.*deprecated.*")
        torch.use_deterministic_algorithms(case.deterministic)
        found = _on_device(converted(model, "cuda"), moved(inputs), case.options)
    torch.use_deterministic_algorithms(False)
    found["slow"] = [
        str(w.message)[:300]
        for w in told
        if issubclass(w.category, SlowPathWarning) or "performance drop" in str(w.message)
    ]
    scores = found.pop("scores")
    ratios = [((scores[s] - exact[s]).abs() / exact[s]).amax() for s in SCHEMES]
    found["error"] = float(torch.stack(ratios).amax())
    return found


def _exact(model, inputs, options):
    kept = {k: v for k, v in options.items() if k not in ("autocast", "rtol", "backend")}
    wide = inputs
    if not isinstance(inputs, dict) and inputs.is_floating_point():
        wide = inputs.double()
    return naive_score_pool(converted(model, torch.float64), [wide], scheme=tuple(SCHEMES), **kept)


def _on_device(model, inputs, options):
    options = {"verify": False, **options}
    scorer = GradNormScorer(model, scheme=tuple(SCHEMES), progress=False, **options)
    with autograd_ready():
        engine = make_engine(scorer.model, scorer.options)
        batch = as_batch(inputs, engine.subject.device)
        score_verified(engine, Witness(engine), batch)  # plans, and tries kernels
        emulator.COUNTS.clear()
        out = engine.score(batch)
        counts = emulator.COUNTS
        return {
            "scores": {name: values.inner.double() for name, values in out.scores.items()},
            "waits": dict(counts.waits),
            "operations": sum(counts.operations.values()),
            "launches": sum(counts.launches.values()),
            "threads": len(counts.threads - {threading.get_ident()}),
        }


def sketched(case):
    """Whether sketches are those of the CPU."""
    torch.manual_seed(0)
    model, inputs = case.make().eval(), case.inputs()
    here = gradient_sketch(model, [inputs], 8, progress=False)
    with emulator.device():
        there = gradient_sketch(converted(model, "cuda"), [inputs], 8, progress=False)
    return {"error": float((there - here).norm() / here.norm())}


def counted(name):
    """Operations and launches of a pass over large models, by name; the numbers are of no kernel.

    They hardly depend on the size of the batch, which is small here.
    """
    from benchmarks.gpu.large_models import LARGE

    case = LARGE[name]
    model, inputs = case.make(10, 2)
    with emulator.device(launched=False):
        scorer = GradNormScorer(
            converted(model, "cuda"), verify=False, progress=False, backend="triton"
        )
        with autograd_ready():
            engine = make_engine(scorer.model, scorer.options)
            batch = as_batch(moved(inputs), engine.subject.device)
            score_verified(engine, Witness(engine), batch)
            emulator.COUNTS.clear()
            engine.score(batch)
    counts = emulator.COUNTS
    started = {k: n for k, n in counts.operations.most_common() if k not in FREE}
    return {
        "operations": sum(started.values()) + sum(counts.launches.values()),
        "waits": dict(counts.waits),
        "by name": started | dict(counts.launches.most_common()),
    }


def main(names):
    torch.set_num_threads(1)
    for name in names:
        kind, _, rest = name.partition(": ")
        try:
            if kind == "planted":
                found = scored(CASES[PLANTED[rest].case], PLANTED[rest].fault)
            elif kind == "count":
                found = counted(rest)
            elif kind == "sketch":
                found = sketched(CASES[rest])
            else:
                found = scored(CASES[name], PLANTED["nothing"].fault)
        except Exception as error:
            found = {"raised": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps({"name": name, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
