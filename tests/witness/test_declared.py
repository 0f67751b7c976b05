"""What a model says that its outputs mean, beside what they are scored as."""

import pytest
import torch
from torch import nn

from fastgradnorm import (
    GradNormScorer,
    UnsupportedModelError,
    gradient_sketch,
    meaning_of_loss,
    naive_score_pool,
    score_pool,
)
from tests.support.asserts import assert_close_relative
from tests.support.cases import MLP, Custom, linear, perturb
from tests.support.doubts import findings, warned

hf = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 16, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip


def texts(samples=5):
    ids = torch.randint(3, 20, (samples, 8))
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]


def bert(problem=None, labels=3):
    config = hf.BertConfig(**SMALL, num_labels=labels, problem_type=problem)
    return perturb(hf.BertForSequenceClassification(config))


def image_model(problem, labels=3):
    config = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=labels,
        problem_type=problem,
    )  # fmt: skip
    return perturb(hf.ResNetForImageClassification(config))


class Wrapping(nn.Module):
    """Holds the model with its metrics and hands its logits on, as LightningModules do."""

    def __init__(self, model):
        super().__init__()
        self.model, self.metrics = model, nn.ModuleDict()

    def forward(self, **batch):
        return self.model(**batch).logits


MULTI = {
    "text": lambda: (bert("multi_label_classification"), texts()),
    "wrapped": lambda: (Wrapping(bert("multi_label_classification")), texts()),
    "wrapped twice": lambda: (
        nn.DataParallel(Wrapping(bert("multi_label_classification"))), texts()
    ),
    "images": lambda: (
        image_model("multi_label_classification"), [{"pixel_values": torch.randn(4, 3, 32, 32)}]
    ),
    "two labels": lambda: (bert("multi_label_classification", 2), texts()),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MULTI)
def test_several_labels_are_scored_as_such(name):
    model, pool = MULTI[name]()
    found = findings(model, pool)
    assert found["declared"][0] == "note" and "problem_type" in found["declared"][1]
    with torch.no_grad():
        inner = model
        while not hasattr(inner, "config"):
            inner = inner.module if hasattr(inner, "module") else inner.model
    expected = score_pool(model, pool, progress=False, likelihood="bernoulli", scheme="entropy")
    inner.config.problem_type = None
    categorical = score_pool(model, pool, progress=False, scheme="entropy")
    said = score_pool(model, pool, progress=False, likelihood="bernoulli", scheme="entropy")
    inner.config.problem_type = "multi_label_classification"
    assert torch.equal(expected, said) and not torch.allclose(expected, categorical, rtol=0.05)
    for score in (score_pool, naive_score_pool):
        actual = score(model, pool, progress=False, scheme="entropy")
        assert_close_relative(actual, expected, 1e-4)
    batch = GradNormScorer(model, scheme="entropy", progress=False).score_batch(pool[0])
    assert_close_relative(batch, expected, 1e-5)
    result = GradNormScorer(model, scheme="entropy", progress=False).score(pool)
    assert result.provenance["options"]["likelihood"] == "bernoulli"
    sketches = gradient_sketch(model, pool, 4, progress=False)
    assert torch.equal(
        sketches, gradient_sketch(model, pool, 4, progress=False, likelihood="bernoulli")
    )


