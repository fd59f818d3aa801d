"""A real HTTP server on loopback with OpenAI's protocol, which behaves as well or as badly as a test says."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Act:
    """What happens to one request."""

    text: str = "fine"
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    cut: bool = False
    raw: Callable[[socket.socket], None] | None = None
    """Writes whatever it likes to the connection instead of an answer."""

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": self.text}}).encode()
        message = {"role": "assistant", "content": self.text}
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "model-of-2024",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
        return json.dumps(completion).encode()


class ChatServer:
    def __init__(self, behave, url):
        self.behave, self.url = behave, url
        self.requests, self.times, self.most_at_once = [], [], 0
        self.at_once, self.lock = 0, threading.Lock()

    def texts(self):
        """The words of every request, in the order of their arrival."""
        return [request["messages"][-1]["content"][-1]["text"] for request in self.requests]


@contextmanager
def serve(behave):
    """Runs a server; `behave(request, number)` returns the Act for the `number`-th request, from 0."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.requests)
                server.requests.append(request | {"path": self.path, "key": self.headers["Authorization"]})
                server.times.append(time.monotonic())
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            act = server.behave(request, number)
            time.sleep(act.delay)
            with server.lock:
                server.at_once -= 1
            with suppress(BrokenPipeError, ConnectionResetError):
                self.answer(act)

        def answer(self, act):
            if act.raw is not None:
                self.close_connection = True
                act.raw(self.connection)
                return
            content = act.content()
            self.send_response(act.status)
            for name, value in {"Content-Type": "application/json", **act.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if act.cut else content)
            self.close_connection = True

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = ChatServer(behave, f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
