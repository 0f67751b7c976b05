"""Models that give a sample other logits in a batch than alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    BatchDependenceWarning,
    GradNormScorer,
    UnsupportedModelError,
    gradient_sketch,
    score_pool,
)
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb


def attend(m, h):
    return F.scaled_dot_product_attention(h[None], h[None], h[None])[0]


def first_is_special(m, h):
    return h * 2 if len(h) == 1 else h


# From hidden activations [N, 6] to others: each mixes the samples, or looks at how many there are.
MIXING = {
    "mean": lambda m, h: h - h.mean(0),
    "largest": lambda m, h: h / h.abs().amax(),
    "norm": lambda m, h: F.normalize(h, dim=0),
    "softmax": lambda m, h: F.softmax(h, 0),
    "attention": attend,
    "gram": lambda m, h: h + 0.1 * (h @ h.T) @ h,
    "running": lambda m, h: h.cumsum(0),
    "neighbour": lambda m, h: h + h.roll(1, 0),
    "sorted": lambda m, h: h + 0.3 * h.sort(0).values,
    "size": lambda m, h: h / len(h),
    "size-branch": first_is_special,
    "size-of-view": lambda m, h: h * torch.arange(len(h)).add(1)[:, None],
    "statistics": lambda m, h: F.layer_norm(h.T, (len(h),)).T if len(h) > 1 else h,
    "weak": lambda m, h: h + 3e-4 * h.mean(0),
}


def model_of(mix):
    def forward(m, x):
        return m.head(torch.tanh(mix(m, m.body(x))))

    return perturb(Custom(forward, body=nn.Linear(4, 6), head=nn.Linear(6, 3)))


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING.keys())
class TestRefused:
    @pytest.mark.parametrize("options", [
        {}, {"scheme": "entropy"}, {"params": "last_layer"}, {"verify": "first"},
        {"verify": "all", "reduction": "per_tensor"},
    ], ids=str)  # fmt: skip
    def test_by_name(self, mix, options):
        model, x = model_of(mix), torch.randn(8, 4)
        with pytest.raises(UnsupportedModelError, match="other values in a batch than alone"):
            score_pool(model, x.split(4), progress=False, **options)

    def test_batches_of_one(self, mix):
        with pytest.raises(UnsupportedModelError, match="other values in a batch than alone"):
            score_pool(model_of(mix), torch.randn(4, 4).split(1), progress=False)

    def test_sketches_and_single_batches(self, mix):
        model, x = model_of(mix), torch.randn(4, 4)
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            gradient_sketch(model, [x], 8, progress=False)
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            GradNormScorer(model).score_batch(x)

    def test_autocast(self, mix):
        if mix is MIXING["weak"]:
            pytest.skip("below the rounding of bfloat16")
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            score_pool(model_of(mix), [torch.randn(6, 4)], autocast=torch.bfloat16, progress=False)


class TestPlaces:
    """The layer that mixes is named, wherever it is."""

    @pytest.mark.slow
    def test_batch_second(self):
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0)
        model = perturb(Custom(
            lambda m, x: m.head(m.layer(x).mean(1)), layer=layer, head=nn.Linear(8, 3)
        ))  # fmt: skip
        with pytest.raises(UnsupportedModelError, match=r"`model\.layer"):
            score_pool(model, [torch.randn(4, 5, 8)], progress=False)

    def test_recurrent_layer_with_the_batch_second(self):
        model = Custom(lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=nn.GRU(4, 6), head=linear(6, 3))
        with pytest.raises(UnsupportedModelError, match=r"`model\.rnn` \(GRU\)"):
            score_pool(model, [torch.randn(3, 5, 4)], progress=False)

    def test_a_module_in_the_middle(self):
        class Centre(nn.Module):
            def forward(self, x):
                return x - x.mean(0, keepdim=True)

        model = nn.Sequential(nn.Linear(4, 6), Centre(), nn.Tanh(), nn.Linear(6, 3))
        with pytest.raises(UnsupportedModelError, match=r"`model\.1` \(Centre\)"):
            score_pool(model, [torch.randn(5, 4)], progress=False)

    def test_a_hook(self):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        model[1].register_forward_hook(lambda module, args, out: out - out.mean(0))
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            score_pool(model, [torch.randn(5, 4)], progress=False)

    def test_forward(self):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        forward = lambda m, batch: m(batch["a"] - batch["a"].mean(0))  # noqa: E731
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            score_pool(model, [{"a": torch.randn(5, 4)}], forward=forward, progress=False)

    def test_dense_outputs(self):
        model = Custom(lambda m, x: m.conv(x - x.mean((0, 2, 3), True)), conv=nn.Conv2d(2, 3, 1))
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            score_pool(model, [torch.randn(4, 2, 3, 3)], scheme="entropy", progress=False)

    def test_tokens(self):
        model = Custom(
            lambda m, x: m.head(m.words(x).softmax(0).mean(1)), words=nn.Embedding(9, 5),
            head=linear(5, 3),
        )  # fmt: skip
        with pytest.raises(UnsupportedModelError, match="in a batch"):
            score_pool(model, [torch.randint(9, (4, 6))], progress=False)


class TestOwnCall:
    """What the model itself raises, or returns, on a batch."""

    def test_what_it_raises_is_what_is_raised(self):
        def forward(m, x):
            if len(x) > 1:
                raise KeyError("no padding token")
            return m.head(x)

        with pytest.raises(KeyError, match="no padding token") as told:
            score_pool(Custom(forward, head=linear(4, 3)), [torch.randn(3, 4)], progress=False)
        assert "own call on 3 samples" in told.value.__notes__[0]

    def test_a_model_that_only_takes_single_samples_is_right_for_them(self):
        def forward(m, x):
            if len(x) > 1:
                raise KeyError("no padding token")
            return m.head(torch.tanh(x))

        model, x = Custom(forward, head=linear(4, 3)), torch.randn(3, 4)
        expected = oracle.scores(model, oracle.ones(x))
        assert_close_relative(score_pool(model, x.split(1), progress=False), expected, 1e-5)

    def test_padded_text_without_a_padding_token(self):
        transformers = pytest.importorskip("transformers")
        config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, num_labels=3)
        model = transformers.GPT2ForSequenceClassification(config).eval()
        ids = torch.randint(1, 20, (4, 6))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with pytest.raises(ValueError, match="padding token"):
            score_pool(model, [batch], progress=False)

    @pytest.mark.parametrize("output", [
        lambda z: z.reshape(1, -1), lambda z: z.mean(0, keepdim=True), lambda z: z[:1],
        lambda z: z.T, lambda z: z.sum(0),
    ])  # fmt: skip
    def test_rows_that_are_no_samples(self, output):
        model = Custom(
            lambda m, x: m.head(x) if len(x) == 1 else output(m.head(x)), head=linear(4, 3)
        )
        with pytest.raises(UnsupportedModelError, match="a row for each sample"):
            score_pool(model, [torch.randn(5, 4)], progress=False)


BRANCHES = {
    "sum": lambda m, x: torch.tanh(m.body(x)) if x.sum() > 0 else m.body(x),
    "all": lambda m, x: torch.tanh(m.body(x)) if (x[:, 0] > 0).all() else m.body(x),
    "item": lambda m, x: m.body(x) * (1 + float(x.mean() > 0)),
    "while": lambda m, x: m.body(x / 2 if x.abs().max() > 1 else x),
    "int": lambda m, x: m.body(x) * int(x.sum().sign() + 2),
}


class TestWhatMayBeMeant:
    """Scored as if alone, and told."""

    @pytest.mark.slow
    @pytest.mark.parametrize("branch", BRANCHES.values(), ids=BRANCHES.keys())
    @pytest.mark.parametrize("size", [4, 12])
    def test_a_branch_of_the_batch(self, branch, size):
        model = Custom(
            lambda m, x: m.head(branch(m, x)), body=linear(4, 4), head=linear(4, 3)
        )  # fmt: skip
        x = torch.randn(12, 4)
        with pytest.warns(BatchDependenceWarning, match="reads values of its batch"):
            scores = score_pool(model, x.split(size), progress=False)
        assert_close_relative(scores, oracle.scores(model, oracle.ones(x)), 1e-5)

    @pytest.mark.filterwarnings("ignore::fastgradnorm.SlowPathWarning")
    def test_a_buffer_of_the_batch(self):
        class Centred(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.zeros(4))
                self.head = nn.Linear(4, 3)

            def forward(self, x):
                self.mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
                return self.head(torch.tanh(x - self.mean))

        with pytest.warns(BatchDependenceWarning, match="writes to its buffer `mean`"):
            score_pool(Centred(), [torch.randn(6, 4)], progress=False)
