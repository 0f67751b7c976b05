"""The command, in a process of its own, on a real disk that is full: what it scored survives."""

import os
import subprocess

import numpy as np
import pytest

from tests.support import warm

pytestmark = pytest.mark.slow

SIZE = 64 * 1024


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def score(folder, pool, *arguments):
    command = ["from fastgradnorm.cli import main; main()", "score", "their_model:make", pool]
    return warm.run(*command, *arguments, cwd=folder, env=os.environ | {"TMPDIR": str(folder)})


@pytest.mark.parametrize(
    "room, told",
    [
        pytest.param(0, "without a checkpoint", id="none at all"),
        pytest.param(5, "cannot be written any more", id="for half a checkpoint"),
    ],
)
def test_scores_survive_a_full_disk(run, folder, small_disk, room, told):
    page = os.sysconf("SC_PAGE_SIZE")
    (small_disk / "fill").write_bytes(bytes(SIZE - room * page))
    pool = "pool"
    if room:  # a few scores do not fill a page: let them be many
        pool = "many.npy"
        np.save(pool, np.random.default_rng(0).random((3000, 3, 8, 8), dtype=np.float32))
    assert run("score", "their_model:make", pool, "--out", "here.csv", "--batch-size", 1).code == 0
    ran = score(folder, pool, "--out", small_disk / "scores.csv", "--batch-size", 1)
    assert ran.returncode == 1, ran.stderr
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    [spare] = folder.glob("fastgradnorm-*/scores.csv")
    assert str(spare) in ran.stderr
    assert spare.read_text() == (folder / "here.csv").read_text()
    assert not (small_disk / "scores.csv").exists()
