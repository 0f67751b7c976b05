"""A checkpoint goes on only under the options that its scores depend on."""

import functools
from dataclasses import fields

import pytest
import torch
from torch import nn

from fastgradnorm import Options
from tests.support.stopping import Stop, scorer, stopped_after

# Each option with a value that is not its default, and scores that differ or might.
OTHER = {
    "scheme": "expected",
    "params": lambda name, p: name.startswith("head"),
    "reduction": "per_tensor",
    "group_by": "module",
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
RUNNING = {
    "device": "cpu",
    "max_memory": 1 << 30,
    "verify": False,
    "on_nonfinite": "keep",
    "latency": 0,
}


@pytest.mark.slow
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
    changing = {f.name for f in fields(Options) if f.metadata["changes_scores"]}
    assert changing == {*OTHER, "loss", "target"}


def _weighted(weight):
    return lambda output, batch: weight * output.logsumexp(1).sum()


# Pairs of losses that are unlike, of which the first is begun with.
LOSSES = {
    "by name": ("cross_entropy", "mse"),
    "modules": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weights of classes": (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1, 1, 1, 1])),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1, 1, 1, 2])),
    ),
    "partial ones": (
        functools.partial(nn.functional.cross_entropy, ignore_index=0),
        functools.partial(nn.functional.cross_entropy, ignore_index=1),
    ),
    "closures": (_weighted(1.0), _weighted(2.0)),
    "functions": (lambda output, batch: output.sum(), lambda output, batch: output.mean()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LOSSES])
def test_another_loss(begun, path, name):
    model, inputs = begun
    path.unlink()
    labels = torch.arange(len(inputs)) % 4
    pool = list(zip(inputs.split(4), labels.split(4), strict=True))
    first, other = LOSSES[name]
    options = {"scheme": "loss", "target": 1}
    if name == "by name":
        pool = [(x, nn.functional.one_hot(y, 5).float()) for x, y in pool]
    with pytest.raises(Stop):
        scorer(model, path, **options, loss=first).score(stopped_after(pool, 2))
    with pytest.raises(ValueError, match=r"same model, options and pool.*loss.*delete it"):
        scorer(model, path, **options, loss=other).score(pool)
    with pytest.raises(ValueError, match=r"same model, options and pool.*target.*delete it"):
        scorer(model, path, **{**options, "target": -1}, loss=first).score(pool)
    whole = scorer(model, None, **options, loss=first).score(pool)
    resumed = scorer(model, path, **options, loss=first).score(pool)
    assert torch.equal(resumed.values, whole.values)


@pytest.mark.slow
def test_other_labels(begun, path):
    model, inputs = begun
    path.unlink()
    labels = torch.arange(len(inputs)) % 4
    pool = list(zip(inputs.split(4), labels.split(4), strict=True))
    for loss in ("cross_entropy", nn.CrossEntropyLoss()):
        with pytest.raises(Stop):
            scorer(model, path, scheme="loss", loss=loss).score(stopped_after(pool, 2))
        others = [(x, (y + 1) % 4) for x, y in pool]
        with pytest.raises(ValueError, match=r"same model, options and pool.*first samples"):
            scorer(model, path, scheme="loss", loss=loss).score(others)
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNNING])
def test_options_that_change_no_score_may_differ(begun, path, name):
    model, inputs = begun
    scores = scorer(model, path, **{name: RUNNING[name]}).score(inputs.split(4))["entropy"]
    assert torch.equal(scores.values, scorer(model, None).score(inputs.split(4))["entropy"].values)