REGRESSION = {
    "one value": lambda: (bert("regression", 1), texts()),
    "several values": lambda: (bert("regression", 4), texts()),
    "wrapped": lambda: (Wrapping(bert("regression", 4)), texts()),
    "images": lambda: (image_model("regression", 1), [{"pixel_values": torch.randn(4, 3, 32, 32)}]),
    "distilled": lambda: (
        hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(
                vocab_size=20, dim=16, hidden_dim=24, n_layers=1, n_heads=2, num_labels=2,
                problem_type="regression",
            )
        ),
        texts(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("score", [score_pool, naive_score_pool])
def test_regressions_are_refused_by_name(name, score):
    model, pool = REGRESSION[name]()
    with pytest.raises(UnsupportedModelError, match=r"classifier.*problem_type='regression'.*like"):
        score(model, pool, progress=False)


@pytest.mark.slow
def test_the_callers_word_counts_and_a_contradiction_is_told():
    model, pool = bert("regression", 3), texts(20)
    assert warned(model, pool, likelihood="categorical") == {"declared"}
    model = bert("multi_label_classification", 3)
    level, message = findings(model, pool, likelihood="categorical")["declared"]
    assert level == "warn" and "bernoulli" in message
    model = bert("single_label_classification", 3)
    assert warned(model, pool, likelihood="bernoulli") == {"declared"}


@pytest.mark.slow
def test_one_label_of_transformers_is_a_regression_unless_said_otherwise():
    model, pool = bert(None, 1), texts(20)
    level, message = findings(model, pool)["declared"]
    assert level == "warn" and "num_labels=1" in message
    assert not warned(model, pool, likelihood="bernoulli")


@pytest.mark.slow
@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_ordinary_configurations_are_silent(problem):
    assert not warned(bert(problem), texts(20))
    assert not warned(Wrapping(bert(problem)), texts(20))


@pytest.mark.slow
def test_configurations_of_parts_and_of_other_models_say_nothing():
    """A part with a head of its own, a tagger, a configuration of the caller's."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = bert("regression", 6)
            self.head = nn.Linear(6, 3)

        def forward(self, **batch):
            return self.head(torch.tanh(self.part(**batch).logits))

    assert not warned(perturb(Own()), texts(20))
    tagger = hf.BertForTokenClassification(hf.BertConfig(**SMALL, num_labels=3))
    tagger.config.problem_type = "regression"
    assert not warned(perturb(tagger), texts(20), class_dim=-1)
    mine = MLP()
    mine.config = {"problem_type": "regression"}
    assert not warned(mine, [torch.randn(20, 10)])


def held(loss, classes=4, name="criterion"):
    parts = {"head": linear(6, classes), name: loss}
    return perturb(Custom(lambda m, x: m.head(x), **parts))


LABELS = [nn.BCEWithLogitsLoss(), nn.BCELoss(), nn.MultiLabelSoftMarginLoss()]
VALUES = [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.GaussianNLLLoss()]
CLASSES = [nn.CrossEntropyLoss(), nn.NLLLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)]
NAMES = ["criterion", "loss", "loss_fn", "loss_function", "objective"]


@pytest.mark.parametrize("loss", LABELS + VALUES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_the_model_holds_is_told(loss, name):
    found = findings(held(loss, name=name), [torch.randn(20, 6)])
    level, message = found["declared"]
    assert level == "warn" and type(loss).__name__ in message and f"`model.{name}`" in message
    assert not warned(held(loss, name=name), [torch.randn(20, 6)], likelihood="bernoulli")


@pytest.mark.parametrize("loss", VALUES, ids=lambda loss: type(loss).__name__)
def test_one_value_is_told_too(loss):
    assert warned(held(loss, 1), [torch.randn(20, 6)]) == {"declared"}


@pytest.mark.parametrize("loss", LABELS + CLASSES, ids=lambda loss: type(loss).__name__)
def test_losses_that_fit_are_silent(loss):
    classes = 1 if loss in LABELS else 4
    assert not warned(held(loss, classes), [torch.randn(20, 6)])


@pytest.mark.slow
def test_losses_for_something_else_are_silent():
    """By another name, beside one of classes, in a part, or of the caller's own."""
    pool = [torch.randn(20, 6)]
    assert not warned(held(nn.MSELoss(), name="consistency"), pool)
    both = held(nn.CrossEntropyLoss())
    both.loss = nn.MSELoss()
    assert not warned(both, pool)
    part = held(nn.CrossEntropyLoss())
    part.head.loss = nn.MSELoss()
    assert not warned(part, pool)

    class Own(nn.Module):
        def forward(self, z, y):
            return (z - y).square().mean()

    assert not warned(held(Own()), pool)


class TestMetrics:
    """Of torchmetrics, as LightningModules hold them."""

    @staticmethod
    def made(*names, **more):
        metrics = pytest.importorskip("torchmetrics")
        kinds = {
            "labels": lambda: metrics.Accuracy(task="multilabel", num_labels=4),
            "several": lambda: metrics.MetricCollection(
                [metrics.classification.MultilabelF1Score(4)]
            ),
            "classes": lambda: metrics.Accuracy(task="multiclass", num_classes=4),
            "error": lambda: metrics.MeanAbsoluteError(),
            "mean": lambda: metrics.MeanMetric(),
        }
        parts = {name: kinds[name]() for name in names}
        return perturb(Custom(lambda m, x: m.head(x), head=linear(6, 4), **parts, **more))

    @pytest.mark.parametrize("names", [["labels"], ["several"], ["labels", "mean"], ["error"]])
    def test_told(self, names):
        found = findings(self.made(*names), [torch.randn(20, 6)])
        assert found["declared"][0] == "warn" and f"`model.{names[0]}" in found["declared"][1]

    @pytest.mark.parametrize(
        "names", [["classes"], ["mean"], ["classes", "error"], ["labels", "classes"]]
    )
    def test_silent(self, names):
        assert not warned(self.made(*names), [torch.randn(20, 6)])

    def test_a_loss_of_classes_beside_them_is_silent(self):
        model = self.made("error", criterion=nn.CrossEntropyLoss())
        assert not warned(model, [torch.randn(20, 6)])


@pytest.mark.parametrize("loss, meaning", [
    *((loss, "labels") for loss in LABELS), *((loss, "values") for loss in VALUES),
    *((loss, "classes") for loss in CLASSES), (nn.KLDivLoss(), None), (nn.Linear(2, 2), None),
    (type("Own", (nn.BCEWithLogitsLoss,), {})(), "labels"), (nn.MSELoss, None), (None, None),
], ids=lambda given: given if isinstance(given, str) else type(given).__name__)  # fmt: skip
def test_what_a_loss_is_for_is_on_the_face(loss, meaning):
    assert meaning_of_loss(loss) == meaning
