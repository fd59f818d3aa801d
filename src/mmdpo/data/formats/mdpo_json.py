"""The JSON of the mDPO paper's data: `img_path`, `prompt`, `chosen`, `rejected`.

The prompt carries the chat template already, with `<image>` inside and no space at its end; the answers begin without
one. The space between the two goes to the answer, where byte-pair tokenizers had it in supervised training.
`rejected_images`, which the paper's data do not have, are the corrupted images.

Source: https://huggingface.co/datasets/fwnlp/mDPO-preference-data; the images are VLFeedback's `merged_images`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from mmdpo.data.columns import read_example
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.images import image_sources
from mmdpo.records import PreferenceExample, RowError, Text

EXAMPLES = (
    {
        "img_path": "llava-1.jpg",
        "prompt": "A chat between a user and an assistant. USER: <image>\nWhat is this? ASSISTANT:",
        "chosen": "A cup.",
        "rejected": "A car.",
    },
)

_NEEDED = ("img_path", "prompt", "chosen", "rejected")
_USED = (*_NEEDED, "rejected_images")


def matches(row: Row) -> bool:
    """Returns whether the image is given as `img_path`, and neither as `images` nor as `image`."""
    return all(column in row for column in _NEEDED) and "images" not in row and "image" not in row


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row; answers get the space that separates them from the prompt. Raises RowError for what is no text."""
    prompt = row.get("prompt") or ""
    if not isinstance(prompt, str):
        raise RowError(f"`prompt` is of type {type(prompt).__name__}: write the templated prompt as text")
    images = image_sources(row.get("img_path"), place["image_root"])
    example = read_example(row, prompt, images, row.get("rejected_images"), used=_USED, **place)
    separated = {name: _separate(prompt, answer) for name, answer in example.responses.items()}
    return replace(example, responses=separated)


def _separate(prompt: str, answer: Text) -> Text:
    """Puts one space in front of an answer unless there is whitespace on either side; an empty one stays empty."""
    if not isinstance(answer, str) or not answer or answer[0].isspace() or prompt[-1:].isspace():
        return answer
    return f" {answer}"
