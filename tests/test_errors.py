"""Every wrong argument and model: the message says which, and what to do."""

import os
import pickle

import pytest
import torch
from torch import nn

import fastgradnorm
from fastgradnorm import GradNormScorer, naive_score_pool, score_pool
from tests.support.cases import MLP

X = torch.ones(4, 10)


def scores(model=None, loader=None, **options):
    model = MLP() if model is None else model
    return score_pool(model, [X] if loader is None else loader, progress=False, **options)


WRONG = [
    ("scheme", "expceted", ValueError),
    ("scheme", "all", ValueError),
    ("scheme", 3, (TypeError, ValueError)),
    ("scheme", None, (TypeError, ValueError)),
    ("scheme", [], (TypeError, ValueError)),
    ("scheme", ["expected", "nothing"], ValueError),
    ("scheme", ["expected", "expected"], ValueError),
    ("params", "first_layer", ValueError),
    ("params", 3, (TypeError, ValueError)),
    ("params", None, (TypeError, ValueError)),
    ("reduction", "mean", ValueError),
    ("reduction", None, (TypeError, ValueError)),
    ("likelihood", "normal", ValueError),
    ("likelihood", None, (TypeError, ValueError)),
    ("class_dim", 0, ValueError),
    ("class_dim", 1.0, TypeError),
    ("class_dim", True, TypeError),
    ("class_dim", 2, ValueError),
    ("class_dim", -3, ValueError),
    ("temperature", 0, ValueError),
    ("temperature", -1.0, ValueError),
    ("temperature", float("nan"), ValueError),
    ("temperature", float("inf"), ValueError),
    ("temperature", "warm", TypeError),
    ("forward", "logits", TypeError),
    ("mask", torch.ones(4, dtype=torch.bool), TypeError),
    ("device", "quantum", (ValueError, RuntimeError)),
    ("device", 3.5, TypeError),
    ("autocast", "bfloat16", (TypeError, ValueError)),
    ("autocast", torch.int64, (TypeError, ValueError)),
    ("backend", "cuda", ValueError),
    ("backend", None, (TypeError, ValueError)),
    ("rtol", -0.1, ValueError),
    ("rtol", "2%", TypeError),
    ("num_samples", 0, ValueError),
    ("num_samples", 2.5, TypeError),
    ("seed", -1, ValueError),
    ("seed", "today", TypeError),
    ("verify", 3, TypeError),
    ("verify", "yes", ValueError),
    ("on_nonfinite", "ignore", ValueError),
    ("progress", "bar", TypeError),
]


@pytest.mark.parametrize("score", [score_pool, naive_score_pool])
@pytest.mark.parametrize("name, value, error", WRONG, ids=[f"{n}={v!r:.20}" for n, v, _ in WRONG])
def test_wrong_option_is_named_with_what_it_must_be_and_what_it_is(score, name, value, error):
    with pytest.raises(error, match=rf"`{name}` must be .*\. Got .+"):
        score(MLP(), [X], **{name: value})


@pytest.mark.parametrize("name, value, error", WRONG, ids=[f"{n}={v!r:.20}" for n, v, _ in WRONG])
def test_the_scorer_checks_the_same_options(name, value, error):
    with pytest.raises(error, match=rf"`{name}` must be .*\. Got .+"):
        GradNormScorer(MLP(), **{name: value}).score([X])


def test_options_are_checked_before_anything_is_loaded():
    def untouchable():
        pytest.fail("the loader was read")
        yield

    with pytest.raises(ValueError, match=r"`scheme`"):
        scores(loader=untouchable(), scheme="best")


def test_names_that_are_no_options_are_refused_with_the_nearest_one():
    with pytest.raises(TypeError, match=r"`schema`.*`scheme`"):
        scores(schema="entropy")
    with pytest.raises(TypeError, match=r"`batch_size`"):
        GradNormScorer(MLP(), batch_size=3)


