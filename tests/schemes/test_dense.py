"""Outputs with positions: segmentation and token classification."""

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import perturb

RTOL = 1e-5


def scores(model, batches, **options):
    return score_pool(model, batches, progress=False, **options)


class Segmenter(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x):
        return {"out": self.head(torch.tanh(self.norm(self.conv(x))))}


class Tagger(nn.Module):
    """Token classification [N, T, C]."""

    def __init__(self, classes=3):
        super().__init__()
        self.embed, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, classes)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        valid = 1.0 if attention_mask is None else attention_mask[..., None].to(x.dtype)
        context = torch.tanh(self.mix((x * valid).sum(1, keepdim=True)))
        return self.head(torch.tanh(x) + context)


class TestDense:
    @pytest.mark.slow
    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_entropy_of_segmentation(self, reduction, temperature):
        model, x = perturb(Segmenter()), torch.randn(5, 2, 4, 5)
        options = {"reduction": reduction, "temperature": temperature}
        table = oracle.norms(
            model, oracle.ones(x), call=lambda m, s: m(s)["out"], temperature=temperature
        )
        expected = table.scores("entropy", reduction)
        actual = scores(model, x.split(2), scheme="entropy", **options)
        assert_close_relative(actual, expected, RTOL)
        naive = naive_score_pool(model, x.split(2), scheme="entropy", **options)
        assert_close_relative(naive, expected, RTOL)

    def test_last_layer_of_segmentation(self):
        model, x = perturb(Segmenter()), torch.randn(5, 2, 4, 5)
        table = oracle.norms(model, oracle.ones(x), call=lambda m, s: m(s)["out"])
        expected = table.scores("entropy", keep=lambda name: name.startswith("head"))
        actual = scores(model, x.split(2), scheme="entropy", params="last_layer")
        assert_close_relative(actual, expected, RTOL)

    def test_confident_positions(self):
        """One undecided position among certain ones, and all certain."""
        model, x = perturb(Segmenter()), torch.randn(6, 2, 4, 5)
        with torch.no_grad():
            model.head.weight.mul_(30)
            logits = model(x)["out"]
        table = oracle.norms(model, oracle.ones(x), logits=logits, call=lambda m, s: m(s)["out"])
        actual = scores(model, [x], scheme="entropy", verify=False)
        assert_close_relative(actual, table.scores("entropy"), 1e-4)

    @pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
    def test_confident_positions_whose_label_maps_are_listed(self, likelihood):
        """The inputs are the logits, hence exactly known; doubts are far below float32's digits."""
        model = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.eye(3))
        x = torch.tensor(
            [[[20.0, 0, 1], [0, 25, 3]], [[30, 2, 0], [0, 0, 1]], [[0, 1, 9], [40, 0, 5]]]
        )
        if likelihood == "bernoulli":
            x = 2 * x[:, 0] - 25
        table = oracle.norms(model, oracle.ones(x), class_dim=-1, likelihood=likelihood)
        options = {"class_dim": -1, "num_samples": 9, "likelihood": likelihood}
        actual = scores(model, [x], scheme=oracle.SCHEMES, **options)
        for scheme in oracle.SCHEMES:
            assert_close_relative(actual[scheme], table.scores(scheme), RTOL, scheme)

    @pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
    @pytest.mark.parametrize("num_samples", [9, 20])
    def test_few_label_maps_are_enumerated_and_exact(self, reduction, num_samples):
        model, ids = Tagger(), torch.randint(0, 9, (5, 2))
        table = oracle.norms(model, oracle.ones(ids), class_dim=-1)
        options = {"class_dim": -1, "num_samples": num_samples, "reduction": reduction}
        actual = scores(model, ids.split(3), scheme=oracle.SCHEMES, **options)
        for scheme in oracle.SCHEMES:
            assert_close_relative(actual[scheme], table.scores(scheme, reduction), RTOL, scheme)

    @pytest.mark.slow
    @pytest.mark.parametrize("scheme", ["expected", "expected_squared"])
    def test_many_label_maps_are_drawn_with_an_honest_standard_error(self, scheme):
        model, ids = Tagger(), torch.randint(0, 9, (8, 3))
        truth = oracle.norms(model, oracle.ones(ids), class_dim=-1).scores(scheme)
        options = {"class_dim": -1, "num_samples": 20, "scheme": scheme, "progress": False}
        ratios = []
        for seed in range(20):
            actual = GradNormScorer(model, seed=seed, **options).score(ids.split(3))
            ratios.append((actual.values.double() - truth) / actual.standard_error.double())
        assert torch.stack(ratios).abs().max() < 5
        assert 0.5 < torch.stack(ratios).square().mean() < 2
        alone = GradNormScorer(model, seed=19, **options).score(ids.flip(0).split(1))
        assert_close_relative(alone.values.flip(0), actual.values, 1e-6)

    def test_mask_leaves_positions_out(self):
        model, x = perturb(Segmenter()), torch.randn(6, 2, 4, 5)
        masks = torch.rand(6, 4, 5) < 0.5
        masks[0], masks[1] = True, False
        masks[1, 2, 3] = True
        batches = list(zip(x.split(4), masks.split(4), strict=True))
        table = oracle.norms(model, oracle.ones(x), call=lambda m, s: m(s)["out"], masks=masks)
        actual = scores(model, batches, scheme="entropy", mask=lambda batch: batch[1])
        assert_close_relative(actual, table.scores("entropy"), RTOL)

    @pytest.mark.slow
    def test_token_classification_with_a_class_dimension_at_the_end(self):
        model, ids = Tagger(), torch.randint(0, 9, (5, 4))
        table = oracle.norms(model, oracle.ones(ids), class_dim=-1)
        for class_dim in (-1, 2):
            actual = scores(model, ids.split(3), scheme="entropy", class_dim=class_dim)
            assert_close_relative(actual, table.scores("entropy"), RTOL)

    @pytest.mark.slow
    def test_attention_mask_of_a_mapping_is_the_default_mask(self):
        """Padding changes no score, neither its amount nor its content."""
        model, ids = Tagger(), torch.randint(0, 9, (5, 4))
        attention = torch.arange(4) < torch.tensor([[4], [3], [2], [1], [4]])
        samples = [(ids[n : n + 1], attention[n : n + 1]) for n in range(5)]
        table = oracle.norms(model, samples, class_dim=-1, call=lambda m, s: m(*s), masks=attention)
        expected = table.scores("entropy")
        options = {"scheme": "entropy", "class_dim": -1}
        for extra in (0, 3):
            pad = torch.randint(0, 9, (5, extra))
            batch = {
                "input_ids": torch.cat([ids, pad], 1),
                "attention_mask": torch.cat([attention, torch.zeros_like(pad)], 1).long(),
            }
            assert_close_relative(scores(model, [batch], **options), expected, RTOL)
