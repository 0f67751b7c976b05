"""What is shipped: both packages, typed, with their command, and nothing else."""

import configparser
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "src", "kernels")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: an earlier build left beside the sources would get in."""
    place = tmp_path_factory.mktemp("packaging")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    (place / "source").mkdir()
    for name in SHIPPED:
        source, target = ROOT / name, place / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=skip)
        else:
            shutil.copy(source, target)
    # Hatchling is there already; the default would download it anew.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(place), str(place / "source")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [path] = place.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield path, file


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(file, name):
    [path] = [path for path in file.namelist() if path.endswith(f".dist-info/{name}")]
    return file.read(path).decode()


def test_the_wheel_holds_every_module_of_both_packages_and_nothing_else(wheel):
    _, file = wheel
    shipped = {path for path in file.namelist() if ".dist-info/" not in path}
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for root in ("src", "kernels")
        for path in (ROOT / root).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert shipped == expected
    tops = {path.split("/")[0] for path in shipped}
    assert tops == {"fastgradnorm", "fastgradnorm_command.py", "fastgradnorm_kernels"}
    assert {"fastgradnorm/py.typed", "fastgradnorm_kernels/py.typed"} <= shipped


def test_the_wheel_says_what_the_project_says(wheel, project):
    path, file = wheel
    told = Parser().parsestr(read(file, "METADATA"))
    assert path.name == f"fastgradnorm-{project['version']}-py3-none-any.whl"
    assert told["Version"] == project["version"]
    assert told["License-Expression"] == project["license"]
    assert told["Requires-Python"] == project["requires-python"]
    assert set(told.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert told.get_payload().startswith("# fastgradnorm")
    commands = configparser.ConfigParser()
    commands.read_string(read(file, "entry_points.txt"))
    assert dict(commands["console_scripts"]) == project["scripts"]


def test_the_installed_wheel_runs(wheel, project, tmp_path):
    path, _ = wheel
    place = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(place), str(path)], check=True, capture_output=True)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, fastgradnorm, fastgradnorm_kernels
assert fastgradnorm.__file__.startswith(sys.argv[1])
assert fastgradnorm_kernels.__file__.startswith(sys.argv[1])
model = torch.nn.Linear(3, 2)
torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
pool = [torch.tensor([[1.0, 0, 0], [1.0, 1, 1]])]
print(fastgradnorm.__version__, *fastgradnorm.score_pool(model, pool).tolist())
"""
    command = [sys.executable, "-c", code, str(place)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    version, *scores = done.stdout.split()
    assert version == project["version"]
    assert [float(score) for score in scores] == pytest.approx([1, 2**0.5])


def test_type_checkers_find_an_editable_install(tmp_path):
    """Both packages lie on a plain path, which they follow; they do not run import hooks."""
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    place = tmp_path / "site"
    command = [*install, str(place), "--no-build-isolation", "-e", str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    lines = {line for path in place.glob("*.pth") for line in path.read_text().splitlines()}
    assert {str(ROOT / "src"), str(ROOT / "kernels")} <= lines
    assert not any(line.startswith("import") for line in lines)
