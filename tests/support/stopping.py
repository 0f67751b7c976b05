"""Runs that are stopped in their middle, and gone on with."""

import itertools

import torch

from fastgradnorm import GradNormScorer

OPTIONS = {"scheme": ["expected", "entropy"], "progress": False}


class Stop(Exception):
    """What interrupts a run."""


def scorer(model, path, **options):
    return GradNormScorer(model, checkpoint=path, **{**OPTIONS, **options})


def stopped_after(batches, count, error=Stop):
    """The first batches, then an error."""
    yield from itertools.islice(batches, count)
    raise error


def assert_same(actual, expected):
    for name, scores in expected.items():
        assert torch.equal(actual[name].values, scores.values)
        if scores.standard_error is not None:
            assert torch.equal(actual[name].standard_error, scores.standard_error)
        if scores.indices is not None:
            assert torch.equal(actual[name].indices, scores.indices)
