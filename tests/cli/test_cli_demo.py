import json
import re
from html.parser import HTMLParser

import pytest
import torch
from typer.testing import CliRunner

import fastgradnorm
from fastgradnorm import cli
from fastgradnorm.cli._failures import plain_failures
from fastgradnorm.demo import Settings
from fastgradnorm.demo._learning import STRATEGIES, Curve
from tests.support import warm

pytestmark = pytest.mark.slow

FIGURES = [
    f"{name}{suffix}.png"
    for name in ("accuracy", "histogram", "entropy")
    for suffix in ("", "-dark")
]


def invoke(*arguments):
    return CliRunner().invoke(cli.build_app(), [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The outcome of one quick run, and its folder, which did not exist."""
    out = tmp_path_factory.mktemp("demo") / "new" / "report"
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    outcome = invoke("demo", "--quick", "--out", out)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), rng)
    return outcome, out


class Page(HTMLParser):
    """What a page shows and what it would load."""

    def __init__(self, html):
        super().__init__()
        self.images, self.loaded, self.tags, self.ids = [], [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        if tag == "img":
            self.images.append(attrs)
        self.loaded += [attrs[name] for name in ("src", "srcset", "href") if name in attrs]


def test_quick_run_prints_tables_and_writes_the_report(quick):
    outcome, out = quick
    assert outcome.exit_code == 0, outcome.output
    words = ("samples/s", "speed-up", "last layer", *fastgradnorm.SCHEMES, *STRATEGIES.values())
    for word in words:
        assert word in outcome.stdout
    assert re.search(r"\d ± \d", outcome.stdout)
    assert max(map(len, outcome.stdout.replace(str(out), "").splitlines())) <= 100
    assert {path.name for path in out.iterdir()} == {"index.html", "results.json", *FIGURES}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in FIGURES)


def test_page_is_self_contained_and_shows_every_picture(quick):
    _, out = quick
    html = (out / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.images) == 3 + 50 + 20
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(image["alt"] for image in page.images)
    assert all(address.startswith("data:") for address in page.loaded)
    assert not page.tags & {"script", "iframe", "object"}
    assert not re.search(r"https?://|url\(|@import", html)
    assert not re.search(r"\$\w|\bnan\b|\bNone\b", re.sub(r"base64,[^\"]+", "", html))


def test_results_agree_with_the_loop_and_hold_what_the_page_says(quick):
    _, out = quick
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {(row["params"], row["scheme"]) for row in found["speed"]} == {
        (params, scheme) for params in ("all", "last_layer") for scheme in fastgradnorm.SCHEMES
    }
    assert all(row["largest_relative_difference"] < 1e-4 for row in found["speed"])
    assert all(row["speedup"] > 0 for row in found["speed"])
    assert [curve["strategy"] for curve in found["curves"]] == list(STRATEGIES)
    assert found["provenance"]["fastgradnorm"] == fastgradnorm.__version__
    # Same labels, same network: all strategies start at one point.
    firsts = {tuple(row[0] for row in curve["accuracies"]) for curve in found["curves"]}
    assert len(firsts) == 1
    made = next(c for c in found["curves"] if c["strategy"] == "acquire")
    assert len({row["index"] for row in found["chosen"]}) == 50
    html = (out / "index.html").read_text(encoding="utf-8")
    assert f"{100 * made['means'][2]:.1f}" in html


def test_one_seed_has_no_spread():
    one = Curve("top", (100, 150), ((0.8, 0.9),))
    assert one.means == [0.8, 0.9]
    assert one.spreads is None


def test_wins_count_seeds_apart_from_ties():
    mine = Curve("top", (100,), ((0.9,), (0.8,), (0.7,)))
    theirs = Curve("random", (100,), ((0.8,), (0.8,), (0.8,)))
    assert mine.wins(theirs, 0) == (1, 1)


def test_settings_take_the_asked_for_seeds():
    assert Settings.full(7).seeds == Settings.quick(7).seeds == 7
    assert Settings.full(None) == Settings()


def test_version():
    outcome = invoke("--version")
    assert outcome.exit_code == 0
    assert outcome.stdout == f"fastgradnorm {fastgradnorm.__version__}\n"


def test_help_names_the_command_and_its_options():
    assert "demo" in invoke("--help").stdout
    help_text = invoke("demo", "--help").stdout
    assert all(option in help_text for option in ("--out", "--seeds", "--quick"))


def test_output_folder_that_is_a_file_is_one_line(run, folder):
    taken = folder / "report"
    taken.write_text("")
    ran = run("demo", "--quick", "--out", taken)
    assert ran.code == 2
    assert "`--out` must be a folder that can be written" in ran.err
    assert str(taken) in ran.err
    assert ran.err.count("\n") == 1


def test_seeds_below_one_are_refused():
    outcome = invoke("demo", "--seeds", 0)
    assert outcome.exit_code == 2
    assert "--seeds" in outcome.stderr


@pytest.mark.parametrize(
    "module, package, extra, arguments",
    [
        ("typer", "typer", "cli", []),
        ("sklearn", "scikit-learn", "demo", ["demo", "--quick"]),
        ("matplotlib", "matplotlib", "cli", ["demo", "--quick"]),
    ],
)
def test_missing_extra_is_one_line(module, package, extra, arguments, tmp_path):
    """In a process of its own, where `module` cannot be imported."""
    code = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        f"assert {module!r} not in sys.modules\n"
        "class Hide(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import fastgradnorm\n"
        "from fastgradnorm.cli import main\n"
        f"sys.argv = ['fastgradnorm', *{arguments!r}]\n"
        "main()\n"
    )
    outcome = warm.run(code, cwd=tmp_path)
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    assert f"{package} is not installed" in outcome.stderr
    assert f'pip install "fastgradnorm[{extra}]"' in outcome.stderr
    assert outcome.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_other_missing_modules_are_not_hidden():
    with pytest.raises(ModuleNotFoundError, match="elsewhere"), plain_failures():
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
