"""`acquire` with a `checkpoint`: stopped or killed anywhere, the next call chooses the same."""

import signal

import pytest
import torch
from torch.utils.data import DataLoader

from fastgradnorm import acquire
from fastgradnorm._engine import chunks
from tests.support import warm
from tests.support.noting import Noting
from tests.support.small_task import Blobs, SmallTask
from tests.support.stopping import Stop

N, K, LABELLED = 60, 6, [3, 11, 12, 40]
X = Blobs(N).x


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    monkeypatch.setattr(chunks, "_GATHERED", 8)


@pytest.fixture(scope="module")
def model():
    return SmallTask().make_model(0).eval()


class Stopping(Noting):
    """Stops where a sample is read for the first time."""

    def __init__(self, inputs, at):
        super().__init__(inputs)
        self.at = at

    def __getitem__(self, i):
        if i == self.at:
            raise Stop
        return super().__getitem__(i)


def assert_alike(actual, expected):
    assert torch.equal(actual.indices, expected.indices)
    assert torch.equal(actual.scores.values, expected.scores.values)
    assert torch.equal(actual.predicted, expected.predicted)
    assert actual.records == expected.records
    assert actual.pool == expected.pool
    assert actual.scores.by_group.keys() == expected.scores.by_group.keys()
    for name, values in expected.scores.by_group.items():
        assert torch.equal(actual.scores.by_group[name], values)


OPTIONS = [
    {},
    {"strategy": "bait"},
    {"strategy": "badge", "scheme": "entropy"},
    {"space": "sketch"},
    {"strategy": "expected/all/herding"},
    {"strategy": "random"},
    {"params": "all", "group_by": "module"},
    {"params": "all", "group_by": "parameter", "space": "sketch"},
    {"max_similarity": 0.99},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_was_stopped_goes_on_and_chooses_the_same(model, tmp_path, options):
    given = {"labelled": LABELLED, "batch_size": 8, "progress": False, **options}
    path = tmp_path / "pool.jsonl"
    expected = acquire(model, Noting(X), K, **given)
    for at in (20, 45):
        with pytest.raises(Stop):
            acquire(model, Stopping(X, at), K, checkpoint=path, **given)
    data = Noting(X)
    actual = acquire(model, data, K, checkpoint=path, **given)
    assert_alike(actual, expected)
    assert len(data.loaded) < N - 20  # the rest, and the first batch, which tells that it is it
    again = acquire(model, Noting(X), K, checkpoint=path, **given)
    assert_alike(again, expected)


@pytest.mark.slow
def test_features_are_those_of_the_samples(model, tmp_path):
    """Against the caller's own model, over a stop: each sample has its own row."""
    from fastgradnorm._gather import Wants, gather
    from fastgradnorm._options import Options

    options = Options(params="last_layer", checkpoint=tmp_path / "a", progress=False)
    wants = Wants("test", features=True, classes=True)
    with pytest.raises(Stop):
        gather(model, DataLoader(Stopping(X, 33), 8), options, wants)
    columns = gather(model, DataLoader(Noting(X), 8), options, wants).columns
    with torch.no_grad():
        features, logits = model[:-1](X), model(X)
    torch.testing.assert_close(columns["features"], features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(columns["probabilities"], logits.softmax(1), rtol=1e-5, atol=1e-6)
    assert torch.equal(columns["predicted"].long(), logits.argmax(1))


@pytest.mark.slow
def test_samples_of_a_part_and_what_is_labelled_beside_it(model, tmp_path):
    """What is labelled and was not drawn is read in a pass of its own, which goes on too."""
    x = Blobs(200).x
    given = {"subset": 30, "batch_size": 4, "seed": 1, "progress": False}
    drawn = acquire(model, Noting(x), K, **given).scores.indices.tolist()
    *labelled, last, other = [i for i in range(200) if i not in drawn][:102]
    given["labelled"] = [*labelled, last]
    expected = acquire(model, Noting(x), K, **given)
    path = tmp_path / "pool"
    with pytest.raises(Stop):
        acquire(model, Stopping(x, labelled[80]), K, checkpoint=path, **given)
    data = Noting(x)
    assert_alike(acquire(model, data, K, checkpoint=path, **given), expected)
    assert {*data.loaded} & {*labelled[64:80]} and not {*data.loaded} & {*drawn[4:]}
    assert {each.name for each in tmp_path.iterdir()} == {
        "pool", "pool.bin", "pool.labelled", "pool.labelled.bin",
    }  # fmt: skip
    # Others that begin alike are not those that the file holds.
    given["labelled"] = [*labelled, other]
    with pytest.raises(ValueError, match=r"`checkpoint` must be of the same .*samples"):
        acquire(model, Noting(x), K, checkpoint=path, **given)


@pytest.mark.slow
def test_other_labelled_samples(model, tmp_path):
    given = {"progress": False, "checkpoint": tmp_path / "pool"}
    others = torch.randn(24, 1, 6, 6)
    expected = acquire(model, [X], K, labelled=others.split(8), progress=False)

    def stopped():
        yield from others.split(8)[:2]
        raise Stop

    with pytest.raises(Stop):
        acquire(model, X.split(8), K, labelled=stopped(), **given)
    made = acquire(model, X.split(8), K, labelled=others.split(8), **given)
    assert torch.equal(made.indices, expected.indices)


@pytest.mark.slow
def test_a_file_without_what_is_wanted_is_refused(model, tmp_path):
    given = {"progress": False, "checkpoint": tmp_path / "pool"}
    acquire(model, [X], K, strategy="top", **given)
    with pytest.raises(ValueError, match=r"`checkpoint` must be of the same .*beside scores"):
        acquire(model, [X], K, **given)
    with pytest.raises(ValueError, match=r"`checkpoint` must be of the same .*sketches"):
        acquire(model, [X], K, space="sketch", **given)
    # Another strategy that wants the same goes on with it, and so does another `k`.
    made = acquire(model, [X], K + 1, strategy="margin", **given)
    assert_alike(made, acquire(model, [X], K + 1, strategy="margin", progress=False))


KILLED = """
import os, signal, sys
import torch
from torch.utils.data import Dataset
from fastgradnorm import acquire
from fastgradnorm._engine import chunks
from tests.support.small_task import Blobs, SmallTask

chunks._GATHERED = 8
torch.set_num_threads(1)
x, model = Blobs(60).x, SmallTask().make_model(0).eval()

class Killing(Dataset):
    def __init__(self, at):
        self.at = at
    def __len__(self):
        return 60
    def __getitem__(self, i):
        if i == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return x[i]

def chosen(at, **options):
    return acquire(model, Killing(at), 6, labelled=[1, 2], batch_size=4, progress=False, **options)

alone = chosen(None)
for at in (9, 30, 31, 59):
    child = os.fork()
    if not child:
        chosen(at, checkpoint=sys.argv[1])
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
made = chosen(None, checkpoint=sys.argv[1])
assert torch.equal(made.scores.values, alone.scores.values)
assert made.records == alone.records
print(made.indices.tolist() == alone.indices.tolist())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes that can be killed")
def test_a_process_that_is_killed(tmp_path):
    done = warm.run(KILLED, tmp_path / "pool")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
