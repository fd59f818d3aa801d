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

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
_playwright = pytest.importorskip("playwright.sync_api", reason="tests in a browser need Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("tests in a browser need Chromium: apt-get install chromium", allow_module_level=True)

STARTS_WITHIN = 300.0
"""Seconds that a busy machine may take to import Gradio and what else there is."""
CLOSED = "AbortError: signal is aborted"
"""What Gradio says where it closes a stream of its own while a page is left."""
DESK, PHONE = (1280, 900), (390, 844)
"""Widths and heights that pages are looked at in, in pixels."""


@contextmanager
def serve(*options: Any, cwd: str | Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Runs `mmdpo app` with these options in a folder; gives its address, and ends it: no upload may stay."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mmdpo", "app", "--port", str(port), *map(str, options)]
    log, passing = Path(cwd) / f"app-{port}.log", Path(cwd) / f"passing-{port}"
    passing.mkdir()
    own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(passing)}
    environment = os.environ | own | dict(env or {})
    with log.open("w") as told:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=told, stderr=subprocess.STDOUT)
    try:
        yield _wait_for_address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert not list(passing.glob("mmdpo-app-*"))


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        if found := re.search(r"Open (http://\S+?)/? ", log.read_text()):
            return found[1]
        if process.poll() is not None:
            raise AssertionError(f"mmdpo app ended with {process.returncode}: {log.read_text()}")
        time.sleep(0.1)
    raise AssertionError(f"mmdpo app did not start within {STARTS_WITHIN:.0f} s: {log.read_text()}")


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
