"""Every wrong loader, batch and mask: the message says which, and what to do."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import naive_score_pool, score_pool
from tests.support.cases import MLP

X = torch.ones(4, 10)


def scores(model=None, loader=None, **options):
    model = MLP() if model is None else model
    return score_pool(model, [X] if loader is None else loader, progress=False, **options)


class TestLoader:
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    @pytest.mark.parametrize("score", [score_pool, naive_score_pool])
    @pytest.mark.parametrize("loader", [[], iter(()), [X[:0]]], ids=["list", "iter", "no-samples"])
    def test_empty(self, loader, score, params):
        with pytest.raises(ValueError, match=r"`loader` must yield"):
            score(MLP(), loader, params=params)

    def test_that_is_one_batch(self):
        with pytest.raises(TypeError, match=r"`loader` must be .*Got Tensor.*\[batch\]"):
            score_pool(MLP(), X)

    def test_that_shuffles_is_warned_about(self):
        """Scores in an unknown order are of no use."""
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), shuffle=True)
        with pytest.warns(UserWarning, match=r"`loader` shuffles.*shuffle=False"):
            scores(loader=loader)

    @pytest.mark.parametrize("loader", [None, 3, MLP()])
    def test_that_cannot_be_iterated(self, loader):
        with pytest.raises(TypeError, match=r"`loader` must be .*Got"):
            score_pool(MLP(), loader)

    @pytest.mark.parametrize(
        "batch",
        [
            "a text",
            ["a text", "another"],
            (["a text"], X),
            {"x": ["a", "b"]},
            {"x": "text"},
            3.0,
            None,
            (),
            {},
            {"labels": X},
        ],
        ids=repr,
    )
    def test_of_strings_and_other_batches_without_tensors(self, batch):
        with pytest.raises(
            (TypeError, ValueError), match=r"`loader` must .*Got .*(forward|tokenizer)"
        ):
            scores(loader=[batch])

    def test_of_tensors_without_a_batch_dimension(self):
        with pytest.raises(ValueError, match=r"`loader` must .*Got"):
            scores(loader=[torch.tensor(3.0)])

    def test_of_integers_for_a_convolution(self):
        """The layer that refuses them, or the loader, is named, with the type."""
        model = nn.Sequential()
        model.add_module("stem", nn.Conv2d(1, 2, 3))
        model.add_module("pool", nn.Flatten())
        model.add_module("head", nn.Linear(2, 3))
        for dtype, params in itertools.product([torch.uint8, torch.int64], ["all", "last_layer"]):
            batch = torch.ones(2, 1, 3, 3, dtype=dtype)
            with pytest.raises((TypeError, ValueError), match=r"stem|`loader`") as caught:
                scores(model, [batch], params=params)
            assert str(dtype).removeprefix("torch.") in str(caught.value).lower()
            assert "float" in str(caught.value).lower()

    def test_of_the_wrong_precision(self):
        with pytest.raises((TypeError, ValueError), match=r"float64|double|Double"):
            scores(loader=[X.double()])

    def test_of_the_wrong_shape(self):
        """The model's own error is heard."""
        with pytest.raises((RuntimeError, ValueError), match=r"7|shape"):
            scores(loader=[torch.ones(4, 7)])

    def test_whose_tensors_disagree_about_the_number_of_samples(self):
        class Two(MLP):
            def forward(self, x, y):
                return super().forward(x + y)

        with pytest.raises((ValueError, RuntimeError)):
            scores(Two(), [{"x": X, "y": X[:3]}])


class TestMask:
    @pytest.mark.parametrize(
        "mask",
        [
            pytest.param(lambda batch: None, id="none"),
            pytest.param(lambda batch: torch.ones(2, 3, 3), id="float"),
            pytest.param(lambda batch: torch.ones(1, 3, 3, dtype=torch.bool), id="samples"),
            pytest.param(lambda batch: torch.ones(2, 4, 3, dtype=torch.bool), id="positions"),
            pytest.param(lambda batch: torch.ones(2, dtype=torch.bool), id="no-positions"),
        ],
    )
    def test_of_wrong_type_or_shape(self, mask):
        model = nn.Conv2d(1, 3, 3, padding=1)
        with pytest.raises((TypeError, ValueError), match=r"`mask` must .*Got"):
            scores(model, [torch.ones(2, 1, 3, 3)], scheme="entropy", mask=mask)


class TestArrays:
    """Batches of NumPy's arrays are what tensors of the same numbers are."""

    @pytest.mark.slow
    @pytest.mark.parametrize("score", [score_pool, naive_score_pool])
    @pytest.mark.parametrize("dtype", ["f4", "f8", ">f8"])
    def test_of_numbers(self, score, dtype):
        x, model = torch.randn(6, 10), MLP()
        array = x.numpy().astype(dtype)
        array.flags.writeable = False
        expected = score(model, [x])
        for batch in (array, (array, np.arange(6)), [array, ["a"] * 6], {"x": array}):
            assert torch.equal(score(model, [batch]), expected)
        assert torch.equal(score(model, [array[:4], array[4:]]), expected)

    @pytest.mark.slow
    def test_keep_what_a_wide_model_takes(self):
        x = np.random.default_rng(0).standard_normal((3, 10))
        model = MLP().double()
        assert torch.equal(scores(model, [x]), scores(model, [torch.from_numpy(x)]))

    @pytest.mark.slow
    def test_of_labels_are_read_by_a_loss(self):
        x, y, model = torch.randn(6, 10), torch.arange(6) % 3, MLP()
        expected = scores(model, [(x, y)], loss="cross_entropy")
        assert torch.equal(scores(model, [(x.numpy(), y.numpy())], loss="cross_entropy"), expected)

    @pytest.mark.parametrize("kind", ["U", "O", "M8[s]"])
    def test_of_something_else_are_refused(self, kind):
        with pytest.raises(TypeError, match=r"`loader` must be .*Arrays must hold numbers"):
            scores(loader=[np.zeros((2, 3), kind)])
