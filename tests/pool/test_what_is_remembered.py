"""A checkpoint knows all that scores depend on, and a resumed run all that came before it."""

import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastgradnorm import GradNormScorer, Options, score_pool
from fastgradnorm._pool.identity import digest
from tests.pool import test_checkpoint_options as options_tried
from tests.support.cases import MLP, GroupNormCNN, perturb
from tests.support.stopping import Stop, assert_same, scorer, stopped_after

REFUSED = r"`checkpoint` must be of the same model, options and pool"


def begin(model, path, batches, count=2, **options):
    with pytest.raises(Stop):
        scorer(model, path, **options).score(stopped_after(batches, count))


def test_every_option_is_tried():
    """Whoever adds an option says here whether scores depend on it."""
    elsewhere = {"checkpoint", "distributed", "progress"}  # the file itself, ranks, what is shown
    labelled = {"loss", "target"}  # `test_another_loss`
    tried = {*options_tried.OTHER, *options_tried.RUNNING, *elsewhere, *labelled}
    assert {f.name for f in fields(Options)} == tried


@pytest.fixture
def statistics():
    model = nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    return perturb(model), torch.randn(12, 10)


def moved(model):
    model[1].running_mean[2] += 1e-6


def counted(model):
    model[1].num_batches_tracked += 1


def frozen(model):
    model[0].bias.requires_grad_(False)


def exchanged(model):
    with torch.no_grad():
        model[0].bias[:2] = model[0].bias[:2].flip(0).clone()


def another_layer(model):
    model[2] = nn.ReLU()


def in_double(model):
    model.double()


@pytest.mark.parametrize("change", [moved, counted, frozen, exchanged, another_layer])
def test_a_model_that_changed_in_any_way(statistics, path, change):
    model, x = statistics
    begin(model, path, x.split(4))
    change(model)
    with pytest.raises(ValueError, match=REFUSED):
        scorer(model, path).score(x.split(4))


def test_parameters_chosen_by_a_function(statistics, path):
    """By which they are, for the same code may choose others."""
    model, x = statistics
    chosen = {"0.weight", "3.weight"}
    options = {"params": lambda name, p: name in chosen}
    begin(model, path, x.split(4), **options)
    chosen.add("3.bias")
    with pytest.raises(ValueError, match=REFUSED):
        scorer(model, path, **options).score(x.split(4))


def test_code_under_the_same_name(statistics, path):
    model, x = statistics

    def make(scale):
        if scale:

            def forward(model, batch):
                return 2 * model(batch)

        else:

            def forward(model, batch):
                return model(batch)

        return forward

    begin(model, path, x.split(4), forward=make(True))
    assert make(True).__qualname__ == make(False).__qualname__
    with pytest.raises(ValueError, match=rf"{REFUSED}.*forward"):
        scorer(model, path, forward=make(False)).score(x.split(4))


def test_positions_that_a_mask_gives(path):
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, 3, 1))
    x, valid = torch.randn(8, 2, 5), torch.ones(8, 5, dtype=torch.bool)
    options = {"mask": lambda batch: valid[: len(batch)]}
    begin(model, path, x.split(4), count=1, **options)
    valid[1, 3] = False
    with pytest.raises(ValueError, match=rf"{REFUSED}.*first samples"):
        scorer(model, path, **options).score(x.split(4))


def test_pools_of_another_size_or_dtype(statistics, path):
    model, x = statistics
    loader = DataLoader(TensorDataset(x), 4)
    with pytest.raises(Stop):
        for _ in scorer(model, path).stream(loader):
            raise Stop
    with pytest.raises(ValueError, match=rf"{REFUSED}.*pool's size"):
        scorer(model, path).score(DataLoader(TensorDataset(torch.cat([x, x])), 4))
    ids = torch.arange(4.0)
    same_bytes = ids.view(torch.int32)
    told = {digest([t]) for t in (ids, same_bytes, ids.view(2, 2), ids.view(4, 1))}
    assert len(told) == 4


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2])
def test_pull_backs_and_parameters_add_up(path, stop):
    """A resumed estimate tells what all its processes did."""
    model, x = perturb(GroupNormCNN(classes=12)), torch.randn(9, 2, 8, 8)
    options = {"rtol": 0.1, "scheme": ["expected"]}
    whole = GradNormScorer(model, progress=False, **options).score(x.split(3))["expected"]
    begin(model, path, x.split(3), stop, **options)
    for _ in range(2):  # gone on with, and then as it was finished
        found = scorer(model, path, **options).score(x.split(3))["expected"]
        assert found.provenance["pull_backs"] == whole.provenance["pull_backs"]
        assert found.provenance["parameters"] == whole.provenance["parameters"]
        assert torch.equal(found.values, whole.values)


