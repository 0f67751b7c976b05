"""Calls in the states that a process may be in, and on models that change between calls."""

import contextlib
import copy
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.call_cases import CALLS, QUIET, Call, Found, Make, call, cnn, images, mlp, rows
from fastgradnorm import GradNormScorer, score_pool

# Weights that change between calls of one scorer.


def _changed(change: Callable[[nn.Module], None]) -> Make:
    """Scores of a scorer whose passes are captured, before and after the model has changed."""

    def make(device: str, dtype: torch.dtype) -> Found:
        model, batches = cnn(device, dtype), images(dtype, 64).split(16)
        scorer = GradNormScorer(model, verify=False, **QUIET)
        before = scorer.score(batches).values
        torch.manual_seed(7)
        change(model)
        return {"before": before, "after": scorer.score(batches).values}

    return make


def _step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape).to(parameter.device, parameter.dtype)
    optimizer.step()


def _assigned(model: nn.Module) -> None:
    state = {
        k: v * 1.1 if v.is_floating_point() else v.clone() for k, v in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)


def _data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5


def _statistics(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.mul_(1.7).add_(0.1 * len(name))


CALLS |= {
    "a step between calls": Call(_changed(_step)),
    "parameters assigned between calls": Call(_changed(_assigned)),
    "data assigned between calls": Call(_changed(_data)),
    "statistics changed between calls": Call(_changed(_statistics)),
}


@call("a step in the middle of a stream")
def _(device: str, dtype: torch.dtype) -> Found:
    model, batches = cnn(device, dtype), images(dtype, 128).split(16)
    found = []
    scorer = GradNormScorer(model, verify=False, latency=0, **QUIET)
    for i, scores in enumerate(scorer.stream(batches)):
        found.append(scores)
        if i == 4:
            torch.manual_seed(7)
            _step(model)
    # What was read before the step is scored by the weights before it.
    return {"first": torch.cat(found[:4]), "last": torch.cat(found[6:])}


# Models in other types and layouts.


def _like(make: Callable[[nn.Module, str], nn.Module]) -> Make:
    """Scores of a model that was made into something else on the device."""

    def scores(device: str, dtype: torch.dtype) -> Found:
        model, batches = cnn(device, dtype), images(dtype).split(8)
        there = make(model, device)
        kind = next(there.parameters()).dtype
        return {"scores": score_pool(there, [x.to(kind) for x in batches], verify=False, **QUIET)}

    return scores


def _narrow(dtype: torch.dtype) -> Callable[[nn.Module, str], nn.Module]:
    return lambda model, device: model.to(dtype) if device == "cuda" else model


CALLS |= {
    "channels last": Call(_like(lambda model, _: model.to(memory_format=torch.channels_last))),
    "compiled": Call(_like(lambda model, d: torch.compile(model) if d == "cuda" else model)),
    "replicated": Call(_like(lambda m, d: nn.DataParallel(m, [0]) if d == "cuda" else m)),
    "half": Call(_like(_narrow(torch.float16)), 3e-2),
    "bfloat16": Call(_like(_narrow(torch.bfloat16)), 1e-1),
}


def _autocast(dtype: torch.dtype) -> Make:
    def scores(device: str, _: torch.dtype) -> Found:
        wide = torch.float32 if device == "cuda" else torch.float64
        model, batches = cnn(device, wide), images(wide).split(8)
        options = {"autocast": dtype} if device == "cuda" else {}
        both = ("expected", "entropy")
        found = GradNormScorer(model, scheme=both, verify=False, **options, **QUIET).score(batches)
        return {name: found[name].values for name in both}

    return scores


CALLS |= {
    "autocast float16": Call(_autocast(torch.float16), 3e-2),
    "autocast bfloat16": Call(_autocast(torch.bfloat16), 1e-1),
}


# States of the process.


def _within(state: Callable[[str], AbstractContextManager[Any]], verify: Any = False) -> Make:
    """Scores of a pool within a state, by a scorer that captures its passes."""

    def scores(device: str, dtype: torch.dtype) -> Found:
        model, batches = cnn(device, dtype), images(dtype, 64).split(16)
        with state(device):
            return {"scores": score_pool(model, batches, verify=verify, **QUIET)}

    return scores


@contextmanager
def _default_device(device: str) -> Iterator[None]:
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(before if before.type != "cpu" else None)


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    if device == "cpu":
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _deterministic(_: str) -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _benchmarked(_: str) -> Iterator[None]:
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _little_memory(device: str) -> Iterator[None]:
    """Of the device the process may take 300 MB and no more."""
    if device == "cpu":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(3e8 / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def _one_rank(device: str) -> Iterator[None]:
    """As under `torchrun`, with NCCL and one rank."""
    if device == "cpu":
        yield
        return
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000)}
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


CALLS |= {
    "verified": Call(_within(lambda _: contextlib.nullcontext(), True)),
    "verified, all": Call(_within(lambda _: contextlib.nullcontext(), "all")),
    "default device": Call(_within(_default_device, True)),
    "a stream of the caller's": Call(_within(_own_stream)),
    "deterministic algorithms": Call(_within(_deterministic, True)),
    "cuDNN's benchmark": Call(_within(_benchmarked)),
    "inference mode": Call(_within(lambda _: torch.inference_mode())),
    "no gradients": Call(_within(lambda _: torch.no_grad())),
    "one rank": Call(_within(_one_rank)),
}


@call("little memory")
def _(device: str, dtype: torch.dtype) -> Found:
    model, batches = cnn(device, dtype), images(dtype, 2048).split(1024)
    with _little_memory(device):
        return {"scores": score_pool(model, batches, verify=False, **QUIET)}


@call("two threads")
def _(device: str, dtype: torch.dtype) -> Found:
    models = [cnn(device, dtype), mlp(device, dtype)]
    pools = [images(dtype, 96).split(16), rows(dtype, 96).split(16)]
    found: dict[str, Tensor] = {}

    def work(index: int) -> None:
        found[str(index)] = score_pool(models[index], pools[index], verify=False, **QUIET)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"0": found["0"], "1": found["1"]}


@call("the caller's state is as it was")
def _(device: str, dtype: torch.dtype) -> Found:
    model, batches = cnn(device, dtype), images(dtype, 64).split(16)
    before = copy.deepcopy(model.state_dict())
    random = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
    switches = _switches()
    score_pool(model, batches, **QUIET)
    after = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
    same = all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    kept = all(p.grad is None and p.requires_grad for p in model.parameters())
    return {
        "model": 1.0 + same,
        "random": 1.0 + torch.equal(random, after),
        "switches": 1.0 + (switches == _switches()),
        "gradients": 1.0 + kept,
    }


def _switches() -> list[Any]:
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    return [
        *(part.fp32_precision for part in parts),
        torch.backends.cudnn.allow_tf32,
        torch.is_grad_enabled(),
    ]


@call("explained")
def _(device: str, dtype: torch.dtype) -> Found:
    scorer = GradNormScorer(cnn(device, dtype), **QUIET)
    text = str(scorer.explain(images(dtype, 8)))
    return {"told": 1.0 + (len(text) > 200)}
