"""Pools that are not there or of no known kind, arguments in another order, columns of no numbers;
and folders for what was chosen that hold something already."""

import csv
import shlex

import pytest

from tests.cli.conftest import MODULE

COLUMNS = "\ndef of_columns():\n    return nn.Linear(2, 3)\n"


@pytest.fixture
def there(folder):
    (folder / "their_model.py").write_text(MODULE + COLUMNS)
    (folder / "sheet.xlsx").write_bytes(b"PK")
    (folder / "notes.doc").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    "pool, told",
    [
        ("pol", "that is there. Got pol. Did you mean pool?"),
        ("pool/depeer", "Did you mean pool/deeper?"),
        ("missing.xlsx", "that is there. Got missing.xlsx."),
        ("nowhere/at/all", "there is no folder nowhere/at."),
        ("sheet.xlsx", "Got sheet.xlsx. Save it as .csv"),
        ("notes.doc", ".jsonl, .txt. Got notes.doc."),
    ],
)
@pytest.mark.parametrize("option", [(), ("--text", "body"), ("--image-size", 8), ("--ids", "id")])
def test_a_pool_that_is_not_there(run, there, pool, told, option):
    ran = run("acquire", "their_model:make", pool, 3, *option)
    assert ran.code == 2
    assert told in ran.err
    assert "left out" not in ran.err


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("acquire", "their_model:make", 3, "pool"), "Got 'pool'. The order is MODEL POOL K."),
        (("ask", "their_model:make", 3, "pool"), "Got 'pool'. The order is MODEL POOL K."),
        (("select", 3, "scores.csv"), "Got 'scores.csv'. The order is SCORES K."),
        (("acquire", "their_model:make", "pool", 0), "must be at least 1. Got 0."),
    ],
)
def test_arguments_in_another_order(run, there, arguments, told):
    ran = run(*arguments)
    assert ran.code == 2
    assert told in " ".join(ran.err.split())


@pytest.mark.slow
def test_columns_of_no_numbers_are_told_with_what_to_write(run, there):
    with open("t.csv", "w", newline="") as file:
        rows = [(f"r{i}", i / 7, i % 3, "south") for i in range(9)]
        csv.writer(file).writerows([("id", "a", "b b", "site"), *rows])
    given = ("acquire", "their_model:of_columns", "t.csv", 2)
    ran = run(*given)
    assert ran.code == 2
    assert "If it names the samples: --ids id. Inputs are chosen by --key a --key 'b b'" in ran.err
    ran = run(*given, "--ids", "id")
    assert (ran.code, "--ids" in ran.err) == (2, False)
    line = ran.err.partition("Inputs are chosen by ")[2].partition(", without")[0]
    assert "--text site" in ran.err
    followed = run(*given, "--ids", "id", *shlex.split(line))
    assert followed.code == 0, followed.err


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--copy-to", "--link-to"])
def test_what_a_folder_holds_already_is_told(run, there, option):
    given = ("acquire", "their_model:make", "pool", 3, option, "to_label")
    first = run(*given)
    assert (first.code, "warning" in first.err) == (0, False)
    again = run(*given)  # as after a failure: the same are there
    assert (again.code, "warning" in again.err) == (0, False)
    (there / "done.txt").write_text(first.out)
    ran = run(*given, "--labelled", "done.txt")
    assert ran.code == 0
    names = sorted(first.out.split())
    assert f"warning: to_label holds 3 other files, not of this choice: {names[0]}," in ran.err
    assert len(list((there / "to_label").rglob("*.png"))) == 6
