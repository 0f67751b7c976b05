"""Pages in a browser: nothing is cut off, broken or out of reach of those who see or move less."""

import re

import pytest
import torch
from PIL import Image
from torch import nn

from fastgradnorm import acquire
from fastgradnorm.page import chart, definitions, page, pair

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", PAGES)
def test_a_page(opened, judge, chosen, tmp_path, kind, width, scheme):
    path = PAGES[kind](chosen, tmp_path / "page")
    shown = opened(width, scheme, offline=True)
    shown.goto(path.as_uri())
    judge(shown)


@pytest.mark.parametrize("kind", PAGES)
def test_the_first_heading_and_every_picture_say_what_they_are(chosen, tmp_path, kind):
    html = PAGES[kind](chosen, tmp_path / "page").read_text()
    assert html.count("<h1>") == 1
    assert html.index("<h1>") < html.index("<h2>")
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", html))
