"""Every family is tried by every contract test; those that most people train without the mark `slow`, too.

So `make test-unit` answers in minutes, and `make test` leaves nothing out.
"""

from pathlib import Path

import pytest
from tiny_models import MODELS

HERE = Path(__file__).parent
USUAL = {"bunny", "llava_1_5", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl", "smolvlm"}


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent != HERE:
            continue
        values = getattr(item, "callspec", None) and item.callspec.params.values()
        if any(value in MODELS and value not in USUAL for value in values or () if isinstance(value, str)):
            item.add_marker(pytest.mark.slow)
