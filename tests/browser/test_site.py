"""The built documentation in a browser that reaches nothing but the site itself."""

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and where it is served on this machine."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(place)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield place, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def _blocked(shown, address):
    """Every request to elsewhere fails, and a failed request fails the test."""
    shown.route(lambda url: not url.startswith(address), lambda route: route.abort())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_without_a_network(opened, judge, site, width, scheme):
    folder, address = site
    shown = opened(width, scheme)
    _blocked(shown, address)
    pages = sorted(folder.rglob("index.html"))
    assert len(pages) == len([*(ROOT / "docs").glob("*.md")])
    for path in pages:
        shown.goto(address + path.relative_to(folder).parent.as_posix() + "/")
        assert shown.locator("h1").count() == 1, path
        judge(shown, only=("serious", "critical"))


def test_formulas_are_drawn(opened, site):
    _, address = site
    shown = opened(1280, "light")
    _blocked(shown, address)
    shown.goto(address + "concepts/")
    sizes = shown.evaluate(
        "[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(sizes) > 5
    assert min(sizes) > 5  # pixels


@pytest.mark.parametrize("asked, answer", [("segmentation", "your-data/"), ("herding", "active/")])
def test_search(opened, site, asked, answer):
    _, address = site
    shown = opened(1280, "light")
    _blocked(shown, address)
    shown.goto(address)
    shown.locator("input[name=query]").fill(asked)
    found = shown.locator(".md-search-result__link").first
    found.wait_for(state="attached", timeout=20_000)
    links = shown.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.href)")
    assert any(answer in link for link in links), links
