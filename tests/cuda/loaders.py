"""Batches of a loader that are elsewhere than the model, or in memory that it writes anew."""

from functools import partial
from unittest import mock

import emulator
import torch

from fastgradnorm import naive_score_pool, score_pool


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


KINDS = {
    "pinned": rewritten,
    "pinned, naive": partial(rewritten, score=naive_score_pool),
    "pageable": partial(rewritten, pinned=False),
    "on the device": on_the_device,
}
