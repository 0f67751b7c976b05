"""Where labels are, what is wrong with them, and losses that cannot be meant."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import (
    BatchDependenceWarning,
    GradNormScorer,
    Options,
    PoolScores,
    UnsupportedModelError,
    score_pool,
)
from tests.support import oracle
from tests.support.asserts import assert_close_relative

X = torch.linspace(-1, 1, 24).view(6, 4).sin()
Y = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


def score(model, batches, **options):
    return score_pool(model, batches, progress=False, **options)


PLACES = {
    "the second of two": ((X, Y), None),
    "of a list": ([X, Y], None),
    "by a key": ({"input": X, "labels": Y}, None),
    "by the other key": ({"input": X, "label": Y}, None),
    "a key of one's own": (({"input": X, "weights": X}, Y), lambda batch: batch[1]),
    "a position": ((X, X, Y), 2),
    "from the end": ((X, X, Y), -1),
    "a function": ((X, {"y": Y}), lambda batch: batch[1]["y"]),
    "a column": ((X, Y[:, None]), None),
}


@pytest.mark.parametrize("place", [*PLACES])
@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
def test_places(model, place, loss):
    batch, target = PLACES[place]
    options = {"target": target, "loss": loss}
    if place == "a key of one's own":
        options["forward"] = lambda model, batch: model(batch[0]["input"])
    if place == "a column" and loss != "cross_entropy":
        pytest.skip("torch's own loss takes no column")
    assert torch.equal(score(model, [batch], **options), score(model, [(X, Y)], loss=loss))


WRONG = [
    (X, {}, "`target` must say where the labels are.*a Tensor alone"),
    ({"input": X}, {}, "`target` must say where.*mapping of 'input'"),
    ({"input": X, "label": Y, "labels": Y}, {}, "both 'labels' and 'label'"),
    ((X, Y, Y), {}, "`target` must say where.*a tuple of 3"),
    ((X, Y), {"target": 5}, "`target` must be a key or position of the batch. Got 5"),
    ({"input": X, "y": Y}, {"target": "z"}, "Got 'z'; the batch is a mapping of 'input', 'y'"),
    ((X, Y[:3]), {}, r"one entry for each of 6 samples. Got Tensor int64 \[3\]"),
    ((X, Y.float()), {}, r"class indices \(integers\).*Got Tensor float32 \[6\].*\.long\(\)"),
    ((X, Y + 1), {}, "from 0 to 2, or -100.*Got 3 for sample 2 of a batch"),
    ((X, Y - 1), {}, "Got -1 for sample 0 of a batch"),
    ((X, torch.zeros(6, 2)), {"loss": "mse"}, r"labels of the logits' shape \[N, 3\]"),
    ((X, Y + 1), {"loss": nn.CrossEntropyLoss()}, "labels within the model's classes"),
    ((X, [{"b": X}] * 6), {"loss": lambda o, b: o.sum()}, "Got a list of dict for 6 samples"),
    ((X, [X[:1]] * 6), {"loss": lambda o, b: o.sum()}, "Got a list of Tensor for 6 samples"),
    ((X, Y), {"loss": lambda o, b: o[0]}, r"one number.*Got Tensor float32 \[3\]"),
    ((X, Y), {"loss": lambda o, b: 1.0}, "one number.*Got float"),
    ((X, Y), {"loss": lambda o: o.sum()}, "`loss` must run on what the model returns.*TypeError"),
    ((X, Y), {"loss": lambda o, b: o @ o}, "`loss` must run on what the model returns.*Runtime"),
    ((X, Y), {"loss": "model"}, "unexpected keyword argument 'labels'"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_is_wrong_is_told(model, case):
    batch, options, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        score(model, [batch], **{"loss": "cross_entropy", **options})


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 6])
def test_several_labels_a_sample(model, size):
    """As many lists as there are samples in a batch are not those of the samples."""

    def loss(output, batch):
        first, second = batch[1]
        return F.cross_entropy(output, first) + 2 * F.cross_entropy(output, second)

    parts = zip(X.split(size), Y.split(size), Y.flip(0).split(size), strict=True)
    found = score(model, [(x, [first, second]) for x, first, second in parts], loss=loss)
    whole = score(model, [(X, [Y, Y.flip(0)])], loss=loss)
    assert_close_relative(found.double(), whole.double(), 1e-6)


def test_a_label_out_of_range_further_on_is_told(model):
    labels = Y.clone()
    labels[4] = 7
    with pytest.raises(ValueError, match="Got 7 for sample 1 of a batch"):
        score(model, [(X[:3], Y[:3]), (X[3:], labels[3:])], loss="cross_entropy")
    with pytest.raises(ValueError, match="Got 7, which is out of range for 3"):
        score(model, [(X[:3], Y[:3]), (X[3:], labels[3:])], loss=nn.CrossEntropyLoss())


BEYOND = {
    "cross entropy": lambda o, b: F.cross_entropy(o, b[1]),
    "nll": lambda o, b: F.nll_loss(o.log_softmax(1), b[1]),
    "gather": lambda o, b: -o.log_softmax(1).gather(1, b[1][:, None]).mean(),
    "an index": lambda o, b: -o.log_softmax(1)[torch.arange(len(o)), b[1]].mean(),
    "a number": lambda o, b: -o.log_softmax(1)[0, int(b[1][0])],
    "one hot": lambda o, b: -(F.one_hot(b[1], 3) * o.log_softmax(1)).sum(),
    "a table": lambda o, b: -(F.embedding(b[1], torch.eye(3)) * o.log_softmax(1)).sum(),
    "a column": lambda o, b: -o.log_softmax(1).index_select(1, b[1]).mean(),
}


@pytest.mark.filterwarnings("ignore:`loss` gives a sample another gradient")
@pytest.mark.parametrize("label", [7, -9])
@pytest.mark.parametrize("loss", BEYOND)
def test_a_label_out_of_range_for_a_loss_of_ones_own_is_told(model, loss, label):
    labels = Y.clone()
    labels[4] = label
    told = "Got -9, which|Class values" if label < 0 else "Got 7, which is out of range for 3"
    for verify in (True, False):
        with pytest.raises(ValueError, match=told):
            batches = [(X[:3], Y[:3]), (X[3:], labels[3:])]
            score(model, batches, loss=BEYOND[loss], verify=verify)


def test_other_errors_of_a_loss_further_on_are_told_as_such(model):
    def loss(output, batch):
        return (output @ torch.ones(3 if int(batch[1][0]) < 2 else 4, 1)).sum()

    with pytest.raises(ValueError, match=r"`loss` must run on what .*RuntimeError"):
        score(model, [(X[:2], Y[:2]), (X[2:], Y[2:])], loss=loss)


@pytest.mark.parametrize("forward", [None, lambda model, batch: model(batch["input"])])
def test_a_loss_reads_nothing_without_samples(model, forward):
    batch = {"input": X, "labels": Y}
    weights = torch.tensor([1.0, 2.0, 3.0])

    def weighted(output, batch, weight=None):
        weight = batch["weights"] if weight is None else weight
        return F.cross_entropy(output, batch["labels"], weight)

    class Open(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input, weights=None):
            return self.model(input)

    with pytest.raises(ValueError, match=r"It read `batch\['weights'\]`, Tensor float32 \[3\]"):
        score(Open(), [{**batch, "weights": weights}], loss=weighted, forward=forward)
    score(Open(), [batch], loss=lambda o, b: weighted(o, b, weights), forward=forward)


def test_losses_that_mix_samples(model):
    with pytest.raises(UnsupportedModelError, match="`loss` must not mix samples"):
        score(model, [(X, Y)], loss=lambda o, b: (o - o.mean(0)).square().sum())
    with pytest.warns(BatchDependenceWarning, match="only a smaller one"):
        unlike = torch.cat([3 * X[:1], -3 * X[:1]]), Y[:2]
        score(model, [unlike], loss=lambda o, b: o[:, 0].exp().sum() / o[:, 1].exp().sum())


def test_a_model_that_mixes_samples_is_noticed(model):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x - x.mean(0))

    with pytest.raises(UnsupportedModelError, match="gives a sample other values in a batch"):
        score(Mixing(), [(X, Y)], loss=lambda o, b: F.cross_entropy(o, b[1]) + o.sum())


REFUSED = [
    ({"loss": "entropy"}, "`loss` must be one of"),
    ({"loss": "mse", "scheme": "expected"}, "`scheme` must be 'loss', or several with it"),
    ({"loss": "mse", "scheme": ["entropy", "el2n"]}, "`scheme` must be 'loss'"),
    ({"scheme": "loss"}, "`loss` must be given for scheme='loss'"),
    ({"target": "y"}, "`target` must be None where no scheme asks for labels"),
    ({"loss": nn.CrossEntropyLoss(), "temperature": 2.0}, "`temperature` must be 1"),
    ({"scheme": "el2n", "likelihood": "gaussian"}, "`likelihood` must be 'auto'"),
    ({"group_by": "layer"}, "`group_by` must be one of 'parameter', 'module'"),
    ({"group_by": "module", "rtol": 0.1}, "`rtol` must be 0 with `group_by`"),
    ({"group_by": "module", "reduction": "per_tensor"}, "`reduction` must be 'global'"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_options_that_cannot_be_meant(case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_types():
    assert Options(loss="mse").scheme == "loss"
    assert Options(loss="mse", scheme="loss").schemes == ("loss",)
    assert Options().scheme == "expected"
    with pytest.raises(TypeError, match="`loss` must be a name"):
        Options(loss=3)
    with pytest.raises(TypeError, match="`target` must be a key"):
        Options(loss="mse", target=0.5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_gaussian_outputs(outputs):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).eval()
    wide = nn.Sequential(*model).double()
    parameters = list(wide.parameters())
    trace = []
    for x in oracle.ones(X):
        rows = [torch.autograd.grad(z, parameters, retain_graph=True) for z in wide(x.double())[0]]
        trace.append(sum(g.square().sum() for row in rows for g in row))
    wide.float()
    schemes = ["expected", "expected_squared"]
    found = score(model, [X], likelihood="gaussian", scheme=schemes)
    assert_close_relative(found["expected_squared"].double(), torch.stack(trace), 1e-5)
    assert_close_relative(found["expected"].double(), torch.stack(trace).sqrt(), 1e-5)
    last = score(model, [X], likelihood="gaussian", params="last_layer")
    size = (model[:2](X).square().sum(1) + 1).mul(outputs).sqrt().detach()
    assert_close_relative(last.double(), size.double(), 1e-5)
    with pytest.raises(ValueError, match="entropy of a Gaussian"):
        score(model, [X], likelihood="gaussian", scheme="entropy")


GROUPS = {
    "parameter": ["0.weight", "0.bias", "2.weight", "2.bias"],
    "module": ["0", "2"],
    "kind": ["weight", "bias"],
}


@pytest.mark.slow
@pytest.mark.parametrize("group_by", [*GROUPS])
@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
def test_squares_by_group_sum_to_the_total(model, group_by, loss, tmp_path):
    by = (lambda name: name.rpartition(".")[2]) if group_by == "kind" else group_by
    schemes = ["loss", "entropy", "expected", "expected_squared"]
    options = {"loss": loss, "scheme": schemes, "group_by": by, "progress": False}
    found = GradNormScorer(model, **options).score([(X[:4], Y[:4]), (X[4:], Y[4:])])
    squared = {scheme: found[scheme].values.square() for scheme in ("loss", "entropy")}
    squared |= dict.fromkeys(["expected", "expected_squared"], found["expected_squared"].values)
    for scheme, scores in found.items():
        assert list(scores.by_group) == GROUPS[group_by]
        total = torch.stack([*scores.by_group.values()]).sum(0)
        assert_close_relative(total.double(), squared[scheme].double(), 1e-5)
    only = GradNormScorer(model, **{**options, "scheme": "loss"}, params=lambda n, p: "2." in n)
    part = only.score([(X, Y)])
    whole = found["loss"].by_group
    for name, values in part.by_group.items():
        if group_by != "kind":
            assert_close_relative(values.double(), whole[name].double(), 1e-5)
    found["loss"].save(tmp_path / "scores.npz")
    loaded = PoolScores.load(tmp_path / "scores.npz")
    assert {k: v.tolist() for k, v in loaded.by_group.items()} == {
        k: v.tolist() for k, v in whole.items()
    }


def test_groups_of_the_last_layer_and_of_two_classes():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    schemes = ["expected", "entropy", "expected_squared"]
    options = {"scheme": schemes, "group_by": "parameter", "progress": False}
    for params, names in [("all", GROUPS["parameter"]), ("last_layer", ["2.weight", "2.bias"])]:
        found = GradNormScorer(model, params=params, **options).score([X])
        for scheme, scores in found.items():
            assert list(scores.by_group) == names
            total = torch.stack([*scores.by_group.values()]).sum(0).double()
            power = 2 if scheme == "entropy" else 1
            of = "expected_squared" if scheme == "expected" else scheme
            assert_close_relative(total, found[of].values.double() ** power, 1e-5)
