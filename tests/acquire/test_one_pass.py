"""What the one pass gives, against plain computations with the model called as its owner does."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import acquire, score_pool
from fastgradnorm._gather import Wants, gather
from fastgradnorm._options import Options
from fastgradnorm.active import Context, strategies, strategy
from fastgradnorm.active._outputs import outputs
from tests.support.small_task import Blobs, SmallTask

X = Blobs(40).x


class Attending(nn.Module):
    """Its head reads the first token."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.layer(self.embed(x[:, 0]).transpose(0, 1))[0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x[:, 0])[0][:, -1])


class Tokens(nn.Module):
    """Logits `[N, T, C]`."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.body(x[:, 0]).tanh())


class Stubborn(nn.Module):
    """Cannot run under vmap."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, x):
        kept = torch.tensor(x.detach().numpy()) if not x.requires_grad else x
        return self.head(kept.flatten(1))


class Adding(nn.Module):
    """Two layers make its logits."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(36, 3), nn.Linear(36, 3)

    def forward(self, x):
        return self.one(x.flatten(1)) + self.two(x.flatten(1).tanh())


def made(kind):
    torch.manual_seed(4)
    flat = nn.Flatten()
    body = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
    return {
        "cnn": lambda: nn.Sequential(body, flat, nn.Linear(180, 4)),
        "no bias": lambda: nn.Sequential(body, flat, nn.Linear(180, 4, bias=False)),
        "reshaped": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(36, 6), nn.Linear(6, 4), nn.Unflatten(1, (4, 1)), nn.Flatten()
        ),
        "convolution as head": lambda: nn.Sequential(body, nn.Conv2d(5, 3, 6), flat),
        "one logit": lambda: nn.Sequential(body, flat, nn.Linear(180, 1)),
        "attention": Attending,
        "recurrent": Recurrent,
        "segmentation": lambda: nn.Sequential(body, nn.Conv2d(5, 3, 1)),
        "transposed": lambda: nn.Sequential(body, nn.ConvTranspose2d(5, 2, 2, stride=2)),
        "tokens": Tokens,
    }[kind]().eval()


KINDS = ["cnn", "no bias", "reshaped", "convolution as head", "one logit", "attention",
         "recurrent", "segmentation", "transposed", "tokens"]  # fmt: skip


def options_of(kind):
    return {"class_dim": -1} if kind == "tokens" else {}


@pytest.mark.slow
@pytest.mark.parametrize("params", ["last_layer", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_and_predictions(kind, params):
    """Beside a forward hook on the caller's own model, in float64 arithmetic where it counts."""
    model, seen = made(kind), []
    head = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))][-1]
    with torch.no_grad():
        hook = head.register_forward_hook(lambda module, given, out: seen.append(given[0]))
        logits = model(X)
        hook.remove()
    rows = seen[0] if isinstance(head, nn.Linear) else seen[0].movedim(1, -1)
    rows = rows.reshape(len(X), -1, rows.shape[-1]).mean(1)
    options = Options(params=params, scheme="entropy", progress=False, **options_of(kind))
    found = gather(model, X.split(7), options, Wants("test", features=True, classes=True))
    assert torch.allclose(found.columns["features"], rows, rtol=1e-4, atol=1e-6)
    z = logits.double()
    z = z.movedim(options.class_dim, -1).reshape(len(X), -1, z.shape[options.class_dim])
    if kind == "one logit":
        z = torch.cat([torch.zeros_like(z), z], -1)
    p = z.softmax(-1)
    mean, two = p.mean(1), p.topk(2, -1).values
    columns = {name: values.double() for name, values in found.columns.items()}
    assert torch.equal(columns["predicted"].long(), mean.argmax(1))
    assert torch.equal(columns["runner_up"].long(), mean.topk(2).indices[:, 1])
    close = {"rtol": 1e-4, "atol": 1e-6}
    assert torch.allclose(columns["confidence"], mean.amax(1), **close)
    assert torch.allclose(columns["probabilities"], mean, **close)
    assert torch.allclose(columns["predictive_entropy"], -(p * p.log()).sum(-1).mean(1), **close)
    assert torch.allclose(columns["margin"], (1 - two[..., 0] + two[..., 1]).mean(1), **close)
    assert torch.allclose(columns["doubt"], (1 - two[..., 0]).mean(1), **close)
    if p.shape[1] == 1:
        residual = p[:, 0] - F.one_hot(p[:, 0].argmax(1), p.shape[-1])
        assert torch.allclose(columns["residuals"], residual, **close)
    plain = score_pool(model, X.split(7), params=params, scheme="entropy", **options_of(kind))
    assert torch.allclose(found.scores.values, plain, rtol=1e-5)


def test_independent_labels():
    model = made("cnn")
    p = model(X).detach().double().sigmoid()
    options = Options(likelihood="bernoulli", scheme="entropy", progress=False)
    columns = gather(model, [X], options, Wants("test", classes=True)).columns
    assert torch.equal(columns["predicted"].long(), p.argmax(1))
    assert torch.allclose(columns["confidence"].double(), p.amax(1), rtol=1e-4)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean(1)
    assert torch.allclose(columns["predictive_entropy"].double(), entropy, rtol=1e-4)
    assert "residuals" not in columns


