"""Models of the wider grammar score as the float64 loop does; `benchmarks fuzz` draws more."""

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.fuzz import disagreement
from tests.support.wider import WideSpec, specs

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(specs)
def test_wider_models_agree_with_the_float64_loop(spec: WideSpec):
    assert disagreement(spec) is None
