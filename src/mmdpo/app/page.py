"""The page of `mmdpo app`: a tab for each thing that was given, served to this machine alone unless told otherwise."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from importlib.resources import files
from ipaddress import ip_address
from types import ModuleType
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it while it is imported

import gradio as gr
from starlette.middleware import Middleware

from mmdpo.app import answers_page, look_page, pairs_page, votes_page
from mmdpo.app.sources import Sources

PAGES: tuple[ModuleType, ...] = (pairs_page, answers_page, look_page, votes_page)
"""In the order of the tabs."""
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "DejaVu Sans Mono", "Menlo", "Consolas", "monospace")
"""Those of the reader's system: none is fetched."""
_UNWANTED = ("GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH", "GRADIO_NUM_WORKERS", "GRADIO_MCP_SERVER")
"""Variables by which Gradio would open more than was asked for."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; object-src 'none'"
)
"""A browser loads from this server alone, whatever a library would like. Gradio's own page has scripts inside."""


def build_app(sources: Sources) -> Any:
    """Returns the page, a `gr.Blocks`; raises ValueError where no tab has anything, and what reading raises."""
    pages = (votes_page,) if sources.is_blind else PAGES
    wanted = [page for page in pages if page.is_wanted(sources)] if sources.found else []
    if not wanted:
        where = f" in {', '.join(map(str, sources.runs))}" if sources.runs else ""
        raise ValueError(
            f"app: there is nothing to show{where}: name two runs that mmdpo eval has evaluated (--runs), pairs "
            "(--data), or a model (--models)"
        )
    background: list[Callable[[], None] | None] = []
    with gr.Blocks(title="mmdpo", analytics_enabled=False, fill_width=True) as app:
        gr.HTML("<h1>mmdpo</h1>", elem_id="title")
        with gr.Tabs():
            for page in wanted:
                with gr.Tab(page.TITLE, id=page.TITLE):
                    background.append(page.build(sources))
    for begin in filter(None, background):
        begin()  # only now: a thread that runs while an error ends the process aborts it
    return app


def launch(
    app: gr.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: Sequence[tuple[str, str]] = (),
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves the page until it is interrupted; `ready` is told the address.

    Without a port the first that is free from 7860 on. No file is served but those of Gradio itself and those that a
    page hands out. Raises OSError where there is none, or the port was taken since `check_address`.
    """
    for name in _UNWANTED:
        os.environ.pop(name, None)
    try:
        app.queue(default_concurrency_limit=8).launch(
            server_name=host,
            server_port=port,
            share=False,
            auth=list(auth) or None,
            allowed_paths=[],
            theme=gr.themes.Base(font=FONTS, font_mono=MONO_FONTS),
            css=_read("style.css") + look_page.STYLE,
            max_file_size=look_page.MOST_UPLOADED,
            head=f"<script>{_read('keys.js')}</script>",
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            app_kwargs={"middleware": [Middleware(_AddPolicy)], "docs_url": None, "redoc_url": None},
        )
    except OSError as error:
        which = "no port from 7860 on" if port is None else f"--port {port}"
        raise OSError(f"{which}: cannot be opened on {host} ({error}); choose another one with --port") from error
    ready(str(app.local_url))
    app.block_thread()


def check_address(host: str, port: int | None) -> None:
    """Raises OSError for an address that is not this machine's, and for a port that is taken there.

    Gradio would take either for a taken port, and try a hundred of them for minutes.
    """
    problem: OSError | None = None
    try:
        for family, *_, address in socket.getaddrinfo(host.strip("[]"), port or 0, type=socket.SOCK_STREAM):
            try:
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left is free
                    probe.bind(address)
                return
            except OSError as error:  # localhost may have an address of a protocol that is off
                problem = problem or error
    except OSError as error:
        problem = error
    if problem is not None:
        which = f"--port {port}" if problem.errno in (errno.EADDRINUSE, errno.EACCES) else f"--host {host}"
        raise OSError(f"{which}: cannot be opened on this machine ({problem.strerror}); choose another one")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a server at that address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(name: str) -> str:
    return (files("mmdpo.app") / name).read_text(encoding="utf-8")


class _AddPolicy:
    """Adds the headers that keep a browser to this server."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in headers.items()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy if scope["type"] == "http" else send)
