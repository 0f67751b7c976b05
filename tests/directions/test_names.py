"""Names of directions, and states of checkpoints, that are those of the model or are told."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgradnorm import explain_gradients, gradient_dots
from tests.support.asserts import assert_close_relative
from tests.support.directions import dot, gradients

LOSS = {"loss": "cross_entropy", "progress": False}


def tied():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second, nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    return model, [(torch.randn(3, 4), torch.randint(3, (3,))) for _ in range(2)]


def by_hand(model, sample):
    return F.cross_entropy(model(sample[0]), sample[1])


@pytest.mark.parametrize("names", [("2.weight",), ("2.weight", "0.weight"), ("0.weight",)])
def test_a_shared_parameter_by_any_of_its_names(names):
    """A state dict has all of them: a difference of two is a direction."""
    model, batches = tied()
    value = torch.randn(4, 4)
    exact = [dot(g, {"0.weight": value}) for g in gradients(model, batches, by_hand)]
    found = gradient_dots(model, batches, {name: value.clone() for name in names}, **LOSS)
    assert_close_relative(found[:, 0].double(), torch.stack(exact), 1e-4)


def test_a_shared_parameter_has_one_value():
    model, batches = tied()
    two = {"2.weight": torch.ones(4, 4), "0.weight": torch.zeros(4, 4)}
    with pytest.raises(ValueError, match=r"is the same parameter as `0.weight`"):
        gradient_dots(model, batches, two, **LOSS)


def test_buffers_are_told():
    model, batches = tied()
    for name in ("3.running_mean", "3.num_batches_tracked"):
        with pytest.raises(ValueError, match=f"Got '{name}'. It is a buffer"):
            gradient_dots(model, batches, {name: torch.ones(4)}, **LOSS)


def states(model, folder):
    torch.save(model, folder / "model.pt")
    torch.save({"epoch": 3, "model": model.state_dict()}, folder / "run.pt")
    torch.save([1, 2], folder / "list.pt")
    (folder / "text.pt").write_text("no state")
    whole = model.state_dict()
    less = {name: value for name, value in whole.items() if name != "0.bias"}
    return {
        "missing": (less, "Got one that does not fit.*0.bias"),
        "unexpected": ({**whole, "more": torch.ones(1)}, "Unexpected.*more"),
        "of another shape": ({**whole, "0.bias": torch.ones(7)}, "size mismatch for 0.bias"),
        "wrapped": ({"model": whole}, "pass that of 'model' if it is the one"),
        "no file": (folder / "none.pt", "There is no such file"),
        "a folder": (str(folder), "There is no such file"),
        "a wrapped file": (folder / "run.pt", "run.pt' that does not fit.*pass that of 'model'"),
        "a file of a model": (folder / "model.pt", "model.pt'.*Error"),
        "a file of a list": (folder / "list.pt", "Got list"),
        "a file of text": (str(folder / "text.pt"), "text.pt'.*Error"),
    }


NAMES = ["missing", "unexpected", "of another shape", "wrapped", "no file", "a folder"]
NAMES += ["a wrapped file", "a file of a model", "a file of a list", "a file of text"]


@pytest.mark.parametrize("name", NAMES)
def test_states_that_do_not_fit_are_told_by_their_place(name, tmp_path):
    model, batches = tied()
    state, told = states(model, tmp_path)[name]
    checkpoints = [(model.state_dict(), 1.0), (state, 0.5)]
    with pytest.raises((ValueError, TypeError), match=rf"`checkpoints\[1\]\[0\]` must.*{told}"):
        gradient_dots(model, batches, {"0.bias": torch.ones(4)}, checkpoints=checkpoints, **LOSS)


@pytest.mark.parametrize("name", ["missing", "no file"])
def test_states_are_looked_at_before_the_pool_is_read(name, tmp_path):
    model, batches = tied()
    state, _ = states(model, tmp_path)[name]
    read = []

    class Pool:
        def __iter__(self):
            read.append(1)
            return iter(batches)

    with pytest.raises(ValueError, match=r"`checkpoints\[1\]"):
        checkpoints = [(model.state_dict(), 1.0), (state, 0.5)]
        gradient_dots(model, Pool(), {"0.bias": torch.ones(4)}, checkpoints=checkpoints, **LOSS)
    assert not read


WRAPPED = {
    "data-parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_names_of_a_wrapper(wrap):
    """As `wrapper.named_parameters()` and its state dict have them, or as the model inside does."""
    model, batches = tied()
    wrapped = wrap(model)
    longer = next(name for name, p in wrapped.named_parameters() if p is model[4].weight)
    value = torch.randn(3, 4)
    plain = gradient_dots(model, batches, {"4.weight": value}, **LOSS)
    assert longer != "4.weight"
    for name in (longer, "4.weight"):
        assert torch.equal(gradient_dots(wrapped, batches, {name: value}, **LOSS), plain)
        told = explain_gradients(wrapped, batches[0], directions={name: value}, **LOSS)
        assert "4.weight" in str(told)
    with pytest.raises(ValueError, match=r"Got 'module.4.wait'. Its parameters begin"):
        gradient_dots(wrapped, batches, {"module.4.wait": value}, **LOSS)
