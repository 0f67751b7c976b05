"""Messages that say what was meant."""

import numpy as np
import pytest


@pytest.fixture
def arrays(folder):
    random = np.random.default_rng(0)
    np.save("x.npy", random.standard_normal((6, 3, 8, 8), dtype=np.float32))
    np.savez("two.npz", x=np.load("x.npy"), y=np.zeros(6))
    return folder


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["their_model:make", "x.npy", "--scheme", "expekted"], "Did you mean 'expected'?"),
        (["thier_model:make", "x.npy"], "Did you mean 'their_model'?"),
        (["their_model:mkae", "x.npy"], "Did you mean 'make'?"),
        (["their_model:make", "x.npy", "--params", "lastlayer"], "Did you mean 'last_layer'?"),
        (["their_model:make", "x.npy", "--params", "encoder"], "The model has 0.weight, "),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_what_was_meant(run, arrays, arguments, told):
    ran = run("score", *arguments)
    assert ran.code == 2
    assert told in ran.err


@pytest.mark.slow
def test_a_file_of_python_names_its_module(run, arrays):
    assert run("score", "their_model.py:make", "x.npy").code == 0


@pytest.mark.slow
def test_inputs_by_name_are_told(run, arrays):
    ran = run("score", "their_model:make", "two.npz")
    assert ran.code == 2
    assert "Inputs: x, y, by these names; choose with --key." in ran.err
    assert run("score", "their_model:make", "two.npz", "--key", "x").code == 0


def test_a_damaged_array(run, arrays):
    (arrays / "bad.npy").write_bytes(b"nothing")
    ran = run("score", "their_model:make", "bad.npy")
    assert ran.code == 2
    assert "damaged" in ran.err


@pytest.mark.parametrize("command", ["score", "acquire"])
@pytest.mark.parametrize("resumed", [[], ["--no-resume"]])
def test_a_folder_where_a_run_is_kept(run, arrays, command, resumed):
    (arrays / "found.csv.checkpoint").mkdir()
    k = ["2"] if command == "acquire" else []
    ran = run(command, "their_model:make", "x.npy", *k, "--out", "found.csv", *resumed)
    assert ran.code == 2
    assert "`--out` must leave room" in ran.err and "found.csv.checkpoint is a folder" in ran.err
    assert (arrays / "found.csv.checkpoint").is_dir()


def test_a_folder_of_a_model_that_is_not_there(run, arrays):
    ran = run("score", "not-there/", "x.npy")
    assert ran.code == 2
    assert "`MODEL` must be a folder that is there. Got 'not-there/'." in ran.err
