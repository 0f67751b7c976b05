"""Exactness: scores in float32 are within 1e-5 of the float64 referee, relative to each score."""

import functools
import itertools

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, naive_score_pool, score_pool
from tests.support import oracle, recorder
from tests.support.asserts import assert_close_relative
from tests.support.cases import CASES, logits_of, sharpen

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
KINDS = ("random", "confident")


def weights_of_the_body(name, parameter):
    """A selection by function: matrices and kernels, without the head."""
    return parameter.dim() > 1 and not name.startswith("head")


PARAMS = {"all": "all", "last_layer": "last_layer", "callable": weights_of_the_body}


@functools.cache
def prepared(name, kind):
    return getattr(CASES[name], kind)()


@functools.cache
def referee(name, kind, logits):
    """The table of norms, from the logits (bytes of float32) that the engine computed."""
    model, inputs = prepared(name, kind)
    seen = torch.frombuffer(bytearray(logits), dtype=torch.float32).view(len(inputs), -1)
    table = oracle.norms(model, oracle.ones(inputs), logits=seen)
    # A deviation of the logits themselves would be hidden by starting from them.
    off = (seen.double() - table.logits).abs().max() / table.logits.abs().max()
    assert off < 1e-4, f"logits are wrong: {off:.3g} of the largest"
    return table


def kept(model, params):
    """The names that a `params` argument selects."""
    named = dict(model.named_parameters())
    if params == "last_layer":
        return lambda name: name.startswith("head.")
    if params == "all":
        return lambda name: True
    return lambda name: params(name, named[name])


def scored(model, inputs, size=32, **options):
    """Scores, and the logits they started from."""
    scores = score_pool(
        model,
        recorder.batches(inputs, size),
        forward=recorder.forward,
        verify=False,
        progress=False,
        **options,
    )
    return scores, recorder.logits()


@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_exact_against_the_float64_loop(name, kind, params, reduction):
    """Every model, scheme, reduction and selection, for random and for very confident samples."""
    model, inputs = prepared(name, kind)
    by_scheme, logits = scored(
        model, inputs, scheme=oracle.SCHEMES, params=params, reduction=reduction
    )
    table = referee(name, kind, logits.numpy().tobytes())
    for scheme in oracle.SCHEMES:
        assert by_scheme[scheme].dtype == torch.float32
        expected = table.scores(scheme, reduction, kept(model, params))
        assert_close_relative(by_scheme[scheme], expected, TOLERANCE, scheme)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "resnet18"])
def test_exact_for_every_batch_size(name, kind, size):
    """Each from the logits of that very pass: what depends on the batch size is their rounding."""
    model, inputs = prepared(name, kind)
    by_scheme, logits = scored(model, inputs, size, scheme=oracle.SCHEMES)
    table = referee(name, kind, logits.numpy().tobytes())
    for scheme in oracle.SCHEMES:
        assert_close_relative(by_scheme[scheme], table.scores(scheme), TOLERANCE, scheme)


@pytest.mark.parametrize("name", CASES)
def test_each_parameter_alone(name):
    """An error in one small tensor would be lost in the norm of all: each is scored by itself."""
    model, inputs = CASES[name].random()
    inputs = inputs[:2] if name == "resnet18" else inputs[:4]
    table = None
    for chosen in dict(model.named_parameters()):
        scores, logits = scored(
            model, inputs, scheme="entropy", params=lambda name, _, chosen=chosen: name == chosen
        )
        if table is None:
            table = oracle.norms(model, oracle.ones(inputs), logits=logits)
        expected = table.scores("entropy", keep=lambda name, chosen=chosen: name == chosen)
        assert_close_relative(scores, expected, TOLERANCE, chosen)


@pytest.mark.parametrize("name", CASES)
def test_plain_batches_score_as_recorded_ones(name):
    """Without `forward=`, with a lone scheme and with verification the scores are the same."""
    model, inputs = CASES[name].initial()
    inputs = inputs[:8]
    several, _ = scored(model, inputs, scheme=oracle.SCHEMES)
    for scheme in oracle.SCHEMES:
        alone = score_pool(model, inputs.split(8), scheme=scheme, progress=False)
        assert_close_relative(alone, several[scheme], TOLERANCE, scheme)


@pytest.mark.parametrize("exponent", [-0.30103, -1, -3, -5, -7, -10, -20, -30])
@pytest.mark.parametrize("name", ["mlp", "groupnorm-cnn"])
def test_every_confidence_from_one_half_to_certainty(name, exponent):
    """Logits scaled so that the most certain of 16 samples has the given log10(1 - p_max)."""
    model, inputs = CASES[name].random()
    inputs = inputs[:16]
    sharpen(model, inputs, 10**exponent)
    tables = {}  # by the logits, which may differ in their last bits
    for params in PARAMS.values():
        by_scheme, logits = scored(model, inputs, size=16, scheme=oracle.SCHEMES, params=params)
        key = logits.numpy().tobytes()
        if key not in tables:
            tables[key] = oracle.norms(model, oracle.ones(inputs), logits=logits)
        for scheme in oracle.SCHEMES:
            expected = tables[key].scores(scheme, "global", kept(model, params))
            assert_close_relative(by_scheme[scheme], expected, TOLERANCE, f"{params} {scheme}")


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
@pytest.mark.parametrize("temperature", [0.25, 1.7, 40.0])
def test_temperature_divides_the_logits(temperature, params):
    model, inputs = CASES["mlp"].confident()
    options = {"scheme": oracle.SCHEMES, "params": params, "temperature": temperature}
    if temperature < 1:  # four times as sharp: certain to 1e-30 again
        sharpen(model, inputs, 10**-7.5)
    by_scheme, logits = scored(model, inputs, **options)
    table = oracle.norms(model, oracle.ones(inputs), logits=logits, temperature=temperature)
    for scheme in oracle.SCHEMES:
        expected = table.scores(scheme, "global", kept(model, params))
        assert_close_relative(by_scheme[scheme], expected, TOLERANCE, scheme)


