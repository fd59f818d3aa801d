"""A real HTTP server on loopback that speaks OpenAI's protocol as well or as badly as a test says."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class ChatServer:
    """`behave(question, number)` says what happens to the `number`-th request, from 0, with that prompt.

    It returns the text to reply, or one of the tuples ("status", code, headers), ("slow", seconds, text),
    ("malformed",), ("cut",).
    """

    def __init__(self, behave):
        self.behave, self.requests, self.most_at_once = behave, [], 0
        self._at_once, self._seen, self._lock = 0, {}, threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def prompts(self):
        return [request["messages"][0]["content"] for request in self.requests]

    def _handler(server):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = request["messages"][0]["content"]
                with server._lock:
                    server.requests.append(request | {"path": self.path, "key": self.headers["Authorization"]})
                    number = server._seen[prompt] = server._seen.get(prompt, -1) + 1
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    with suppress(BrokenPipeError, ConnectionResetError):
                        self._act(server.behave(prompt, number))
                finally:
                    with server._lock:
                        server._at_once -= 1

            def _act(self, action):
                kind, *details = (action,) if isinstance(action, tuple) is False else action
                if kind == "status":
                    return self._send(details[0], {"error": {"message": "as the test says"}}, details[1])
                if kind == "malformed":
                    return self._send(200, b'{"choices": [{"message"')
                if kind == "cut":
                    return self._send(200, _completion("never whole"), cut=True)
                if kind == "slow":
                    time.sleep(details[0])
                    kind = details[1]
                return self._send(200, _completion(kind))

            def _send(self, status, content, headers=None, cut=False):
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler


def _completion(text):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-2024-01-01",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


@pytest.fixture
def serve(monkeypatch):
    """Starts servers; waits between tries are short."""
    monkeypatch.setattr("mmdpo.generation.endpoint._FIRST_WAIT", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    servers = []

    def start(behave):
        servers.append(ChatServer(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
