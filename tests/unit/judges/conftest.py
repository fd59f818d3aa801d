from contextlib import ExitStack

import pytest

from tests.chat_server import Act
from tests.chat_server import serve as serve_chat


def to_act(said):
    """A text to reply, or ("status", code, headers), ("slow", seconds, text), ("malformed",), ("cut",)."""
    kind, *details = said if isinstance(said, tuple) else ("text", said)
    acts = {
        "text": lambda text: Act(text),
        "status": lambda code, headers: Act(status=code, headers=headers),
        "slow": lambda seconds, text: Act(text, delay=seconds),
        "malformed": lambda: Act(body=b'{"choices": [{"message"'),
        "cut": lambda: Act("never whole", cut=True),
    }
    return acts[kind](*details)


@pytest.fixture
def serve(monkeypatch):
    """Starts servers that reply by `behave(prompt, number)`, the number counting requests of one prompt from 0."""
    monkeypatch.setattr("mmdpo.generation.endpoint._FIRST_WAIT", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    with ExitStack() as running:

        def start(behave):
            seen = {}

            def act(request, _):
                prompt = request["messages"][0]["content"]
                seen[prompt] = seen.get(prompt, -1) + 1
                return to_act(behave(prompt, seen[prompt]))

            return running.enter_context(serve_chat(act))

        yield start
