"""`gradient_dots` and `mean_gradient` against float64 gradients of each sample."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.footprint import peak_bytes
from fastgradnorm import SlowPathWarning, VerificationError, gradient_dots, mean_gradient
from fastgradnorm._engine import directed
from tests.support.directions import Foreign, case, dot, gradients, random_directions, size
from tests.support.unchanged import assert_unchanged, snapshot

CASES = ["perceptron", "convolutions", "text", "series", "tied"]
TOLERANCE = 1e-5


def dots(model, batches, directions, **options):
    options = {"loss": "cross_entropy", "progress": False, **options}
    return gradient_dots(model, batches, directions, **options).double()


def assert_close(actual, found, directions, scale=1.0):
    """Within the tolerance times both norms."""
    exact = torch.stack([torch.stack([dot(g, v) for v in directions]) for g in found])
    room = torch.stack([size(g) for g in found])[:, None] * torch.stack(
        [size(v) for v in directions]
    )
    assert actual.shape == exact.shape
    assert bool(((actual - scale * exact).abs() <= TOLERANCE * scale * room).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 3, 17])
def test_products(name, count):
    torch.manual_seed(1)
    model, batches, options, loss = case(name)
    directions = random_directions(model, count)
    found = gradients(model, batches, loss)
    assert_close(dots(model, batches, directions, **options), found, directions)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cosines_and_means(name):
    torch.manual_seed(2)
    model, batches, options, loss = case(name)
    found = gradients(model, batches, loss)
    mean = mean_gradient(model, batches, loss="cross_entropy", progress=False, **options)
    exact = {n: sum(g[n] for g in found) / len(found) for n in found[0]}
    assert mean.keys() == exact.keys()
    gap = {n: mean[n].double() - exact[n] for n in exact}
    assert float(size(gap)) <= TOLERANCE * float(size(exact))
    cosines = dots(model, batches, mean, cosine=True, **options)
    expected = torch.stack([dot(g, exact) / (size(g) * size(exact)) for g in found])
    assert float((cosines[:, 0] - expected).abs().max()) <= 2 * TOLERANCE


@pytest.mark.slow
def test_parts_of_the_parameters():
    torch.manual_seed(3)
    model, batches, _, loss = case("text")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm1" not in name)
    found = gradients(model, batches, loss)
    some = [{"places": torch.randn(1, 6, 8)}, {"words.weight": torch.randn(11, 8)}]
    full = [{n: v.get(n, torch.zeros_like(g)) for n, g in found[0].items()} for v in some]
    assert_close(dots(model, batches, some), found, full)
    with pytest.raises(ValueError, match=r"parameters that count.*'block\.norm1\.weight'"):
        dots(model, batches, {"block.norm1.weight": torch.ones(8)})
    head = dots(model, batches, some[1:], params=lambda n, p: n.startswith("words"))
    assert_close(head, found, full[1:])
    only = mean_gradient(
        model, batches, loss="cross_entropy", params=lambda n, p: "head" in n, progress=False
    )
    assert {*only} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("scheme", ["entropy", "predicted"])
@pytest.mark.parametrize("classes", [2, 4])
def test_gradients_without_labels(scheme, classes):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, classes)).eval()
    x = torch.randn(5, 6)

    def loss(model, sample):
        z = model(sample[0])
        if scheme == "predicted":
            return F.cross_entropy(z, z.argmax(1))
        return torch.distributions.Categorical(logits=z).entropy().sum()

    directions = random_directions(model, 3)
    actual = dots(model, [x], directions, loss=None, scheme=scheme)
    assert_close(actual, gradients(model, [(x,)], loss), directions)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", nn.SmoothL1Loss(), lambda o, b: (o - b[1]).abs().sum()])
def test_any_loss_in_any_batches(loss):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)).eval()
    x, y = torch.randn(6, 6), torch.randn(6, 2)

    def by_hand(model, sample):
        if loss == "mse":
            return F.mse_loss(model(sample[0]), sample[1])
        if isinstance(loss, nn.Module):
            return loss(model(sample[0]), sample[1])
        return loss(model(sample[0]), sample)

    directions, found = random_directions(model, 2), gradients(model, [(x, y)], by_hand)
    for rows in (1, 4, 6):
        batches = list(zip(x.split(rows), y.split(rows), strict=True))
        assert_close(dots(model, batches, directions, loss=loss), found, directions)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, "amsgrad"])
def test_adams_metric(kind):
    torch.manual_seed(6)
    model, batches, _, loss = case("text")
    made = torch.optim.Adam if kind == "amsgrad" else kind
    optimizer = made(model.parameters(), lr=1e-2, eps=1e-4, amsgrad=kind == "amsgrad")
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    optimizer.zero_grad()
    names = {p: n for n, p in model.named_parameters()}
    scales = {}
    for parameter, state in optimizer.state.items():
        moment = state["max_exp_avg_sq" if kind == "amsgrad" else "exp_avg_sq"].double()
        corrected = moment / (1 - 0.999 ** float(state["step"]))
        scales[names[parameter]] = 1 / (corrected.sqrt() + 1e-4)
    directions = random_directions(model, 2)
    found = gradients(model, batches, loss)
    scaled = [{n: scales[n] * g for n, g in gradient.items()} for gradient in found]
    for cosine in (False, True):
        actual = dots(model, batches, directions, metric=optimizer, cosine=cosine)
        exact = torch.stack([torch.stack([dot(g, v) for v in directions]) for g in scaled])
        room = torch.stack([size(g) for g in scaled])[:, None] * torch.stack(
            [size(v) for v in directions]
        )
        exact, room = (exact / room, 1) if cosine else (exact, room)
        assert bool(((actual - exact).abs() <= TOLERANCE * room).all())


@pytest.mark.slow
def test_sums_over_checkpoints(tmp_path):
    torch.manual_seed(7)
    model, batches, _, loss = case("perceptron")
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn_like(parameter))
    torch.save(second.state_dict(), tmp_path / "second.pt")
    checkpoints = [(first.state_dict(), 0.1), (tmp_path / "second.pt", 0.01)]

    def held_out(model):
        return mean_gradient(model, batches[:1], loss="cross_entropy", progress=False)

    before = copy.deepcopy(model.state_dict())
    actual = dots(model, batches, held_out, checkpoints=checkpoints)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    parts = [
        weight * dots(each, batches, held_out(each))
        for each, weight in ((first, 0.1), (second, 0.01))
    ]
    assert torch.allclose(actual, sum(parts), rtol=1e-6)
    found = gradients(second, batches, loss)
    exact = {n: sum(g[n] for g in found[:3]) / 3 for n in found[0]}
    assert_close(parts[1] / 0.01, found, [exact])
    samples = torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches, strict=True)))
    order = torch.Generator().manual_seed(0)
    shuffled = torch.utils.data.DataLoader(samples, 2, shuffle=True, generator=order)
    with (
        pytest.warns(UserWarning, match="order"),
        pytest.raises(ValueError, match="in one order for all `checkpoints`"),
    ):
        dots(model, shuffled, random_directions(model, 1), checkpoints=checkpoints)


def test_models_that_vmap_cannot_run():
    torch.manual_seed(8)
    model, x, y = Foreign(), torch.randn(5, 6), torch.randint(0, 4, (5,))
    directions = random_directions(model, 2)
    found = gradients(model, [(x, y)], lambda m, s: F.cross_entropy(m(s[0]), s[1]))
    with pytest.warns(SlowPathWarning, match="one by one"):
        assert_close(dots(model, [(x, y)], directions), found, directions)
    with pytest.warns(SlowPathWarning, match="one by one"):
        mean = mean_gradient(model, [(x, y)], loss="cross_entropy", progress=False)
    exact = sum(g["layer.weight"] for g in found) / 5
    assert float((mean["layer.weight"] - exact).norm()) <= TOLERANCE * float(exact.norm())


@pytest.mark.slow
def test_wrong_products_are_noticed(monkeypatch):
    torch.manual_seed(9)
    model, batches, _, _ = case("convolutions")
    right = directed._of_outer
    monkeypatch.setattr(directed, "_of_outer", lambda *given: 1.1 * right(*given))
    with pytest.raises(VerificationError, match="its product with direction"):
        dots(model, batches, random_directions(model, 3))
    assert dots(model, batches, random_directions(model, 3), verify=False).shape == (5, 3)


@pytest.mark.slow
def test_nothing_of_the_callers_changes():
    torch.manual_seed(10)
    model, batches, _, _ = case("text")
    model.train()
    directions, before = random_directions(model, 2), snapshot(model)
    dots(model, batches, directions, cosine=True)
    mean_gradient(model, batches, loss="cross_entropy", progress=False)
    assert_unchanged(before, model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["apart", "of any kind", "views"])
@pytest.mark.parametrize("name", ["perceptron", "convolutions", "text"])
def test_directions_as_they_lie_in_memory(name, kind):
    torch.manual_seed(11)
    model, batches, options, loss = case(name)
    directions = random_directions(model, 17)
    if kind == "apart":  # each names some parameters, and no two the same ones
        names = list(directions[0])
        directions = [
            {n: v[n] for n in names[q::17] or names[:1]} for q, v in enumerate(directions)
        ]
    if kind == "of any kind":
        for q, v in enumerate(directions):
            dtype = (torch.float32, torch.float64, torch.bfloat16)[q % 3]
            directions[q] = {n: each.to(dtype) for n, each in v.items()}
    if kind == "views":
        directions = [
            {n: each.transpose(0, -1).contiguous().transpose(0, -1) for n, each in v.items()}
            for v in directions
        ]
    found = gradients(model, batches, loss)
    full = [{n: v.get(n, torch.zeros_like(g)) for n, g in found[0].items()} for v in directions]
    for chosen, known in ((directions, full), (directions[:1], full[:1])):
        assert_close(dots(model, batches, chosen, **options), found, known)


@pytest.mark.slow
@pytest.mark.parametrize("cosine", [False, True])
def test_directions_are_not_copied(cosine):
    torch.manual_seed(12)
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(96, 96), nn.Tanh())))
    x, y = torch.randn(2, 96), torch.randint(0, 96, (2,))
    directions = random_directions(model, 64)
    held = sum(each.numel() * each.element_size() for v in directions for each in v.values())
    options = {"cosine": cosine, "verify": False}
    dots(model, [(x, y)], directions[:2], **options)
    peak = peak_bytes(lambda: dots(model, [(x, y)], directions, **options))
    # One layer's at a time, in blocks, and the gradients of two samples.
    assert peak < held / 3
