"""Samples are gathered over batches: any batch size gives the same bits, in the same batches."""

import weakref
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, NonFiniteScoreError, VerificationError, score_pool
from fastgradnorm._engine import chunks
from fastgradnorm._engine.engine import Engine
from fastgradnorm._pool import gather
from fastgradnorm._schemes.scored import Scored
from tests.support import oracle
from tests.support.cases import CASES, MLP
from tests.support.gathered import SIZES, N, inputs, of
from tests.support.stopping import OPTIONS, assert_same


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    """Chunks that end in all batches, and in none."""
    monkeypatch.setattr(chunks, "_GATHERED", 11)


class Both(nn.Module):
    """Of two inputs, one of them the same for all samples."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.body, self.scale = MLP(), scale

    def forward(self, x, shift=None, table=None, factor=1.0):
        x = x if shift is None else x + shift
        return self.body(x if table is None else x @ table) * factor * self.scale


@dataclass
class Held:
    x: torch.Tensor
    shift: torch.Tensor


Pair = namedtuple("Pair", ["x", "shift"])


class Odd(dict):
    """A mapping with an attribute."""


SHIFT, TABLE = inputs()[:, :1].sin(), torch.eye(10) + 0.1

# Each: batches of one size, and options.
FORMS = {
    "tensors": lambda x, n: (x.split(n), {}),
    "tuples": lambda x, n: (of(x, n), {}),
    "workers": lambda x, n: (DataLoader(TensorDataset(x), n, num_workers=2), {}),
    "labelled": lambda x, n: (DataLoader(TensorDataset(x, torch.ones(len(x))), n), {}),
    "dicts": lambda x, n: (
        [
            {"x": a, "shift": b, "labels": torch.ones(len(a))}
            for a, b in zip(x.split(n), SHIFT.split(n), strict=True)
        ],
        {},
    ),
    "ordered": lambda x, n: (
        [OrderedDict(x=a, table=TABLE.clone(), factor=1.5) for a in x.split(n)],
        {},
    ),
    "dataclasses": lambda x, n: (
        [Held(a, b) for a, b in zip(x.split(n), SHIFT.split(n), strict=True)],
        {"forward": lambda model, batch: model(batch.x, batch.shift)},
    ),
    "named": lambda x, n: (
        [Pair(a, b) for a, b in zip(x.split(n), SHIFT.split(n), strict=True)],
        {"forward": lambda model, batch: model(batch.x, batch.shift)},
    ),
    "nested": lambda x, n: (
        [({"x": a, "more": [TABLE.clone(), "by"]}, len("no")) for a in x.split(n)],
        {"forward": lambda model, batch: model(batch[0]["x"], table=batch[0]["more"][0])},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_batches_of_any_size_give_the_same_bits(form, chunked):
    model, x = Both(), inputs()
    found = []
    for size in SIZES:
        chunked.clear()
        batches, options = FORMS[form](x, size)
        options = {**OPTIONS, "verify": False, **options}
        found.append(GradNormScorer(model, **options).score(batches))
        assert [*map(len, chunked)] == [11] * 5 + [3]
        assert found[-1]["expected"].provenance["gathered"]["apart"] is None
    for other in found[1:]:
        assert_same(other, found[0])
    by_one, options = FORMS[form](x, 1)
    wanted = score_pool(model, by_one, latency=0, progress=False, **options)
    torch.testing.assert_close(found[0]["expected"].values, wanted, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_they_are_those_of_the_definition(size):
    model, x = CASES["mlp"].random()
    wanted = oracle.scores(model, oracle.ones(x[:40]))
    actual = score_pool(model.double(), x[:40].double().split(size), progress=False)
    torch.testing.assert_close(actual, wanted.to(actual), rtol=1e-9, atol=0)
    model.float()


UNLIKE = {
    "tables": lambda i, x: {"x": x, "table": TABLE + i},
    "numbers": lambda i, x: {"x": x, "factor": 1.0 + i},
    "some": lambda i, x: {"x": x, "factor": 1.0 + (i == 2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", UNLIKE)
@pytest.mark.parametrize("size", [1, 4])
def test_what_batches_do_not_share_is_not_mixed(form, size):
    """A mask, a graph or a number of the whole batch."""
    model, x = Both().double(), inputs(16).double()
    TABLE_64 = TABLE.double()

    def made(i, rows):
        batch = UNLIKE[form](i, rows)
        return {k: TABLE_64 + i if k == "table" else v for k, v in batch.items()}

    batches = [made(i, rows) for i, rows in enumerate(x.split(size))]
    found = GradNormScorer(model, progress=False).score(batches)
    assert "they differ in `batch" in found.provenance["gathered"]["apart"]
    assert any(f["kind"] == "not gathered" for f in found.provenance["findings"])
    wanted = [
        score_pool(model, [batch], progress=False, verify=False, latency=0) for batch in batches
    ]
    torch.testing.assert_close(found.values, torch.cat(wanted), rtol=1e-12, atol=0)


@pytest.mark.slow
def test_attributes_beside_the_items_are_not_mixed():
    """Of a mapping: no leaf, but a forward may read them."""
    model, x = Both().double(), inputs(12).double()
    batches = []
    for i, rows in enumerate(x.split(3)):
        batches.append(Odd(x=rows))
        batches[-1].factor = 1.0 + i
    forward = lambda model, batch: model(batch["x"], factor=batch.factor)  # noqa: E731
    options = {"forward": forward, "progress": False}
    found = score_pool(model, batches, **options)
    wanted = [score_pool(model, [batch], latency=0, **options) for batch in batches]
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["samples", "table", "mask"])
def test_a_loader_may_write_where_its_last_batch_was(what):
    """Memory that is used again, as some readers of images do."""
    model, x = Both().double(), inputs(40).double()
    rows, table = torch.empty(1, 10, dtype=torch.double), TABLE.double()
    wanted = score_pool(model, [{"x": x, "table": table.clone()}], progress=False)

    def batches():
        for i in range(40):
            rows.copy_(x[i : i + 1])
            held = table.clone() if what != "table" else table
            yield {"x": rows, "table": held}
            if what == "samples":
                rows.fill_(torch.nan)
        table.fill_(7.0)

    found = score_pool(model, batches(), progress=False, verify="all")
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_sample_that_is_not_finite_is_named(size):
    model, x = MLP(), inputs()
    x[[2, 33, 57]] = torch.nan
    with pytest.raises(NonFiniteScoreError) as raised:
        score_pool(model, x.split(size), progress=False)
    assert raised.value.indices == [2, 33, 57]


@pytest.mark.slow
@pytest.mark.parametrize("verify", [False, "first", "sampled", "all"])
@pytest.mark.parametrize("size", [1, 20])
def test_verification_changes_no_bit(verify, size):
    model, x = MLP(), inputs()
    x = x[:24]
    wanted = score_pool(model, [x], progress=False, verify=False)
    assert torch.equal(score_pool(model, x.split(size), progress=False, verify=verify), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 7, 58])
@pytest.mark.parametrize("verify", ["first", "all"])
def test_verification_sees_scores_in_another_order(size, verify, monkeypatch):
    """Those given, and not others made for the comparison."""
    real = gather.score_one

    def moved(engine, batch):
        found = real(engine, batch)
        return Scored({k: v.roll(1, 0) for k, v in found.scores.items()}, found.errors)

    monkeypatch.setattr(gather, "score_one", moved)
    with pytest.raises(VerificationError, match="the score by `expected`"):
        score_pool(MLP(), inputs().split(size), progress=False, verify=verify)


@pytest.mark.slow
def test_memory_that_ran_out_is_told(monkeypatch):
    model, x = MLP(), inputs()
    wanted = score_pool(model, [x], progress=False, verify=False)
    real, most = Engine._split, 6

    def split(engine, batch):
        if len(batch) > most:
            raise MemoryError("no more")
        return real(engine, batch)

    monkeypatch.setattr(Engine, "_split", split)
    with pytest.warns(UserWarning, match="Memory ran out"):
        found = GradNormScorer(model, progress=False, verify=False).score(of(x, 3))
    assert found.provenance["gathered"]["halved"]
    torch.testing.assert_close(found.values, wanted, rtol=1e-5, atol=0)


def test_samples_that_wait_count_in_max_memory(monkeypatch, chunked):
    """Of 4,000 bytes each: an eighth of the memory holds as many as it does."""
    monkeypatch.setattr(chunks, "_GATHERED", 1 << 12)
    model, x = nn.Linear(1000, 3), torch.randn(160, 1000)
    score_pool(model, of(x, 1), progress=False, max_memory=8 * 4000 * 50, verify=False)
    assert max(map(len, chunked)) <= 50
    assert max(map(len, chunked)) > 25


@pytest.mark.slow
def test_a_large_batch_is_not_kept_for_the_few_that_wait():
    model, x, alive = MLP(), inputs(200), []

    def batches():
        for rows in x.split(30):
            memory = rows.numpy().copy()
            alive.append(weakref.ref(memory))
            yield torch.from_numpy(memory)
            del memory
            assert not any(ref() is not None for ref in alive)

    scores = score_pool(model, batches(), progress=False)
    assert torch.equal(scores, score_pool(model, [x], progress=False))


@pytest.mark.slow
@pytest.mark.parametrize("subset", [0.4, 37])
@pytest.mark.parametrize("size", [3, 64])
def test_a_subset_has_the_same_bits_in_any_batches(subset, size):
    model, x = MLP(), inputs()
    options = {"subset": subset, "progress": False}
    wanted = GradNormScorer(model, **options).score(of(x, N))
    found = GradNormScorer(model, **options).score(of(x, size))
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.indices, wanted.indices)
