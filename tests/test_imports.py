"""Imports run downhill: no circle, hosts know the face alone, and what is optional stays out."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgradnorm

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "src", ROOT / "kernels"]
# What stands on the face; beside their own packages and `SHARED`, they import what is named here.
HOSTS = {
    # `acquire` and the learner share strategies, and what of a sample a model is given.
    "fastgradnorm.active": {"fastgradnorm._pool", "fastgradnorm._selection"},
    "fastgradnorm.integrations": set(),
    "fastgradnorm.demo": set(),
    "fastgradnorm.cli": {"fastgradnorm.demo", "fastgradnorm.active"},
    "fastgradnorm_command": {"fastgradnorm.cli"},  # the script, which begins before the package
}
SHARED = {"fastgradnorm.atomic", "fastgradnorm.page"}
FRESH = """
import sys
import numpy.random, torch, tqdm.auto
before = {name.partition(".")[0] for name in sys.modules}
import fastgradnorm, fastgradnorm.active, fastgradnorm.cli, fastgradnorm.integrations
after = {name.partition(".")[0] for name in sys.modules} - before - sys.stdlib_module_names
print(*sorted(after))
"""


def files():
    """Every module's file, by its dotted name."""
    found = {}
    for root in SOURCES:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = files()


@functools.cache
def tree(path):
    return ast.parse(path.read_text())


@functools.cache
def imported(name):
    """Modules of ours that one imports anywhere in its file, also for types or in a function."""
    found = set()
    for node in ast.walk(tree(FILES[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relative to itself"
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = within & FILES.keys()
            found |= modules
            if len(modules) < len(within):
                found.add(node.module)
    return found & FILES.keys()


def _within(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.slow
def test_no_circle():
    graphlib.TopologicalSorter({name: imported(name) for name in FILES}).prepare()


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_imports_the_face_and_its_own_package(host):
    packages = {host, *HOSTS[host], *SHARED}
    for name in FILES:
        if _within(name, host):
            others = {m for m in imported(name) if not any(_within(m, p) for p in packages)}
            assert others <= {"fastgradnorm"}, f"{name} imports {others}"


@pytest.mark.slow
def test_hosts_take_from_the_face_what_it_names():
    for name, path in FILES.items():
        if name.startswith(tuple(HOSTS)):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.ImportFrom) and node.module == "fastgradnorm":
                    taken = {alias.name for alias in node.names}
                    taken -= {m.removeprefix("fastgradnorm.") for m in FILES}
                    assert taken <= {*fastgradnorm.__all__}, f"{name} takes {taken}"


def test_nothing_below_the_face_imports_it_or_a_host():
    for name in FILES:
        if not name.startswith(tuple(HOSTS)):
            above = {m for m in imported(name) if m == "fastgradnorm" or m in HOSTS}
            assert not above, f"{name} imports {above}"


def test_files_import_from_their_own_floor_or_lower_ones():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.search(r"\| floor \| files \|\n\|---\|---\|\n((?:\|.*\n)+)", text)[1].splitlines()
    floors = {}
    for number, row in enumerate(reversed(rows)):
        for place in re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[2]):
            assert place not in floors, f"{place} stands on two floors"
            floors[place] = number

    def floor(name):
        return floors["__init__" if name == "fastgradnorm" else name.split(".")[1]]

    ours = {name for name in FILES if name.split(".")[0] == "fastgradnorm"}
    there = {name.split(".")[1] for name in ours if name != "fastgradnorm"}
    assert floors.keys() == there | {"__init__"}
    for name in ours:
        above = {m for m in imported(name) & ours if floor(m) > floor(name)}
        assert not above, f"{name} imports {above} from above"


def test_few_files_stand_outside_of_rooms():
    assert len([*(ROOT / "src" / "fastgradnorm").glob("*.py")]) <= 14


def test_kernels_know_tensors_only():
    for name in FILES:
        if name.startswith("fastgradnorm_kernels"):
            assert all(m.startswith("fastgradnorm_kernels") for m in imported(name)), name


@pytest.mark.slow
def test_optional_packages_are_imported_where_they_are_used():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Kernels are annotated with jaxtyping's shapes where it is installed; it brings nothing else.
    assert {*done.stdout.split()} - {"jaxtyping"} == {"fastgradnorm", "fastgradnorm_kernels"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "root", [*SOURCES, ROOT / "tests", ROOT / "benchmarks"], ids=lambda p: p.name
)
def test_files_and_functions_are_short(root):
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 300, path
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert lines < 60, f"{path}: {node.name} has {lines} lines"


ROOMS = sorted(path.parent.name for path in (SOURCES[0] / "fastgradnorm").glob("_*/__init__.py"))


@functools.cache
def _names_taken(name):
    """Modules and names that a file takes by `from module import name`."""
    taken = [node for node in ast.walk(tree(FILES[name])) if isinstance(node, ast.ImportFrom)]
    return {(node.module or "", alias.name) for node in taken for alias in node.names}


def _taken_from(room):
    """Names that modules outside of a room take from it, by where they say they take them."""
    package = f"fastgradnorm.{room}"
    outside = [name for name in FILES if not _within(name, package)]
    return {taken for name in outside for taken in _names_taken(name) if _within(taken[0], package)}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_hands_on_what_others_take(room):
    taken = _taken_from(room)
    assert {module for module, _ in taken} <= {f"fastgradnorm.{room}"}
    face = tree(FILES[f"fastgradnorm.{room}"])
    [handed] = [n.value for n in face.body if isinstance(n, ast.Assign)] or [ast.List([])]
    assert {name for _, name in taken} == set(ast.literal_eval(handed))
