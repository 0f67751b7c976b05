"""Which PyTorch is supported: stated, tested, and told where it is newer than that."""

import re
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fastgradnorm import GradNormScorer, UntestedVersionWarning, _version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(autouse=True)
def untold():
    _version.warn_if_untested.cache_clear()
    yield
    _version.warn_if_untested.cache_clear()


def installed(monkeypatch, torch_version, triton_version, gpu):
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(_version, "version", lambda name: triton_version)


def warned():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            GradNormScorer(nn.Linear(2, 2))
    assert all(w.category is UntestedVersionWarning for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("version", ["2.16.0", "2.16.0a0+git12", "3.0.0.dev20270101", "2.100.1"])
@pytest.mark.parametrize("gpu", [False, True])
def test_a_newer_torch_is_told_once_with_the_range(version, gpu, monkeypatch):
    installed(monkeypatch, version, "3.10.0", gpu)
    [message] = warned()
    assert f"torch {version}" in message
    assert "torch 2.11 to 2.15" in message


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.15.0", "2.15.7+cu132", "2.9.1"])
def test_others_are_not_told(version, monkeypatch):
    installed(monkeypatch, version, "3.9.2", True)
    assert warned() == []


@pytest.mark.parametrize("gpu", [False, True])
def test_a_newer_triton_is_told_where_it_is_used(gpu, monkeypatch):
    installed(monkeypatch, "2.15.0", "3.10.0", gpu)
    messages = warned()
    assert len(messages) == gpu
    assert all("triton 3.6 to 3.9. Got triton 3.10.0" in m for m in messages)


def test_this_environment_is_in_the_range():
    assert warned() == []


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_the_lowest_versions_are_those_that_the_package_asks_for(name):
    [needed] = [d for d in PROJECT["dependencies"] if re.match(rf"{name}\b", d)]
    assert re.match(rf"{name}>={_version.TESTED[name][0]}(;|$)", needed)  # and no upper bound


@pytest.mark.parametrize("script, end", [("lowest", 0), ("newest", 1)])
def test_ci_runs_both_ends_of_the_range(script, end):
    text = (ROOT / ".ci" / script).read_text()
    python, tested = re.search(r"contract\" (\S+) (\d+\.\d+)\.\d+\b", text).groups()
    assert tested == _version.TESTED["torch"][end]
    stated = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert python == stated[-end]
    assert PROJECT["requires-python"] == f">={stated[0]}"
