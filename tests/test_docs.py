"""The documentation builds, names all that is public, and its code runs as readers see it."""

import html
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastgradnorm import LABELLED_SCHEMES, SCHEMES
from fastgradnorm._selection import TABLE

ROOT = Path(__file__).parent.parent
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("fastgradnorm", "fastgradnorm.active", "fastgradnorm.page")


def public_names():
    """Every public name, dotted."""
    found = {f"{p}.{name}" for p in PACKAGES for name in importlib.import_module(p).__all__}
    source = ROOT / "src" / "fastgradnorm"
    for path in [source / "atomic.py", *(source / "integrations").glob("*.py")]:
        if not path.stem.startswith("_"):
            module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
            # Read, not imported: a framework may not be there.
            names = re.findall(r"^(?:class|def) (\w+)", path.read_text(), re.MULTILINE)
            found |= {f"{module}.{name}" for name in names if not name.startswith("_")}
    return found


def test_every_public_name_is_on_the_api_page():
    there = {*re.findall(r"^::: (\S+)$", API, re.MULTILINE), *re.findall(r"`([\w.]+)`", API)}
    missing = sorted(public_names() - there)
    assert not missing, f"docs/api.md lacks {missing}"
    unknown = {name for name in there if name.startswith("fastgradnorm.")} - public_names()
    assert not unknown, f"docs/api.md names {unknown}, which are not public"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_readers_see_all_the_code_that_runs(path):
    """Blocks run in order, page by page, as conftest.py says: nothing hidden comes in between."""
    assert "invisible" not in path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery():
    place = ROOT / "docs" / "gallery.py"
    spec = importlib.util.spec_from_file_location("gallery", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gallery_shows_each_strategy_and_scheme(gallery):
    assert sorted(gallery.STRATEGIES) == sorted(TABLE)
    assert [*gallery.SCHEMES] == [*SCHEMES, *LABELLED_SCHEMES]
    page = gallery.PAGE.read_text(encoding="utf-8")
    titles = re.findall(r"^### `(.*?)`", page, re.MULTILINE)
    assert sorted(titles) == sorted([*gallery.STRATEGIES, *gallery.SCHEMES])
    shown = re.findall(r"\(pictures/gallery/(.*?)\)", page)
    assert sorted(shown) == sorted(path.name for path in gallery.PICTURES.iterdir())
    assert len(shown) == len(titles) == len({*shown})
    assert max(path.stat().st_size for path in gallery.PICTURES.iterdir()) < 20_000
    for name in gallery.STRATEGIES:
        assert f"| `{name}` |" in page


@pytest.mark.slow
def test_the_gallery_is_drawn_of_runs(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "PICTURES", tmp_path)
    made = gallery.setting()
    assert gallery.draw_strategy("margin", made) in gallery.PAGE.read_text(encoding="utf-8")
    gallery.draw_scheme("entropy", made)
    assert {path.name for path in tmp_path.iterdir()} == {"margin.png", "scheme_entropy.png"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.slow
def test_the_api_page_has_each_name_with_its_signature_and_no_broken_section(site):
    page = (site / "api" / "index.html").read_text()
    for name in re.findall(r"^::: (fastgradnorm\.\S+)$", API, re.MULTILINE):
        assert f'id="{name}"' in page, name
    for name in importlib.import_module("fastgradnorm_kernels").__all__:
        assert f'.{name}"' in page, name
    assert ":math:" not in page
    assert ".. math" not in page
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert re.search(r"score_pool\(\s*model: Module, loader: Iterable\[Any\], \*\*options", text)
    assert "-> Tensor | dict[str, Tensor]" in text
    # A result is one row, whatever the lines of its text; options are required nowhere.
    for section in re.findall(r"Returns:</span>.*?</table>", page, re.DOTALL):
        assert section.count('class="doc-section-item"') == 1, section
    assert not re.search(r"<code>\*{0,2}options</code>(?:(?!</tr>).)*required", page, re.DOTALL)


@pytest.mark.slow
def test_the_site_needs_no_network(site):
    formulas = 0
    for path in site.rglob("*.html"):
        page = path.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(.*?)"', page)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|icon)"[^>]*href="(.*?)"', page)
        assert not [place for place in loaded if "//" in place], path
        formulas += page.count("<math")
        assert "arithmatex" not in page, path
    assert formulas > 20
    assert not [*site.rglob("*.py")]


@pytest.mark.slow
def test_every_link_and_anchor_resolves(site):
    for path in site.rglob("*.html"):
        if path.name == "404.html":
            continue
        for link in re.findall(r'<a[^>]*\shref="(.*?)"', path.read_text()):
            place, _, anchor = html.unescape(link).partition("#")
            if ":" in place:
                continue
            target = (path.parent / place).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path}: {link}"
            if anchor and anchor != "__skip":
                assert f'id="{anchor}"' in target.read_text(), f"{path}: {link}"


@pytest.mark.slow
def test_five_minutes_by_the_page_alone(tmp_path):
    """The model in a file of its own, the folder, and then the command as it stands there."""
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    model, data, *_ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^(fastgradnorm acquire .*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "my_model.py").write_text(model)
    (tmp_path / "data.py").write_text(model + data)
    script = tmp_path / "fastgradnorm"
    script.write_text(f"#!{sys.executable}\nfrom fastgradnorm.cli import main\nmain()\n")
    script.chmod(0o755)
    paths = [str(ROOT / root) for root in ("src", "kernels")]
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
    }
    given = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "data.py"], check=True, **given)
    done = subprocess.run(command, shell=True, **given)
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()
    assert len({*names}) == 10
    assert all((tmp_path / "to_label" / name).is_file() for name in names)
    assert (tmp_path / "page" / "index.html").is_file()
    assert len((tmp_path / "to_label.csv").read_text().splitlines()) == 11
