"""Chat templates that ask for the date are given one moment, and render otherwise as they did."""

from datetime import datetime

import pytest
from transformers import AutoProcessor

from mmdpo.data.clock import Clock, asks_for_date
from mmdpo.world.model import CHECKPOINT

TEMPLATE = (
    "\n{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}"
    "{% if strftime_now is defined %}{% set moment = strftime_now('%-d.%-m. %% %H:%M %%d') %}{% endif %}"
    "{{ moment }}|{{ today() }}|{% for m in messages %}{{ strftime_now('%Y-%m-%d') }}{{ m['role'] }}{% endfor %}"
)


@pytest.fixture
def render():
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    turns = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]

    def make(template):
        return processor.apply_chat_template(turns, tokenize=False, chat_template=template)

    return make


def test_a_template_is_told_the_moment_wherever_it_asks(render):
    fixed = Clock(datetime(2024, 7, 5, 3, 4)).fix(TEMPLATE)
    assert render(fixed) == "\n5.7. % 03:04 %d|05 Jul 2024|2024-07-05user"


def test_at_the_present_moment_it_renders_as_it_would_by_itself(render):
    for _ in range(3):  # the minute may change in between
        fixed, own = render(Clock().fix(TEMPLATE)), render(TEMPLATE)
        if fixed == own:
            return
    pytest.fail(f"{fixed!r} is not {own!r}")


def test_only_templates_that_ask_are_changed():
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    assert not asks_for_date(processor)
    processor.chat_template = {"default": TEMPLATE}
    assert asks_for_date(processor)
