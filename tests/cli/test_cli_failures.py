"""Malicious and broken input: a clear line, an exit code, nothing executed, nothing lost."""

import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgradnorm._engine import chunks
from fastgradnorm.cli import _files
from tests.support import warm

pytestmark = pytest.mark.slow


class Malice:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_state_dict_with_code_in_it_is_not_executed(run, folder):
    torch.save({"weight": Malice()}, "evil.pt")
    with open("plain.pkl", "wb") as file:
        pickle.dump({"weight": Malice()}, file)
    for name in ("evil.pt", "plain.pkl"):
        ran = run("score", "their_model:make", "pool", "--weights", name)
        assert ran.code == 2
        assert "--weights" in ran.err
        assert "Traceback" not in ran.err
    assert not (folder / "executed").exists()


def test_arrays_with_code_in_them_are_not_executed(run, folder):
    np.savez("evil.npz", x=np.array([Malice()], dtype=object))
    ran = run("score", "their_model:make", "evil.npz")
    assert ran.code == 2
    assert "evil.npz" in ran.err
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet", "pt"])
def test_truncated_files(run, folder, suffix, keep):
    write = {
        "npz": lambda p: np.savez(p, x=np.zeros((500, 3, 12, 12), np.float32)),
        "safetensors": _safetensors,
        "parquet": _parquet,
        "pt": lambda p: torch.save({"a": torch.zeros(5000)}, p),
    }[suffix]
    path = folder / f"whole.{suffix}"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    if suffix == "pt":
        ran = run("score", "their_model:make", "pool", "--weights", path)
    else:
        ran = run("score", "their_model:make", path)
    assert ran.code == 2, ran
    assert path.name in ran.err
    assert "Traceback" not in ran.err
    assert not (folder / "scores.csv").exists()


def _safetensors(path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros((500, 3, 12, 12), np.float32)}, path)


def _parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"x": list(range(5000))}), path)


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("text.png", b"not an image", "no image"),
        ("empty.jpg", b"", "empty"),
        ("cut.png", None, "cannot be read"),
    ],
)
def test_bad_images_are_named_before_anything_is_scored(run, folder, name, content, told):
    path = folder / "pool" / name
    if content is None:
        Image.effect_noise((12, 12), 50).save(path)
        content = path.read_bytes()[:-30]
    path.write_bytes(content)
    ran = run("score", "their_model:make", "pool")
    assert (ran.code, name in ran.err, told in ran.err) == (2, True, True), ran.err
    assert not (folder / "scores.csv").exists()
    ran = run("score", "their_model:make", "pool", "--skip-bad")
    assert ran.code == 0
    assert f"left out: {os.path.join('pool', name)}" in ran.err
    assert len((folder / "scores.csv").read_text().splitlines()) == 11


