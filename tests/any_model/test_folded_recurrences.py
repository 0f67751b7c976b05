"""Recurrent layers in the forms that models use them in, folded over samples and cotangents."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fastgradnorm import GradNormScorer, score_pool
from fastgradnorm._operations.recurrence_pulls import pull
from fastgradnorm._operations.recurrences import SCANS, Weights
from tests.support.asserts import assert_exact
from tests.support.cases import Custom, linear, perturb

KINDS = [nn.RNN, nn.GRU, nn.LSTM]
X = torch.randn(5, 6, 4)


def model(forward, kind=nn.LSTM, width=5, **parts):
    parts = {"rnn": kind(4, 5, batch_first=True), "head": linear(width, 3)} | parts
    return perturb(Custom(forward, **parts))


def attentive(m, x):
    out, _ = m.rnn(x)
    return m.head((m.score(out).softmax(1) * out).sum(1))


def last_and_all(m, x):
    out, state = m.rnn(x)
    hidden = state[0] if isinstance(state, tuple) else state
    return m.head(out.amax(1) + hidden[-1])


def cell_too(m, x):
    out, (hidden, cell) = m.rnn(x)
    return m.head(torch.tanh(cell[0]) * hidden[0] + out[:, 0])


def cell_alone(m, x):
    return m.head(m.rnn(x)[1][1][0])


def given_state(m, x):
    state = torch.tanh(m.start(x[:, 0]))[None]
    return m.head(m.rnn(x, (state, 2 * state) if isinstance(m.rnn, nn.LSTM) else state)[0][:, -1])


def twice(m, x):
    out, state = m.rnn(x)
    return m.head(m.rnn(m.back(torch.relu(out)), state)[0].mean(1))


def windows(m, x):
    """Several rows of the layer's batch are of one sample."""
    out, _ = m.rnn(x.unfold(1, 3, 1).flatten(0, 1).mT)
    return m.head(out[:, -1].unflatten(0, (len(x), -1)).sum(1))


def unbatched(m, x):
    return m.head(torch.stack([m.rnn(row)[0][-1] for row in x]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "forward, parts",
    [
        pytest.param(attentive, {"score": linear(5, 1)}, id="attention-over-outputs"),
        pytest.param(last_and_all, {}, id="outputs-and-last-state"),
        pytest.param(given_state, {"start": linear(4, 5)}, id="first-state-of-the-sample"),
        pytest.param(twice, {"back": linear(5, 4)}, id="used-twice"),
        pytest.param(windows, {}, id="several-rows-of-a-sample"),
    ],
)
def test_forms(kind, forward, parts):
    assert_exact(model(forward, kind, **parts), X)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])  # LSTMs do not allow it
def test_outputs_that_the_model_writes_to(kind, count):
    """What a pull-back is made of is not what the model has."""

    def forward(m, x):
        out = m.rnn(x)[0]
        return m.head(out.mul_(3).sin_().mean(1))

    assert_exact(model(forward, kind), X[:count])


@pytest.mark.slow
@pytest.mark.parametrize("forward", [cell_too, cell_alone, unbatched])
def test_forms_of_lstms(forward):
    assert_exact(model(forward), X if forward is not unbatched else X[:1].expand(1, -1, -1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_both_ways(kind):
    rnn = kind(4, 5, batch_first=True, bidirectional=True)
    assert_exact(model(lambda m, x: m.head(m.rnn(x)[0].mean(1)), rnn=rnn, width=10), X)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_deep_both_ways_with_layer_norm(kind, dtype):
    built = model(
        lambda m, x: m.head(m.norm(m.rnn(x)[0]).mean(1)),
        rnn=kind(4, 5, 2, batch_first=True, bidirectional=True),
        norm=nn.LayerNorm(10),
        head=linear(10, 3),
    )
    assert_exact(built.to(dtype), X.to(dtype))


@pytest.mark.slow
@pytest.mark.parametrize(
    "frozen",
    [
        ["weight_ih_l0"],
        ["weight_hh_l0"],
        ["bias_ih_l0", "weight_ih_l0", "weight_hh_l0"],
        ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"],
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_partly_frozen(kind, frozen):
    built = model(lambda m, x: m.head(m.rnn(m.before(x))[0][:, -1]), kind, before=linear(4, 4))
    for name in frozen:
        getattr(built.rnn, name).requires_grad_(False)
    assert_exact(built, X)


@pytest.mark.slow
def test_weight_tied_to_another_layer():
    built = model(lambda m, x: m.head(m.mix(m.rnn(x)[0]).mean(1)), nn.RNN, mix=linear(5, 5))
    built.rnn.weight_hh_l0 = built.mix.weight
    assert_exact(built, X)


@pytest.mark.slow
def test_normalised_weight():
    built = model(lambda m, x: m.head(m.rnn(x)[0].mean(1)))
    weight_norm(built.rnn, "weight_hh_l0")
    assert_exact(built, X)


@pytest.mark.slow
def test_both_passes_agree_on_a_derivative_that_the_model_takes():
    """Inside of transforms of the model's own steps are written out."""

    def forward(m, x):
        slope = torch.func.grad(lambda rows: m.rnn(rows)[0].sum())(x)
        return m.head(m.back(slope).mean(1))

    assert_exact(model(forward, nn.GRU, back=linear(4, 5)), X)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(kind):
    built = model(lambda m, x: m.head(m.rnn(x)[0].mean(1)), kind)
    wide = score_pool(built, [X], progress=False)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            built(X)
    except RuntimeError as error:  # of oneDNN, where the processor lacks AVX-512
        pytest.skip(f"PyTorch itself cannot run it here: {error}")
    narrow = score_pool(built, [X], autocast=torch.bfloat16, progress=False)
    torch.testing.assert_close(narrow, wide, rtol=0.05, atol=0)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", [*SCANS])
def test_cotangents_alone_are_pulled_as_among_others(kind, backwards):
    """Again and again: what one pull-back writes to is its own."""
    rows, width = SCANS[kind].gates * 5, 5
    own = torch.randn(rows, width), torch.randn(rows)
    states = tuple(torch.randn(6, width) for _ in range(1 + (kind == "lstm")))
    scan = SCANS[kind](states, Weights(own[0], own[0], *own[1:] * 2, None), backwards, own[0].dtype)
    scan.run(torch.randn(4, 6, rows))
    g = torch.randn(3, 2, 4, 2, width)  # of samples, cotangents, steps, rows of a sample
    g_cell = torch.randn(3, 2, 2, width) if kind == "lstm" else None
    together = pull(scan, g, g_cell)
    for i in (0, 1, 0):
        alone = pull(scan, g[:, i, None], None if g_cell is None else g_cell[:, i, None])
        for one, several in zip(alone, together, strict=True):
            if one is not None and several is not None:
                torch.testing.assert_close(one, several[:, i, None])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_one_linear_layer_each(kind):
    """Not one a step: nothing is written out."""
    built = model(lambda m, x: m.head(m.rnn(x)[0].mean(1)), kind)
    rows = {row.parameter: row for row in GradNormScorer(built).explain(X).rows}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert rows[f"rnn.{name}"].positions == 6
        assert " x" not in rows[f"rnn.{name}"].operation
