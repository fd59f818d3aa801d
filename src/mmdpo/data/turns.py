"""What chat turns say, whether a rendered text says all of it, and the forms that chat templates want turns in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from mmdpo.data.messages import IMAGE_PLACEHOLDER
from mmdpo.records import Message

_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of a turn whose text is thought before its content is said."""

THINKING_MARK = re.compile(r"(</?think(?:ing)?>|◁/?think▷|\[/?THINK\])")
"""Templates write line breaks around these as their models were trained, whatever the row has."""


def spoken_texts(turns: Sequence[Message]) -> Iterator[str]:
    """Yields what a conversation says, in order: thoughts, the text parts of contents, names of called functions."""
    for turn in turns:
        yield from (turn[key] for key in _REASONING if isinstance(turn.get(key), str))
        yield from (part["text"] for part in turn["content"] if part.get("type") == "text")
        for call in turn.get("tool_calls") or ():
            name = (call.get("function") or call).get("name")
            if isinstance(name, str):
                yield name


def find_missing(turns: Sequence[Message], answer: Sequence[Message], prompt: str, rest: str) -> str | None:
    """Returns the first text of a conversation that is not where it belongs in what was rendered of it, else None.

    The texts of `turns` belong into `prompt`, in order (a system prompt anywhere), and those of `answer` after them,
    ending in `rest`. How much whitespace stands between two words is the template's affair; that some does is not.
    """
    before, whole = _squeeze(prompt), _squeeze(prompt + rest)
    place = 0
    for turn in turns:
        for text in spoken_texts([turn]):
            words = _squeeze(text)
            found = before.find(words, 0 if turn["role"] == "system" else place)
            if found < 0:
                return text
            if turn["role"] != "system":
                place = found + len(words)
    for text in spoken_texts(answer):
        words = _squeeze(text)
        found = whole.find(words, max(place, len(before) - len(words) + 1))
        if found < 0:
            return text
        place = found + len(words)
    return None


def is_stringified(turns: Sequence[Message], rendered: str) -> bool:
    """Returns whether a template wrote the parts of a content as a list is printed, instead of their text."""
    parts = (part for turn in turns if isinstance(turn["content"], list) for part in turn["content"])
    return any(str(part) in rendered or json.dumps(part, ensure_ascii=False) in rendered for part in parts)


Form: TypeAlias = Callable[[Message], Message]
"""Brings a turn into a form that a template may want."""


def _as_it_is(turn: Message) -> Message:
    return turn


def _with_joined_texts(turn: Message) -> Message:
    """For templates that read the first text part of a content alone."""
    parts: list[dict[str, Any]] = []
    for part in turn["content"]:
        if parts and part.get("type") == parts[-1].get("type") == "text":
            parts[-1] = {**part, "text": _join([parts[-1]["text"], part["text"]])}
        else:
            parts.append(part)
    return {**turn, "content": parts}


def _as_text_without_images(turn: Message) -> Message:
    """For templates that want text where there can be no image: of the system, or of the assistant."""
    return turn if any(part.get("type") == "image" for part in turn["content"]) else _as_text(turn)


def _as_text(turn: Message) -> Message:
    """For templates that know no parts; an image is `<image>`."""
    texts = [IMAGE_PLACEHOLDER if part.get("type") == "image" else part["text"] for part in turn["content"]]
    return {**turn, "content": _join(texts)}


FORMS: tuple[Form, ...] = (_as_it_is, _with_joined_texts, _as_text_without_images, _as_text)
"""In the order in which they are tried: the next one where a template loses a text of the one before."""


def _join(texts: Sequence[str]) -> str:
    """Joins texts, by a line break where no whitespace would separate two of them."""
    joined = ""
    for text in texts:
        seam = "" if not joined or not text or joined[-1].isspace() or text[0].isspace() else "\n"
        joined += seam + text
    return joined


def _squeeze(text: str) -> str:
    return " ".join(THINKING_MARK.sub(r" \1 ", text).split())
