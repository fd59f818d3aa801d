"""A tolerant reading of answers to yes/no questions, beside the official rules, which know a few exact words alone."""

from __future__ import annotations

import re
from typing import Final, Literal

from mmdpo.benchmarks.thoughts import take_off_thoughts

TRAPS: Final = {
    "tolerant_reads_differently": "answers that the tolerant reading takes otherwise than the official rule",
    "tolerant_unreadable": "answers without a plain yes or no, left out by the tolerant reading",
}
_WORD: Final = re.compile(r"[^\W\d_]+")


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
