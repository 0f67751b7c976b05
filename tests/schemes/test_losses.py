"""Scores of labelled samples: the norm of the gradient of a loss, against float64 autograd."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import GradNormScorer, SlowPathWarning, naive_score_pool, score_pool
from fastgradnorm._engine.engine import Engine
from tests.support import oracle
from tests.support.asserts import assert_close_relative
from tests.support.losses import RTOL, classifier, from_pair, images, score, truth


class Tied(nn.Module):
    """A recurrence over one table, which is embedding and head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)

    def forward(self, ids):
        return torch.tanh(self.mix(self.table(ids))).cumsum(1) @ self.table.weight.T


def token_labels(shape, classes):
    labels = torch.randint(0, classes, shape)
    labels[0, 1:] = -100
    return labels


def case(name):
    """Model, batches, options and the loss by hand."""
    if name == "classes":
        return classifier(), images(), {"loss": "cross_entropy"}, from_pair(F.cross_entropy)
    if name == "segmentation":
        model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 1))
        pair = torch.randn(4, 2, 5, 4), token_labels((4, 5, 4), 3)
        return model, [pair], {"loss": "cross_entropy"}, from_pair(F.cross_entropy)
    if name == "sequences, tied":
        ids = torch.randint(0, 11, (4, 6))
        options = {"loss": "cross_entropy", "class_dim": -1}
        batches = [[ids, token_labels((4, 6), 11)]]
        return Tied(), batches, options, lambda m, s: F.cross_entropy(m(s[0]).movedim(-1, 1), s[1])
    if name == "regression":
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        pair = torch.randn(5, 3), torch.randn(5)
        return model, [pair], {"loss": "mse"}, lambda m, s: F.mse_loss(m(s[0])[:, 0], s[1])
    if name == "values":
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
        pair = torch.randn(5, 3), torch.randn(5, 4)
        return model, [pair], {"loss": "mse"}, from_pair(F.mse_loss)
    if name == "soft labels":
        x = torch.randn(5, 1, 6, 6)
        batches = [(x, torch.randn(5, 5).softmax(1))]
        return classifier(), batches, {"loss": "cross_entropy"}, from_pair(F.cross_entropy)
    if name == "one logit":
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        pair = torch.randn(5, 3), torch.randint(0, 2, (5,))
        bce = F.binary_cross_entropy_with_logits
        return model, [pair], {"loss": "cross_entropy"}, lambda m, s: bce(m(s[0])[:, 0], s[1] * 1.0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
    pair = torch.randn(5, 3), torch.randint(0, 2, (5, 4)).float()
    options = {"loss": "cross_entropy", "likelihood": "bernoulli"}
    return model, [pair], options, from_pair(F.binary_cross_entropy_with_logits)


CASES = [
    "classes",
    "segmentation",
    "sequences, tied",
    "regression",
    "values",
    "soft labels",
    "one logit",
    "labels of their own",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_named_losses_are_those_of_plain_autograd(name):
    torch.manual_seed(1)
    model, batches, options, loss = case(name)
    for reduction in oracle.REDUCTIONS:
        expected = truth(model, batches, loss, reduction=reduction)
        assert_close_relative(score(model, batches, reduction=reduction, **options), expected, RTOL)
    naive = naive_score_pool(model, batches, **options).double()
    assert_close_relative(naive, truth(model, batches, loss), RTOL)


FORMS = {
    "a module": nn.CrossEntropyLoss(label_smoothing=0.1),
    "a function of torch": F.cross_entropy,
    "a partial one": functools.partial(F.cross_entropy, weight=torch.tensor([1.0, 2, 3, 4, 5])),
    "another loss": nn.NLLLoss(),
    "one's own": lambda output, batch: (
        output.logsumexp(1) - output.gather(1, batch[1][:, None])[:, 0]
    ).sum(),
}


@pytest.mark.parametrize("form", [*FORMS])
@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_losses_of_pytorch_and_ones_own(form, params):
    torch.manual_seed(2)
    model, batches, loss = classifier(), images(), FORMS[form]

    def by_hand(model, sample):
        output = model(sample[0])
        if form == "one's own":
            return F.cross_entropy(output, sample[1])
        if form == "a partial one":
            return F.cross_entropy(output, sample[1], loss.keywords["weight"].double())
        return loss(output, sample[1])

    expected = truth(model, batches, by_hand, lambda n: params == "all" or n.startswith("4."))
    assert_close_relative(score(model, batches, loss=loss, params=params), expected, RTOL)


class Heads(nn.Module):
    """Returns a dict of outputs, none of them named as logits are."""

    def __init__(self):
        super().__init__()
        self.body, self.box, self.kind = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        h = self.body(x).relu()
        return {"box": self.box(h), "kind": self.kind(h)}


def test_a_dict_of_outputs_and_of_losses():
    torch.manual_seed(3)
    batch = {"x": torch.randn(4, 4), "box": torch.randn(4, 2), "kind": torch.randint(0, 3, (4,))}

    def losses(output, item):
        return {
            "box": F.smooth_l1_loss(output["box"], item["box"]),
            "kind": F.cross_entropy(output["kind"], item["kind"]),
        }

    def total(output, item):
        return sum(losses(output, item).values())

    options = {"loss": total, "forward": lambda model, item: model(item["x"])}
    model = Heads()
    expected = truth(model, [batch], lambda m, s: total(m(s["x"]), s))
    assert_close_relative(score(model, [batch], **options), expected, RTOL)


def test_el2n_is_a_forward_pass(monkeypatch):
    torch.manual_seed(7)
    model, batches = classifier(), images()
    x, y = map(torch.cat, zip(*batches, strict=True))
    z = copy.deepcopy(model).double()(x.double()).detach()
    expected = (z.softmax(1) - F.one_hot(y, 5)).norm(dim=1)
    together = score_pool(model, batches, scheme=["entropy", "el2n"], progress=False)
    assert_close_relative(together["el2n"].double(), expected, RTOL)
    monkeypatch.setattr(torch.autograd, "grad", None)
    options = {"scheme": "el2n", "progress": False, "verify": False}
    assert_close_relative(score_pool(model, batches, **options).double(), expected, RTOL)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
def test_a_loss_beside_other_schemes(loss):
    torch.manual_seed(8)
    model, batches = classifier(), images()
    schemes = ["expected", "loss", "entropy", "el2n"]
    several = score_pool(model, batches, loss=loss, scheme=schemes, progress=False)
    assert list(several) == schemes
    for scheme in ("expected", "entropy", "el2n"):
        assert_close_relative(several[scheme].double(), score(model, batches, scheme=scheme), 1e-6)
    expected = truth(model, batches, from_pair(F.cross_entropy))
    assert_close_relative(several["loss"].double(), expected, RTOL)
    drawn = score_pool(model, batches, loss=loss, scheme=schemes, rtol=0.2, progress=False)
    assert_close_relative(drawn["loss"].double(), expected, RTOL)
    streamed = GradNormScorer(model, loss=loss, scheme=schemes, progress=False).stream(batches)
    assert torch.equal(torch.cat([part["loss"] for part in streamed]), several["loss"])


@pytest.mark.slow
def test_a_loss_that_vmap_cannot_run_is_named():
    torch.manual_seed(9)
    model, batches = classifier(), images()

    def loss(output, batch):
        return F.cross_entropy(output, torch.from_numpy(batch[1].numpy()))

    with pytest.warns(SlowPathWarning, match="one by one.*storage"):
        actual = score(model, batches, loss=loss)
    assert_close_relative(actual, truth(model, batches, from_pair(F.cross_entropy)), RTOL)


@pytest.mark.slow
def test_a_wrong_cotangent_is_noticed(monkeypatch):
    from fastgradnorm import VerificationError
    from fastgradnorm._schemes import labelled

    right = labelled.loss_cotangent
    monkeypatch.setattr(labelled, "loss_cotangent", lambda *given: 2 * right(*given))
    with pytest.raises(VerificationError, match="by `loss`"):
        score(classifier(), images(), loss="cross_entropy")


@pytest.mark.slow
def test_samples_alone_and_in_other_batches():
    torch.manual_seed(10)
    model = classifier()
    (x, y), _ = images(8, 8)
    for loss in ("cross_entropy", nn.CrossEntropyLoss()):
        whole = score(model, [(x, y)], loss=loss)
        for size in (1, 3):
            parts = list(zip(x.split(size), y.split(size), strict=True))
            assert_close_relative(score(model, parts, loss=loss), whole, 1e-6)


def test_it_is_one_pull_back(monkeypatch):
    counts = []
    made = Engine.score

    def noted(self, batch):
        counts.append(self.outcome.count(self.plan(batch)))
        return made(self, batch)

    monkeypatch.setattr(Engine, "score", noted)
    options = {"progress": False, "verify": False}
    score_pool(classifier(), images(), loss="cross_entropy", **options)
    score_pool(classifier(), images(), scheme="el2n", **options)
    assert counts == [1, 0]
