"""Texts of many lengths share the plans of a few."""

import pytest
import torch
from torch import nn

from fastgradnorm import score_pool
from fastgradnorm._engine import engine as engines
from fastgradnorm._engine import make_plan
from fastgradnorm._model import as_batch
from fastgradnorm._options import Options
from fastgradnorm._pool import gather, make_engine, trimming
from tests.support import oracle
from tests.support.reading import widths_scored
from tests.support.stopping import Stop, assert_same, scorer, stopped_after

WIDTH, STEP = 40, 4


class Text(nn.Module):
    """Attention and a mean over tokens that count, after two layers that are one, or two alike."""

    def __init__(self, apart=lambda length: False, least=0, most=0):
        super().__init__()
        torch.manual_seed(0)
        self.ids, self.one, self.two = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.load_state_dict(self.one.state_dict())
        self.head, self.apart, self.least = nn.Linear(8, 3), apart, least
        self.places = nn.Embedding(most, 8) if most else None

    def forward(self, input_ids, attention_mask):
        length = input_ids.shape[1]
        if length < self.least:
            raise ValueError("too short")
        x = self.ids(input_ids)
        x = x if self.places is None else x + self.places(torch.arange(length))
        x = self.one((self.two if self.apart(length) else self.one)(x).tanh())
        a = (x @ x.mT).masked_fill(attention_mask[:, None] == 0, -torch.inf).softmax(-1)
        weights = attention_mask[..., None].to(x.dtype)
        return self.head((a @ x * weights).sum(1) / weights.sum(1))


def batches(size, count=40):
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(9, WIDTH - 3, (count,), generator=draw)
    mask = (torch.arange(WIDTH) < lengths[:, None]).long()
    ids = torch.randint(1, 30, (count, WIDTH), generator=draw) * mask
    parts = zip(ids.split(size), mask.split(size), strict=True)
    return [{"input_ids": i, "attention_mask": m} for i, m in parts]


def cut(pool):
    """Each sample alone, as long as it is to the next step."""
    for batch in pool:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            length = -(-int(mask.sum()) // STEP) * STEP
            yield {"input_ids": ids[None, :length], "attention_mask": mask[None, :length]}


@pytest.fixture
def planned(monkeypatch):
    """The width of each sample that a plan was made of."""
    seen = []

    def made(subject, batch):
        seen.append(batch.leaves[0].shape[1])
        return make_plan(subject, batch)

    monkeypatch.setattr(trimming, "_STEP", STEP)
    monkeypatch.setattr(engines, "make_plan", made)
    return seen


# Models, and the widths that are planned for whichever comes first.
KINDS = {
    "one way of all lengths": (Text, {STEP, WIDTH}),
    "another in the middle": (lambda: Text(lambda n: n in (20, 24)), {STEP, 20, 24, WIDTH}),
    "another of short ones": (lambda: Text(lambda n: n < 20), {STEP, WIDTH}),
    "none of the shortest": (lambda: Text(least=STEP + 1), {STEP, WIDTH}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 8])
def test_lengths_between_two_follow_from_their_plans(kind, size, planned):
    make, widths = KINDS[kind]
    model, pool = make().double(), batches(size)
    wanted = oracle.scores(model, [*cut(pool)], call=lambda model, batch: model(**batch))
    found = score_pool(model, pool, progress=False)
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-9, atol=0)
    assert widths <= set(planned)
    assert len(planned) == len(set(planned)) <= 7  # of the twelve lengths that there are


def plan_of(engine, length, **how):
    one = {name: value[:, :length] for name, value in batches(1)[0].items()}
    return engine.plan(as_batch(one, engine.subject.device), **how)


FIGURES = "activation_bytes", "transient_bytes", "scratch_bytes", "gradient_bytes"


@pytest.mark.parametrize("length", [8, 16, 24, 36])
def test_a_plan_between_two_needs_no_less_memory_than_one_of_its_own(length):
    engine, other = (make_engine(Text(), Options()) for _ in range(2))
    for known in (STEP, WIDTH):
        plan_of(engine, known)
    found, own = plan_of(engine, length, one_length=False), plan_of(other, length)
    assert found.coverage == own.coverage
    assert found.names == own.names
    for name in FIGURES:
        assert getattr(own, name) <= getattr(found, name) <= 2 * getattr(own, name) + 10_000
    shapes = [[use.rule.shape for use in plan.uses] for plan in (found, own)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("length", [2, 40])
def test_beyond_the_known_lengths_plans_are_made(length, planned):
    engine = make_engine(Text(), Options())
    for known in (STEP, 36, length):
        plan_of(engine, known, one_length=False)
    assert planned == [STEP, 36, length]


MOST = 38  # no multiple of the step


def longest(size, first):
    """Batches as wide as their longest text, the first one as wide as that."""
    pool = batches(size)
    for i, batch in enumerate(pool):
        batch["attention_mask"][0, first:] = 0
        if i == 0:
            batch["attention_mask"][0, :first] = 1
            batch["input_ids"][0, :first] = 7
        width = int(batch["attention_mask"].sum(1).max())
        for name, value in batch.items():
            batch[name] = (value * batch["attention_mask"])[:, :width]
    return pool


@pytest.fixture
def widths(monkeypatch):
    """Of the samples that were scored."""
    monkeypatch.setattr(trimming, "_STEP", STEP)
    return widths_scored(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 8])
@pytest.mark.parametrize("first", [MOST, 21])
def test_longest_texts_are_padded_to_lengths_that_many_have(size, first, widths):
    """Never beyond the width of the first batch: a model may take no longer ones."""
    model, pool = Text(most=MOST).double(), longest(size, first)
    wanted = oracle.scores(model, [*cut(pool)], call=lambda model, batch: model(**batch))
    found = score_pool(model, pool, progress=False)
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-9, atol=0)
    usual = {*range(STEP, first, STEP), first}
    # What is as wide as its batch, and wider than the first one or in a batch without padding.
    own = {b["input_ids"].shape[1] for b in pool}
    full = {b["input_ids"].shape[1] for b in pool if b["attention_mask"].all()}
    assert {n for n in widths if n <= first} <= usual | full
    assert {n for n in widths if n > first} <= own | {*range(STEP, MOST, STEP)}


@pytest.mark.slow
def test_padding_that_cannot_be_told_is_not_made(widths):
    """Samples say where they are, also where they are not."""

    class Places(Text):
        def forward(self, input_ids, attention_mask, position_ids):
            ids = (input_ids + position_ids % 2) % 30
            return super().forward(ids, attention_mask)

    model, pool = Places().double(), longest(8, MOST)
    for batch in pool:
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand(8, -1).clone()
    ones = [{k: v[i : i + 1] for k, v in batch.items()} for batch in pool for i in range(8)]
    wanted = oracle.scores(model, ones, call=lambda model, batch: model(**batch))
    found = score_pool(model, pool, progress=False)
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-9, atol=0)
    assert {batch["input_ids"].shape[1] for batch in pool} <= {*widths}


@pytest.mark.slow
def test_a_resumed_run_pads_as_the_first_one(widths, tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "_CHUNKS", 1)
    monkeypatch.setattr(gather, "_LEAST", 1)
    monkeypatch.setattr("fastgradnorm._engine.chunks._GATHERED", 8)
    model, pool, path = Text(most=MOST), longest(4, MOST), tmp_path / "scores.jsonl"
    wanted = scorer(model, None).score(pool)
    whole = {*widths}
    with pytest.raises(Stop):
        scorer(model, path).score(stopped_after(pool, 7))
    assert_same(scorer(model, path).score(pool), wanted)
    assert {*widths} == whole
