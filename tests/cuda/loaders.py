"""Batches of a loader that are elsewhere than the model, or in memory that it writes anew."""

from functools import partial
from unittest import mock

import emulator
import torch

from fastgradnorm import SCHEMES, GradNormScorer, naive_score_pool, score_pool


class _Stream:
    """In place of the device's current stream."""

    def __init__(self, told):
        self.synchronize = lambda: told.append("waited")


_scored = partial(score_pool, progress=False)


def rewritten(case, pinned=True, score=_scored):
    """Whether copies from a loader's own memory are waited for before it writes to that again."""
    torch.manual_seed(0)
    model, told = case.make().eval(), []

    def batches():
        memory = torch.empty_like(case.inputs())
        for _ in range(3):
            told.append("written")
            yield memory.copy_(case.inputs())

    with emulator.device():
        where = model.to("cuda")
        stream = mock.patch.object(torch.cuda, "current_stream", lambda *_: _Stream(told))
        page_locked = mock.patch.object(torch.Tensor, "is_pinned", lambda _: pinned)
        with stream, page_locked:
            score(where, batches())
    return {"told": told}


def on_the_device(case):
    """How far scores of a model on the host are off whose batches are on the device."""
    torch.manual_seed(0)
    model, inputs = case.make().eval(), case.inputs()
    options = {"device": "cpu", "progress": False}
    expected = score_pool(model, [inputs], **options)
    with emulator.device():
        found = score_pool(model, [inputs.to("cuda")], **options)
    return {"error": float((found - expected).abs().amax())}


def several(case):
    """How far schemes are off those of the CPU, and how often a pool of one batch is waited for."""
    torch.manual_seed(0)
    model, inputs = case.make().eval(), case.inputs()
    scored = partial(GradNormScorer, scheme=tuple(SCHEMES), progress=False, verify=False)
    exact = scored(model).score([inputs])
    with emulator.device():
        where, given = model.to("cuda"), inputs.to("cuda")
        emulator.COUNTS.clear()
        found = scored(where).score([given])
        places = [place for place, n in emulator.COUNTS.waits.items() for _ in range(n)]
    return {
        "error": max(_off(found[s].values, exact[s].values) for s in SCHEMES),
        "waits": sum("scored.py" in place for place in places),
    }


def _off(found, exact):
    return float(((found - exact) / exact).abs().max())


KINDS = {
    "several schemes": several,
    "pinned": rewritten,
    "pinned, naive": partial(rewritten, score=naive_score_pool),
    "pageable": partial(rewritten, pinned=False),
    "on the device": on_the_device,
}
