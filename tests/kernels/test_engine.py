"""The engine on the kernels: the scores it gives with PyTorch alone."""

import pytest
import torch
from torch import nn

from fastgradnorm import SCHEMES, score_pool
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = [name for name in CASES if name != "resnet18"]  # the interpreter is slow


def both(model, batches, **options):
    model = model.to(DEVICE)
    for scheme in SCHEMES:
        torch_scores, triton_scores = (
            score_pool(model, batches, scheme=scheme, backend=backend, progress=False, **options)
            for backend in ("torch", "triton")
        )
        assert_close_relative(triton_scores, torch_scores, 1e-5, scheme)


@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("name", SMALL)
def test_same_scores(name, params):
    model, inputs = CASES[name].initial()
    both(model, [inputs[:3]], params=params)


@pytest.mark.parametrize("name", SMALL)
def test_same_scores_per_tensor_and_confident(name):
    model, inputs = CASES[name].confident()
    both(model, [inputs[:2]], reduction="per_tensor", verify=False)


def test_same_scores_with_shared_weights_and_a_ragged_pool():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            x = torch.tanh(self.body(torch.tanh(self.body(self.embed(ids)))))
            return self.head(x).mean(1)

    both(Tied(), list(torch.randint(0, 9, (5, 4)).split(3)))
