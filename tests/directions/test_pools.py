"""Products of a pool that stops, of shared pools, and what cannot be meant."""

import pytest
import torch
from torch import nn

from fastgradnorm import NonFiniteScoreError, gradient_dots, mean_gradient
from tests.support.directions import case, random_directions
from tests.support.stopping import Stop, stopped_after


@pytest.fixture
def given():
    torch.manual_seed(1)
    model, batches, _, _ = case("perceptron")
    return model, batches * 3, random_directions(model, 2)


def dots(model, batches, directions, **options):
    return gradient_dots(
        model, batches, directions, **{"loss": "cross_entropy", "progress": False, **options}
    )


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(given, tmp_path):
    model, batches, directions = given
    path = tmp_path / "dots.jsonl"
    few = {"max_memory": 2**11}  # so that something is scored before the stop
    whole = dots(model, batches, directions, **few)
    with pytest.raises(Stop):
        dots(model, stopped_after(batches, 3), directions, checkpoint=path, **few)
    others = {
        "directions": ([{n: 2 * v for n, v in each.items()} for each in directions], {}),
        "products": (directions, {"cosine": True}),
        "loss": (directions, {"loss": nn.CrossEntropyLoss()}),
    }
    for what, (other, options) in others.items():
        with pytest.raises(ValueError, match=f"same model, options and pool.*{what}"):
            dots(model, batches, other, checkpoint=path, **few, **options)
    assert torch.equal(dots(model, batches, directions, checkpoint=path, **few), whole)
    assert torch.equal(dots(model, batches, directions, checkpoint=path, **few), whole)


WRONG = [
    ({}, {}, TypeError, r"`directions\[0\]` must be a non-empty mapping"),
    ([], {}, TypeError, "`directions` must be a mapping"),
    (torch.ones(3), {}, TypeError, "`directions` must be a mapping"),
    ({"2.weigt": torch.ones(4, 9)}, {}, ValueError, "names of the model's parameters.*'2.weigt'"),
    ({"2.weight": torch.ones(9, 4)}, {}, ValueError, r"shape \[4, 9\] for '2.weight'"),
    (None, {"loss": None}, ValueError, "`loss` must be given for `gradient_dots`"),
    (None, {"scheme": "entropy"}, ValueError, "`scheme` must be 'loss' for a `loss`"),
    (None, {"scheme": "expected", "loss": None}, ValueError, "`scheme` must be one of"),
    (None, {"subset": 3}, ValueError, "`subset` must be None"),
    (None, {"reduction": "per_tensor"}, ValueError, "`reduction` must be 'global'"),
    (None, {"params": "last_layer"}, ValueError, "`params` must be 'all' or a function"),
    (None, {"metric": 3}, TypeError, "`metric` must be an optimizer"),
    (None, {"checkpoints": []}, ValueError, "`checkpoints` must be a sequence"),
    (None, {"checkpoints": [{}]}, TypeError, r"`checkpoints\[0\]` must be a pair"),
    (None, {"checkpoints": {"a": 1}}, TypeError, r"`checkpoints` must be.*\[\(state, 1.0\)\]"),
    (None, {"checkpoints": "epoch.pt"}, TypeError, "`checkpoints` must be a sequence of pairs"),
    (None, {"checkpoints": [(0.1, {})]}, TypeError, r"`checkpoints\[0\]\[0\]` must be a state"),
    (None, {"checkpoints": [({}, "0.1")]}, TypeError, r"`checkpoints\[0\]\[1\]` must be a number"),
    (
        None,
        {"checkpoints": [({}, 0.1)] * 2, "checkpoint": "run"},
        ValueError,
        "`checkpoint` must be None with several `checkpoints`",
    ),
    (None, {"cosine": 1}, TypeError, "`cosine` must be"),
    (None, {"chekpoint": "x"}, TypeError, "Did you mean `checkpoint`"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_wrong_is_told(given, number):
    model, batches, directions = given
    wrong, options, error, message = WRONG[number]
    with pytest.raises(error, match=message):
        dots(model, batches, directions if wrong is None else wrong, **options)


def test_an_optimizer_without_moments(given):
    model, batches, directions = given
    for optimizer in (
        torch.optim.ASGD(model.parameters(), 0.1),
        torch.optim.Adam(model.parameters()),
    ):
        with pytest.raises(
            ValueError, match=r"`metric` must be an Adam.*no second moments of `0\."
        ):
            dots(model, batches, directions, metric=optimizer)


@pytest.mark.slow
def test_products_that_are_no_numbers(given):
    model, batches, directions = given
    (x, y), *others = batches
    x = x.clone()
    x[1, 0] = torch.nan
    with pytest.raises(NonFiniteScoreError, match="products"):
        dots(model, [(x, y), *others], directions)
    kept = dots(model, [(x, y), *others], directions, on_nonfinite="keep")
    good = torch.arange(len(kept)) != 1
    assert torch.equal(kept[good], dots(model, batches, directions)[good])


def test_no_samples(given):
    model, _, directions = given
    for call in (lambda: dots(model, [], directions), lambda: mean_gradient(model, [], loss="mse")):
        with pytest.raises(ValueError, match="`loader` must yield at least one sample"):
            call()
    with pytest.raises((ValueError, TypeError), match="`checkpoint` must be None"):
        mean_gradient(model, [], loss="mse", checkpoint="x")


@pytest.mark.slow
def test_a_generator_cannot_be_read_for_each_checkpoint(given):
    model, batches, directions = given
    states = [(model.state_dict(), 0.1)]
    one = dots(model, iter(batches), directions, checkpoints=states)
    assert torch.allclose(one, 0.1 * dots(model, batches, directions))
    with pytest.raises(TypeError, match="`loader` must be one that can be read again"):
        dots(model, iter(batches), directions, checkpoints=states * 2)
