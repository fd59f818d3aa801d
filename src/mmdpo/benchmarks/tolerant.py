"""A tolerant reading of answers, beside the official rules: yes or no in other words, and what a model thought first.

Official rules know a few exact words alone, and nothing of thoughts (`<think>…</think>` and its like).
"""

from __future__ import annotations

import re
from typing import Final, Literal

TRAPS: Final = {
    "tolerant_reads_differently": "answers that the tolerant reading takes otherwise than the official rule",
    "tolerant_unreadable": "answers without a plain yes or no, left out by the tolerant reading",
}
_WORD: Final = re.compile(r"[^\W\d_]+")
_TAG: Final = re.compile(
    r"(<(?:think|thinking|thought|reasoning)>|◁think▷)|(</(?:think|thinking|thought|reasoning)>|◁/think▷)",
    re.IGNORECASE,
)


def read_yes_no(answer: str) -> Literal["yes", "no"] | None:
    """Returns what an answer says, in whatever case and punctuation, without its thoughts; None if that is not plain.

    Its first word counts if it is yes or no; else the one of the two that stands in it, unless both do.
    """
    words = [word.lower() for word in _WORD.findall(take_off_thoughts(answer))]
    if words[:1] == ["yes"] or ("yes" in words and "no" not in words):
        return "yes"
    if words[:1] == ["no"] or ("no" in words and "yes" not in words):
        return "no"
    return None


def find_traps(official: str | None, tolerant: str | None) -> dict[str, int]:
    """Returns the traps of `TRAPS` that an answer falls into, by how both rules read it."""
    if tolerant is None:
        return {"tolerant_unreadable": 1}
    return {} if official == tolerant else {"tolerant_reads_differently": 1}


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
