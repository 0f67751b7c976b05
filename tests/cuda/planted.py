"""Faults of the kind that only a GPU shows, put into the engine: the tests must see them."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import capture
import torch
from fastgradnorm_kernels import _dispatch, functorch

from fastgradnorm._operations import attention_choice
from fastgradnorm._schemes import objective


class Planted(NamedTuple):
    """A fault, and the case that must show it."""

    case: str
    fault: Callable[[], contextlib.AbstractContextManager[Any]]


def _instead(owner, name, make):
    """`make(original)` in place of an attribute."""
    return lambda: mock.patch.object(owner, name, make(getattr(owner, name)))


def _reading(original):
    def unit_sized(cotangents, dims):
        found = original(cotangents, dims)
        inner = functorch.in_memory(found[1])
        with functorch.outside():
            assert bool((inner > 0).all())
        return found

    return unit_sized


def _copying(original):
    def posterior(logits):
        return original(logits * torch.tensor([1.0], device=logits.device))

    return posterior


def _masking(original):
    def form(a, g):
        norms = original(a, g)
        norms[norms < 0] = 0
        return norms

    return form


def _mixing(original):
    def posterior(logits):
        return original(logits + torch.zeros(logits.shape[-1]))

    return posterior


def _counting(original):
    passes = itertools.count(1)

    def posterior(logits):
        return original(logits * (1 + 0.01 * next(passes)))

    return posterior


def _keeping(original):
    made = []

    def posterior(logits):
        if not capture.is_active():  # what was captured reads it where it lay
            made[:] = [torch.ones(1, device="cuda")]
        return original(logits * made[0])

    return posterior


def _looping(original):
    def choose(*args):
        raise RuntimeError("no kernel")

    return choose


PLANTED = {
    "nothing": Planted("mlp", contextlib.nullcontext),
    "a value read": Planted("mlp", _instead(objective, "unit_sized", _reading)),
    "a constant copied": Planted("mlp", _instead(objective, "posterior", _copying)),
    "a mask as index": Planted(
        "two classes", _instead(_dispatch, "_triton_weight_sq_norm", _masking)
    ),
    "two devices": Planted("mlp", _instead(objective, "posterior", _mixing)),
    "a number of the host": Planted("mlp", _instead(objective, "posterior", _counting)),
    "memory given back": Planted("mlp", _instead(objective, "posterior", _keeping)),
    "a slow loop": Planted("attention none", _instead(attention_choice, "choose", _looping)),
}
