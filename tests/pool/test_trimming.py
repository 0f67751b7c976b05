"""Padding is left out of scoring where the model's own logits are the same without it."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, score_pool
from fastgradnorm._pool import gather, trimming
from tests.support import oracle
from tests.support.reading import widths_scored
from tests.support.stopping import Stop, assert_same, scorer, stopped_after

WIDTH, STEP = 24, 4


class Text(nn.Module):
    """Masked attention over tokens, and a mean over those that count."""

    def __init__(self, mean="masked", sized=False):
        super().__init__()
        torch.manual_seed(0)
        self.ids, self.places = nn.Embedding(30, 8), nn.Embedding(WIDTH, 8)
        self.q, self.head, self.mean = nn.Linear(8, 8), nn.Linear(8, 3), mean
        self.sized = sized

    def forward(self, input_ids, attention_mask):
        if self.sized and input_ids.shape[1] != WIDTH:
            raise ValueError("of one length")
        x = self.ids(input_ids) + self.places.weight[: input_ids.shape[1]]
        a = (self.q(x) @ x.mT).masked_fill(attention_mask[:, None] == 0, -torch.inf).softmax(-1)
        x = a @ x
        if self.mean == "all":
            return self.head(x.mean(1))
        if self.mean == "each":
            return self.head(x).mT
        if self.mean == "last":
            return self.head(x[:, -1])
        weights = attention_mask[..., None].to(x.dtype)
        return self.head((x * weights).sum(1) / weights.sum(1))


def batches(size, count=30, side="right", more=False):
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, WIDTH - 3, (count,), generator=draw)
    lengths[0] = 5
    mask = (torch.arange(WIDTH) < lengths[:, None]).long()
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(1, 30, (count, WIDTH), generator=draw) * mask
    parts = zip(ids.split(size), mask.split(size), strict=True)
    return [{"input_ids": i, "attention_mask": m} for i, m in parts]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(trimming, "_STEP", STEP)


@pytest.fixture
def widths(monkeypatch):
    """Of the samples that were scored."""
    return widths_scored(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 30])
@pytest.mark.parametrize("scheme", ["expected", "entropy"])
def test_scores_are_those_of_padded_samples(size, scheme, widths):
    model = Text().double()
    wanted = oracle.scores(model, batches(1), scheme, call=lambda model, batch: model(**batch))
    found = score_pool(model, batches(size), scheme=scheme, progress=False)
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-9, atol=0)
    assert len(set(widths)) > 3
    assert max(widths) < WIDTH


LEFT = {
    "a mean over padding": (lambda: Text("all"), {}),
    "the last position": (lambda: Text("last"), {}),
    "logits of positions": (lambda: Text("each"), {}),
    "a model of one length": (lambda: Text(sized=True), {}),
    "padding at the beginning": (Text, {"side": "left"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEFT)
def test_padding_that_matters_stays(kind, widths):
    make, how = LEFT[kind]
    model = make().double()
    wanted = score_pool(model, batches(1, **how), progress=False, latency=0)
    widths.clear()
    found = score_pool(model, batches(4, **how), progress=False)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
    assert set(widths) == {WIDTH}


@pytest.mark.slow
def test_padding_is_looked_for_in_each_batch(widths):
    """The first batches have it at the end, where it does no harm; a later one elsewhere."""
    model, holes = Text().double(), batches(10)[2]
    holes["attention_mask"][:, 1:3] = 0
    holes["attention_mask"][:, 7:] = 0
    pool = [*batches(10)[:2], *batches(10, side="left")[:1], holes]
    ones = [{k: v[i : i + 1] for k, v in b.items()} for b in pool for i in range(10)]
    wanted = oracle.scores(model, ones, call=lambda model, batch: model(**batch))
    found = score_pool(model, pool, progress=False)
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-9, atol=0)
    assert min(widths) < WIDTH


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"verify": False}, {"latency": 0}])
def test_nothing_is_left_out_unseen(options, widths):
    score_pool(Text(), batches(4), progress=False, **options)
    assert set(widths) == {WIDTH}


@pytest.mark.slow
def test_batches_of_any_size_and_resumed_runs_give_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "_CHUNKS", 1)
    monkeypatch.setattr(gather, "_LEAST", 1)
    monkeypatch.setattr("fastgradnorm._engine.chunks._GATHERED", 8)
    model, path = Text(), tmp_path / "scores.jsonl"
    wanted = scorer(model, None).score(batches(30))
    with pytest.raises(Stop):
        scorer(model, path).score(stopped_after(batches(3), 7))
    assert_same(scorer(model, path, verify=False).score(batches(4)), wanted)
    assert GradNormScorer(model, progress=False).score(batches(1)).provenance["gathered"]
