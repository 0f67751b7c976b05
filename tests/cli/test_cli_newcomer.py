"""What a newcomer gets wrong: each is told with what to do, and none by a traceback."""

import csv

import numpy as np
import pytest
import torch

MAKERS = """
import numpy as np

def makes_nothing():
    return make(), lambda image: None

def forgets_to_convert():
    return make(), lambda image: image

def two_shapes():
    seen = []
    def transform(image):
        seen.append(image)
        return torch.rand(3, 8, 7 + (len(seen) > 4))
    return make(), transform

def arrays():
    return make(), lambda image: np.random.rand(3, 8, 8).astype("float32")

def lacks_a_file():
    raise FileNotFoundError("backbone.pt")

def has_a_bug():
    return {}["backbone"]

def five_classes():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

def blind_to_some():
    seen = []
    def transform(image):
        seen.append(image)
        return torch.full((3, 8, 8), float("nan") if len(seen) in (1, 3) else len(seen) / 10)
    return make(), transform

def of_columns():
    return nn.Linear(2, 3)
"""


@pytest.fixture
def wrong(folder):
    with (folder / "their_model.py").open("a") as file:
        file.write(MAKERS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    "maker, told",
    [
        ("makes_nothing", "must return a tensor. It returned NoneType for"),
        ("forgets_to_convert", "It returned Image for"),
        ("two_shapes", "tensors of one shape. It returned [3, 8, 7] for"),
    ],
)
def test_a_transform_of_which_no_batch_can_be_made(run, wrong, maker, told, workers):
    ran = run("acquire", f"their_model:{maker}", "pool", "2", "--workers", workers)
    assert ran.code in (1, 2)  # from a worker it comes as text
    assert told in ran.err
    assert ".png" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_a_transform_that_returns_arrays_is_taken(run, wrong):
    assert run("acquire", "their_model:arrays", "pool", "2").code == 0


@pytest.mark.parametrize(
    "maker, told",
    [("lacks_a_file", "FileNotFoundError: backbone.pt"), ("has_a_bug", "KeyError: 'backbone'")],
)
def test_a_function_that_fails_is_told_with_its_line(run, wrong, maker, told):
    ran = run("acquire", f"their_model:{maker}", "pool", "2")
    assert ran.code == 2
    assert f"`MODEL` their_model:{maker} failed: {told} (their_model.py, line " in ran.err
    assert "Traceback" not in ran.err


def test_weights_of_another_number_of_classes(run, wrong):
    torch.save(torch.nn.Linear(4, 5).state_dict(), "five.pt")
    ran = run("acquire", "their_model:of_columns", "pool", "2", "--weights", "five.pt")
    assert ran.code == 2
    assert "Let MODEL make it as it was trained" in ran.err


def table(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("id", "a", "b", "label"), *rows])


@pytest.mark.slow
def test_columns_that_are_read_are_told(run, wrong):
    table("t.csv", [(i, i / 7, i % 3, i % 2) for i in range(9)])
    ran = run("acquire", "their_model:of_columns", "t.csv", "2", "--ids", "id")
    assert ran.code == 2  # the label is no input
    assert "Inputs: the columns a, b, label, in this order; choose with --key." in ran.err
    chosen = ("--key", "a", "--key", "b")
    ran = run("acquire", "their_model:of_columns", "t.csv", "2", "--ids", "id", *chosen)
    assert ran.code == 0
    assert "Inputs" not in ran.err


@pytest.mark.slow
def test_names_that_stand_twice_are_told(run, wrong):
    table("t.csv", [(i % 8, i / 7, i % 3, 0) for i in range(9)])
    given = ("their_model:of_columns", "t.csv", "2", "--key", "a", "--key", "b")
    ran = run("acquire", *given, "--ids", "id")
    assert ran.code == 2
    assert "`--ids` must have a name of its own for each sample: 1 name stands more" in ran.err
    assert "such as '0' 2 times" in ran.err
    assert run("ask", *given, "--ids", "id").code == 2
    ran = run("score", given[0], given[1], *given[3:], "--ids", "id")
    assert (ran.code, "warning: 1 name stands more than once" in ran.err) == (0, True)
    assert "more than once" not in run("acquire", *given).err


def test_a_table_in_another_encoding(run, wrong):
    (wrong / "t.csv").write_bytes("id,a,b\n1,2,3\n".encode("utf-16"))
    ran = run("acquire", "their_model:of_columns", "t.csv", "2")
    assert ran.code == 2
    assert "Save it as that" in ran.err


@pytest.mark.parametrize("name", ["bad.npz", "bad.npy"])
def test_nobody_is_told_to_load_what_may_run_code(run, wrong, name):
    (wrong / name).write_bytes(b"hello")
    ran = run("acquire", "their_model:of_columns", name, "2")
    assert ran.code == 2
    assert "damaged" in ran.err
    assert "unsafely" not in ran.err
    with pytest.raises(ValueError, match="unsafely"):  # as NumPy says by itself
        np.load(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("always:.*are NaN or infinite")
@pytest.mark.parametrize("command", [["score"], ["acquire"]])
def test_samples_without_a_score_are_named(run, wrong, command):
    given = ["2"] if command == ["acquire"] else []
    ran = run(*command, "their_model:blind_to_some", "pool", *given)
    assert ran.code == 0
    assert "2 of 10 scores are NaN" in ran.err
    names = sorted(str(p.relative_to(wrong / "pool")) for p in (wrong / "pool").rglob("*.png"))
    (told,) = [line for line in (ran.out + ran.err).splitlines() if "Without a score" in line]
    assert told.endswith(f": {names[0]}, {names[2]}")


@pytest.mark.slow
def test_what_is_explained_has_a_legend(run, wrong):
    ran = run("explain", "their_model:make", "pool")
    assert "T positions, I inputs, O outputs" in ran.err
    assert "T positions" not in run("explain", "their_model:make", "pool", "--json").err


def test_a_line_that_python_does_not_understand_is_told_once(run, folder):
    (folder / "bad_syntax.py").write_text("from torch import nn\ndef make()\n    return 3\n")
    ran = run("acquire", "bad_syntax:make", "pool", "2")
    assert ran.code == 2
    assert ran.err.count("line 2") == ran.err.count("bad_syntax.py") == 1
    assert "SyntaxError: expected ':' (bad_syntax.py, line 2)" in ran.err


@pytest.mark.slow
def test_near_duplicates_of_which_none_is_left(run, wrong):
    random = np.random.default_rng(0)
    np.save("same.npy", (1 + random.standard_normal((9, 2)) * 1e-4).astype(np.float32))
    given = ("acquire", "their_model:of_columns", "same.npy", 3, "--max-similarity", 0.99)
    ran = run(*given)
    assert ran.code == 2
    assert (
        "`K` must be at most 1, the number of samples that may be chosen without near-" in ran.err
    )
    assert "Raise `--max-similarity`, or ask for fewer" in ran.err
    (wrong / "done.txt").write_text("0\n")
    ran = run(*given, "--labelled", "done.txt")
    assert ran.code == 2
    assert "there is none left among 8 candidates: all are near-duplicates of" in ran.err
    assert "Raise `--max-similarity`." in ran.err
    assert "fewer" not in ran.err