@pytest.mark.slow
def test_a_mask_and_a_temperature():
    model, valid = made("segmentation"), torch.rand(6, 6) < 0.4
    options = Options(
        scheme="entropy", temperature=2.0, mask=lambda x: valid.expand(len(x), 6, 6), progress=False
    )
    columns = gather(model, [X], options, Wants("test", features=True, classes=True)).columns
    p = (model(X).detach().double() / 2).softmax(1)[:, :, valid]
    assert torch.allclose(columns["probabilities"].double(), p.mean(-1), rtol=1e-4)
    doubt = (1 - p.amax(1)).mean(-1)
    assert torch.allclose(columns["doubt"].double(), doubt, rtol=1e-4)
    rows = model[0](X).detach()[:, :, valid].mean(-1)
    assert torch.allclose(columns["features"], rows, rtol=1e-4)


def test_confident_samples_keep_their_digits():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([60.0, 0, -10]))
    columns = gather(model, [X], Options(progress=False), Wants("test", classes=True)).columns
    p = model.double()(X.double()).softmax(1)
    others = 1 - torch.finfo(torch.float64).eps - p[:, 0]
    assert bool((columns["doubt"] > 0).all())
    exact = (p[:, 1] + p[:, 2]).detach()
    assert torch.allclose(columns["doubt"].double(), exact, rtol=1e-3)
    assert others.max() < 1e-10


@pytest.mark.slow
def test_models_that_run_one_by_one():
    model = Stubborn().eval()
    with pytest.warns(UserWarning):
        found = gather(model, [X], Options(progress=False), Wants("test", features=True))
    assert torch.allclose(found.columns["features"], X.flatten(1))
    doubt = 1 - model(X).softmax(1).amax(1)
    assert torch.allclose(found.columns["doubt"], doubt, rtol=1e-4)


@pytest.mark.slow
def test_a_model_without_a_last_layer_is_told_what_to_do():
    model = Adding().eval()
    with pytest.raises(
        ValueError, match=r"'herding' looks at what the last layer is given.*sketch"
    ):
        acquire(model, [X], 3, strategy="herding", params="all", progress=False)
    for given in ({}, {"strategy": "margin"}, {"strategy": "top"}, {"space": "sketch"}):
        with pytest.raises(ValueError, match="`params` must be given for a model"):
            acquire(model, [X], 3, progress=False, **given)
    made = acquire(model, [X], 3, space="sketch", params="all", progress=False)
    assert len({*made}) == 3
    assert len(acquire(model, [X], 3, strategy="top", params="all", progress=False)) == 3


@pytest.fixture(scope="module")
def trained():
    task = SmallTask(guarded=False)
    model = task.make_model(0)
    task.train(model, torch.utils.data.Subset(task.pool(), range(0, 60, 6)), 0)
    return task, model.eval()


def plain(name):
    """Whether the loop has a strategy of its own of that name."""
    return type(strategy(name)).__name__ != "Acquired"


SHARED = [
    name
    for name in strategies()
    if name in ("random", "entropy", "margin", "least_confidence", "coreset", "badge", "published")
    or (plain(name) and name.startswith(("expected/", "sketch/predicted")))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_the_loop_chooses_the_same(trained, name):
    task, model = trained
    labelled = list(range(0, 60, 6))
    indices = torch.tensor([i for i in range(60) if i % 6])
    context = Context(model, task.pool(), indices, torch.tensor(labelled), 7, 5, 16)
    assert plain(name)
    chosen = strategy(name).select(context)
    made = acquire(model, task.pool(), 7, labelled=labelled, strategy=name, seed=5, progress=False)
    assert made.indices.tolist() == chosen.tolist()
    assert made.provenance["strategy"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "uherding", "sketch/predicted/all/lcmd", "typiclust"])
def test_the_loop_asks_acquire(trained, name):
    task, model = trained
    indices = torch.tensor([i for i in range(60) if i % 6])
    context = Context(model, task.pool(), indices, torch.arange(0, 60, 6), 7, 5, 16)
    made = acquire(
        model, task.pool(), 7, labelled=range(0, 60, 6), strategy=name, seed=5, progress=False
    )
    assert strategy(name).select(context).tolist() == made.indices.tolist()
    assert list(outputs(context, indices))  # what the loop runs has left no hooks
    assert context.seconds["score"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "bait", "badge", "typiclust", "lcmd", "probcover"])
def test_models_in_float64_and_bfloat16(name):
    model = made("cnn")
    single = acquire(model, [X], 5, labelled=[1, 2], strategy=name, progress=False)
    double = acquire(
        model.double(), [X.double()], 5, labelled=[1, 2], strategy=name, progress=False
    )
    assert torch.equal(single.indices, double.indices)
    narrow = acquire(
        model.bfloat16(), [X.bfloat16()], 5, labelled=[1, 2], strategy=name, progress=False
    )
    assert len({*narrow}) == 5


@pytest.mark.parametrize(
    "name", ["auto", "bait", "badge", "typiclust", "coreset", "margin", "random", "top", "lcmd"]
)
def test_samples_without_a_number_are_not_chosen(name):
    x = X.clone()
    x[[1, 3, 5]] = torch.nan
    with pytest.warns(UserWarning, match="NaN"):
        chosen = acquire(
            made("cnn"),
            [x],
            35,
            labelled=[1, 2],
            strategy=name,
            on_nonfinite="warn",
            progress=False,
        )
    assert not {*chosen} & {1, 2, 3, 5}
