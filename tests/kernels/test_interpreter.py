"""That kernels are interpreted in less time changes nothing of what they compute."""

import inspect

import pytest
import torch
import triton.language as tl
from fastgradnorm_kernels import logit_head
from triton.runtime import interpreter

from tests.support.kernel_support import DEVICE, randn

pytestmark = pytest.mark.skipif(DEVICE.type == "cuda", reason="nothing is interpreted")


@pytest.fixture
def searches(monkeypatch):
    """What has been searched for functions of the language."""
    seen, real = [], inspect.getmembers
    monkeypatch.setattr(inspect, "getmembers", lambda of: (seen.append(of), real(of))[1])
    return seen


def test_the_same_bits_by_few_searches_and_the_language_as_it_was(monkeypatch, searches):
    language = tl, tl.tensor, tl.math  # of `tl.core` Triton itself does not put all back
    z, q = randn(3, 40), randn(3).square()
    logit_head.head_scores(z, q)
    before = [dict(vars(of)) for of in language]
    searches.clear()
    found = torch.stack([*logit_head.head_scores(z, q)])
    assert all(dict(vars(of)) == old for of, old in zip(language, before, strict=True))
    assert 0 < len(searches) <= 12  # by a kernel, and by functions of other modules
    few = len(searches)
    for owner, name in ((interpreter, "_patch_lang"), (interpreter.GridExecutor, "__call__")):
        monkeypatch.setattr(owner, name, inspect.unwrap(getattr(owner, name)))
    assert torch.equal(found, torch.stack([*logit_head.head_scores(z, q)]))
    assert len(searches) > 5 * few
