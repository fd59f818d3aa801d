"""How other evaluation harnesses read answers of yes and no; what they print of them, each benchmark states itself.

VLMEvalKit: `YOrN_Extraction` in vlmeval/dataset/utils/yorn.py at 0c7163c9 and `process_punctuation` in
vlmeval/smp/misc.py at 06d45c58, without the judge that it may ask where this finds nothing ("exact matching").
lmms-eval compares the whole answer: `pope_process_results` in lmms_eval/tasks/pope/utils.py at 2c03baf0.
"""

from __future__ import annotations

import re
from typing import Final

LMMS_EVAL, VLMEVALKIT = "lmms_eval", "vlmevalkit"
_MARKS: Final = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER: Final = re.compile(r"\d,\d")
_FULL_STOP: Final = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS: Final = 32
"""Full stops that VLMEvalKit takes off: it passes a flag of `re` where the count belongs."""


def read_lmms_eval(answer: str) -> str:
    """Returns what lmms-eval compares with "yes" and "no": the whole answer, in lower case, without space around it."""
    return answer.lower().strip()


def read_vlmevalkit(answer: str) -> str:
    """Returns "yes" or "no" as VLMEvalKit finds it, "unknown" where both or neither of them is a word of the answer.

    Marks become spaces, or nothing where one of their kind stands beside a space or a number has a comma in it. A full
    stop goes unless a digit follows. Colons, asterisks and quotation marks stay, so that `**Yes**` is unknown.
    """
    said = answer.lower()
    text, has_number = said, _COMMA_IN_NUMBER.search(said) is not None
    for mark in _MARKS:
        is_dropped = has_number or f"{mark} " in said or f" {mark}" in said
        text = text.replace(mark, "" if is_dropped else " ")
    words = {"yes", "no"} & set(_FULL_STOP.sub("", text, count=_MOST_FULL_STOPS).split())
    return words.pop() if len(words) == 1 else "unknown"
