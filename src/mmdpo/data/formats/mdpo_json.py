"""The JSON of the mDPO paper's data: `img_path`, `prompt`, `chosen`, `rejected`.

The prompt carries the chat template already, with `<image>` inside and no space at its end; the answers begin without
one. The space between the two goes to the answer, where byte-pair tokenizers had it in supervised training.

Source: https://huggingface.co/datasets/fwnlp/mDPO-preference-data; the images are VLFeedback's `merged_images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.columns import further_responses, numeric_weights, read_answers
from mmdpo.data.images import image_sources
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError, Text

EXAMPLES = (
    {
        "img_path": "llava-1.jpg",
        "prompt": "A chat between a user and an assistant. USER: <image>\nWhat is this? ASSISTANT:",
        "chosen": "A cup.",
        "rejected": "A car.",
    },
)

_USED = ("img_path", "prompt", "chosen", "rejected")


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether the image is given as `img_path`, and neither as `images` nor as `image`."""
    return all(column in row for column in _USED) and "images" not in row and "image" not in row


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row; answers come out with the space that separates them from the prompt.

    Raises:
        RowError: the prompt or an answer is not text, or the path is not one.
    """
    prompt = row.get("prompt") or ""
    if not isinstance(prompt, str):
        raise RowError(f"`prompt` is of type {type(prompt).__name__}: write the templated prompt as text")
    answers = read_answers({CHOSEN: row.get(CHOSEN), REJECTED: row.get(REJECTED)}, conversational=False)
    answers |= further_responses(row, _USED, conversational=False)
    return PreferenceExample(
        id=row_id,
        prompt=prompt,
        responses={name: _separate(prompt, answer) for name, answer in answers.items()},
        images=image_sources(row.get("img_path"), image_root),
        weights=numeric_weights(row, _USED),
        source=source,
    )


def _separate(prompt: str, answer: Text) -> Text:
    """Puts one space in front of an answer unless there is whitespace on either side; an empty one stays empty."""
    if not isinstance(answer, str) or not answer or answer[0].isspace() or prompt[-1:].isspace():
        return answer
    return f" {answer}"
