"""Models that work in place on their input: the batch stays, and no pass sees what another made."""

import pytest
import torch

from fastgradnorm import GradNormScorer, gradient_sketch, naive_score_pool, score_pool
from tests.engine.test_combinations import RTOL, head_only, ways
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP

pytestmark = pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")

OPTIONS_IN_PLACE = {
    "plain": {},
    "unverified": {"verify": False},
    "rounds": {"rtol": 1e-12},
    "unverified rounds": {"rtol": 1e-12, "verify": False},
    "last layer": {"params": "last_layer", "verify": False},
    "small chunks": {"max_memory": 20_000},
    "autocast": {"autocast": torch.bfloat16, "verify": False},
}


@ways
@pytest.mark.parametrize("case", OPTIONS_IN_PLACE)
def test_models_that_work_in_place_on_their_input(way, case):
    """The caller's batch is as it was, and no pass sees what another one made of it."""

    class InPlace(MLP):
        def forward(self, x):
            scale = way(x)
            return super().forward(x.mul_(2).add_(0.5)) * scale

    model, x = InPlace(), torch.randn(6, 10)
    kept = x.clone()
    options = OPTIONS_IN_PLACE[case]
    only = head_only if "params" in options else lambda name: True
    samples = [sample.clone() for sample in oracle.ones(x)]
    expected = oracle.scores(model, samples, keep=only)
    actual = score_pool(model, [x], progress=False, **options)
    assert torch.equal(x, kept)
    assert_close_relative(actual, expected, 0.05 if "autocast" in options else RTOL)


@pytest.mark.parametrize("case", OPTIONS_IN_PLACE)
def test_one_batch_that_is_worked_on_in_place(case):
    """Scored as it is, without the copy that putting batches together makes."""

    class InPlace(MLP):
        def forward(self, x):
            return super().forward(x.mul_(2).add_(0.5))

    model, x = InPlace(), torch.randn(6, 10)
    kept, options = x.clone(), OPTIONS_IN_PLACE[case]
    only = head_only if "params" in options else lambda name: True
    expected = oracle.scores(model, [row.clone() for row in oracle.ones(x)], keep=only)
    actual = GradNormScorer(model, progress=False, **options).score_batch(x)
    assert torch.equal(x, kept)
    assert_close_relative(actual, expected, 0.05 if "autocast" in options else RTOL)


@pytest.mark.slow
def test_sketches_and_the_loop_leave_the_batch_as_it_was():
    class InPlace(MLP):
        def forward(self, x):
            return super().forward(x.mul_(2))

    model, x = InPlace(), torch.randn(6, 10)
    kept = x.clone()
    for verify in (True, False):
        gradient_sketch(model, [x], 8, verify=verify, progress=False)
    naive_score_pool(model, [x])
    GradNormScorer(model, progress=False).explain(x)
    assert torch.equal(x, kept)
