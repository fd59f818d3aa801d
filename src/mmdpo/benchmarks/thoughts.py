"""What a model thought before it answered: `<think>…</think>` and its like, which official scorers know nothing of."""

from __future__ import annotations

import re
from typing import Final

_TAG: Final = re.compile(
    r"(<(?:think|thinking|thought|reasoning)>|◁think▷)|(</(?:think|thinking|thought|reasoning)>|◁/think▷)",
    re.IGNORECASE,
)


def holds_thoughts(answer: str) -> bool:
    """Returns whether an answer holds a tag that begins or ends a thought."""
    return _TAG.search(answer) is not None


def take_off_thoughts(answer: str) -> str:
    """Returns an answer without its thoughts, stripped; as it is where it holds none.

    A thought that was begun by the chat template has only its end in the answer: all before it is thought. One that
    never ends is thought throughout.
    """
    if not holds_thoughts(answer):
        return answer
    kept: list[str] = []
    thinking, at = False, 0
    for tag in _TAG.finditer(answer):
        if not thinking:
            kept.append(answer[at : tag.start()])
        if tag[2] and not thinking:
            kept.clear()
        thinking, at = tag[1] is not None, tag.end()
    if not thinking:
        kept.append(answer[at:])
    return "".join(kept).strip()
