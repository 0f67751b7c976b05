"""Weights that change while a pool is scored, as captured passes replay."""

import copy
from unittest import mock

import emulator
import torch
from fastgradnorm_kernels import _backends, exact_products
from torch import nn

from fastgradnorm import GradNormScorer, score_pool


def _wide():
    """A layer whose float32 products are made exactly on matrix units, forward and back."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


def _changed(model):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))


def in_a_stream(converted, as_compiled):
    """Relative errors of the batches of a stream whose model takes a step after the third.

    Float32 products are made exactly, of parts of the weights that are kept.
    """
    torch.manual_seed(0)
    model, batches, options = _wide().eval(), torch.randn(5, 2, 3, 3, 3), {"progress": False}
    theirs = converted(copy.deepcopy(model), "cpu")
    exact, found = [], []
    for number, batch in enumerate(batches):
        exact.append(score_pool(theirs, [batch], verify=False, **options))
        if number == 2:
            _changed(theirs)
    interpreted = mock.patch.object(_backends, "_interpreted", lambda: True)
    exactly = mock.patch.object(exact_products, "_is_exact", lambda x, _: x.is_cuda)
    with emulator.device(graphs=True), as_compiled(), interpreted, exactly:
        ours = converted(model, "cuda")
        scorer = GradNormScorer(ours, verify=False, latency=0, **options)
        for number, scores in enumerate(scorer.stream([batch.to("cuda") for batch in batches])):
            found.append(torch.as_tensor(scores).clone())
            if number == 2:
                _changed(ours)
    return [float(((a - b) / b).abs().max()) for a, b in zip(found, exact, strict=True)]
