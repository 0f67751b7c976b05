"""Pages in a browser: nothing is cut off, broken or out of reach of those who see or move less.

A tier of its own, `.ci/browser`: it needs Chromium and playwright, and axe-core where `AXE` says.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fastgradnorm import acquire
from fastgradnorm.page import chart, definitions, page, pair

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
AXE = os.environ.get("AXE")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
SCROLLS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(image => !image.naturalWidth).length"


@pytest.fixture(scope="module")
def chosen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    return acquire(model, [torch.randn(60, 3, 4, 4)], 25, labelled=range(5), progress=False)


def _pictures(chosen, folder):
    names = [f"a folder/with {i}/a very-long_name-without-spaces {'x' * i}.png" for i in range(60)]
    picture = lambda i: Image.new("RGB", (30 + i, 40), (4 * i, 80, 120))  # noqa: E731
    return chosen.report(folder, ids=names, picture=picture, told={"Command": "x" * 300})


def _texts(chosen, folder):
    return chosen.report(folder, text=["word " * (3 * i) + "w" * i for i in range(60)])


def _arrays(chosen, folder):
    return chosen.report(folder, names=["cat", "dog", "a long name of a class", "bird"])


def _charts(chosen, folder):
    from fastgradnorm.page.themes import DARK, LIGHT, draw

    drawn = [
        draw(lambda axes, theme: axes.plot([1, 2], color=theme.series[0]), each)
        for each in (LIGHT, DARK)
    ]
    body = pair(chart(*drawn, "One."), chart(*drawn, "Two.")) + definitions({"a": "b" * 200})
    whole = page(
        title="Charts",
        kicker="k",
        lede="l",
        facts=[("1", "one.")],
        sections={"All": body},
        footer="f",
    )
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(whole)
    return folder / "index.html"


PAGES = {"pictures": _pictures, "texts": _texts, "arrays": _arrays, "charts": _charts}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", PAGES)
def test_a_page(browser, chosen, tmp_path, kind, width, scheme):
    path = PAGES[kind](chosen, tmp_path / "page")
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    shown, told = context.new_page(), []
    shown.on("console", lambda message: told.append(message.text))
    shown.on("pageerror", lambda error: told.append(str(error)))
    shown.on("requestfailed", lambda request: told.append(request.url))
    shown.goto(path.as_uri())
    assert shown.evaluate(SCROLLS) <= 0
    assert shown.evaluate(BROKEN) == 0
    if AXE:
        shown.evaluate(Path(AXE).read_text())
        found = shown.evaluate("axe.run()")["violations"]
        assert not [(each["id"], each["nodes"][0]["html"]) for each in found]
    assert told == []
    context.close()


@pytest.mark.parametrize("kind", PAGES)
def test_the_first_heading_and_every_picture_say_what_they_are(chosen, tmp_path, kind):
    html = PAGES[kind](chosen, tmp_path / "page").read_text()
    assert html.count("<h1>") == 1
    assert html.index("<h1>") < html.index("<h2>")
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", html))
