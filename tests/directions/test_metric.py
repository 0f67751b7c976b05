"""Adam's metric: whose moments, kept how, and of which parameters, in products and in sketches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, gradient_sketch
from tests.support.directions import dot, gradients, random_directions, size

LOSS = {"loss": "cross_entropy", "progress": False}
BETA, EPS = 0.99, 1e-4


def by_hand(model, sample):
    return F.cross_entropy(model(sample[0]), sample[1])


def trained(kind=torch.optim.Adam, names="", **options):
    """A model, batches, and an optimizer that has stepped on parameters of these names."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    batches = [(torch.randn(3, 5), torch.randint(0, 3, (3,))) for _ in range(2)]
    known = [p for n, p in model.named_parameters() if n.startswith(names)]
    optimizer = kind(known, 1e-2, **{"betas": (0.9, BETA), "eps": EPS, **options})
    for batch in batches:
        optimizer.zero_grad()
        by_hand(model, batch).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval(), batches, optimizer


def scaled(model, batches, optimizer, names="", moment="exp_avg_sq"):
    """Each sample's gradient, in float64, divided as the definition has it."""
    found = []
    for gradient in gradients(model, batches, by_hand):
        made = {}
        for name, parameter in model.named_parameters():
            if name.startswith(names):
                state = optimizer.state[parameter]
                corrected = state[moment].double() / (1 - BETA ** len(batches))
                made[name] = gradient[name] / (corrected.sqrt() + EPS)
        found.append(made)
    return found


def check(model, batches, optimizer, exact, **options):
    """Products, cosines and norms beside sketches."""
    named = [{n: v for n, v in d.items() if n in exact[0]} for d in random_directions(model, 2)]
    given = {"metric": optimizer, **options, **LOSS}
    products = torch.stack([torch.stack([dot(g, v) for v in named]) for g in exact])
    sizes = torch.stack([size(g) for g in exact])
    lengths = torch.stack([size(v) for v in named])
    room = sizes[:, None] * lengths
    found = gradient_dots(model, batches, named, **given)
    assert bool(((found - products).abs() <= 1e-5 * room).all())
    found = gradient_dots(model, batches, named, cosine=True, **given)
    assert torch.allclose(found.double(), products / room, atol=1e-5)
    _, norms = gradient_sketch(model, batches, 8, norms=True, **given)
    assert torch.allclose(norms.double(), sizes, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_moments_of_another_dtype(dtype):
    model, batches, optimizer = trained()
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].to(dtype)
    check(model, batches, optimizer, scaled(model, batches, optimizer))


@pytest.mark.slow
def test_steps_counted_once_a_group():
    model, batches, optimizer = trained()
    for state in optimizer.state.values():
        del state["step"]
    optimizer.param_groups[0]["step"] = len(batches)
    check(model, batches, optimizer, scaled(model, batches, optimizer))


@pytest.mark.slow
@pytest.mark.parametrize("on", [True, False])
def test_the_largest_moments_count_where_steps_take_them(on):
    model, batches, optimizer = trained(amsgrad=True)
    for state in optimizer.state.values():
        state["max_exp_avg_sq"] *= 4
    optimizer.param_groups[0]["amsgrad"] = on
    moment = "max_exp_avg_sq" if on else "exp_avg_sq"
    check(model, batches, optimizer, scaled(model, batches, optimizer, moment=moment))


@pytest.mark.slow
def test_an_optimizer_of_the_parameters_that_count():
    model, batches, optimizer = trained(names="4")
    exact = scaled(model, batches, optimizer, names="4")
    check(model, batches, optimizer, exact, params=lambda name, _: name.startswith("4"))
    _, norms = gradient_sketch(
        model, batches, 8, norms=True, params="last_layer", metric=optimizer, **LOSS
    )
    assert torch.allclose(norms.double(), torch.stack([size(g) for g in exact]), rtol=1e-5)


@pytest.mark.parametrize("params", ["all", "last_layer"])
def test_an_optimizer_of_others(params):
    model, batches, optimizer = trained(names="0")
    with pytest.raises(ValueError, match=r"no second moments of `[24].weight`.*`params`"):
        gradient_sketch(model, batches, 8, params=params, metric=optimizer, **LOSS)


