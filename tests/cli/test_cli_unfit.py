"""Models, weights and options that do not fit: told by name, with what to do, and soon."""

import os
import sys

import pytest
import torch

SCRIPTS = {
    "argparse_at_the_top": "import argparse; argparse.ArgumentParser().parse_args(['--lr', '3'])",
    "exits": "import sys; sys.exit(3)",
    "syntax": "def make(:",
    "names": "made = undefined",
    "gone": "from torch import nothing_of_this_name",
}


@pytest.fixture
def scripts(folder):
    for name, text in SCRIPTS.items():
        (folder / f"{name}.py").write_text(text + "\n")
        sys.modules.pop(name, None)
    with (folder / "their_model.py").open("a") as file:
        file.write("\ndef ends():\n    raise SystemExit(3)\nmodel = make()\ndef asks(n): ...\n")
        file.write("\ndef of_columns():\n    return nn.Linear(2, 3)\n")
    return folder


@pytest.mark.parametrize("command", ["acquire", "score", "explain"])
@pytest.mark.parametrize(
    "maker, told",
    [
        ("argparse_at_the_top:make", "ended the process (exit code 2)"),
        ("exits:make", "ended the process (exit code 3)"),
        ("their_model:ends", "ended the process (exit code 3)"),
        ("syntax:make", "(syntax.py, line 1)"),
        ("names:make", "(names.py, line 1)"),
        ("gone:make", "(gone.py, line 1)"),
        ("their_model:asks", "missing 1 required positional argument: 'n'. --debug"),
    ],
)
def test_a_model_whose_code_fails_or_ends_the_process(scripts, run, command, maker, told):
    ran = run(command, maker, "pool", *(["2"] if command == "acquire" else []))
    assert ran.code == 2
    assert told in ran.err
    assert "`MODEL`" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ["acquire", "score", "explain"])
def test_samples_that_the_model_does_not_take(scripts, run, command):
    ran = run(command, "their_model:of_columns", "pool", *(["2"] if command == "acquire" else []))
    assert ran.code == 2
    assert "`MODEL` must run on one sample of `POOL`" in ran.err
    assert "This layer takes [..., 2]" in ran.err


@pytest.mark.slow
def test_a_model_as_it_stands_in_the_file(scripts, run):
    ran = run("acquire", "their_model:model", "pool", "2")
    assert (ran.code, len(ran.out.split())) == (0, 2)
    assert ran.out == run("acquire", "their_model:make", "pool", "2").out


def saved(name, change):
    import their_model

    torch.save(change(their_model.make().state_dict()), name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, told",
    [
        (lambda s: {**s, "4.weight": torch.ones(9, 4)}, "as many classes and as wide"),
        (lambda s: dict([*s.items()][:-1]), "of the same layers, by the same names"),
        (lambda s: {**s, "5.weight": torch.ones(2)}, "of the same layers, by the same names"),
        (lambda s: {f"layer{k[2:]}": v for k, v in s.items()}, "of another MODEL?"),
    ],
)
def test_weights_of_another_model(folder, run, change, told):
    run("explain", "their_model:make", "pool")  # so that it can be imported here
    saved("their.pt", change)
    ran = run("acquire", "their_model:make", "pool", "2", "--weights", "their.pt")
    assert ran.code == 2
    assert told in ran.err


@pytest.mark.parametrize(
    "content, told",
    [(b"", "it is empty."), (b"hello", "no state dict:"), (None, "a scripted model")],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_that_are_no_weights(folder, run, content, told):
    if content is None:
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), "their.pt")
    else:
        (folder / "their.pt").write_bytes(content)
    ran = run("acquire", "their_model:make", "pool", "2", "--weights", "their.pt")
    assert ran.code == 2
    assert told in ran.err
    assert not ran.err.rstrip().endswith(":")
    assert "weights_only" not in ran.err  # no advice to run what strangers wrote


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:10 of 10 scores are NaN")
def test_weights_of_nan_are_told_as_that(folder, run):
    run("explain", "their_model:make", "pool")
    saved("their.pt", lambda s: {name: value * float("nan") for name, value in s.items()})
    ran = run("acquire", "their_model:make", "pool", "2", "--weights", "their.pt")
    assert "10 have no finite score" in ran.err


ROWS = "id,a,b\nx,1,2\ny,3,4\n"


@pytest.mark.parametrize(
    "option", [["--text", "a"], ["--tokenizer", "bert"], ["--max-length", "9"], ["--key", "a"],
               ["--ids", "id"]]
)  # fmt: skip
def test_options_of_tables_where_the_pool_is_a_folder(folder, run, option):
    ran = run("acquire", "their_model:make", "pool", "2", *option)
    assert ran.code == 2
    assert f"`{option[0]}` must be left out where the pool is a folder of images" in ran.err


@pytest.mark.parametrize("option", [["--image-size", "9"], ["--every-frame"]])
def test_options_of_images_where_the_pool_is_a_table(scripts, run, option):
    (scripts / "t.csv").write_text(ROWS)
    ran = run("acquire", "their_model:of_columns", "t.csv", "1", "--ids", "id", *option)
    assert ran.code == 2
    assert f"`{option[0]}` must be left out where the pool is a table" in ran.err


@pytest.mark.parametrize(
    "text, told",
    [
        (ROWS, "If it names the samples: --ids id."),
        ("a;b\n1,5;2\n2,5;3\n", "Write it with a decimal point."),
        ("1,2\n3,4\n5,6\n", "the first line of t.csv is read as names of columns"),
    ],
)
def test_tables_that_need_a_word(scripts, run, text, told):
    (scripts / "t.csv").write_text(text)
    assert told in run("acquire", "their_model:of_columns", "t.csv", "1").err


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write")
@pytest.mark.parametrize("place", ["/proc/page", "their_model.py"])
@pytest.mark.parametrize("command, option", [("acquire", "--report"), ("score", "--report"),
                                             ("acquire", "--copy-to")])  # fmt: skip
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    folder, run, command, option, place
):
    ran = run(command, "their_model:make", "pool", *(["2"] * (command == "acquire")), option, place)
    assert ran.code == 2
    assert f"`{option}` must be a folder" in ran.err
    assert ran.out == ""


@pytest.mark.slow
def test_a_folder_to_be_made_is_not_made_before_the_work(folder, run):
    assert run("acquire", "their_model:make", "pool", "99", "--report", "new/page").code == 2
    assert not (folder / "new").exists()
    assert run("acquire", "their_model:make", "pool", "2", "--report", "new/page").code == 0
    assert [path.name for path in (folder / "new").rglob("*.*")] == ["index.html"]


def test_what_is_labelled_is_told_by_its_own_option(folder, run):
    (folder / "empty").mkdir()
    (folder / "names.txt").write_bytes(b"\xff\x81")
    for place in ("empty", "names.txt"):
        ran = run("acquire", "their_model:make", "pool", "2", "--labelled", place)
        assert ran.code == 2
        assert "`--labelled`" in ran.err
        assert "`POOL`" not in ran.err
        assert "codec" not in ran.err
