"""A pool of a small network, and a run over it that was stopped after three batches."""

import pytest

from fastgradnorm._engine import chunks
from fastgradnorm._pool import gather
from tests.support import oracle
from tests.support.cases import CASES
from tests.support.drawing import N
from tests.support.stopping import Stop, scorer, stopped_after


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    """Chunks as small as the batches of these tests, so that runs stop between them."""
    monkeypatch.setattr(chunks, "_GATHERED", 4)


@pytest.fixture
def chunked(monkeypatch):
    """The inputs of the samples that were scored at a time."""
    seen, real = [], gather.score_one

    def score_one(engine, batch):
        seen.append(batch.leaves[0].clone())
        return real(engine, batch)

    monkeypatch.setattr(gather, "score_one", score_one)
    return seen


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
