"""Which batches and samples are verified, and that what is wrong there alone is seen."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, Rule, VerificationError, register_rule, score_pool
from fastgradnorm._engine import chunks, outcome
from fastgradnorm._engine.engine import Engine
from fastgradnorm._model import subject
from fastgradnorm._schemes.scored import Scored
from fastgradnorm._witness.samples import Choice
from tests.support.cases import MLP, Custom, linear, perturb


def turns(mode, seed=0, count=2000):
    choice = Choice(mode, seed)
    return [i for i in range(count) if choice.batch()]


def test_all_first_and_none():
    assert turns("first") == [0]
    assert turns("all", count=5) == [0, 1, 2, 3, 4]


def test_one_batch_of_each_stretch_is_drawn_by_the_seed():
    drawn = {tuple(turns("sampled", seed)) for seed in range(30)}
    assert len(drawn) == 30
    for found in drawn:
        assert found[0] == 0
        for start, place in zip((8, 32, 128, 512), found[1:], strict=False):
            assert start <= place < 4 * start
        assert len(found) in (4, 5)
    assert turns("sampled", 3) == turns("sampled", 3)


def test_blocks_and_pairs_lie_within_the_batch():
    choice = Choice("sampled", 0)
    choice.batch()
    assert choice.blocks(10, 4) == [slice(0, 4)]
    assert choice.pair(4)[0] == 0
    seen = set()
    for _ in range(200):
        choice.batch()
        (block,) = choice.blocks(10, 4)
        assert block.start >= 0 and block.stop == block.start + 4 <= 10
        first, second = choice.pair(4)
        assert 0 <= first < second < 4
        seen.add((block.start, first, second))
    assert len(seen) > 20
    assert choice.pair(1) == [0]
    for samples, size in ((10, 4), (9, 4), (8, 4), (3, 2), (2, 2), (40, 16)):
        blocks = Choice("all", 0).blocks(samples, size)
        each = [i for block in blocks for i in range(samples)[block]]
        assert each == [*range(samples)]  # once, in order
        assert all(2 <= block.stop - block.start <= size + 1 for block in blocks)


@torch.overrides.wrap_torch_function(lambda x, gain: (x, gain))
def weighed(x, gain):
    return x * gain


def wrong_rule(call):
    def sq_norms(saved, g):
        return {"gain": 2 * (saved[0] * g).sum().square()}

    return Rule(slots=("gain",), saved=(call["x"],), sq_norms=sq_norms)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
@pytest.mark.parametrize("mode", [True, "sampled", "all", "first"])
def test_a_rule_that_later_samples_alone_use(mode):
    """What is planned anew is looked at, wherever in the pool it is."""
    register_rule(weighed, wrong_rule, names=["x", "gain"])

    def forward(m, x):
        h = torch.tanh(m.body(x))
        return m.head(weighed(h, m.gain) if bool((x[:, 0] < 0).all()) else h)

    model = perturb(Custom(forward, body=linear(4, 4), head=linear(4, 3)))
    model.gain = nn.Parameter(torch.tensor(1.5))
    x = torch.randn(24, 4).abs()
    x[17:, 0] *= -1
    if mode == "first":
        assert score_pool(model, x.split(6), verify=mode, progress=False).isfinite().all()
        return
    with pytest.raises(VerificationError, match="`gain`"):
        score_pool(model, x.split(6), verify=mode, progress=False)


def later(monkeypatch, change, start):
    """Scores of batches from `start` on are changed."""
    exact, count = Engine.score, iter(range(10**6))
    monkeypatch.setattr(chunks, "_GATHERED", 5)

    def score(engine, batch):
        found = exact(engine, batch)
        if "expected" in found.scores and len(batch) > 2 and next(count) >= start:
            found = Scored({k: change(v) for k, v in found.scores.items()}, found.errors)
        return found

    monkeypatch.setattr(Engine, "score", score)


CHANGES = {
    "reversed": lambda v: v.flip(0),
    "shifted": lambda v: v.roll(1, 0),
    "larger": lambda v: 1.02 * v,
    "zero": lambda v: 0 * v,
    "nan": lambda v: v * torch.nan,
    "negative": lambda v: -v,
    "rounded": lambda v: (v * 64).round() / 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("start", [0, 3])
def test_scores_that_are_not_those_of_the_definition(monkeypatch, change, start):
    later(monkeypatch, change, start)
    with pytest.raises(VerificationError, match="the score by `expected`"):
        score_pool(MLP(), torch.randn(30, 10).split(6), verify="all", progress=False)


@pytest.mark.slow
def test_the_default_sees_what_begins_late_for_some_seeds(monkeypatch):
    caught = 0
    for seed in range(8):
        with monkeypatch.context() as patch:
            later(patch, CHANGES["larger"], 20)
            try:
                score_pool(MLP(), torch.randn(200, 10).split(5), seed=seed, progress=False)
            except VerificationError:
                caught += 1
    assert 0 < caught < 8


FORGOTTEN = {
    "reduction": ({"reduction": "per_tensor"}, lambda norms, reduction: norms.sum(-1).sqrt()),
    "root": ({}, lambda norms, reduction: norms.sum(-1)),
    "parameter": ({}, lambda norms, reduction: norms[..., 1:].sum(-1).sqrt()),
}


@pytest.mark.slow
@pytest.mark.parametrize("options, instead", FORGOTTEN.values(), ids=FORGOTTEN.keys())
def test_norms_put_together_otherwise(monkeypatch, options, instead):
    monkeypatch.setattr(outcome, "total_norms", instead)
    with pytest.raises(VerificationError, match="the score by"):
        score_pool(MLP(), [torch.randn(6, 10)], progress=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"temperature": 3.0}, {"reduction": "per_tensor"}], ids=str)
def test_the_closed_form_of_the_last_layer(monkeypatch, options):
    from fastgradnorm_kernels import head_scores

    def plain(logits, q, **named):
        return head_scores(logits, 1.5 * q, **named)

    monkeypatch.setattr(outcome, "head_scores", plain)
    with pytest.raises(VerificationError, match="the score by `expected`"):
        score_pool(MLP(), [torch.randn(6, 10)], params="last_layer", progress=False, **options)


class TestRecord:
    @pytest.mark.slow
    def test_of_a_run_that_was_stopped(self, tmp_path):
        model, batches = MLP(), torch.randn(24, 10).split(4)

        def some():
            yield from batches[:3]
            raise KeyboardInterrupt

        made = GradNormScorer(model, verify="all", checkpoint=tmp_path / "c", progress=False)
        with pytest.raises(KeyboardInterrupt):
            made.score(some())
        found = made.score(batches).provenance["verified"]
        assert (found["mode"], found["batches"], found["scores"]) == ("all", 6, 24)

    @pytest.mark.slow
    @pytest.mark.parametrize("verify", [True, "sampled", "first", "all", False])
    def test_of_each_mode(self, verify):
        scorer = GradNormScorer(MLP(), verify=verify, progress=False)
        found = scorer.score(torch.randn(24, 10).split(4)).provenance["verified"]
        if verify is False:
            assert found is None
            return
        rows, samples = (24, 24) if verify == "all" else (4, 2)
        assert found["mode"] == ("sampled" if verify is True else verify)
        assert (found["rows"], found["samples"], found["scores"]) == (rows, samples, samples)
        assert 0 < found["largest_difference"] < 1e-5
        assert found["in_float64"] == 0
        assert found["gradients"] == samples * 5 * 5
        assert found["seconds"] > 0

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning")
    @pytest.mark.parametrize("size", [5, 17, 33])
    def test_all_is_each_sample_once(self, size):
        model = Custom(
            lambda m, x: m.head(torch.tanh(m.body(x)) if bool(x[0, 0] > 0) else m.body(x)),
            body=linear(4, 4), head=linear(4, 3),
        )  # fmt: skip
        scorer = GradNormScorer(model, verify="all", progress=False)
        found = scorer.score(torch.randn(33, 4).split(size)).provenance["verified"]
        assert (found["rows"], found["samples"], found["scores"]) == (33, 33, 33)

    def test_in_words(self):
        scores = GradNormScorer(MLP(), progress=False).score(torch.randn(24, 10).split(4))
        assert scores.verified.startswith("logits of 4 samples, gradients of 2, scores of 2, to ")
        assert f"verified: {scores.verified}" in repr(scores)
        unverified = GradNormScorer(MLP(), verify=False, progress=False).score([torch.ones(2, 10)])
        assert unverified.verified == "" and "verified" not in repr(unverified)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["head.bias", "body.weight"])
def test_a_parameter_that_the_engine_was_not_asked_for_is_missed(monkeypatch, left_out):
    """Which parameters count is read anew."""
    model, x = perturb(nn.Sequential()), torch.randn(6, 4)
    model.body, model.head = linear(4, 5), linear(5, 3)
    choose = subject._choose
    score_pool(model, [x], progress=False)
    monkeypatch.setattr(
        subject,
        "_choose",
        lambda *given: {k: p for k, p in choose(*given).items() if k != left_out},
    )
    with pytest.raises(VerificationError, match=f"the gradient of `{left_out}`"):
        score_pool(model, [x], progress=False)
