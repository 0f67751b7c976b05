"""Models drawn at random from a grammar of layers score as the float64 loop scores them."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fastgradnorm import score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.grammar import Spec, specs

pytestmark = pytest.mark.slow

RTOL = 1e-8


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(specs)
def test_random_models_agree_with_the_float64_loop(spec: Spec):
    model, x = spec.build()
    with torch.no_grad():
        assert model(x).isfinite().all()
    table = oracle.norms(model, oracle.ones(x))
    # Both are of the same norms: a model's seed, which is drawn, says which is asked for.
    reduction = oracle.REDUCTIONS[spec.seed % 2]
    scores = score_pool(
        model, [x], scheme=oracle.SCHEMES, reduction=reduction, verify=False, progress=False
    )
    for scheme in oracle.SCHEMES:
        expected = table.scores(scheme, reduction)
        assert_close_relative(scores[scheme], expected, RTOL, f"{scheme} {reduction}")
