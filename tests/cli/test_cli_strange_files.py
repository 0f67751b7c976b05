"""Files as they come: names that are no text, of other systems, half there, of other trainers."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fastgradnorm.cli import _placing
from fastgradnorm.cli._samples import Pool

STRANGE = os.fsdecode(b"\xff\xe91.png")  # Latin-1, as old archives have it
TABLE = """
def of_columns():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))

def of_halves():
    return make().half()
"""


@pytest.fixture
def strange(folder):
    try:
        os.rename(folder / "pool" / "0.png", folder / "pool" / STRANGE)
    except OSError:
        pytest.skip("file system takes text alone")
    return folder


@pytest.fixture
def printed(run):
    """What a command prints, also where that is no text."""

    def call(*arguments):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            ran = run(*arguments)
        assert ran.code == 0, ran.err
        return out.getvalue().splitlines()

    return call


@pytest.fixture
def tables(folder):
    with (folder / "their_model.py").open("a") as file:
        file.write(TABLE)
    (folder / "t.csv").write_text("a,b\n" + "".join(f"{i},{i % 3}\n" for i in range(9)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_names_that_are_no_text_are_written_and_read_again(run, printed, strange, suffix):
    out = f"chosen.{suffix}"
    told = printed("acquire", "their_model:make", "pool", 10, "--out", out, "--report", "page")
    assert STRANGE in told
    assert os.fsencode(STRANGE) in Path(out).read_bytes()
    assert "%FF%E91.png" in Path("page/index.html").read_text(errors="replace")
    again = run("acquire", "their_model:make", "pool", 1, "--labelled", out)
    assert "Of 10 samples 10 have a label already" in again.err


@pytest.mark.slow
@pytest.mark.parametrize("out", ["s.csv", "s.jsonl", "s.parquet"])
def test_scores_of_them(run, printed, strange, out):
    if out.endswith("parquet"):
        pytest.importorskip("pyarrow")
    assert run("score", "their_model:make", "pool", "--out", out).code == 0
    told = STRANGE if not out.endswith("parquet") else "\\udcff\\udce91.png"
    assert told in printed("select", out, 10)


@pytest.mark.slow
def test_names_with_spaces_around_them(run, folder):
    os.rename("pool/0.png", "pool/ a .png")
    os.rename("pool/2.png", "pool/b.png ")  # no image, by its name
    assert run("acquire", "their_model:make", "pool", 9, "--out", "o.txt").code == 0
    ran = run("acquire", "their_model:make", "pool", 1, "--labelled", "o.txt")
    assert "Of 9 samples 9 have a label already" in ran.err


@pytest.mark.slow
def test_what_other_systems_leave_in_folders(run, folder):
    Path("pool/._0.png").write_bytes(b"\0\5\x16\7")
    assert run("acquire", "their_model:make", "pool", 2).code == 0
    for name in ("a.heic", "b.HEIC", "c.dcm"):
        Path("pool", name).touch()
    ran = run("acquire", "their_model:make", "pool", 2)
    assert ran.code == 0
    assert "left out: 1 .dcm, 2 .heic, which are not read here" in ran.err
    Path("other").mkdir()
    shutil.copy("pool/a.heic", "other")
    ran = run("acquire", "their_model:make", "other", 2)
    assert "Found none below other, but 1 .heic" in ran.err


def test_a_list_that_names_nothing_is_told(run, folder):
    Path("none.txt").touch()
    ran = run("acquire", "their_model:make", "pool", 2, "--labelled", "none.txt")
    assert "`--labelled` none.txt names nothing" in ran.err


@pytest.mark.parametrize("command", [["acquire", "2"], ["score"]])
def test_an_output_that_is_a_folder_is_told_first(run, folder, command):
    Path("o.csv").mkdir()
    ran = run(command[0], "their_model:make", "pool", *command[1:], "--out", "o.csv")
    assert (ran.code, ran.out) == (2, "")
    assert "`--out` must be a file. Got the folder o.csv" in ran.err


@pytest.mark.parametrize("option", ["--copy-to", "--report", "--link-to"])
def test_names_that_are_too_long_are_told_first(run, folder, option):
    ran = run("acquire", "their_model:make", "pool", 2, option, "y" * 300)
    assert (ran.code, ran.out) == (2, "")
    assert f"`{option}` must be a folder in which files can be written" in ran.err


def test_copies_and_links_in_one_folder(run, folder):
    ran = run("acquire", "their_model:make", "pool", 2, "--copy-to", "c", "--link-to", "./c")
    assert ran.code == 2
    assert "`--link-to` must be another folder than `--copy-to`" in ran.err


def test_a_copy_that_is_stopped_leaves_no_half(folder, monkeypatch):
    def stopped(source, to):
        to.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(_placing.shutil, "copy2", stopped)
    pool = Pool([None], ["0.png"], root=Path("pool"), files=["0.png"])
    with pytest.raises(KeyboardInterrupt):
        _placing.copy_to(pool, [0], Path("there"))
    assert not [*Path("there").iterdir()]


@pytest.mark.slow
def test_copies_of_long_names_and_of_files_that_nobody_may_write(run, folder):
    name = "n" * 250 + ".png"
    os.rename("pool/0.png", Path("pool", name))
    os.chmod(Path("pool", name), 0o444)
    assert run("acquire", "their_model:make", "pool", 10, "--copy-to", "there").code == 0
    assert Path("there", name).read_bytes() == Path("pool", name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.tsv", "T.CSV", "blank.csv", "big.npy"])
def test_tables_as_they_come(run, tables, name):
    text = Path("t.csv").read_text()
    rows = np.array([[i, i % 3] for i in range(9)], ">f8")
    content = {"t.tsv": text.replace(",", "\t"), "T.CSV": text, "blank.csv": f"\n ,\n\n{text}"}
    if name.endswith("npy"):
        np.save(name, rows)
    else:
        Path(name).write_text(content[name])
    ran = run("acquire", "their_model:of_columns", name, 3)
    assert ran.code == 0, ran.err
    assert ran.out == run("acquire", "their_model:of_columns", "t.csv", 3).out


def test_a_cell_that_is_empty(run, tables):
    Path("t.csv").write_text("a,b\n1,2\n,3\n")
    ran = run("acquire", "their_model:of_columns", "t.csv", 1)
    assert (
        "row 1 has no number in column 'a'. Fill them in, or leave them out with --skip-bad."
        in ran.err
    )


def test_texts_hold_other_breaks_than_lines(tmp_path):
    from fastgradnorm.cli._tables import read_table

    (tmp_path / "t.txt").write_text("one\u2028still one\ntwo\x0c\n\nthree\x85", encoding="utf-8")
    assert read_table(tmp_path / "t.txt")["text"] == ["one\u2028still one", "two\x0c", "three\x85"]


def states(model):
    own, other = model.state_dict(), nn.Linear(2, 2).state_dict()
    averaged = AveragedModel(model).state_dict()
    return {
        "averaged": averaged,
        "one beside an optimizer": {"net": own, "optimizer": {"state": {}}, "epoch": 3},
        "averaged alone": {"model_ema": own, "rng": {"cpu": torch.zeros(4, dtype=torch.uint8)}},
        "the usual first": {"ema": other, "state_dict": own},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", states(nn.Linear(2, 2)))
def test_checkpoints_of_trainers(run, tables, name):
    space = {}
    exec((tables / "their_model.py").read_text(), space)
    torch.save(states(space["of_columns"]())[name], "w.pt")
    ran = run("acquire", "their_model:of_columns", "t.csv", 3, "--weights", "w.pt")
    assert ran.code == 0, ran.err
    assert ("holds state_dict, which is taken, and beside it ema" in ran.err) == ("usual" in name)


def test_a_checkpoint_of_several_models(run, tables):
    own = nn.Linear(2, 2).state_dict()
    torch.save({"generator": own, "discriminator": own}, "w.pt")
    ran = run("acquire", "their_model:of_columns", "t.csv", 3, "--weights", "w.pt")
    assert ran.code == 2
    assert "several sets of them, generator, discriminator" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("place", ["{}/their_model.py", "../{name}/their_model.py"])
def test_a_model_by_its_path(run, folder, place, monkeypatch):
    before = [*sys.path]
    monkeypatch.setattr(sys, "path", [p for p in before if p not in ("", str(folder))])
    model = place.format(folder, name=folder.name) + ":make"
    assert run("acquire", model, "pool", 2).code == 0


@pytest.mark.slow
def test_what_a_model_is_given_is_told_with_a_cure(run, tables):
    ran = run("acquire", "their_model:of_halves", "pool", 2)
    assert "the same. It was given torch.float32, its parameters are torch.float16" in ran.err
    assert "as by `model.float()`" in ran.err
    ran = run("acquire", "their_model:of_columns", "t.csv", 2, "--class-dim", 3)
    assert "fastgradnorm: `--class-dim` must be a dimension of the logits" in ran.err


@pytest.mark.slow
def test_a_terminal_is_given_the_bytes_of_names(strange):
    command = [sys.executable, "-c", "from fastgradnorm_command import main; main()"]
    arguments = ["acquire", "their_model:make", "pool", "10"]
    done = subprocess.run([*command, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(STRANGE) in done.stdout.splitlines()
