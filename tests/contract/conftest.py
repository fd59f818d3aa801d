"""Every family is tried by every contract test; those that most people train without the mark `slow`, too.

So `make test-unit` answers in minutes, and `make test` leaves nothing out.
"""

from pathlib import Path

import pytest
from tiny_models import MODELS

from mmdpo.scoring import tree_attention

HERE = Path(__file__).parent
USUAL = {"bunny", "llava_1_5", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl", "smolvlm", "qwen3_5"}
"""The last one is of those whose answers cannot share a row."""
UNUSUAL = MODELS.keys() - USUAL


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent != HERE:
            continue
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        words = (word for value in values for word in (value if isinstance(value, tuple) else (value,)))
        if any(isinstance(word, str) and word in UNUSUAL for word in words):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def both_ways_to_attend(request, monkeypatch):
    """Attends to branches piece by piece where trees lie in several rows, as a GPU does, and in merged parts otherwise.

    Piece by piece as for prompts with hundreds of image tokens; these prompts are of ten or twenty.
    """
    monkeypatch.setattr(tree_attention, "KEPT_PREFIX", 0)
    if "packed" in request.node.name:
        monkeypatch.setattr(tree_attention, "is_mergeable", lambda *_: False)
