"""Tensors that a model holds and that have no values, or no shape of their own."""

import pytest
import torch

from fastgradnorm import GradNormScorer, SlowPathWarning, naive_score_pool, score_pool
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
ROWS = [torch.ones(2), torch.ones(3)]
PLACES = {
    "buffer": lambda m, t: m.body.register_buffer("kept", t, persistent=False),
    "attribute": lambda m, t: setattr(m.body, "kept", t),
    "list": lambda m, t: setattr(m.body, "kept", [t]),
}
WAYS = {
    "verified": lambda m, **options: GradNormScorer(m, progress=False, **options).score([X]).values,
    "unverified": lambda m: GradNormScorer(m, verify=False).score_batch(X),
    "naive": lambda m: naive_score_pool(m, [X]),
}


def model(place, tensor, forward=lambda m, x: m.head(m.body(x).tanh())):
    torch.manual_seed(0)
    made = Custom(forward, body=linear(4, 4), head=linear(4, 3))
    PLACES[place](made, tensor)
    return made


def without(made):
    plain = Custom(made.function, body=linear(4, 4), head=linear(4, 3))
    plain.load_state_dict(dict(made.named_parameters()))
    return plain


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_without_values_that_is_not_used_is_let_be(place, way):
    held = torch.empty(3, device="meta")
    made = model(place, held)
    scores = WAYS[way](made)
    assert_close_relative(scores, oracle.scores(without(made), oracle.ones(X)), 1e-5)
    kept = made.body.kept
    assert (kept[0] if place == "list" else kept) is held


def test_checkpoints_are_kept_beside_a_buffer_without_values(tmp_path):
    made = model("buffer", torch.empty(3, device="meta"))
    scores = WAYS["verified"](made, checkpoint=tmp_path / "run")
    assert torch.equal(scores, WAYS["verified"](made, checkpoint=tmp_path / "run"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_without_values_that_is_used_is_named(place, way):
    def forward(m, x):
        kept = m.body.kept
        return m.head(m.body(x) + (kept[0] if place == "list" else kept))

    made = model(place, torch.empty(4, device="meta"), forward)
    with pytest.raises(ValueError, match=r"`body.kept` on the meta device.*to_empty"):
        WAYS[way](made)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_nested_tensor_is_named(place, way, layout):
    made = model(place, torch.nested.nested_tensor(ROWS, layout=layout))
    with pytest.raises(ValueError, match=r"no nested tensors. Got the .* `body.kept`.*values and"):
        WAYS[way](made)


def nested(x, layout=torch.jagged):
    return torch.nested.as_nested_tensor(list(x) if layout is torch.strided else x, layout=layout)


# Of inputs [N, T, 4].
MAKES_NESTED = {
    "jagged": lambda m, x: m.body(nested(x)).to_padded_tensor(0.0),
    "strided": lambda m, x: m.body(nested(x, torch.strided)).to_padded_tensor(0.0),
    "in-between": lambda m, x: nested(m.body(x)).relu().to_padded_tensor(0.0),
    "lengths": lambda m, x: m.body(shortened(x)).to_padded_tensor(0.0, (len(x), 3, 4)),
}


def shortened(x):
    lengths = (x[..., 0] != 0).sum(1).tolist()
    rows = [row[:length] for row, length in zip(x, lengths, strict=True)]
    return torch.nested.nested_tensor(rows, layout=torch.jagged)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*[Nn]ested tensors is in prototype")
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("name", MAKES_NESTED)
def test_a_model_that_makes_nested_tensors_is_exact(name, params):
    torch.manual_seed(0)
    made = Custom(
        lambda m, x: m.head(MAKES_NESTED[name](m, x).mean(1)), body=linear(4, 4), head=linear(4, 3)
    )
    x = torch.randn(4, 3, 4)
    x[1, 2:] = x[3, 1:] = 0
    keep = (lambda n: n[:4] == "head") if params == "last_layer" else (lambda n: True)
    expected = oracle.norms(made, oracle.ones(x)).scores("expected", keep=keep)
    for verify in (True, False):
        with pytest.warns(SlowPathWarning, match="one by one"):
            scores = score_pool(made, [x], params=params, verify=verify, progress=False)
        assert_close_relative(scores, expected, 1e-5)
