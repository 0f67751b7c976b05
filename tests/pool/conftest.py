"""A pool of a small network, and a run over it that was stopped after three batches."""

import pytest

from tests.support import oracle
from tests.support.cases import CASES
from tests.support.drawing import N
from tests.support.stopping import Stop, scorer, stopped_after


@pytest.fixture(scope="module")
def pool():
    model, inputs = CASES["mlp"].random()
    return model, inputs[:22]


@pytest.fixture(scope="module")
def drawn():
    """A model, the inputs of a dataset, and their exact scores."""
    model, inputs = CASES["mlp"].random()
    inputs = inputs[:N]
    return model, inputs, oracle.scores(model, oracle.ones(inputs))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.jsonl"


@pytest.fixture
def begun(pool, path):
    model, inputs = pool
    with pytest.raises(Stop):
        scorer(model, path).score(stopped_after(inputs.split(4), 3))
    return model, inputs