@pytest.mark.parametrize("cosine", [False, True])
def test_products_need_the_moments_of_what_counts_in_them(cosine):
    model, batches, optimizer = trained(names="0")
    direction = {"0.weight": torch.ones(5, 5)}
    given = {"metric": optimizer, "cosine": cosine, **LOSS}
    if cosine:  # the norms are of all parameters
        with pytest.raises(ValueError, match=r"no second moments of `2.weight`"):
            gradient_dots(model, batches, direction, **given)
        return
    found = gradient_dots(model, batches, direction, **given)[:, 0]
    exact = [dot(g, direction) for g in scaled(model, batches, optimizer, names="0")]
    assert torch.allclose(found.double(), torch.stack(exact), rtol=1e-4, atol=1e-4)


OF_SQUARES = {
    "RMSprop": (torch.optim.RMSprop, {}),
    "RMSprop, centred": (torch.optim.RMSprop, {"centered": True}),
    "RMSprop, momentum": (torch.optim.RMSprop, {"momentum": 0.5}),
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_SQUARES)
def test_other_optimizers_that_divide_by_second_moments(name):
    torch.manual_seed(0)
    kind, options = OF_SQUARES[name]
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = kind(model.parameters(), 1e-2, eps=1e-3, **options)
    batches = [(torch.randn(3, 5), torch.randint(0, 3, (3,))) for _ in range(2)]
    # Adagrad has moments, of zero, before it has stepped.
    with pytest.raises(ValueError, match="optimizer that has stepped"):
        gradient_dots(model, batches, random_directions(model, 1), metric=optimizer, **LOSS)
    for batch in batches:
        optimizer.zero_grad()
        by_hand(model, batch).backward()
        optimizer.step()
    model.zero_grad()
    exact = gradients(model.eval(), batches, by_hand)
    for gradient in exact:
        for key, parameter in model.named_parameters():
            state = optimizer.state[parameter]
            squares = state["sum" if "sum" in state else "square_avg"].double()
            mean = state.get("grad_avg", torch.zeros(())).double()
            gradient[key] = gradient[key] / ((squares - mean**2).sqrt() + 1e-3)
    check(model, batches, optimizer, exact)


def test_what_divides_by_nothing_is_told():
    model, batches, _ = trained()
    for momentum in (0.0, 0.9):
        sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=momentum)
        with pytest.raises(ValueError, match="divide gradients by nothing: leave `metric` out"):
            gradient_sketch(model, batches, 8, metric=sgd, **LOSS)


def test_steps_that_divide_by_something_else_are_refused():
    model, batches, optimizer = trained(torch.optim.RAdam)
    direction = {"0.weight": torch.ones(5, 5)}
    for function, what in ((gradient_sketch, 8), (gradient_dots, direction)):
        with pytest.raises(ValueError, match=r"`metric` must be an Adam.*RAdam.*something else"):
            function(model, batches, what, metric=optimizer, **LOSS)


OTHERS = {
    "of another layer": ({"2.weight": torch.ones(5, 5)}, {}),
    "of another layer, the same numbers": ({"2.weight": torch.ones(5, 5)}, {"metric": None}),
    "of another layer, cosines": ({"2.weight": torch.ones(5, 5)}, {"cosine": True}),
    "in another metric": ({"0.weight": torch.ones(5, 5)}, {"cosine": True}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_other_directions_is_refused(name, tmp_path):
    model, batches, optimizer = trained()
    other, options = OTHERS[name]
    given = {"checkpoint": tmp_path / "dots.jsonl", "metric": optimizer, **options, **LOSS}
    gradient_dots(model, batches, {"0.weight": torch.ones(5, 5)}, **given)
    if name == "in another metric":  # of what has no direction, and counts in norms alone
        optimizer.state[model[4].weight]["exp_avg_sq"].mul_(2)
    with pytest.raises(ValueError, match=r"same model, options and pool.*(directions|products)"):
        gradient_dots(model, batches, other, **given)
