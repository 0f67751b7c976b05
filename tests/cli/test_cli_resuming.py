"""`acquire` and `ask`, stopped or killed: the same command goes on and chooses the same."""

import base64
import json
import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from fastgradnorm._engine import chunks
from tests.support import warm

# Images are read by a transform, which stops where the test says, and writes down what it reads.
MODULE = """
import os, signal
from pathlib import Path
import numpy as np
import torch
from their_model import make as network

def make():
    def transform(image):
        with open("read", "a") as file:
            file.write("x")
        if Path("stop").exists() and len(Path("read").read_text()) >= int(Path("stop").read_text()):
            if "KILL" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return network(), transform
"""
GIVEN = ("stopping:make", "pool", 5, "--batch-size", 4)


@pytest.fixture
def stopped(folder, monkeypatch):
    """Stops what runs at the n-th image that it reads; None: does not."""
    monkeypatch.setattr(chunks, "_GATHERED", 8)
    monkeypatch.delitem(sys.modules, "stopping", raising=False)
    (folder / "stopping.py").write_text(MODULE)
    random = np.random.default_rng(1)
    (folder / "known").mkdir()
    for i in range(40):
        pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        place = "known" if i >= 30 else "pool"
        Image.fromarray(pixels).save(folder / place / f"more{i}.png")

    def at(n):
        for name in ("read", "stop"):
            (folder / name).unlink(missing_ok=True)
        if n is not None:
            (folder / "stop").write_text(str(n))

    return at


def read(folder):
    return len((folder / "read").read_text())


def names(ran):
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


def told(folder, name):
    """How many samples the checkpoint has scores of, by their bytes, and of what is labelled."""
    found = []
    for suffix, what in (("", "samples of the pool"), (".labelled", "labelled ones")):
        path = folder / f"{name}{suffix}"
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        items = [json.loads(line.partition(" ")[2]) for line in lines]
        scores = [next(iter(item["columns"].values())) for item in items if "columns" in item]
        count = sum(len(base64.b64decode(data)) // np.dtype(kind).itemsize for kind, data in scores)
        found += [f"{count} {what}"] if count else []
    return " and ".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("command, place", [("acquire", "a.csv"), ("score", "a.csv"), ("ask", "")])
@pytest.mark.parametrize("at, kept", [(5, 0), (18, 16), (30, 24)])
def test_how_many_are_kept_is_told(run, folder, stopped, command, place, at, kept):
    stopped(at)
    given = GIVEN if command != "score" else (*GIVEN[:2], *GIVEN[3:])
    ran = run(command, *given, *(("--out", place) if place else ()))
    assert ran.code == 130
    if not kept:
        assert "interrupted. Nothing is kept yet: the same command begins anew." in ran.err
        return
    assert f"checkpoint keeps {kept} samples of the pool: the same command goes on" in ran.err
    stopped(None)
    assert run(command, *given, *(("--out", place) if place else ())).code == 0
    assert read(folder) < 40 - kept / 2


def files(folder, start):
    return {path.name for path in folder.glob(f"{start}*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--strategy", "expected/all/top", "--seed", 3),
        ("--labelled", "known"),
        ("--strategy", "sketch/predicted/all/lcmd", "--max-per-folder", 4),
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_what_is_chosen_is_the_same(run, folder, stopped, options):
    stopped(None)
    expected = names(run("acquire", *GIVEN, *options, "--out", "whole.csv"))
    whole = read(folder)
    for n in (18, 14):
        stopped(n)
        ran = run("acquire", *GIVEN, *options, "--out", "a.csv")
        assert ran.code == 130
        assert f"a.csv.checkpoint keeps {told(folder, 'a.csv.checkpoint')}: the same" in ran.err
        assert ran.out == ""
    stopped(None)
    assert names(run("acquire", *GIVEN, *options, "--out", "a.csv")) == expected
    assert read(folder) < whole - 10
    assert (folder / "a.csv").read_text() == (folder / "whole.csv").read_text()
    assert files(folder, "a.csv") == {"a.csv"}


@pytest.mark.slow
def test_a_place_of_its_own(run, folder, stopped):
    stopped(20)
    ran = run("acquire", *GIVEN)
    assert (ran.code, "With --out or --checkpoint" in ran.err) == (130, True)
    stopped(20)
    assert run("acquire", *GIVEN, "--checkpoint", "new/kept").code == 130
    assert {"kept", "kept.bin"} <= files(folder / "new", "kept")
    stopped(None)
    other = run("acquire", *GIVEN, "--checkpoint", "new/kept", "--scheme", "entropy")
    assert (other.code, "another --checkpoint, or --no-resume" in other.err) == (2, True)
    given = ("--checkpoint", "new/kept", "--scheme", "entropy", "--no-resume")
    assert names(run("acquire", *GIVEN, *given)) == names(
        run("acquire", *GIVEN, "--scheme", "entropy")
    )
    assert not files(folder / "new", "kept")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, place",
    [(("acquire", "--labelled", "known", "--out", "a.csv"), "a.csv"), (("ask",), "campaign/ask")],
    ids=["acquire", "ask"],
)
def test_what_was_read_is_not_read_again_and_nothing_is_left(run, folder, stopped, options, place):
    command, *more = options
    stopped(18)
    assert run(command, *GIVEN, *more).code == 130
    begun = files(folder, place)
    assert any(name.endswith(".checkpoint") for name in begun)
    stopped(None)
    names(run(command, *GIVEN, *more))
    assert read(folder) < 40
    assert files(folder, place) <= {place}


@pytest.mark.slow
def test_an_answer_that_cannot_be_written_costs_no_second_run(run, folder, stopped):
    stopped(None)
    (folder / "page" / "index.html").mkdir(parents=True)  # where a file is to be
    ran = run("acquire", *GIVEN, "--out", "a.csv", "--report", "page")
    assert ran.code == 1
    assert "a.csv.checkpoint" in files(folder, "a.csv")
    stopped(None)
    assert run("acquire", *GIVEN, "--out", "a.csv", "--report", "there").code == 0
    assert read(folder) < 30
    assert files(folder, "a.csv") == {"a.csv"}


@pytest.mark.slow
def test_people_are_asked_the_same(run, folder, stopped):
    stopped(None)
    expected = names(run("ask", *GIVEN, "--campaign", "whole"))
    stopped(20)
    ran = run("ask", *GIVEN)
    assert ran.code == 130
    kept = told(folder, "campaign/ask.checkpoint")
    assert f"ask.checkpoint keeps {kept}: the same command goes on from there" in ran.err
    stopped(None)
    assert names(run("ask", *GIVEN)) == expected
    assert read(folder) < 36
    assert files(folder / "campaign", "ask") == set()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes that can be killed")
def test_a_process_that_is_killed(run, folder, stopped):
    stopped(None)
    expected = names(run("acquire", *GIVEN, "--out", "whole.csv"))
    command = [
        "from fastgradnorm._engine import chunks; chunks._GATHERED = 8; "
        "from fastgradnorm.cli import main; main()",
        "acquire", *map(str, GIVEN), "--out", "a.csv",
    ]  # fmt: skip
    where = {"cwd": folder, "env": {**os.environ, "KILL": ""}}
    stopped(24)
    done = warm.run(*command, **where)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "a.csv.checkpoint" in files(folder, "a.csv")
    stopped(None)
    done = warm.run(*command, **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert (folder / "a.csv").read_text() == (folder / "whole.csv").read_text()
    assert read(folder) < 40
