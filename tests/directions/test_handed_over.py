"""Weights, directions and labels as people hand them over, and what is told of others."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from fastgradnorm import SketchStore, gradient_dots, score_pool, store_sketches


@pytest.fixture
def given():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return model, [(torch.randn(6, 4), torch.arange(6) % 3)]


def products(model, pool, **options):
    return gradient_dots(model, pool, {"0.bias": torch.ones(5)}, loss="cross_entropy", **options)


@pytest.mark.parametrize(
    "weight", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5])]
)
def test_weights_of_checkpoints(given, weight):
    found = products(*given, checkpoints=[(given[0].state_dict(), weight)])
    torch.testing.assert_close(found, 0.5 * products(*given))
    assert isinstance(found, torch.Tensor)


@pytest.mark.parametrize(
    "weight", [torch.ones(2), torch.tensor(True), torch.tensor(1j), np.bool_(True), "0.5"]
)
def test_weights_that_are_no_number(given, weight):
    with pytest.raises(TypeError, match=r"`checkpoints\[0\]\[1\]` must be a number"):
        products(*given, checkpoints=[(given[0].state_dict(), weight)])


def test_options_of_numpy(given, tmp_path):
    options = {"loss": "cross_entropy", "checkpoint": tmp_path / "scores.jsonl"}
    found = score_pool(*given, temperature=np.float32(0.5), **options)
    torch.testing.assert_close(found, score_pool(*given, temperature=0.5, **options))


def test_directions_that_are_none(given):
    model, pool = given
    for directions, told in (
        (model, r"`directions` must be a mapping.*Got Sequential\..*named_parameters"),
        ({"0.bias": torch.ones(5, device="meta")}, r"`directions\[0\]`.*meta device for '0.bias'"),
    ):
        with pytest.raises((TypeError, ValueError), match=told):
            gradient_dots(model, pool, directions, loss="cross_entropy")


@pytest.mark.parametrize("number", [255, -1])
def test_a_number_for_what_is_left_out(number):
    model, x = nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 5)
    labels = torch.zeros(2, 4, 5, dtype=torch.long)
    labels[1, 2] = number
    with pytest.raises(ValueError, match=rf"Got {number} for .*ignore_index={number}"):
        score_pool(model, [(x, labels)], loss="cross_entropy")
    labels[0, 0] = 77
    with pytest.raises(ValueError, match=r"Got 77 for sample 0 of a batch at \[0, 0\]\.\n"):
        score_pool(model, [(x, labels)], loss="cross_entropy")


@pytest.mark.filterwarnings("ignore:`class_dim` is 1")
@pytest.mark.parametrize("shape", [(6, 4), (4, 6, 4)])
def test_classes_that_are_last(shape):
    model, labels = nn.Linear(4, 3), torch.zeros(2, *shape[:-1], dtype=torch.long)
    with pytest.raises(ValueError, match="pass `class_dim=-1`"):
        score_pool(model, [(torch.randn(2, *shape), labels)], loss="cross_entropy")


def test_what_a_store_is_asked_for(given, tmp_path):
    store = store_sketches(*given, tmp_path, 8, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"`name` must be of a group.*All have one sketch"):
        store.group("0")
    with pytest.raises(ValueError, match="`size` must be an integer >= 1"):
        next(store.blocks(0))
    (tmp_path / "info.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="`path` must be a folder of sketches that is whole"):
        SketchStore(tmp_path)
    for opened in (SketchStore, lambda path: store_sketches(*given, path, 8)):
        with pytest.raises(TypeError, match=r"`path` must be the path of a folder\. Got int"):
            opened(3)
