"""Products summed over checkpoints: of losses that read weights by themselves, and files.

Such losses read the weights that the model had when it was called, not those of the state.
"""

import copy

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn import functional as F

from fastgradnorm import gradient_dots, mean_gradient
from tests.support.asserts import assert_close_relative

X, Y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)
        self.head, self.heat = nn.Linear(6, 4), nn.Parameter(torch.rand(()) + 0.5)
        self.norm.running_mean.uniform_()

    def forward(self, x):
        return self.head(self.norm(self.body(x)).tanh())


class Decaying(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.of = [model]

    def forward(self, output, label):
        return F.cross_entropy(output, label) + self.of[0].head.weight.square().sum()


def plain(model, output, batch):
    return F.cross_entropy(output, batch[1])


def decaying(model, output, batch):
    return F.cross_entropy(output, batch[1]) + sum(p.square().sum() for p in model.parameters())


def heated(model, output, batch):
    return F.cross_entropy(output / model.heat, batch[1])


def again(model, output, batch):
    return F.cross_entropy(output, batch[1]) + F.mse_loss(model(2 * batch[0]), output)


def of_buffers(model, output, batch):
    return F.cross_entropy(output, batch[1]) + (
        output.sum(1).mean() * model.norm.running_mean.sum()
    )


def made(seed):
    torch.manual_seed(seed)
    return Net().eval()


STATES = [(made(1).state_dict(), 0.5), (made(2).state_dict(), 2.0)]


def exact(model, states, direction, loss):
    """In float64, each state loaded into a copy that the loss reads, too."""
    model, total = copy.deepcopy(model).double(), 0.0
    for state, weight in states:
        model.load_state_dict(state)
        for i in range(len(X)):
            batch = X[i : i + 1].double(), Y[i : i + 1]
            value = loss(model, model(batch[0]), batch)
            named = dict(model.named_parameters())
            found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
            pairs = zip(named, found, strict=True)
            product = sum((g * direction[n]).sum() for n, g in pairs if g is not None)
            total = total + weight * product * F.one_hot(torch.tensor(i), len(X))
    return total


def directed(model):
    torch.manual_seed(3)
    return {name: torch.randn_like(p) for name, p in model.named_parameters()}


LOSSES = {
    "decay": lambda model: lambda o, b: decaying(model, o, b),
    "temperature": lambda model: lambda o, b: heated(model, o, b),
    "temperature itself": lambda model: (
        lambda o, b, heat=model.heat: F.cross_entropy(o / heat, b[1])
    ),
    "called again": lambda model: lambda o, b: again(model, o, b),
    "buffers": lambda model: lambda o, b: of_buffers(model, o, b),
    "a module": Decaying,
}
EXACT = {
    "decay": decaying,
    "temperature": heated,
    "temperature itself": heated,
    "called again": again,
    "buffers": of_buffers,
    "a module": lambda model, o, b: Decaying(model)(o, b[1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("verify", [True, False])
def test_losses_that_read_weights(name, verify):
    model = made(0)
    model.train()
    F.cross_entropy(model(X), Y).backward()
    tensors = [*model.parameters(), *model.buffers()]
    before = [(t.data_ptr(), t._version, t.clone(), t.grad) for t in tensors]
    direction, loss = directed(model), LOSSES[name](model)
    options = {"checkpoints": STATES, "loss": loss, "verify": verify, "progress": False}
    found = gradient_dots(model, [(X, Y)], direction, **options)[:, 0]
    expected = exact(made(0), STATES, direction, EXACT[name])
    assert_close_relative(found.double(), expected, 2e-5)
    for tensor, (place, version, values, grad) in zip(tensors, before, strict=True):
        assert tensor.data_ptr() == place and tensor._version == version
        assert torch.equal(tensor, values) and tensor.grad is grad
    assert model.training and model.norm.training


@pytest.mark.slow
def test_directions_by_a_loss_that_reads_weights():
    model = made(0)

    def loss(output, batch):
        return decaying(model, output, batch)

    def directions(there):
        there.head.weight.sum().backward()  # its gradients are not the caller's
        return mean_gradient(there, [(X[:2], Y[:2])], loss=loss, progress=False)

    model.head.weight.grad = torch.ones_like(model.head.weight)
    options = {"loss": loss, "progress": False}
    found = gradient_dots(model, [(X, Y)], directions, checkpoints=STATES, **options)
    total = 0
    for state, weight in STATES:
        model.load_state_dict(state)
        mean = mean_gradient(model, [(X[:2], Y[:2])], **options)
        total = total + weight * gradient_dots(model, [(X, Y)], mean, **options)
    assert_close_relative(found, total, 1e-5)
    grads = {name for name, p in model.named_parameters() if p.grad is not None}
    assert grads == {"head.weight"} and bool((model.head.weight.grad == 1).all())


def test_an_error_leaves_the_model_as_it_was():
    model = made(0)
    places = [p.data_ptr() for p in model.parameters()]

    def loss(output, batch):
        raise KeyError("key")

    with pytest.raises(ValueError, match="KeyError: 'key'"):
        gradient_dots(model, [(X, Y)], directed(model), checkpoints=STATES, loss=loss)
    assert [p.data_ptr() for p in model.parameters()] == places


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


def named(before):
    return lambda state, path: {before + name: value for name, value in state.items()}


def saved(state, path):
    save_file({name: value.clone() for name, value in state.items()}, path / "s.safetensors")
    return path / "s.safetensors"


def saved_once(state, path):
    model = Tied()
    model.load_state_dict(state)
    save_model(model, path / "s.safetensors")
    return str(path / "s.safetensors")


FORMS = {
    "data parallel": named("module."),
    "compiled": named("_orig_mod."),
    "compiled, then data parallel": named("module._orig_mod."),
    "data parallel, then compiled": named("_orig_mod.module."),
    "the first name of what is shared": lambda state, path: {"table.weight": state["table.weight"]},
    "the second name": lambda state, path: {"head.weight": state["head.weight"]},
    "safetensors": saved,
    "safetensors, shared once": saved_once,
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_states_of_any_form(form, tmp_path):
    torch.manual_seed(4)
    model, other = Tied(), Tied()
    batch = torch.randint(0, 7, (5, 3)), torch.randint(0, 7, (5,))
    options = {"loss": "cross_entropy", "progress": False}
    direction = {"table.weight": torch.randn(7, 4)}
    expected = gradient_dots(other, [batch], direction, **options)
    checkpoints = [(form(other.state_dict(), tmp_path), 1.0)]
    found = gradient_dots(model, [batch], direction, checkpoints=checkpoints, **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"torn" * 9])
def test_files_that_are_not_what_they_are_called(content, tmp_path):
    path = tmp_path / "s.safetensors"
    path.write_bytes(content)
    model = made(0)
    with pytest.raises(ValueError, match=r"`checkpoints\[0\]\[0\]` must be a state dict"):
        gradient_dots(model, [(X, Y)], directed(model), loss="mse", checkpoints=[(path, 1.0)])


def test_an_iterator_of_checkpoints():
    model = made(0)
    with pytest.raises(TypeError, match=r"`checkpoints` must be a sequence of pairs.*Got zip"):
        gradient_dots(
            model, [(X, Y)], directed(model), loss="mse", checkpoints=zip([{}], [1.0], strict=True)
        )
