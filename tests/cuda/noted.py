"""What a compiler would be told of each launch of a pool over a ResNet-18, on a GPU of Hopper's."""

import contextlib
import json
from unittest import mock

import torch
from arithmetic import shapes_alone
from fastgradnorm_kernels import tiles

from fastgradnorm import GradNormScorer
from fastgradnorm._model.batches import as_batch
from fastgradnorm._pool import make_engine
from fastgradnorm._pool.scored import score_verified
from fastgradnorm._process.states import autograd_ready
from fastgradnorm._witness.witness import Witness

BATCHES = (64, 37)  # images of 32 x 32; the second as a pool's last batch


def told(kernel, args, kwargs):
    """All that a kernel is compiled for, as JSON has it."""
    names = kernel.arg_names
    given = dict(zip(names, args, strict=False)) | kwargs
    return {
        "module": kernel.fn.__module__,
        "kernel": kernel.fn.__name__,
        "arguments": {name: _value(given[name]) for name in names},
        "options": {name: kwargs[name] for name in kwargs if name not in names},
    }


def _value(value):
    if not isinstance(value, torch.Tensor):
        return value
    start = value.storage_offset() * value.element_size()  # memory begins at whole vectors
    return {"dtype": str(value.dtype).removeprefix("torch."), "aligned": start % 16 == 0}


def noted(way, converted):
    """Launches that are told apart, "batch" being the first that has them.

    Args:
        way: "float32", "tf32" or "bfloat16".
        converted: Of `inside`.
    """
    import emulator

    from benchmarks.models import ResNet18

    dtype = torch.bfloat16 if way == "bfloat16" else torch.float32
    torch.backends.cuda.matmul.fp32_precision = "tf32" if way == "tf32" else "ieee"
    found = {}
    with contextlib.ExitStack() as stack:
        for each in (
            emulator.device(launched=False),
            shapes_alone(),
            autograd_ready(),
            mock.patch.object(tiles, "gpu", lambda device: ("NVIDIA H100", (9, 0))),
            mock.patch.object(tiles, "processors", lambda device: 132),
        ):
            stack.enter_context(each)
        model = converted(ResNet18(10).eval().to(dtype), "cuda")
        scorer = GradNormScorer(model, verify=False, progress=False)
        engine = make_engine(scorer.model, scorer.options)
        for batch, count in enumerate(BATCHES):
            images = torch.zeros(count, 3, 32, 32, dtype=dtype).to("cuda")
            emulator.COUNTS.clear()
            score_verified(engine, Witness(engine), as_batch(images, engine.subject.device))
            for row in emulator.COUNTS.noted:
                found.setdefault(json.dumps(row), {"batch": batch, **row})
    torch.backends.cuda.matmul.fp32_precision = "none"
    return {"launches": list(found.values())}
