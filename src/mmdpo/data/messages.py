"""Chat turns in the one form that the rest of the package reads: every content is a list of text and image parts.

Datasets write turns in several ways: content as a string with `<image>` inside, content as parts, parts that carry
their image, structs that Arrow has padded with None. The functions here bring all of them to `{"type": "image"}` and
`{"type": "text", "text": ...}`, and move images out of the turns into `PreferenceExample.images`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.data.images import image_sources
from mmdpo.records import ImageSource, Message, RowError, Text

IMAGE_PLACEHOLDER = "<image>"
"""Stands in plain text where an image belongs."""

_IMAGE_KINDS = ("image", "image_url", "input_image")
"""Types of a content part that is an image; the others are OpenAI's."""
_IMAGE_KEYS = ("image", "bytes", "base64", "data", "path", "url", "image_url")
"""Where such a part may carry its image."""

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Conversation:
    """Turns whose image parts are bare placeholders, and the images that belong to them, in reading order."""

    turns: tuple[Message, ...]
    images: tuple[ImageSource, ...]


def as_list(value: Any) -> Any:
    """Returns a list column as a list, None where the value is no list.

    `datasets` makes a mapping of lists of a `Sequence` of structs; it is turned back into a list of mappings.
    """
    if not isinstance(value, Mapping) or not value or not all(isinstance(column, list) for column in value.values()):
        return value if isinstance(value, list | tuple) else None
    return [dict(zip(value, entries, strict=True)) for entries in zip(*value.values(), strict=True)]


def is_messages(value: Any) -> bool:
    """Returns whether a column's value is a list of chat turns, `role` and `content` in each."""
    turns = as_list(value)
    return bool(turns) and all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in turns)


def read_prompt(
    value: Any, images: Sequence[ImageSource], *, image_root: Path | None, column: str, images_first: bool = True
) -> Conversation:
    """Normalises the turns of a prompt and gathers its images.

    Strings are split at `<image>`. Where no turn marks a place for an image, and with `images_first`, `images` go in
    front of the text of the first user turn whose content is a string (the rule of TRL and ms-swift). A part that
    carries its own image keeps its place among `images`; every other image part takes the next of `images`.

    Raises RowError where the value is not a list of turns, or a part is neither text nor image.
    """
    raw = _check_turns(value, column)
    turns = [{**_without_none(turn), "content": _parts(turn.get("content"), column, split=True)} for turn in raw]
    if images_first and not any(_is_image(part) for turn in turns for part in turn["content"]):
        plain = (i for i, turn in enumerate(raw) if turn["role"] == "user" and isinstance(turn.get("content"), str))
        first = next(plain, None)
        if first is not None:
            turns[first]["content"] = [{"type": "image"} for _ in images] + turns[first]["content"]
    return _take_images(turns, images, image_root)


def read_answer(value: Any, *, column: str) -> tuple[Message, ...]:
    """Normalises an answer to turns: text becomes one assistant turn, one turn or a list of turns stays what it is.

    An `<image>` inside an answer is left as text, so that validation can refuse it.

    Raises RowError where the value is neither text nor turns.
    """
    if isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    elif isinstance(value, Mapping) and isinstance(value.get("role"), str):
        value = [value]
    turns = _check_turns(value, column)
    return tuple({**_without_none(turn), "content": _parts(turn.get("content"), column, split=False)} for turn in turns)


def split_shared_turns(chosen: Any, rejected: Any) -> tuple[list[Message], list[Message], list[Message]]:
    """Splits two whole conversations into the leading turns that they share, and what remains of each.

    At least one turn remains on either side, so that equal conversations show up as equal answers.

    Raises RowError where the conversations share no turn.
    """
    turns_chosen = [_without_none(turn) for turn in _check_turns(chosen, "chosen")]
    turns_rejected = [_without_none(turn) for turn in _check_turns(rejected, "rejected")]
    limit = min(len(turns_chosen), len(turns_rejected)) - 1
    shared = 0
    while shared < limit and turns_chosen[shared] == turns_rejected[shared]:
        shared += 1
    if shared == 0:
        raise RowError(
            "`chosen` and `rejected` share no leading turns and there is no conversational `prompt`: give `prompt` as "
            "a list of turns, or begin both conversations with the same turns"
        )
    return turns_chosen[:shared], turns_chosen[shared:], turns_rejected[shared:]


