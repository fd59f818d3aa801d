"""A text model grades each answer, from 0 to 10, against one that is known to be right (column `reference`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmdpo.pairs.judges import Ask, Asking, Claim, Context, Reply, Verdict
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample

NEEDS, STRIKES = "reference", True
WORDS = {
    "grade": (
        "Somebody was asked about a picture, which you do not see:\n{question}\n\nAn answer that is known to be "
        "right:\n"
        "{reference}\n\nAn answer to grade:\n{answer}\n\nHow far does the second answer agree with the first? Other "
        "words "
        "for the same thing cost nothing. What contradicts the right answer, or is not borne out by it, is wrong; what "
        "the right answer says and the other does not is missing. Write three lines:\nScore: a whole number from 0, "
        "nothing is right, to 10, all of it is and nothing is missing\nWrong: what is wrong, separated by "
        "semicolons, or "
        "none\nMissing: what is missing, separated by semicolons, or none"
    )
}
_SCORE = re.compile(r"score(?:\s*\([^)\n]*\))?\W*(10|\d)(?:\.\d+)?\b", re.IGNORECASE)
_WRONG = re.compile(
    r"^\W*(?:\d+[.)])?\W*wrong\W*?[:：](.*(?:\n\s*(?:[-*•]|\d+[.)]\s)(?!\W*missing\b).*)*)",
    re.IGNORECASE | re.MULTILINE,
)
"""What is wrong, in the line itself and in those of a list below it."""
_AROUND = re.compile(r"^[\s.*_•-]*(?:\d+[.)]\s+)?|[\s.*_]+$")
"""Marks around a part."""
_NOTHING = re.compile(r"(none|nothing|n/a|无)\s*($|[^\w\s])", re.IGNORECASE)


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Asking:
    """Yields one question for each distinct answer; returns the verdicts, whose claims are the wrong parts."""
    texts = list(dict.fromkeys(sample.text for sample in samples))
    asked = dict(question=prompt.question, reference=str(prompt.truth[NEEDS]))
    read = yield [Ask(WORDS["grade"].format(answer=text, **asked), _read) for text in texts]
    verdicts = dict(zip(texts, read, strict=True))
    return [verdicts[sample.text] for sample in samples]


def _read(reply: Reply) -> Verdict | None:
    score, wrong = _SCORE.search(reply.text), _WRONG.search(reply.text)
    if score is None:
        return None
    parts = [_AROUND.sub("", part) for part in re.split(r"[;；\n]", wrong[1] if wrong else "")]
    parts = [part for part in parts if part and not _NOTHING.match(part)]
    return Verdict(float(score[1]), tuple(Claim(part, is_true=False) for part in parts))
