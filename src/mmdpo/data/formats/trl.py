"""TRL's vision preference format: `prompt`, `chosen`, `rejected`, with `images` or `image`.

Conversational (lists of turns, content as text or as parts) or plain text with `<image>` in the prompt. The prompt may
be implicit: without a conversational `prompt`, the turns that both `chosen` and `rejected` begin with are the prompt.
Where no turn of the prompt marks a place for an image, the images go in front of the text of the first user turn; where
a plain prompt does not, in front of it, a line each.
Beyond TRL, `<image>` inside a turn's text is such a mark, and `rejected_images` (or `rejected_image`) is read.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://huggingface.co/docs/trl/dataset_formats (preference, vision).
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Unpack

from mmdpo.data.columns import one_of, read_conversation, read_example
from mmdpo.data.formats import Row, RowPlace, mm_rlhf
from mmdpo.data.images import image_sources
from mmdpo.data.messages import IMAGE_PLACEHOLDER, is_messages, plain_text, read_answer, split_shared_turns
from mmdpo.records import CHOSEN, REJECTED, Message, PreferenceExample, RowError

logger = logging.getLogger(__name__)

EXAMPLES = (
    {"prompt": "<image>\nWhat is this?", "chosen": "A cup.", "rejected": "A car.", "images": ["cup.jpg"]},
    {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cup."}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A car."}]}],
        "image": "cup.jpg",
    },
    {
        "chosen": [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A cup."}],
        "rejected": [{"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A car."}],
        "images": ["cup.jpg"],
    },
)

_IMAGE_COLUMNS = ("images", "image")
_REJECTED_COLUMNS = ("rejected_images", "rejected_image")
_USED = ("prompt", "chosen", "rejected", *_IMAGE_COLUMNS, *_REJECTED_COLUMNS)


def matches(row: Row) -> bool:
    """Returns whether both answers are text or turns, and the prompt is there or inside them."""
    answers = [row.get(CHOSEN), row.get(REJECTED)]
    if ("img_path" in row and not any(column in row for column in _IMAGE_COLUMNS)) or mm_rlhf.matches(row):
        return False
    if all(is_messages(answer) for answer in answers):
        return True
    return "prompt" in row and all(isinstance(answer, str) or is_messages(answer) for answer in answers)


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row; conversational rows come out with structured parts, plain ones as they are.

    Raises RowError for a value that cannot be read, and where prompt and answers have different forms.
    """
    prompt, chosen, rejected = row.get("prompt"), row.get(CHOSEN), row.get(REJECTED)
    if (prompt is None or isinstance(prompt, str)) and is_messages(chosen) and is_messages(rejected):
        said, (prompt, chosen, rejected) = prompt, split_shared_turns(chosen, rejected)
        _check_same_prompt(said, prompt)
    shown, corrupted = (one_of(row, *columns) for columns in (_IMAGE_COLUMNS, _REJECTED_COLUMNS))
    answers = {CHOSEN: chosen, REJECTED: rejected}
    if prompt is not None and not isinstance(prompt, str):
        return read_conversation(row, prompt, shown, corrupted, answers, used=_USED, column="prompt", **place)
    text, images = prompt or "", image_sources(shown, place["image_root"])
    if text.strip() and images and IMAGE_PLACEHOLDER not in text:
        text = f"{IMAGE_PLACEHOLDER}\n" * len(images) + text
        _say_images_in_front()
    return read_example(row, text, images, corrupted, answers, used=_USED, **place)


@cache
def _say_images_in_front() -> None:
    logger.warning(
        f"prompts in plain text have no {IMAGE_PLACEHOLDER} in them: the images go in front; write "
        f"{IMAGE_PLACEHOLDER} where else they belong (said once)"
    )


def _check_same_prompt(said: str | None, turns: list[Message]) -> None:
    """Raises RowError where a prompt in plain text is given beside conversations that do not have it."""
    if said is not None and _words(said) not in _words(plain_text(read_answer(turns, column="prompt"))):
        raise RowError(
            f"`prompt` is {said!r:.120}, and the turns that `chosen` and `rejected` begin with do not say it: leave "
            "`prompt` out, or make it the same question"
        )


def _words(text: str) -> str:
    return " ".join(text.replace(IMAGE_PLACEHOLDER, " ").split())
