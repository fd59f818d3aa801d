"""MMVP: 150 pairs of images that CLIP takes for the same, one question on both, whose right answers differ.

Source: Tong et al., Eyes Wide Shut? Exploring the Visual Shortcomings of Multimodal LLMs, CVPR 2024; scoring as the
authors' `gpt_grader.py`: a judge says yes or no to whether an answer is correct, only the bare word counts, and a pair
is right if both answers are. `tolerant/…` reads the judge's reply in any case and punctuation; `letter/…`, which needs
no judge and is this project's own, reads the letter of the option in the answer. A model that ignores the image answers
a pair alike, and has pair accuracy 0. Two pairs (99 and 100, 279 and 280) are said to have their answers swapped; they
are scored as they were released.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, ItemScore, Tools, ratio_metric
from mmdpo.benchmarks.groups import Grouping, count_groups
from mmdpo.benchmarks.reading import ANSWER_FIELDS as USUAL_FIELDS
from mmdpo.benchmarks.reading import EvaluationError, Row, read_data_text
from mmdpo.benchmarks.tolerant import read_yes_no

LICENCE = "MMVP: MIT"
SIZE = 300
GENERATION: Mapping[str, Any] = {"max_new_tokens": 1024}
ANSWER_FIELDS = ("response", *USUAL_FIELDS)
"""The authors' `answer` is the right one."""
TRAPS = {
    "reply_not_exactly_yes_or_no": 'replies of the judge that officially count as no, being not exactly "yes" or "no"',
    "reply_unreadable": "replies of the judge that say neither yes nor no: unscored by the tolerant reading",
    "no_letter": "answers that name no option, which count as wrong by letter",
}
HEADLINE = ("mmvp/pair_accuracy", "mmvp/letter/pair_accuracy")

_READINGS: Final = {"": "official", "tolerant/": "tolerant", "letter/": "letter"}
_OPTIONS: Final = re.compile(r"\(([a-z])\)\s*([^(]*)")


METRICS = tuple(
    ratio_metric(f"mmvp/{prefix}{name}", right, whole, scopes=[reading], factor=1, unit="share")
    for prefix, reading in _READINGS.items()
    for name, right, whole in (("pair_accuracy", "/pair/all_right", "/pair/n"), ("accuracy", "/right", "/n"))
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads the 300 rows of `Questions.csv`; ids count from 1, and two that follow each other are a pair.

    Raises EvaluationError for another file, or an odd number of rows.
    """
    file = data_dir / "Questions.csv"
    rows = list(csv.DictReader(io.StringIO(read_data_text(file), newline="")))
    lacking = [name for name in ("Question", "Options", "Correct Answer") if not rows or rows[0].get(name) is None]
    if lacking or len(rows) % 2:
        why = f"lacks the column {lacking[0]!r}" if lacking else f"has {len(rows)} rows, which are no pairs"
        raise EvaluationError(f"{file}: {why}; it is no list of questions of MMVP")
    return tuple(
        BenchmarkItem(
            id=str(number),
            part="all",
            prompt=f"{row['Question']} {row['Options']}",
            image=f"MMVP Images/{number}.jpg",
            truth={"answer": row["Correct Answer"].strip(), "options": dict(_OPTIONS.findall(row["Options"]))},
            group=f"pair {(number + 1) // 2}",
        )
        for number, row in enumerate(rows, 1)
    )


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the row's `question_id`; raises EvaluationError if it has none."""
    if "question_id" not in row.values:
        raise EvaluationError("no question_id, nor an id; they count from 1, as the images do")
    return str(row.values["question_id"])


def judge_prompt(item: BenchmarkItem, answer: str) -> str:
    """Returns what the judge is asked, in our own wording."""
    return (
        "You check an answer to a question with options.\n\n"
        f"Question: {item.prompt}\nRight answer: {item.truth['answer']}\nAnswer to check: {answer}\n\n"
        'Does the answer choose the right option? Reply with the one word "yes" or "no", without punctuation.'
    )


def reads(reply: str) -> bool:
    """Returns whether a reply says yes or no in any punctuation."""
    return read_yes_no(reply) is not None


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the rule: by letter always, by the judge where there is one."""
    judge = tools.judge
    if judge is None:
        return lambda item, answer: score_answer(item, answer)
    tools.used["judge"] = judge.name
    return lambda item, answer: score_answer(item, answer, judge.reply(item, answer), is_judged=True)


def score_answer(item: BenchmarkItem, answer: str, reply: str | None = None, *, is_judged: bool = False) -> ItemScore:
    """Scores an answer by its letter and, if it was judged, by the judge's reply, None where there was none."""
    letter, right = read_letter(answer, item.truth["options"]), item.truth["answer"].strip("() ").lower()
    verdicts: dict[str, bool] = {"letter": letter == right}
    traps, unscored = {"no_letter": letter is None}, ""
    if is_judged and reply is None:
        unscored = "the judge gave no reply"
    elif reply is not None:
        said = read_yes_no(reply)
        verdicts["official"] = reply.lower() == "yes"
        traps["reply_not_exactly_yes_or_no"] = reply.lower() not in ("yes", "no")
        traps["reply_unreadable"] = said is None
        if said is None:
            unscored = "the judge's reply says neither yes nor no"
        else:
            verdicts["tolerant"] = said == "yes"
    return ItemScore(
        counts={f"{name}/{of}": float(n) for name, ok in verdicts.items() for of, n in (("n", True), ("right", ok))},
        reason={"read_as": letter or "no option", "label": right, "verdicts": verdicts}
        | ({"reply": reply} if is_judged else {}),
        traps={name: 1 for name, hit in traps.items() if hit},
        unscored=unscored,
    )


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Returns the letter that an answer names: in brackets, as its first word, or by the one option whose text it has.

    >>> read_letter("The door is open.", {"a": "Open", "b": "Closed"})
    'a'
    """
    said = answer.lower()
    letters = "".join(options) or "ab"
    found = re.search(rf"\(([{letters}])\)", said) or re.match(rf"\W*([{letters}])\b(?!\s+[a-z])", said)
    if found:
        return found[1]
    named = [letter for letter, text in options.items() if text.strip() and _holds(said, text.strip().lower())]
    return named[0] if len(named) == 1 else None


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def score_together(
    items: Sequence[BenchmarkItem], texts: Mapping[str, str], scores: Mapping[str, ItemScore], tools: Tools
) -> dict[str, ItemScore]:
    """Returns the scores with the counts of pairs by each reading; a pair that lacks a verdict is left out."""
    counted = dict(scores)
    for reading in _READINGS.values():
        pairs = [Grouping(f"{reading}/pair", lambda item: item.group)]
        counted = count_groups(items, counted, pairs, lambda score, of=reading: score.reason["verdicts"].get(of))  # type: ignore[misc]
    return counted
