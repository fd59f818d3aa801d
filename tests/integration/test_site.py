"""The site in a browser: it asks no other host for anything, fits a telephone, and its search finds what is typed."""

import http.server
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("zensical", reason="the site needs Zensical: make setup")
from app_browser import DESK, PHONE, open_browser, open_page

ROOT = Path(__file__).parents[2]
PAGES = ("", "evaluation/", "reproduce/", "studies/scale/table/", "reference/recipe-keys/", "reference/commands/eval/")
pytestmark = pytest.mark.slow


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        """Says nothing."""


@pytest.fixture(scope="module")
def address():
    done = subprocess.run([sys.executable, "-m", "website"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=ROOT / "build" / "site" / "html")
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_asks_nobody_else(name, browser, address):
    with open_page(browser, address + name, size=PHONE, ready="article h1") as page:
        for width, height in (PHONE, DESK):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, "wide things scroll in their own box"


def test_the_search_finds_a_key(browser, address):
    with open_page(browser, address, ready="article h1") as page:
        page.locator("button.md-search__button").click()
        page.keyboard.type("corruption_draw")
        # Enter would take the first result of what has been typed so far.
        page.get_by_text("Draw a corruption for each row").first.click()
        page.wait_for_url("**/reference/recipe-keys/**#corruption_draw")
