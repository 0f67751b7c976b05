"""Runs in a process of its own, on the emulated device; prints what it found, a line of JSON each.

`python inside.py [names of cases]`, with the built device on the path. "planted ..." are cases into
which a fault is put.
"""

import collections
import contextlib
import copy
import gc
import json
import sys
import threading
import warnings
from unittest import mock

import emulator  # before torch
import torch
from arithmetic import shapes_alone
from changes import in_a_stream
from contract import CASES
from fastgradnorm_kernels import _backends, exact_products
from loaders import KINDS
from noted import noted
from planted import PLANTED

from fastgradnorm import (
    SCHEMES,
    GradNormScorer,
    SlowPathWarning,
    gradient_sketch,
    naive_score_pool,
)
from fastgradnorm._engine.replay import as_they_are
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool import make_engine
from fastgradnorm._pool.scored import score_verified
from fastgradnorm._process.states import autograd_ready
from fastgradnorm._witness.witness import Witness
from tests.support.interpreter import search_once_a_launch

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


def captured(case, fault):
    """Whether passes replayed from graphs give the bits that they give as they are."""
    torch.manual_seed(0)
    model, batches = case.make().eval(), [case.inputs() for _ in range(3)]
    with emulator.device(graphs=True), fault(), autograd_ready():
        where = converted(model, "cuda")
        options = {"verify": False, **case.options}
        scorer = GradNormScorer(where, scheme=tuple(SCHEMES), progress=False, **options)
        engine = make_engine(scorer.model, scorer.options)
        *before, last = [as_batch(moved(inputs), engine.subject.device) for inputs in batches]
        for batch in before:  # the first is run as it is, the second captured
            engine.score(batch)
        with as_they_are():
            expected = engine.score(last).scores
        found = engine.score(last).scores
        runs = [each.passes.replays for each in (engine, engine.also) if each is not None]
    return {
        "same": all(torch.equal(found[s].inner, expected[s].inner) for s in SCHEMES),
        "replayed": sum(each.replayed for each in runs),
        "reasons": [each.reason for each in runs if each.reason is not None],
    }


def sketched(case):
    """Whether sketches are those of the CPU, and what one more batch of them waits for."""
    torch.manual_seed(0)
    model, inputs = case.make().eval(), case.inputs()
    options = {"dim": 8, "progress": False, "verify": False}
    here = gradient_sketch(model, [inputs], **options)
    with warnings.catch_warnings(record=True) as told, emulator.device(graphs=True):
        warnings.simplefilter("always", SlowPathWarning)
        where, given = converted(model, "cuda"), moved(inputs)
        counts = []
        for batches in (1, 2, 3):
            emulator.COUNTS.clear()
            there = gradient_sketch(where, [given] * batches, **options)
            counts.append(emulator.COUNTS.waits.total())
        launches = emulator.COUNTS.launches["_hashed_sums_kernel"]
    return {
        "error": float((there[: len(here)] - here).norm() / here.norm()),
        "waits": counts[1] - counts[0],
        "launches": launches,
        "slow": [str(w.message) for w in told if issubclass(w.category, SlowPathWarning)],
    }


def counted(name, samples=64, **options):
    """Operations and launches of a pass over a large model, by name; nothing is computed.

    "..., exact products": as GPUs with wide matrix units make float32 products and norms.
    """
    from benchmarks.gpu.large_models import LARGE

    name, _, kind = name.partition(", ")
    patches = _as_compiled() if kind == "exact products" else contextlib.nullcontext()
    model, inputs = LARGE[name].make(10, samples)
    within = emulator.device(launched=False), shapes_alone(), autograd_ready(), patches
    with contextlib.ExitStack() as stack:
        for each in within:
            stack.enter_context(each)
        where = converted(model, "cuda")
        scorer = GradNormScorer(where, verify=False, progress=False, **options)
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


@contextlib.contextmanager
def _as_compiled():
    """Within, float32 products and norms are made as where kernels are compiled."""
    pulled = exact_products.convolution_pulled

    def in_the_thread_of_the_device(*args):
        with emulator.Mode():
            return pulled(*args)

    def tensor(data, *, device=None, **options):
        return made(data, **options).to(device)

    made = torch.tensor
    with (
        mock.patch.object(torch, "tensor", tensor),
        mock.patch.object(exact_products, "convolution_pulled", in_the_thread_of_the_device),
        mock.patch.object(_backends, "_interpreted", lambda: False),
        mock.patch.object(exact_products, "Tensor", emulator.OnDevice),
    ):
        yield


def main(names):
    torch.set_num_threads(1)
    gc.freeze()  # no collection looks through what was imported
    gc.set_threshold(10_000, 20, 20)
    search_once_a_launch()
    if "captured: all" in names:
        names = [n for n in names if n != "captured: all"] + [f"captured: {n}" for n in CASES]
    for name in names:
        kind, _, rest = name.partition(": ")
        try:
            if kind == "planted":
                found = scored(CASES[PLANTED[rest].case], PLANTED[rest].fault)
            elif kind == "captured":
                planted = PLANTED.get(rest, PLANTED["nothing"])
                found = captured(CASES[planted.case if rest in PLANTED else rest], planted.fault)
            elif kind == "count":
                found = counted(rest)
            elif kind == "launched":
                with _as_compiled():
                    found = noted(rest, converted)
            elif kind == "loader":
                found = KINDS[rest](CASES["mlp"])
            elif kind == "changed":
                found = {"errors": in_a_stream(converted, _as_compiled)}
            elif kind == "sketch":
                found = sketched(CASES[rest])
            else:
                found = scored(CASES[name], PLANTED["nothing"].fault)
        except Exception as error:
            found = {"raised": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps({"name": name, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
