"""The app in a real browser: starts `mmdpo app` on a free port of this machine, and opens Chromium on it.

    @pytest.fixture(scope="module")
    def address(tmp_path_factory):
        with serve("--data", "world", cwd=tmp_path_factory.mktemp("app")) as address:
            yield address

    @pytest.fixture(scope="module")
    def browser():
        with open_browser() as browser:
            yield browser

    def test_something(browser, address):
        with open_page(browser, address) as page: ...

A page that is left fails where its console has said an error, or where it has asked for anything outside this machine.
Modules that import this one are skipped, with the reason, where Gradio, Playwright or Chromium is not there.
"""

import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import forked

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
_playwright = pytest.importorskip("playwright.sync_api", reason="tests in a browser need Playwright: make setup")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first, which never draws a window, takes less than half of the others' CPU time for a page."""
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
if CHROMIUM is None:
    pytest.skip(f"tests in a browser need Chromium: apt-get install {BROWSERS[0]}", allow_module_level=True)

STARTS_WITHIN = 300.0
"""Seconds that a busy machine may take to import Gradio and what else there is."""
CLOSED = "AbortError: signal is aborted"
"""What Gradio says where it closes a stream of its own while a page is left."""
DESK, PHONE = (1280, 900), (390, 844)
"""Widths and heights that pages are looked at in, in pixels."""


@contextmanager
def serve(
    *options: Any,
    cwd: str | Path,
    env: Mapping[str, str] | None = None,
    start: Callable[..., forked.Started] = forked.start_really,
) -> Iterator[str]:
    """Runs `mmdpo app` with these options in a folder; gives its address, and ends it: no upload may stay.

    It is the command itself, or with `forked.start` a process that has imported everything.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    passing = Path(cwd) / f"passing-{port}"
    passing.mkdir()
    process = start("app", "--port", port, *options, cwd=cwd, TMPDIR=str(passing), **(env or {}))
    try:
        yield wait_for_address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):  # by which it is killed
            process.wait(20)
    assert not list(passing.glob("mmdpo-app-*"))


def wait_for_address(process: forked.Started) -> str:
    """Returns the address that `mmdpo app` says once it can be opened."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"Open (http://\S+?)/? ", process.said()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"mmdpo app did not start, or ended with {process.poll()}: {process.said()}")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Gives Chromium, without a window."""
    with _playwright.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Any,
    address: str,
    *,
    size: tuple[int, int] = DESK,
    dark: bool = False,
    auth: tuple[str, str] | None = None,
    ready: str = "[role=tab]",
) -> Iterator[Any]:
    """Opens the app in a window of its own, once Gradio has drawn it; a tab by its title is `page.get_by_role`'s.

    `ready` selects what is there once a page of something else is drawn.

    Fails at the end where the page's console has an error, or it has asked for something outside this machine.
    """
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    said, outside = list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: outside.append(request.url) if not _is_here(request.url) else None)
    try:
        page.goto(address)
        if auth is not None:
            user, password = auth
            page.get_by_label("username").fill(user)
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
        page.locator(ready).first.wait_for()
        yield page
        said = [text for text in said if not text.startswith(CLOSED)]
        assert not said, f"the console says {said}"
        assert not outside, f"the page has asked for {outside}"
    finally:
        context.close()


def wait_until_calm(page: Any) -> None:
    """Waits until no answer of the server is awaited."""
    page.wait_for_function("() => !document.querySelector('.progress-text, .generating, .eta-bar')")


def _is_here(url: str) -> bool:
    found = urlsplit(url)
    return found.scheme in ("data", "blob", "about", "file") or found.hostname in ("127.0.0.1", "localhost")
