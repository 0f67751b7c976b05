"""What classes are called on the pages of the command line."""

import re
from types import SimpleNamespace

import pytest
from torch import nn

from fastgradnorm.cli._classes import class_names, fitting


@pytest.mark.slow
def test_the_page_calls_classes_by_their_names(run, folder):
    (folder / "names.txt").write_text("ant\nbee <&>\ncat\n", encoding="utf-8-sig")
    asked = ("their_model:make", "pool")
    run("acquire", *asked, 10, "--report", "r", "--classes", "names.txt")
    page = (folder / "r" / "index.html").read_text()
    predicted = set(re.findall(r"class \d|ant|bee &lt;&amp;&gt;|\bcat\b(?! plot)", page))
    assert predicted & {"ant", "bee &lt;&amp;&gt;", "cat"}
    assert not any(each.startswith("class") for each in predicted)
    run("score", *asked, "--out", "s.csv", "--report", "q", "--classes", "names.txt")
    page = (folder / "q" / "index.html").read_text()
    assert re.search(r"(ant|bee &lt;&amp;&gt;|cat), \d", page)
    assert not re.search(r"class \d, ", page)


@pytest.mark.parametrize("text", ["", "ant\n\ncat\n", b"\xff\xfe\x00"])
def test_names_of_classes_that_are_none(run, folder, text):
    (folder / "names.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = run("acquire", "their_model:make", "pool", 3, "--classes", "names.txt")
    assert ran.code == 2
    assert "`--classes` must" in ran.err


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({0: "cat", 1: "dog"}, ["cat", "dog"]),
        ({1: "dog", 0: "LABEL_0"}, ["LABEL_0", "dog"]),
        ({0: "LABEL_0", 1: "LABEL_1"}, None),
        ({1: "cat", 2: "dog"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_names_that_a_model_has_in_its_configuration(told, names):
    model = nn.Linear(2, 2)
    if told is not None:
        model.config = SimpleNamespace(id2label=told)
    assert (class_names(None, model) or None) == names


@pytest.mark.slow
def test_names_of_classes_that_are_too_few_or_not_there(run, folder):
    (folder / "names.txt").write_text("ant")
    for command in (("acquire", 10), ("score",)):
        ran = run(
            command[0],
            "their_model:make",
            "pool",
            *command[1:],
            "--report",
            "r",
            "--classes",
            "names.txt",
        )
        assert ran.code == 2
        assert re.search(r"\d at least, for class \d is predicted.*Got 1\.", ran.err)
    ran = run("acquire", "their_model:make", "pool", 3, "--classes", "none.txt")
    assert ran.code == 2
    assert "`--classes` must be a text file of names" in ran.err


@pytest.mark.slow
def test_a_page_is_written_where_names_are_too_few(run, folder):
    (folder / "names.txt").write_text("ant")
    asked = ("their_model:make", "pool")
    ran = run("acquire", *asked, 10, "--report", "r", "--classes", "names.txt")
    assert ran.code == 2
    assert "The page has numbers" in ran.err
    assert "class 1" in (folder / "r" / "index.html").read_text()


@pytest.mark.slow
def test_names_that_no_page_would_have(run, folder):
    (folder / "names.txt").write_text("ant\nbee\ncat\n")
    for command in (("acquire", 3), ("score",)):
        ran = run(command[0], "their_model:make", "pool", *command[1:], "--classes", "names.txt")
        assert ran.code == 2
        assert "`--classes` must be left out where there is no --report" in ran.err


def test_the_next_class_needs_a_name_too(capsys, tmp_path):
    file = tmp_path / "names.txt"
    assert fitting(["ant", "bee"], ([0, 1, None], [1, 0]), file) == (["ant", "bee"], None)
    names, wrong = fitting(["ant", "bee"], ([0, 1], [2, None]), file)
    assert names is None
    assert "3 at least, for class 2" in wrong
    assert fitting(["ant", "bee"], ([0, 1], [2]), None) == (None, None)  # a model's configuration
    assert fitting(None, ([0],), None) == (None, None)
    assert not capsys.readouterr().err


def test_more_names_than_classes_are_told(capsys, tmp_path):
    names = ["background", "ant", "bee"]
    assert fitting(names, ([0, 1], [1, 0]), tmp_path / "names.txt") == (names, None)
    assert "names 3 classes, and none from 2, 'bee', on" in capsys.readouterr().err
    fitting(names, ([], []), tmp_path / "names.txt")  # outputs that are no classes
    assert not capsys.readouterr().err