def split_last_answer(conversation: Any, *, column: str) -> tuple[list[Message], Message]:
    """Splits a whole conversation into the turns before its last one, and the last one, which answers.

    Raises RowError where the value is not a list of turns, or the last turn is not the assistant's.
    """
    *before, last = (_without_none(turn) for turn in _check_turns(conversation, column))
    if last["role"] != "assistant":
        raise RowError(f"`{column}` ends with a turn of the {last['role']}: the assistant must have the last turn")
    return before, last


def count_placeholders(text: Text) -> int:
    """Returns the number of places for images in plain text or chat turns."""
    if isinstance(text, str):
        return text.count(IMAGE_PLACEHOLDER)
    return sum(
        1 if _is_image(part) else part["text"].count(IMAGE_PLACEHOLDER) for turn in text for part in turn["content"]
    )


def plain_text(text: Text) -> str:
    """Returns the words alone: turns joined by line breaks, each image as `<image>`."""
    if isinstance(text, str):
        return text
    return "\n".join(
        "".join(IMAGE_PLACEHOLDER if _is_image(part) else part["text"] for part in turn["content"]) for turn in text
    )


def _check_turns(value: Any, column: str) -> list[Mapping[str, Any]]:
    turns = as_list(value)
    if not turns:
        raise RowError(
            f"`{column}` is {_name_type(value)}: write a list of turns, "
            'each {"role": "user" or "assistant" or "system", "content": ...}'
        )
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            found = turn.get("role") if isinstance(turn, Mapping) else _name_type(turn)
            raise RowError(f"turn {number} of `{column}` has the role {found!r}: write one of {', '.join(ROLES)}")
    return list(turns)


def _parts(content: Any, column: str, *, split: bool) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return list(_split_text(content)) if split else [{"type": "text", "text": content}]
    entries = as_list(content)
    if entries is None:
        raise RowError(f"a content in `{column}` is {_name_type(content)}: write text, or a list of parts")
    parts: list[dict[str, Any]] = []
    for entry in entries:
        part = {"type": "text", "text": entry} if isinstance(entry, str) else _without_none(entry)
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts += _split_text(part["text"]) if split else [{"type": "text", "text": part["text"]}]
        elif kind in _IMAGE_KINDS:
            parts.append({**part, "type": "image"})
        else:
            described = (
                f"of type {kind!r:.40} with {', '.join(part)[:80]}" if isinstance(part, dict) else _name_type(entry)
            )
            raise RowError(
                f"a content part in `{column}` is {described}: only "
                '{"type": "text", "text": ...} and {"type": "image"} are supported'
            )
    return parts


def _split_text(text: str) -> Iterator[dict[str, Any]]:
    """Yields the pieces between placeholders as they stand: whitespace around `<image>` belongs to the dataset."""
    for number, piece in enumerate(text.split(IMAGE_PLACEHOLDER)):
        if number:
            yield {"type": "image"}
        if piece:
            yield {"type": "text", "text": piece}


def _take_images(turns: list[Message], images: Sequence[ImageSource], image_root: Path | None) -> Conversation:
    waiting = list(images)
    gathered: list[ImageSource] = []
    for turn in turns:
        for position, part in enumerate(turn["content"]):
            if not _is_image(part):
                continue
            carried = (image_sources(part[key], image_root) for key in _IMAGE_KEYS if part.get(key) is not None)
            own = next(filter(None, carried), ())
            if own:
                gathered += own
            elif waiting:
                gathered.append(waiting.pop(0))
            turn["content"][position] = {"type": "image"}
    if waiting == gathered:
        waiting = []  # the parts and the column carry the same images
    # Images without a place stay at the end: validation then finds more images than placeholders.
    return Conversation(turns=tuple(turns), images=(*gathered, *waiting))


def _is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image"


def _without_none(value: Any) -> Any:
    """Drops the keys that Arrow added because another row, or another part, has them."""
    if isinstance(value, Mapping):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_without_none(entry) for entry in value]
    return value


def _name_type(value: Any) -> str:
    return "missing" if value is None else "empty" if value in ([], ()) else f"a value of type {type(value).__name__}"
