"""Short answers against the right one (column `answer`): numbers, fractions, options, yes and no, else words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from mmdpo.pairs.judges import Context, Verdict, Verdicts
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample

NEEDS, STRIKES, WORDS = "answer", True, dict[str, str]()

_FINAL = re.compile(r"\banswer\b(?:\s+is)?\s*[:：]?\s*(?P<said>\S.*)", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"([-+−]?\d[\d,]*(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?\s*(%|[^\W\d_]+)?")
_OPTION = re.compile(r"\(?([A-Z])(?:[.:)]+|\s|$)")
_YES, _NO = {"yes", "yep", "yeah", "true", "correct"}, {"no", "nope", "false", "incorrect"}


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
    """Returns one verdict for each sample: right, with score 1, or wrong, with 0."""
    right = str(prompt.truth[NEEDS])
    verdicts = [is_same(sample.text, right) for sample in samples]
    return [Verdict(float(same), is_right=same) for same in verdicts]


def is_same(said: str, right: str) -> bool:
    """Returns whether an answer says what is right, by what comes after its last "answer:", where that stands in it.

    What the right answer is decides how the two are compared. A number may have a unit, which one of the two may leave
    out; of options the letter counts; of yes and no the first word does.

    >>> is_same("The answer is 3/10.", "0.3"), is_same("Yep!", "yes"), is_same("(B) a cup", "B"), is_same("12 cm", "21")
    (True, True, True, False)
    """
    *_, said = [said, *(found["said"] for found in _FINAL.finditer(said))]
    said, right = said.strip(), right.strip()
    if re.fullmatch(r"\(?[A-Z]\)?[.:]?", right):
        options = [_OPTION.match(text) for text in (said, right)]
        return all(options) and len({option[1] for option in options if option}) == 1
    if (number := _NUMBER.fullmatch(right.rstrip(". "))) is not None:
        found = _NUMBER.search(said)
        if found is None or _value(found) != _value(number):
            return False
        units = {unit.lower().removesuffix("s") for unit in (found[3], number[3]) if unit not in (None, "%")}
        return len(units) < 2
    said_words, words = (re.findall(r"\w+", text.lower()) for text in (said, right))
    if words and words[0] in _YES | _NO and len(words) == 1:
        return bool(said_words) and said_words[0] in (_YES if words[0] in _YES else _NO)
    articles = ("a", "an", "the")
    return [w for w in said_words if w not in articles] == [w for w in words if w not in articles]


def _value(number: re.Match[str]) -> Fraction | None:
    """Returns the number that was found, a per cent as a hundredth; None for a fraction of nothing."""
    value = Fraction(number[1].replace(",", "").replace("−", "-"))
    if number[2] is not None:
        if not float(number[2]):
            return None
        value /= Fraction(number[2])
    return value / 100 if number[3] == "%" else value
