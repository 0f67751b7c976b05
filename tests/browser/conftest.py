"""A browser, and what every page is held to in it.

A tier of its own, `.ci/browser`: it needs Chromium and playwright, and axe-core where `AXE` says.
"""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
AXE = os.environ.get("AXE")
SCROLLS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(image => !image.naturalWidth).length"


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Opens pages of a width and a color scheme; at the end nothing was told by the browser."""
    contexts, told = [], []

    def call(width, scheme, **more):
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme, **more)
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda message: told.append(message.text))
        shown.on("pageerror", lambda error: told.append(str(error)))
        shown.on("requestfailed", lambda request: told.append(request.url))
        shown.on("response", lambda got: told.append(got.url) if got.status >= 400 else None)
        return shown

    yield call
    for context in contexts:
        context.close()
    assert told == []


@pytest.fixture(scope="session")
def judge():
    """What is wrong with a page as it is shown."""

    def call(shown, only=("minor", "moderate", "serious", "critical")):
        assert shown.evaluate(SCROLLS) <= 0, shown.url
        assert shown.evaluate(BROKEN) == 0, shown.url
        if AXE:
            shown.evaluate(Path(AXE).read_text())
            found = shown.evaluate("axe.run()")["violations"]
            wrong = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in only]
            assert not wrong, (shown.url, wrong)

    return call