@pytest.mark.slow
@pytest.mark.parametrize("subset", [0.5, 0.8])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_indices_of_a_streams_subset_go_on(path, subset, stop):
    model, x = MLP(), torch.randn(16, 10)
    options = {"subset": subset, "seed": 3}
    whole = GradNormScorer(model, progress=False, scheme=["entropy"], **options).score(x.split(4))
    options["scheme"] = ["entropy"]
    begin(model, path, x.split(4), stop, **options)
    assert_same(scorer(model, path, **options).score(x.split(4)), whole)
    assert_same(scorer(model, path, **options).score(x.split(4)), whole)


@pytest.mark.slow
def test_the_seed_draws_the_subset_of_a_stream():
    model, x = MLP(), torch.randn(40, 10)

    def chosen(seed):
        options = {"subset": 0.5, "seed": seed, "progress": False, "params": "last_layer"}
        return GradNormScorer(model, **options).score(x.split(7)).indices.tolist()

    assert chosen(3) == chosen(3) != chosen(4)


@pytest.mark.slow
def test_settings_that_a_run_found_out_are_gone_on_with(path, monkeypatch):
    """How the model was run is part of its bits."""
    model, x = MLP(), torch.randn(12, 10)
    begin(model, path, x.split(4))
    made = scorer(model, path)
    engines, real = [], type(made)._run

    def noted(self, loader):
        run = real(self, loader)
        engines.append(run.engine)
        return run

    monkeypatch.setattr(type(made), "_run", noted)
    text = path.read_bytes()
    path.write_bytes(_rewritten(text, '"spread": false', '"spread": true'))
    made.score(x.split(4))
    assert engines[0].passes.settings.spread


def _rewritten(content, old, new):
    """A checkpoint's lines with another text, and checksums that fit."""
    import zlib

    lines = []
    for line in content.splitlines():
        text = line.partition(b" ")[2].replace(old.encode(), new.encode())
        lines.append(b"%08x " % zlib.crc32(text) + text)
    return b"\n".join(lines) + b"\n"


@pytest.mark.slow
def test_a_finished_run_says_what_it_counted(path):
    model, x = MLP(), torch.randn(8, 10)
    first = scorer(model, path).score(x.split(4))["entropy"].provenance
    again = scorer(model, path).score(x.split(4))["entropy"].provenance
    assert again["parameters"] == first["parameters"]
    assert len(again["parameters"]["names"]) == 5
    part = GradNormScorer(model, params="last_layer", progress=False).score([x]).provenance
    assert part["parameters"]["elements"] == sum(p.numel() for p in model.head.parameters())


def test_lines_after_the_end_are_no_more_scores(path):
    model, x = MLP(), torch.randn(8, 10)
    scorer(model, path).score(x.split(4))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(ValueError, match=r"`checkpoint` must be whole.*damaged in line 5"):
        scorer(model, path).score(x.split(4))


def test_what_failed_before_its_first_score_blocks_nothing(tmp_path):
    path = tmp_path / "run.jsonl"
    model, loader = nn.Linear(3, 2), [torch.randn(4, 3)]
    with pytest.raises(ValueError, match="must run on one sample"):
        score_pool(model, [torch.randn(4, 5)], checkpoint=path)
    scores = score_pool(model, loader, checkpoint=path, scheme="entropy")
    assert torch.equal(scores, score_pool(model, loader, scheme="entropy"))
    with pytest.raises(ValueError, match=REFUSED):  # there are scores in it now
        score_pool(model, [torch.randn(4, 3)], checkpoint=path, scheme="expected")
    assert torch.equal(score_pool(model, loader, checkpoint=path, scheme="entropy"), scores)


def _holding(path):
    """A process that has made the file and locked it, before it wrote to it."""
    code = (
        "import fcntl, os, sys\n"
        f"held = os.open({str(path)!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.lockf(held, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("as_it_looked", ["there", "not there yet"])
def test_two_processes_that_begin_together(statistics, path, as_it_looked, monkeypatch):
    model, x = statistics
    other = _holding(path)
    if as_it_looked == "not there yet":  # when this process looked, a moment ago
        real = type(path).exists
        monkeypatch.setattr(type(path), "exists", lambda p, **_: p != path and real(p))
    try:
        with pytest.raises(ValueError, match="which another process is writing"):
            scorer(model, path).score(x.split(4))
    finally:
        other.communicate()
    monkeypatch.undo()
    assert path.stat().st_size == 0  # that process was stopped
    assert_same(scorer(model, path).score(x.split(4)), scorer(model, None).score(x.split(4)))


def test_a_first_line_that_was_being_written(statistics, path):
    model, x = statistics
    whole = scorer(model, path).score(x.split(4))
    first = path.read_bytes().partition(b"\n")[0]
    path.write_bytes(first[: len(first) // 2])
    assert_same(scorer(model, path).score(x.split(4)), whole)