def test_what_is_no_file_is_named_and_not_waited_for(run, folder):
    (folder / "pool" / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pool" / "pipe.png")
    (folder / "pool" / "folder.png").mkdir()
    ran = run("score", "their_model:make", "pool")
    assert ran.code == 2
    assert f"{os.path.join('pool', 'gone.png')} cannot be read: No such file" in ran.err
    assert f"{os.path.join('pool', 'pipe.png')} is no file" in ran.err
    assert run("score", "their_model:make", "pool", "--skip-bad").code == 0
    assert len((folder / "scores.csv").read_text().splitlines()) == 11


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["score", "their_model", "pool"], "package.module:function"),
        (["score", "their_modle:make", "pool"], "their_modle"),
        (["score", "their_model:mkae", "pool"], "It has: "),
        (["score", "their_model:no_model", "pool"], "int"),
        (["score", "their_model:make", "nowhere"], "that is there"),
        (["score", "their_model:make", "pool", "--out", "odd.csv/s.csv"], "--out"),
        (["score", "their_model:make", "empty"], "Found none"),
        (["score", "their_model:make", "pool", "--out", "scores.txt"], ".csv"),
        (["score", "their_model:make", "pool", "--params", "("], "regular expression"),
        (["score", "their_model:make", "pool", "--params", "nothing"], "params"),
        (["score", "their_model:make", "pool", "--scheme", "best"], "scheme"),
        (["score", "their_model:make", "pool", "--weights", "nowhere.pt"], "nowhere.pt"),
        (["score", "their_model:make", "pool", "--weights", "other.pt"], "must fit"),
        (["score", "their_model:make", "pool", "--device", "cuda:99"], "--device"),
        (["select", "nowhere.csv", "3"], "nowhere.csv"),
        (["select", "their_model.py", "3"], ".csv"),
        (["select", "odd.csv", "3"], "odd.csv"),
        (["score", "their_model:make", "odd.npz", "--key", "y"], "--key"),
        (["score", "their_model:make", "odd.npz"], "one row a sample"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(run, folder, arguments, told):
    (folder / "empty").mkdir()
    (folder / "odd.csv").write_text("a,b\n1,2\n")
    np.savez("odd.npz", x=np.zeros((3, 2)), z=np.zeros((4, 2)))
    torch.save({"other": torch.zeros(2)}, "other.pt")
    ran = run(*arguments)
    assert ran.code in (1, 2)
    assert told in ran.err
    assert ran.err.strip().count("\n") == 0
    assert not (folder / "scores.csv").exists()


def test_debug_shows_where_an_error_came_from(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fastgradnorm", "--debug", "score", "x:y", "pool"])
    from fastgradnorm.cli import main

    with pytest.raises(ValueError, match="module that can be imported"):
        main()


def test_scores_survive_a_place_that_cannot_be_written(run, folder, monkeypatch):
    def full(scores, path, ids, more):
        if path.parent == folder:
            raise OSError(28, "No space left on device", str(path))
        return scores.to_csv(path, ids, columns=more)

    monkeypatch.setitem(_files.WRITERS, ".csv", full)
    ran = run("score", "their_model:make", "pool", "--out", folder / "scores.csv")
    assert ran.code == 1
    assert "No space left" in ran.err
    spare = ran.err.strip().rsplit(" ", 1)[1].rstrip(".")
    assert len(Path(spare).read_text().splitlines()) == 11
    assert (folder / "scores.csv.checkpoint").exists()  # with room again, it writes them at once


def test_scores_are_printed_where_no_disk_takes_them(run, folder, monkeypatch):
    def full(scores, path, ids, more):
        raise OSError(28, "No space left on device", str(path))

    assert run("score", "their_model:make", "pool").code == 0
    expected = (folder / "scores.csv").read_text().splitlines()
    monkeypatch.setitem(_files.WRITERS, ".csv", full)
    ran = run("score", "their_model:make", "pool")
    assert ran.code == 1
    assert "The scores are above, as CSV." in ran.err
    assert ran.out.splitlines()[-11:] == expected


def _full(function, endings):
    """`function` on a disk that takes no file of these endings."""

    def write(path, content, *rest, **options):
        if path.name.endswith(endings):
            function(path, content[:1], *rest, **options)
            raise OSError(28, "No space left on device", str(path))
        return function(path, content, *rest, **options)

    return write


def test_a_disk_too_full_for_a_checkpoint_does_not_end_the_run(run, folder, monkeypatch):
    assert run("score", "their_model:make", "pool").code == 0
    expected = (folder / "scores.csv").read_text()
    monkeypatch.setattr(Path, "write_bytes", _full(Path.write_bytes, ".probe"))
    ran = run("score", "their_model:make", "pool", "--out", "new.csv")
    assert ran.code == 0
    assert "without a checkpoint" in ran.err
    assert (folder / "new.csv").read_text() == expected
    assert {path.name for path in folder.glob("new*")} == {"new.csv"}


def test_a_full_disk_leaves_no_half_page_and_no_half_list(run, folder, monkeypatch):
    (folder / "names.txt").write_text("an older list")
    monkeypatch.setattr(Path, "write_text", _full(Path.write_text, ".partial"))
    ran = run("score", "their_model:make", "pool", "--report", "report")
    assert ran.code == 1
    assert "`--report`" in ran.err
    assert "The scores are in scores.csv" in ran.err
    assert not list((folder / "report").iterdir())
    assert (folder / "scores.csv.checkpoint").exists()  # with room again, the page comes at once
    ran = run("select", "scores.csv", 3, "--out", "names.txt")
    assert (ran.code, "No space" in ran.err) == (2, True)
    assert (folder / "names.txt").read_text() == "an older list"
    assert not list(folder.glob("*.partial"))


@pytest.mark.filterwarnings("default:4 of 4 scores")
def test_a_pool_of_nothing_but_nan_keeps_its_rows_and_says_so(run, folder):
    np.savez("nan.npz", x=np.full((4, 3, 12, 12), np.nan, np.float32))
    ran = run("score", "their_model:make", "nan.npz", "--report", "report")
    assert ran.code == 1
    assert "every score is NaN" in ran.err
    assert len((folder / "scores.csv").read_text().splitlines()) == 5


SLOW = """
import os, time
import torch
from torch import nn
from their_model import make as fast

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = fast()
    def forward(self, x):
        time.sleep(0.2 if "SLOWLY" in os.environ else 0)  # while it is to be interrupted
        return self.inner(x)

def make():
    return Slow()
"""


def test_interrupted_it_goes_on_where_it_was(run, folder, monkeypatch):
    monkeypatch.setattr(chunks, "_GATHERED", 100)
    (folder / "slow_model.py").write_text(SLOW)
    # More than are held back to be put together into one pass.
    images = np.random.default_rng(0).random((1000, 3, 8, 8), dtype=np.float32)
    np.save("many.npy", images)
    # Python hears an interrupt only where it was not told, as in the background of a shell, not to.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    heard += "from fastgradnorm._engine import chunks; chunks._GATHERED = 100; "
    command = [f"{heard}from fastgradnorm.cli import main; main()"]
    command += ["score", "slow_model:make", "many.npy", "--batch-size", "50"]
    checkpoint = folder / "scores.csv.checkpoint"

    def batches():
        return checkpoint.read_bytes().count(b"\n") - 1 if checkpoint.exists() else 0

    with warm.Started(*command, cwd=folder, env=os.environ | {"SLOWLY": ""}) as process:
        end = time.monotonic() + 60
        while batches() < 2 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait()
        told = process.stderr
    assert process.returncode == 130, told
    assert "the same command goes on" in told
    assert checkpoint.exists()
    assert not (folder / "scores.csv").exists()
    other = run("score", "their_model:make", "many.npy", "--batch-size", 50)
    assert (other.code, "--no-resume" in other.err) == (2, True)
    again = warm.run(*command, cwd=folder)
    assert again.returncode == 0, again.stderr
    resumed = (folder / "scores.csv").read_text()
    assert run("score", "slow_model:make", "many.npy", "--batch-size", 50, "--no-resume").code == 0
    assert (folder / "scores.csv").read_text() == resumed
