"""Short answers against the right one (column `answer`): numbers, fractions, options, yes and no, else words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from mmdpo.pairs.judges import Context, Verdict, Verdicts
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.records import RowError

NEEDS, STRIKES, WORDS = "answer", True, dict[str, str]()

_FINAL = re.compile(r"\banswer\b[\s*_]*(?:(?:is|was)\b\s*[:：]?|[:：=])", re.IGNORECASE)
_AROUND = " \t\n*_\"'`"
"""What may stand around an answer and is none of it."""
_NUMBER = re.compile(
    r"(?<![\w.,])([-+−]?(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+))(?:\s*/\s*(\d+(?:\.\d+)?))?"
    r"\s*(%|per\s?cent\b|[^\W\d_]+)?",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?i:option|choice)?\s*\(?([A-Z])(?:[.:)]|\s*$|(?<![AI])\s)")
"""A letter with its mark, or alone; before words "A" and "I" are words as well."""
_YES, _NO = {"yes", "yep", "yeah", "true", "correct"}, {"no", "nope", "false", "incorrect"}
_ARTICLES = ("a", "an", "the")
_SHORT_UNIT = 3
"""Letters up to which a unit has no plural: ms are not m."""


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
    """Returns one verdict for each sample: right, with score 1, or wrong, with 0."""
    right = prompt.truth[NEEDS]
    if not isinstance(right, str | int | float):
        raise RowError(f"`answer` is {right!r:.60}: give one text or number", source=prompt.source)
    right = str(right)
    verdicts = [is_same(sample.text, right) for sample in samples]
    return [Verdict(float(same), is_right=same) for same in verdicts]


def is_same(said: str, right: str) -> bool:
    """Returns whether an answer says what is right, by what comes after its last "answer:", where that stands in it.

    What the right answer is decides how the two are compared. A number may have a unit, which one of the two may leave
    out; of options the letter counts; of yes and no the first word does.

    >>> is_same("The answer is 3/10.", "0.3"), is_same("Yep!", "yes"), is_same("(B) a cup", "B"), is_same("12 cm", "21")
    (True, True, True, False)
    """
    said, right = (_FINAL.split(said)[-1].strip(_AROUND) or said.strip()), right.strip()
    if re.fullmatch(r"\(?[A-Z]\)?[.:]?", right):
        found = _OPTION.match(said.upper() if re.fullmatch(r"\(?[a-z]\)?[.:]?", said) else said)
        return found is not None and found[1] == right.strip("().:")
    if (number := _NUMBER.fullmatch(right.rstrip(". "))) is not None:
        first = _NUMBER.search(said)
        return first is not None and _is_same_number(first, number)
    said_words, words = (re.findall(r"\w+", text.lower()) for text in (said, right))
    if len(words) == 1 and words[0] in _YES | _NO:
        return bool(said_words) and said_words[0] in (_YES if words[0] in _YES else _NO)
    said_words, words = ([word for word in of if word not in _ARTICLES] for of in (said_words, words))
    return said_words == words if words else said == right


def _is_same_number(one: re.Match[str], other: re.Match[str]) -> bool:
    (value, unit), (its_value, its_unit) = ((_value(found), _unit(found)) for found in (one, other))
    if value is None or its_value is None:
        return False
    if "%" in (unit, its_unit):  # 30 % is 0.3, and 30 where the mark was left out
        shares = [each / 100 if mark == "%" else each for each, mark in ((value, unit), (its_value, its_unit))]
        is_left_out = None in (unit, its_unit) and value == its_value
        return is_left_out or (shares[0] == shares[1] and {unit, its_unit} <= {"%", None})
    return value == its_value and (unit is None or its_unit is None or _is_same_unit(unit, its_unit))


def _value(number: re.Match[str]) -> Fraction | None:
    """Returns the number that was found, without its unit; None for a fraction of nothing, and for endless digits."""
    try:
        return Fraction(number[1].replace(",", "").replace("−", "-")) / Fraction(number[2] or 1)
    except (ZeroDivisionError, ValueError):
        return None


def _unit(number: re.Match[str]) -> str | None:
    if number[3] is None:
        return None
    unit = number[3].lower()
    return "%" if unit == "%" or "".join(unit.split()) == "percent" else unit


def _is_same_unit(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long == short or (len(short) >= _SHORT_UNIT and long in (f"{short}s", f"{short}es"))
