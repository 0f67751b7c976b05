"""One head under another: for some samples the first one's output is what the second is given."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from fastgradnorm import acquire, gradient_sketch, naive_score_pool, score_pool
from fastgradnorm._gather import Wants, gather
from fastgradnorm._options import Options
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.cases import Custom, linear, perturb

pytestmark = [
    pytest.mark.filterwarnings("ignore::fastgradnorm.BatchDependenceWarning"),
    pytest.mark.filterwarnings("ignore:. of . trainable parameters take no part"),
]


def first(m, x):
    return m.heads[0](torch.tanh(m.body(x)))


def is_high(x):
    return int(x.flatten()[0] > 0)


def given(m, x):
    z = first(m, x)
    return m.heads[1](z) if is_high(x) else z


def given_to_others(m, x):
    z = first(m, x)
    return z if is_high(x) else m.heads[1](z)


def both_run(m, x):
    z = first(m, x)
    return [z, m.heads[1](torch.tanh(z))][is_high(x)]


def beside_features(m, x):
    z = first(m, x)
    return m.heads[1](torch.cat([torch.tanh(m.body(x)), z], 1)) if is_high(x) else z


def without_a_body(m, x):
    z = m.heads[0](x)
    return m.heads[1](z) if is_high(x) else z


def at_positions(m, x):
    z = m.heads[0](torch.tanh(m.body(x))[:, :, None] * torch.tensor([1.0, 2.0]))
    return (m.heads[1](z) if is_high(x) else z).mean(2)


def scaled_after(m, x):
    z = first(m, x)
    return F.log_softmax(2 * (m.heads[1](z.relu()) if is_high(x) else z), 1)


def normalised(i, o):
    return parametrizations.weight_norm(linear(i, o))


# The forward pass, its heads, and which of them counts: for samples that are low, and high.
MODELS = {
    "given": (given, [linear(5, 3), linear(3, 3)], (0, 1)),
    "given to others": (given_to_others, [linear(5, 3), linear(3, 3)], (1, 0)),
    "both are run": (both_run, [linear(5, 3), linear(3, 3)], (0, 1)),
    "beside features": (beside_features, [linear(5, 3), linear(8, 3)], (0, 1)),
    "without a body": (without_a_body, [linear(4, 3), linear(3, 3)], (0, 1)),
    "at positions": (at_positions, [nn.Conv1d(5, 3, 1), nn.Conv1d(3, 3, 1)], (0, 1)),
    "scaled after": (scaled_after, [linear(5, 3), linear(3, 3)], (0, 1)),
    "normalised weights": (given, [normalised(5, 3), normalised(3, 3)], (0, 1)),
    "without biases": (given, [linear(5, 3, bias=False), linear(3, 3, bias=False)], (0, 1)),
}
LIKELIHOODS = ("categorical", "bernoulli")  # in closed form, and by taps


def make(name, seed=0):
    torch.manual_seed(seed)
    forward, heads, counts = MODELS[name]
    model = perturb(Custom(forward, body=linear(4, 5), heads=nn.ModuleList(heads)))
    x = torch.randn(6, 4)
    x[:, 0] *= 1 - 2 * seed  # another sample comes first
    return model, x, [counts[is_high(row)] for row in x]


def exact(model, x, counts, scheme, **options):
    table = oracle.norms(model, oracle.ones(x), **options)
    heads = [table.scores(scheme, keep=lambda n: n.startswith("heads.0."))]
    heads += [table.scores(scheme, keep=lambda n: n.startswith("heads.1."))]
    return torch.stack([heads[k][i] for i, k in enumerate(counts)])


@pytest.mark.slow
@pytest.mark.parametrize("verify", [False, "all"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", MODELS)
def test_each_sample_counts_its_own(name, likelihood, verify):
    for seed in (0, 1):
        model, x, counts = make(name, seed)
        options = {"params": "last_layer", "likelihood": likelihood, "verify": verify}
        found = score_pool(model, x.split(4), scheme=oracle.SCHEMES, progress=False, **options)
        for scheme in oracle.SCHEMES:
            right = exact(model, x, counts, scheme, likelihood=likelihood)
            assert_close_relative(found[scheme], right, 1e-5, scheme)


@pytest.mark.parametrize("name", ["given", "both are run", "normalised weights"])
def test_the_plain_loop_does_too(name):
    model, x, counts = make(name)
    found = naive_score_pool(model, x.split(4), params="last_layer", progress=False)
    assert_close_relative(found, exact(model, x, counts, "expected"), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_sketches_do_too(name):
    for seed in (0, 1):
        model, x, _ = make(name, seed)
        options = {"params": "last_layer", "dim": 64, "progress": False}
        found = gradient_sketch(model, x.split(4), **options)
        alone = torch.cat([gradient_sketch(model, [row], **options) for row in x.split(1)])
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("params", ["last_layer", "all"])
@pytest.mark.parametrize("name", ["given", "both are run", "normalised weights"])
def test_features_are_those_of_its_own(name, params):
    forward, heads, _ = MODELS[name]
    kind = normalised if "normalised" in name else linear
    for sign in (1, -1):
        torch.manual_seed(0)
        heads = nn.ModuleList([kind(3, 3), kind(3, 3)])
        model, x = (
            perturb(Custom(forward, body=linear(4, 3), heads=heads)),
            sign * torch.randn(7, 4),
        )
        asked, wants = Options(params=params, progress=False), Wants("herding", features=True)
        alone = [gather(model, [row], asked, wants).columns["features"] for row in x.split(1)]
        found = gather(model, x.split(4), asked, wants).columns["features"]
        torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-6)


def test_features_of_several_lengths_are_no_points_of_one_space():
    model, x, _ = make("given")
    with pytest.raises(ValueError, match=r"`strategy` 'auto'.* 3 .* 5 .*`space='sketch'`"):
        acquire(model, x.split(4), 2, progress=False, verify=False)
    assert len(acquire(model, x.split(4), 2, space="sketch", progress=False, verify=False)) == 2


@pytest.mark.slow
def test_a_constant_of_the_batch_says_which():
    """Every batch of its own kind: nothing is read from the samples."""

    def forward(m, pair):
        x, task = pair
        z = first(m, x)
        return m.heads[1](z) if task == "fine" else z

    torch.manual_seed(0)
    heads = nn.ModuleList([linear(5, 3), linear(3, 3)])
    model, x = perturb(Custom(forward, body=linear(4, 5), heads=heads)), torch.randn(9, 4)
    batches = [(x[:3], "coarse"), (x[3:6], "fine"), (x[6:], "coarse")]
    counts = [0] * 3 + [1] * 3 + [0] * 3
    calls = iter(("coarse", "fine", "coarse")[i // 3] for i in range(9))
    right = exact(model, x, counts, "entropy", call=lambda m, row: m((row, next(calls))))
    for scorer in (naive_score_pool, score_pool):
        for verify in (False, "all"):
            found = scorer(
                model,
                [{"x": part, "task": task} for part, task in batches],
                forward=lambda m, batch: m((batch["x"], batch["task"])),
                params="last_layer", scheme="entropy", verify=verify, progress=False,
            )  # fmt: skip
            assert_close_relative(found, right, 1e-5)
