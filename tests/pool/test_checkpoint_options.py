"""A checkpoint goes on only under the options that its scores depend on."""

from dataclasses import fields

import pytest
import torch

from fastgradnorm import Options
from tests.support.stopping import Stop, scorer, stopped_after

# Each option with a value that is not its default, and scores that differ or might.
OTHER = {
    "scheme": "expected",
    "params": lambda name, p: name.startswith("head"),
    "reduction": "per_tensor",
    "likelihood": "bernoulli",
    "class_dim": -1,
    "temperature": 2.0,
    "forward": lambda model, batch: model(batch),
    "mask": lambda batch: torch.ones(len(batch), 1, dtype=torch.bool),
    "autocast": torch.bfloat16,
    "backend": "torch",
    "rtol": 0.5,
    "num_samples": 3,
    "seed": 1,
    "subset": 0.5,
}
TOLD = {"params": "parameters"}
RUNNING = {"device": "cpu", "max_memory": 1 << 30, "verify": False, "on_nonfinite": "keep"}


@pytest.mark.parametrize("name", [*OTHER])
def test_other_options(begun, path, name):
    """Begun with the default or with another value: neither is gone on with by the other."""
    model, inputs = begun
    told = TOLD.get(name, name)
    with pytest.raises(ValueError, match=rf"same model, options and pool.*{told}.*delete it"):
        scorer(model, path, **{name: OTHER[name]}).score(inputs.split(4))
    if name == "mask":  # which these logits have no place for
        return
    path.unlink()
    with pytest.raises(Stop):
        scorer(model, path, **{name: OTHER[name]}).score(stopped_after(inputs.split(4), 2))
    with pytest.raises(ValueError, match=rf"same model, options and pool.*{told}.*delete it"):
        scorer(model, path).score(inputs.split(4))


def test_every_option_that_changes_scores_is_tried():
    assert {f.name for f in fields(Options) if f.metadata["changes_scores"]} == {*OTHER}


@pytest.mark.parametrize("name", [*RUNNING])
def test_options_that_change_no_score_may_differ(begun, path, name):
    model, inputs = begun
    scores = scorer(model, path, **{name: RUNNING[name]}).score(inputs.split(4))["entropy"]
    assert torch.equal(scores.values, scorer(model, None).score(inputs.split(4))["entropy"].values)