def test_triton_without_a_gpu_is_refused_not_replaced(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.delitem(os.environ, "TRITON_INTERPRET", raising=False)
    with pytest.raises((ValueError, RuntimeError), match=r"`backend\b.*`"):
        scores(backend="triton")


class TestModel:
    @pytest.mark.parametrize("model", [None, "resnet18", lambda x: x, nn.Linear, X])
    @pytest.mark.parametrize("score", [score_pool, naive_score_pool])
    def test_that_is_no_module(self, model, score):
        with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module\. Got \w+"):
            score(model, [X])

    @pytest.mark.parametrize("params", ["all", "last_layer", lambda name, p: True])
    def test_without_trainable_parameters(self, params):
        for model in (nn.Flatten(), MLP().requires_grad_(False)):
            with pytest.raises(ValueError, match=r"`(model|params)` .*requires_grad"):
                scores(model, params=params)

    @pytest.mark.parametrize("track", ["all", "last_layer"])
    def test_with_batch_norm_without_running_statistics(self, track):
        model = nn.Sequential()
        model.add_module("stem", nn.Linear(10, 4))
        model.add_module("bad_norm", nn.BatchNorm1d(4, track_running_stats=False))
        model.add_module("head", nn.Linear(4, 3))
        with pytest.raises(ValueError, match=r"`model\.bad_norm` \(BatchNorm1d\)"):
            scores(model, params=track)

    def test_that_is_the_batch_norm_itself(self):
        with pytest.raises(ValueError, match=r"`model` \(BatchNorm1d\)"):
            scores(nn.BatchNorm1d(10, track_running_stats=False))

    @pytest.mark.parametrize(
        "output",
        [
            pytest.param(lambda z: None, id="none"),
            pytest.param(lambda z: "cat", id="string"),
            pytest.param(lambda z: {"scores": z}, id="unknown-key"),
            pytest.param(lambda z: (), id="empty-tuple"),
        ],
    )
    def test_whose_output_holds_no_logits(self, output):
        class Odd(MLP):
            def forward(self, x):
                return output(super().forward(x))

        with pytest.raises((TypeError, ValueError), match=r"`(model|forward)` must .*logits"):
            scores(Odd())

    @pytest.mark.parametrize(
        "output",
        [
            pytest.param(lambda z: z[0], id="one-sample"),
            pytest.param(lambda z: z.sum(), id="scalar"),
            pytest.param(lambda z: torch.cat([z, z]), id="twice-the-samples"),
        ],
    )
    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_whose_logits_have_no_batch_dimension(self, output, params):
        class Odd(MLP):
            def forward(self, x):
                return output(super().forward(x))

        with pytest.raises(ValueError, match=r"`(model|forward)` must .*logits.*Got .*\["):
            scores(Odd(), params=params)

    @pytest.mark.parametrize("params", ["all", "last_layer"])
    def test_that_draws_random_numbers_in_eval_mode(self, params):
        class Noisy(MLP):
            def forward(self, x):
                return self.head(nn.functional.dropout(self.body(x), 0.5, training=True))

        with pytest.raises(ValueError, match=r"random"):
            scores(Noisy(), params=params)

    @pytest.mark.filterwarnings("ignore:Lazy modules")
    def test_that_is_not_initialised(self):
        model = nn.Sequential(nn.LazyLinear(3))
        with pytest.raises(ValueError, match=r"`model` must be .*`0\.weight`"):
            scores(model)

    def test_whose_logits_are_integers(self):
        class Predicts(MLP):
            def forward(self, x):
                return super().forward(x).argmax(1, keepdim=True)

        with pytest.raises((TypeError, ValueError), match=r"`(model|forward)` must .*int64"):
            scores(Predicts())


class TestParams:
    def test_that_select_nothing(self):
        with pytest.raises(ValueError, match=r"`params` must .*Got"):
            scores(params=lambda name, parameter: False)

    def test_that_select_frozen_parameters_only(self):
        model = MLP()
        model.head.requires_grad_(False)
        with pytest.raises(ValueError, match=r"`params`"):
            scores(model, params=lambda name, parameter: name.startswith("head"))

    def test_function_that_raises_is_heard(self):
        def broken(name, parameter):
            raise KeyError("my own bug")

        with pytest.raises(KeyError, match=r"my own bug"):
            scores(params=broken)

    def test_last_layer_where_none_made_the_logits(self):
        """Logits that no single operation on parameters produced, as a sum of two heads."""

        class TwoHeads(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(10, 3), nn.Linear(10, 3)

            def forward(self, x):
                return self.a(x) + self.b(x)

        with pytest.raises(ValueError, match=r"`params\b.*last_layer"):
            scores(TwoHeads(), params="last_layer")


@pytest.mark.parametrize(
    "error",
    [
        fastgradnorm.NonFiniteScoreError("two are bad", [1, 3], fastgradnorm.PoolScores(X[:, 0])),
        fastgradnorm.RankFailedError("rank 1 failed", {1: "ValueError: no"}),
        *(getattr(fastgradnorm, name)("why") for name in ("CoverageError", "VerificationError")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_borders(error):
    """Out of a loader's worker, a process pool or an actor, an error comes pickled."""
    error.add_note("in cycle 3")
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.__notes__ == ["in cycle 3"]
    assert getattr(found, "failures", None) == getattr(error, "failures", None)
    assert getattr(found, "indices", None) == getattr(error, "indices", None)
    if isinstance(error, fastgradnorm.NonFiniteScoreError):
        assert torch.equal(found.scores.values, error.scores.values)


def test_error_types():
    assert issubclass(fastgradnorm.CoverageError, ValueError)
    assert issubclass(fastgradnorm.NonFiniteScoreError, ValueError)
    assert issubclass(fastgradnorm.VerificationError, RuntimeError)


@pytest.mark.parametrize("name", fastgradnorm.__all__)
def test_the_face_hands_on_what_it_names(name):
    assert getattr(fastgradnorm, name, None) is not None
