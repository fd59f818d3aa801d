"""HaloQuest: 608 open questions that mislead, about what is not in the image, cannot be known, or is hard to see.

Source: Wang et al., HaloQuest: A Visual Hallucination Dataset for Advancing Multimodal Reasoning, ECCV 2024; scoring as
the authors' Auto-Eval (`HaloQuest_Colab.ipynb`): a judge that sees no image says whether an answer agrees with one of
the reference answers, by their criteria in our own wording. Theirs fills in a form through langfun with Gemini 1.5 Pro;
ours ends in a verdict, so that numbers of the two can be compared only loosely. A reply without a verdict is unscored.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, ItemScore, Tools, ratio_metric
from mmdpo.benchmarks.judged import require_judge
from mmdpo.benchmarks.reading import EvaluationError, Row, find_by_order, read_data_text

LICENCE = "HaloQuest: CC BY 4.0; its images are Open Images' and Midjourney's, each under its own licence"
SIZE = 608
GENERATION: Mapping[str, Any] = {"max_new_tokens": 512}
NEEDS_JUDGE = True
TRAPS = {"reply_unreadable": "replies of the judge without the word correct or incorrect, left unscored"}
KINDS: Final = {
    "false premises": "false_premises",
    "visual challenge": "visual_challenge",
    "insufficient context": "insufficient_context",
}
"""Of questions, as the file has them, and in names."""
SOURCES: Final = ("real", "generated")
HEADLINE = ("haloquest/accuracy",)
_VERDICT: Final = re.compile(r"(not |n't |\bin-?|\b)correct\b")
"""The word, after what turns it; what an answer does "correctly" is no verdict."""
_FILE: Final = "haloquest-eval.csv"
_COLUMNS: Final = ("image_name", "image type", "hallucination type", "question", "groundtruth responses")


METRICS = tuple(
    ratio_metric(f"haloquest/{scope}accuracy", "right", "n", scopes=[scope], digits=1)
    for scope in ("", *(f"{name}/" for name in (*KINDS.values(), *SOURCES)))
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads the rows of `haloquest-eval.csv`; ids are its first column, which counts from 0.

    Raises EvaluationError for another file.
    """
    file = data_dir / _FILE
    items: list[BenchmarkItem] = []
    for line, row in enumerate(csv.DictReader(io.StringIO(read_data_text(file), newline="")), 2):
        lacking = next((name for name in _COLUMNS if not row.get(name)), None)
        if lacking is not None or row["hallucination type"] not in KINDS or row["image type"] not in SOURCES:
            what = f"no {lacking!r}" if lacking else f"{row['hallucination type']!r}, {row['image type']!r}"
            raise EvaluationError(f"{file}, line {line}: no question of HaloQuest ({what})")
        references = [text.strip() for text in row["groundtruth responses"].split(";") if text.strip()]
        scopes = (KINDS[row["hallucination type"]], row["image type"])
        truth = {"references": references, "scopes": scopes}
        number = row.get("") or str(len(items))
        items.append(BenchmarkItem(number, "all", row["question"], row["image_name"], truth))
    if not items:
        raise EvaluationError(f"{file}: holds no question")
    return tuple(items)


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the item at the row's place; raises EvaluationError if its question is another one."""
    return find_by_order(row, items.parts["all"])


def judge_prompt(item: BenchmarkItem, answer: str) -> str:
    """Returns what the judge is asked: the authors' criteria in our own wording."""
    references = "\n".join(f"- {text}" for text in item.truth["references"])
    return (
        "You check the answer that an assistant gave to a question about a picture, which you cannot see. The "
        "reference answers are true; read the answer in the light of the question, and compare what it comes to.\n"
        "- Where the question asks about something that is not in the picture, only an answer that says so is correct: "
        'a bare "yes", "no" or "nothing" is not, since it lets the thing be there.\n'
        "- An answer that refuses to help or to answer is incorrect.\n"
        "- A number is correct only if it is the number of the reference answers.\n\n"
        f"Question: {item.prompt}\nReference answers:\n{references}\nAnswer of the assistant: {answer}\n\n"
        "Say in one sentence what the answer claims and in one what the reference answers claim. End with a line "
        '"Verdict: correct" or "Verdict: incorrect".'
    )


def read_verdict(reply: str) -> bool | None:
    """Returns whether the last line with a verdict in it says correct; None where there is none."""
    for line in reversed(reply.lower().splitlines()):
        if found := _VERDICT.findall(line):
            return not any(found)
    return None


def reads(reply: str) -> bool:
    """Returns whether a reply has a verdict."""
    return read_verdict(reply) is not None


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the rule that scores an answer by the judge's verdict; raises EvaluationError if there is no judge."""
    judge = require_judge(tools, "HaloQuest")
    return lambda item, answer: score_reply(item, judge.reply(item, answer))


def score_reply(item: BenchmarkItem, reply: str | None) -> ItemScore:
    """Scores an item by the judge's reply, None where there is none."""
    if reply is None:
        return ItemScore({}, {}, unscored="the judge gave no reply")
    references, right = "; ".join(item.truth["references"]), read_verdict(reply)
    reason: dict[str, Any] = {"reference": references, "reply": reply}
    if right is None:
        return ItemScore({}, reason, {"reply_unreadable": 1}, unscored="the judge's reply has no verdict")
    scopes = ("", *(f"{name}/" for name in item.truth["scopes"]))
    counts = {f"{scope}{name}": float(n) for scope in scopes for name, n in (("n", True), ("right", right))}
    return ItemScore(counts, reason | {"read_as": "correct" if right else "incorrect", "label": "correct"})
