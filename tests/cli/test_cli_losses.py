"""`fastgradnorm score --loss --target`: pools whose labels are known."""

import csv

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.support.asserts import assert_close_relative

LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


@pytest.fixture
def pool(folder, images):
    pictures = torch.stack(list(images.values()))[:7]
    np.savez(folder / "pool.npz", x=pictures.numpy(), y=LABELS.astype(np.uint8), name=[*"abcdefg"])
    return pictures


def scores(folder):
    with (folder / "scores.csv").open() as file:
        return torch.tensor([float(row["score"]) for row in csv.DictReader(file)]).double()


@pytest.mark.slow
def test_labels_are_read_for_the_loss(run, folder, model, pool):
    options = "--key", "x", "--ids", "name", "--target", "y"
    ran = run("score", "their_model:make", "pool.npz", *options, "--loss", "cross_entropy")
    assert ran.code == 0, ran.err
    wide = model.double()
    named, expected = list(wide.parameters()), []
    for picture, label in zip(pool.double(), torch.from_numpy(LABELS), strict=True):
        loss = F.cross_entropy(wide(picture[None]), label[None])
        grads = torch.autograd.grad(loss, named)
        expected.append(torch.stack([g.norm() for g in grads]).norm())
    assert_close_relative(scores(folder), torch.stack(expected), 1e-5)
    ran = run("score", "their_model:make", "pool.npz", *options, "--scheme", "el2n")
    assert ran.code == 0, ran.err
    p = wide(pool.double()).softmax(1).detach()
    distance = (p - F.one_hot(torch.from_numpy(LABELS), p.shape[1])).norm(dim=1)
    assert_close_relative(scores(folder), distance, 1e-5)


WRONG = {
    "`--loss` must be one of": ("--loss", "model", "--target", "y"),
    "`--scheme loss` needs labels": ("--loss", "mse"),
    "`--scheme loss` needs a `--loss`": ("--scheme", "loss", "--target", "y"),
    "`--scheme entropy` reads no labels": ("--scheme", "entropy", "--target", "y"),
    "`--loss` must go with": ("--loss", "mse", "--scheme", "entropy", "--target", "y"),
    "`--target` must be one of": ("--loss", "mse", "--target", "z"),
    "`--target` must have one label": ("--loss", "mse", "--target", "name"),
}


@pytest.mark.parametrize("message", [*WRONG])
def test_what_is_wrong_is_told(run, pool, message):
    ran = run("score", "their_model:make", "pool.npz", "--key", "x", *WRONG[message])
    assert ran.code == 2
    assert message in " ".join(ran.err.split())