@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
def test_float64_models_give_float64_scores(reduction):
    """To 1e-10 of the referee, for random and for confident samples."""
    for name, kind in itertools.product(["mlp", "padded-cnn", "transformer"], KINDS):
        model, inputs = getattr(CASES[name], kind)()
        model, inputs = model.double(), inputs[:8].double()
        by_scheme, logits = scored(model, inputs, scheme=oracle.SCHEMES, reduction=reduction)
        table = oracle.norms(model, oracle.ones(inputs), logits=logits)
        for scheme in oracle.SCHEMES:
            assert by_scheme[scheme].dtype == torch.float64
            expected = table.scores(scheme, reduction)
            assert_close_relative(by_scheme[scheme], expected, 1e-10, f"{name} {kind} {scheme}")


@pytest.mark.parametrize("dtype, rtol", [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
@pytest.mark.parametrize("params", ["all", "last_layer"])
@pytest.mark.parametrize("name", ["mlp", "groupnorm-cnn", "embedding"])
def test_half_precision_parameters(name, params, dtype, rtol):
    """Scores of half-precision models are float32, and close to those of the weights in float64."""
    model, inputs = CASES[name].random()
    model = model.to(dtype)
    inputs = inputs[:16] if not inputs.is_floating_point() else inputs[:16].to(dtype)
    by_scheme = score_pool(
        model, [inputs], scheme=oracle.SCHEMES, params=params, verify=False, progress=False
    )
    table = oracle.norms(model, oracle.ones(inputs), logits=logits_of(model, inputs))
    for scheme in oracle.SCHEMES:
        assert by_scheme[scheme].dtype == torch.float32
        expected = table.scores(scheme, "global", kept(model, params))
        errors = (by_scheme[scheme].double() - expected).abs() / expected.abs().mean()
        assert errors.max() < rtol, f"{scheme}: {errors.max():.3g}"


def test_autocast_is_close_and_returns_float32():
    model, inputs = CASES["mlp"].random()
    exact = score_pool(model, [inputs], progress=False)
    rough = score_pool(model, [inputs], autocast=torch.bfloat16, verify=False, progress=False)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert ((rough - exact).abs() / exact.mean()).max() < 0.1


@pytest.mark.parametrize("name", ["mlp", "padded-cnn", "transformer", "embedding-bag"])
@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS.keys())
def test_naive_loop_agrees_with_the_referee(name, reduction, params):
    """The benchmarks' baseline computes the same scores, also from a float64 model."""
    model, inputs = CASES[name].random()
    model, inputs = model.double(), oracle.in_float64(inputs[:4])
    actual = naive_score_pool(
        model, inputs.split(3), scheme=oracle.SCHEMES, params=params, reduction=reduction
    )
    table = oracle.norms(model, oracle.ones(inputs))
    for scheme in oracle.SCHEMES:
        expected = table.scores(scheme, reduction, kept(model, params))
        assert_close_relative(actual[scheme], expected, 1e-9, scheme)


@pytest.mark.parametrize("magnitude", [0.0, 1e4, -1e4])
def test_extreme_and_equal_logits_are_finite(magnitude):
    """Equal logits have no entropy gradient; logits of 1e4 are certain: every score is finite."""
    model, inputs = CASES["mlp"].random()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[2] = magnitude
        if magnitude == 0:
            model.head.weight.add_(1.0)  # the same logit for every class
    by_scheme = score_pool(model, [inputs[:8]], scheme=oracle.SCHEMES, progress=False)
    table = oracle.norms(model, oracle.ones(inputs[:8]))
    for scheme in oracle.SCHEMES:
        expected = table.scores(scheme)
        assert by_scheme[scheme].isfinite().all()
        assert (by_scheme[scheme] >= 0).all()
        assert torch.allclose(by_scheme[scheme].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_impossible_classes_do_not_count(params):
    """A logit of -inf is a class that is not there."""
    model, inputs = CASES["mlp"].random()

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = model.body, nn.Linear(16, 7)
            with torch.no_grad():
                self.head.weight[1:6].copy_(model.head.weight)
                self.head.bias[1:6].copy_(model.head.bias)
                self.head.weight[[0, 6]] = 0.0
                self.head.bias[[0, 6]] = -torch.inf

        def forward(self, x):
            return self.head(self.body(x))

    options = {"scheme": oracle.SCHEMES, "params": params, "progress": False}
    actual = score_pool(Masked(), [inputs[:8]], **options)
    expected = score_pool(model, [inputs[:8]], **options)
    for scheme in oracle.SCHEMES:
        assert_close_relative(actual[scheme], expected[scheme], 1e-5, scheme)


def test_stream_and_score_batch_are_the_same_scores():
    model, inputs = CASES["mlp"].random()
    scorer = GradNormScorer(model, scheme="entropy", progress=False)
    pool = score_pool(model, inputs.split(10), scheme="entropy", progress=False)
    streamed = list(scorer.stream(inputs.split(10)))
    assert [len(s) for s in streamed] == [10, 10, 10, 10, 10, 10, 4]
    assert_close_relative(torch.cat(streamed), pool, 1e-6)
    assert_close_relative(scorer.score_batch(inputs), pool, 1e-6)
    assert_close_relative(scorer.score(inputs.split(10)).values, pool, 1e-6)
