"""Messages of the functions, on the command line: in its options, which can be followed as told."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastgradnorm
from fastgradnorm import score_pool
from fastgradnorm.cli._wording import _CALLED, spoken, summary

MODULE = """
import torch
from torch import nn

class Twice(nn.Module):  # no single layer makes its logits
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(5, 3), nn.Linear(5, 3)
    def forward(self, x):
        return self.one(x) * self.other(x)

class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 3)
    def forward(self, x):
        return {"cats": self.inner(x), "dogs": self.inner(2 * x)}

def make(kind=nn.Linear, *sizes):
    torch.manual_seed(0)
    return kind(*sizes)

def labels(): return make(nn.Linear, 5, 4)
def twice(): return make(Twice)
def several(): return make(Several)
"""


@pytest.fixture
def given(folder, monkeypatch):
    (folder / "speaking.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "speaking", raising=False)
    x = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    np.save("x.npy", x)
    return torch.from_numpy(x)


@pytest.mark.parametrize(
    "message, told",
    [
        ("`params` must be so.", "`--params` must be so."),
        ("Use `params='all', space='sketch'`.", "Use `--params=all --space=sketch`."),
        ("`class_dim=-1` says", "`--class-dim=-1` says"),
        ("`loader` must yield", "`POOL` must yield"),
        ("`model.bn1` mixes; call `model.eval()`", "`model.bn1` mixes; call `model.eval()`"),
        ("by a function: `params=lambda n, p: ...`.", "by a function: `--params` and a regular "
         "expression."),
        ("Pass `verify=False`.", "Pass `verify=False`. `verify` is an option of the functions in "
         "Python, not of the command line."),
        ("its `forward` returns", "its `forward` returns"),
        ("`max_norm=None`", "`max_norm=None`"),
    ],
)  # fmt: skip
def test_arguments_are_options(message, told):
    assert spoken(message) == told


@pytest.mark.slow
def test_no_message_of_the_package_tells_of_an_argument_that_is_an_option():
    """Every text in the source that assigns an argument, spoken."""
    texts = []
    for path in Path(fastgradnorm.__file__).parent.rglob("*.py"):
        if path.parent.name not in ("cli", "demo", "integrations"):
            tree = ast.walk(ast.parse(path.read_text()))
            texts += [n.value for n in tree if isinstance(n, ast.Constant) and type(n.value) is str]
    assigned = [text for text in texts if "\n" not in text and re.search(r"`\w+='\w+'`", text)]
    assert len(assigned) > 3
    for text in assigned:
        left = re.findall(r"`(\w+)='\w+'`", spoken(text))
        assert not {*left} & {*_CALLED}, text


@pytest.mark.slow
def test_a_model_without_a_last_layer(run, given):
    ran = run("acquire", "speaking:twice", "x.npy", 3)
    assert ran.code == 2
    assert "`--params` must be given" in ran.err
    assert "Use `--params=all --space=sketch`" in ran.err
    assert "space='" not in ran.err
    followed = run("acquire", "speaking:twice", "x.npy", 3, "--params=all", "--space=sketch")
    assert followed.code == 0, followed.err
    assert len(followed.out.splitlines()) == 3
    asked = run("ask", "speaking:twice", "x.npy", 3, "--params=all", "--space=sketch")
    assert asked.out == followed.out
    refused = run("acquire", "speaking:twice", "x.npy", 3, "--space", "pixels")
    assert (refused.code, "`--space` must be" in refused.err) == (2, True)


def test_a_model_of_several_outputs(run, given):
    ran = run("score", "speaking:several", "x.npy")
    assert ran.code == 2
    assert "Let MODEL make a module around the network that returns them." in ran.err
    assert "forward=" not in ran.err


@pytest.mark.slow
def test_no_message_of_the_package_tells_to_pass_a_function():
    """Every text in the source that does, spoken: it names what there is here."""
    texts = []
    for path in Path(fastgradnorm.__file__).parent.rglob("*.py"):
        if path.parent.name not in ("cli", "demo", "integrations"):
            tree = ast.walk(ast.parse(path.read_text()))
            texts += [n.value for n in tree if isinstance(n, ast.Constant) and type(n.value) is str]
    told = [text for text in texts if re.search(r"^[^\n`]*(`[^\n`]*`[^\n`]*)*$", text)]
    told = [text for text in told if re.search(r"`forward=lambda [^`]*`", text)]
    assert len(told) > 5
    for text in told:
        assert "forward=" not in spoken(text), text
        assert "make a module around the network" in spoken(text) or "in a module" in spoken(text)


def test_what_is_in_doubt_is_not_said_to_be_in_a_variable():
    """Wherever the package says so in the lines of a result; here it is told below them."""
    found = 0
    for path in Path(fastgradnorm.__file__).parent.joinpath("_results").rglob("*.py"):
        for line in re.findall(r"in doubt: [^\"]+", path.read_text()):
            assert summary(f"one\n  {line}\ntwo").endswith(")}\ntwo"), line
            found += 1
    assert found > 1


@pytest.mark.slow
def test_labels_of_their_own(run, given):
    assert run("score", "speaking:labels", "x.npy", "--likelihood", "bernoulli").code == 0
    model = torch.nn.Linear(5, 4)
    torch.manual_seed(0)
    model.reset_parameters()
    expected = score_pool(model.eval(), [given], likelihood="bernoulli", progress=False)
    rows = Path("scores.csv").read_text().splitlines()[1:]
    found = torch.tensor([float(row.split(",")[1]) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    refused = run("score", "speaking:labels", "x.npy", "--likelihood", "poisson")
    assert (refused.code, "`--likelihood` must be" in refused.err) == (2, True)


@pytest.mark.filterwarnings("always:.*are NaN or infinite")
@pytest.mark.parametrize("command", [("score",), ("acquire", 2), ("ask", 2)], ids=lambda c: c[0])
def test_numbers_that_are_none(run, given, command):
    given[3] = torch.nan
    np.save("x.npy", given.numpy())
    name, *rest = command
    ran = run(name, "speaking:labels", "x.npy", *rest)
    assert ran.code == 0, ran.err
    assert "1 of 12 scores are NaN or infinite: samples 3. Check these inputs." in ran.err
    assert "on_nonfinite" not in ran.err + ran.out
