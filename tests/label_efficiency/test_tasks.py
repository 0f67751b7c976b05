"""Every task, quick: it learns, is scored, and gives curves; data that are absent skip."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from benchmarks.label_efficiency import arrays, cifar, cryoet, fashion, nuclei, segments, tasks
from benchmarks.label_efficiency.arrays import Arrays, Recipe
from benchmarks.label_efficiency.data_files import VARIABLE, DataMissing, data_root
from benchmarks.label_efficiency.subtomograms import Imaging
from benchmarks.models import ResNet18
from fastgradnorm.active import ActiveLearner, Task

pytest.importorskip("sklearn")
STRATEGIES = ("random", "expected/last_layer/top", "sketch/predicted/all/kmeans++")


def quick(name):
    pytest.importorskip("mrcfile" if name.startswith("cryoet") else "PIL")
    try:
        return tasks.make(name, data_root(), quick=True)
    except DataMissing as missing:
        pytest.skip(str(missing))


def learn(task, strategy):
    plan = task.plan
    return ActiveLearner(
        task, strategy, start=plan.start, budget=plan.budget, cycles=plan.cycles,
        subset=plan.subset, progress=False,
    ).run()  # fmt: skip


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(cryoet, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("name", tasks.TASKS)
def test_quick_task(name, own_cache):
    task = quick(name)
    assert isinstance(task, Task)
    runs = [learn(task, strategy) for strategy in STRATEGIES]
    for run in runs:
        assert run.labelled.tolist() == [12, 18, 24]
        assert np.isfinite(run.curve()).all()
        assert run.curve()[0] == runs[0].curve()[0]


@pytest.mark.slow
def test_cryoet_without_data(own_cache):
    """The whole way on two made-up molecules: a ball and a rod are told apart."""
    axis = torch.arange(32) - 15.5
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    ball = ((x**2 + y**2 + z**2) < 36).float()
    rod = ((x**2 + y**2 < 9) & (z.abs() < 14)).float()
    task = cryoet.from_densities([ball, rod], Imaging(snr=0.5, shift=0.1), 80, 60)
    again = cryoet.from_densities([ball, rod], Imaging(snr=0.5, shift=0.1), 80, 60)
    assert len(list(own_cache.iterdir())) == 1
    assert torch.equal(task.train_set.inputs, again.train_set.inputs)
    other = cryoet.from_densities([ball, rod], Imaging(snr=0.1, shift=0.1), 80, 60)
    assert not torch.equal(task.train_set.inputs, other.train_set.inputs)
    model = task.make_model(0)
    fit = replace(task.recipe, steps=20, rate=1e-2)
    arrays.fit(model, task.pool(), fit, seed=0)
    assert task.evaluate(model)["accuracy"] > 0.75


@pytest.mark.slow
def test_training_is_repeatable_and_leaves_random_states():
    task = quick("digits")
    state = torch.get_rng_state()
    models = [task.make_model(seed) for seed in (3, 3, 4)]
    for model in models:
        task.train(model, Subset(task.pool(), range(20)), 7)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [nn.utils.parameters_to_vector(model.parameters()) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class _Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.weight.expand(len(x), 2)


@pytest.mark.parametrize(
    "recipe, sizes",
    [(Recipe(steps=5, batch_size=4), [4] * 5), (Recipe(steps=0, batch_size=4, epochs=3), [4] * 2)],
    ids=["steps", "epochs"],
)
def test_batches_are_full(recipe, sizes):
    model = _Steps()
    data = Arrays(torch.zeros(3, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    arrays.fit(model, data, recipe, seed=0)
    assert model.sizes == sizes


def test_sgd_steps_down_at_four_fifths():
    data = Arrays(torch.zeros(4, 1, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    moved = []
    for steps in (8, 9, 10):
        model = _Steps()
        recipe = Recipe(steps, 4, 1e-4, "sgd", 0.0)
        arrays.fit(model, data, replace(recipe), seed=0)
        moved.append(float(model.weight[0].detach()))
    # The gradient hardly changes, so momentum alone sets the pace: v grows towards 10 steps' worth.
    speed = [0.5e-4 * (1 - 0.9**n) / 0.1 for n in range(1, 11)]
    assert moved[2] == pytest.approx(sum(speed[:8]) + sum(speed[8:]) / 10, rel=1e-3)
    assert moved[0] == pytest.approx(sum(speed[:6]) + sum(speed[6:8]) / 10, rel=1e-3)


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    found = arrays.accuracy(logits, torch.tensor([0, 1, 1]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx((2 * 0.126928 + 2.126928) / 3, abs=1e-5)


def test_overlap_by_hand():
    labels = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]])
    predicted = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]]])
    logits = torch.stack([1.0 - predicted, 1.0 * predicted], 1)
    found = nuclei.overlap(logits, labels)
    assert found["iou"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert found["iou_pixels"] == pytest.approx(2 / 4)


def test_images_and_masks_are_changed_alike():
    x = torch.arange(2 * 128 * 128, dtype=torch.float32).reshape(2, 1, 128, 128)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        found, mask = nuclei.crop_and_flip(x, x[:, 0].long(), generator)
        assert found.shape == (2, 1, 64, 64)
        assert torch.equal(found[:, 0].long(), mask)


def test_shifted_images_keep_their_pixels():
    x = torch.arange(1.0, 257).reshape(1, 1, 16, 16).expand(8, 2, 16, 16)
    found, _ = cifar.flip_and_shift(x, torch.zeros(8), torch.Generator().manual_seed(0))
    assert found.shape == x.shape
    assert torch.equal(found[:, 0], found[:, 1])  # channels move together
    assert len({image.numpy().tobytes() for image in found}) > 4
    assert set(found.unique().tolist()) <= set(range(257))


@pytest.mark.slow
def test_resnet18():
    model = ResNet18(10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # of the 32x32 variant
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_idx_files_by_hand(tmp_path):
    import gzip

    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])))
    assert fashion.read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 1, 0])))
    with pytest.raises(ValueError, match="`path` must be an IDX file of bytes"):
        fashion.read_idx(path)


@pytest.mark.parametrize("name", ["cifar", "nuclei", "cryoet_0.5"])
def test_missing_data_are_named(name, tmp_path):
    with pytest.raises(
        DataMissing, match=f"not found. Looked for .*Pass `--data-root` or set {VARIABLE}"
    ):
        tasks.make(name, tmp_path)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert data_root() == Path("data")
    monkeypatch.setenv(VARIABLE, "elsewhere")
    assert data_root() == Path("elsewhere")
    assert data_root(tmp_path) == tmp_path


def test_pickled_cifar(tmp_path):
    import pickle

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images = np.full((40, 3072), len(name), dtype=np.uint8)
        batch = {b"data": images, b"labels": list(range(10)) * 4}
        (folder / name).write_bytes(pickle.dumps(batch))
    task = cifar.load(tmp_path)
    assert len(task.train_set) == 200
    x, y = task.train_set[3]
    assert x.shape == (3, 32, 32)
    assert int(y) == 3


def test_the_papers_budget_and_what_is_compared_there(tmp_path):
    """A tenth of the pool, then a twentieth a cycle of a half, of which each strategy is known."""
    from benchmarks.label_efficiency import runner
    from fastgradnorm.active import strategy

    task = tasks.make("digits_paper", tmp_path)
    size, plan = len(task.train_set), task.plan
    assert (plan.start, plan.budget, plan.subset) == (130, 65, 650)
    assert size / 10 == pytest.approx(plan.start, abs=1) and plan.subset <= size / 2 + 2
    settings = runner.of_regimes(runner.Settings(root=tmp_path), task.name)
    assert settings.seeds == 20
    assert settings.results.name == "regimes"
    assert [strategy(name).name for name in settings.strategies] == list(tasks.REGIMES)
    assert "digits_paper" not in tasks.GROUPS["all"]


def test_a_table_of_river(tmp_path):
    """Classes are numbered by name, columns have mean 0 and variance 1; a constant one is 0."""
    header = ",".join([*(f"x{i}" for i in range(18)), "category"])
    rows = [f"{i}," + "3," * 17 + ("sky" if i % 2 else "grass") for i in range(4)]
    with zipfile.ZipFile(tmp_path / "segment.csv.zip", "w") as archive:
        archive.writestr("segment.csv.zip", "\n".join([header, *rows]))  # its name in river's
    x, y = segments._read(tmp_path / "segment.csv.zip")
    assert y.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(x[:, 0], (torch.arange(4) - 1.5) / 1.25**0.5)
    assert (x[:, 1:] == 0).all()
    assert segments.network()(x).shape == (4, 7)


@pytest.mark.parametrize("name", ["fashion_4k_paper", "segments_paper"])
def test_smaller_pools_keep_the_papers_shares(name):
    try:
        task = tasks.make(name, data_root())
    except DataMissing as missing:
        pytest.skip(str(missing))
    size, plan = len(task.train_set), task.plan
    assert (plan.start, plan.budget, plan.subset) == (size // 10, size // 20, size // 2)
