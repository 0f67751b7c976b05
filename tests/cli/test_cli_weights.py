"""Weights under the names that wrappers, trainers and compilers give them."""

import pytest
import torch
from torch import nn

from fastgradnorm import PoolScores, naive_score_pool

WRAPPERS = {
    "DDP": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
    "another attribute": lambda name: f"classifier.net.{name}",
    "compiled within Lightning": lambda name: f"net._orig_mod.{name}",
    "DDP of a compiled one": lambda name: f"module._orig_mod.{name}",
    "compiled layer": lambda name: name.replace("0.", "0._orig_mod.", 1),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}",
}


@pytest.fixture
def trained(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_that_wrappers_leave(run, folder, trained, images, wrapper):
    state = {WRAPPERS[wrapper](name): value for name, value in trained.state_dict().items()}
    if "Lightning" in wrapper or "attribute" in wrapper:
        state["criterion.weight"] = torch.ones(3)  # the loss is another attribute
    torch.save({"state_dict": state}, "w.ckpt")
    ran = run("score", "their_model:make", "pool", "--weights", "w.ckpt", "--out", "s.npz")
    assert ran.code == 0, ran.err
    exact = naive_score_pool(trained, [torch.stack([images[n] for n in sorted(images)])])
    assert torch.allclose(PoolScores.load("s.npz").values, exact, rtol=1e-4)


def test_what_stands_there_twice_or_not_at_all_is_told(run, folder, trained):
    state = trained.state_dict()
    both = {f"{start}.{name}": value for start in ("ema", "model") for name, value in state.items()}
    torch.save(both, "both.pt")
    ran = run("score", "their_model:make", "pool", "--weights", "both.pt")
    assert ran.code == 2
    assert "under ema., model." in ran.err
    torch.save(nn.Linear(3, 2).state_dict(), "other.pt")
    ran = run("score", "their_model:make", "pool", "--weights", "other.pt")
    assert ran.code == 2
    assert "must fit the model" in ran.err
    further = {f"model.{name}": value for name, value in state.items()} | {
        "model.9.weight": state["4.bias"]
    }
    torch.save(further, "further.pt")
    ran = run("score", "their_model:make", "pool", "--weights", "further.pt")
    assert ran.code == 2
    assert "9.weight" in ran.err
