"""HallusionBench: 1,129 yes/no questions on figures and edited figures, checked by a judge: the authors' rule.

Source: Guan et al., HallusionBench, CVPR 2024; scoring as the authors' `utils.py` and `evaluation.py`. A judge that
sees no image says of each answer whether it is correct, incorrect or unclear, and, where that decides what a mistake
comes from, whether it says the same as the answer about the original figure. Other harnesses read "yes" and "no" in the
answers to the 951 questions with an image: that is `hallusionbench_yes_no`, and its numbers are not these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmdpo.benchmarks.definitions import (
    AskingJudge,
    BenchmarkItem,
    ItemScore,
    Metric,
    Sums,
    Tools,
    Values,
    divide,
    ratio_metric,
)
from mmdpo.benchmarks.groups import Grouping, add_counts, count_groups
from mmdpo.benchmarks.judged import require_judge
from mmdpo.benchmarks.tasks._hallusionbench import ANSWER_FIELDS as ANSWER_FIELDS
from mmdpo.benchmarks.tasks._hallusionbench import CATEGORIES, read_all_items
from mmdpo.benchmarks.tasks._hallusionbench import LICENCE as LICENCE
from mmdpo.benchmarks.tasks._hallusionbench import find_id as find_id

SIZE = 1_129
GENERATION: Mapping[str, Any] = {"max_new_tokens": 512}
NEEDS_JUDGE = True
TRAPS = {
    "verdict_unreadable": "replies without the word correct, incorrect or unclear, which officially count as unclear",
    "comparison_unreadable": "replies without the word same or different, which officially count as different",
}
HEADLINE = ("hallusionbench/aacc", "hallusionbench/facc", "hallusionbench/qacc")

_SAME: Final = "/same"
"""Ends the id of the question to the judge whether two answers say the same."""
INCORRECT, CORRECT, UNCLEAR = "incorrect", "correct", "unclear"
_CAUSES: Final = {(1, 0): "lh", (0, 1): "vi", (1, 1): "mixed"}
"""What a mistake comes from: language hallucination, visual illusion, or both."""


# -- metrics ----------------------------------------------------------------------------------------------------------


_ALL: Final = tuple(f"{category}/" for category in CATEGORIES)
_SCOPES: Final = {"": _ALL, "vd/": ("VD/",), "vs/": ("VS/",)}


def _percent(name: str, part: str, whole: str, scopes: Sequence[str] = _ALL, **how: Any) -> Metric:
    return ratio_metric(f"hallusionbench/{name}", part, whole, scopes=scopes, digits=4, **how)


def _add(sums: Sums, name: str) -> Values:
    added: Values = np.sum([sums[f"{scope}{name}"] for scope in _ALL], axis=0)
    return added


def _yes_difference(sums: Sums) -> Values:
    said, is_so, questions = (_add(sums, name) for name in ("said_yes", "is_yes", "n"))
    return divide(said, questions) - divide(is_so, questions)


def _false_positives(sums: Sums) -> Values:
    return divide(_add(sums, "wrong_of_no"), _add(sums, "n") - _add(sums, "right"))


def _inconsistent(sums: Sums) -> Values:
    figures, right, wrong = (_add(sums, f"figure/{name}") for name in ("n", "all_right", "none_right"))
    return 100 * divide(figures - right - wrong, figures)


_QUESTIONS: Final = tuple(f"{scope}n" for scope in _ALL)
_FIGURES: Final = tuple(f"{scope}figure/n" for scope in _ALL)
METRICS = (
    *(
        metric
        for name, scopes in _SCOPES.items()
        for metric in (
            _percent(f"{name}aacc", "right", "n", scopes),
            _percent(f"{name}facc", "figure/all_right", "figure/n", scopes),
            _percent(f"{name}qacc", "question/all_right", "question/n", scopes),
        )
    ),
    _percent("easy_aacc", "easy/all_right", "easy/n"),
    _percent("hard_aacc", "hard/all_right", "hard/n"),
    Metric("hallusionbench/yes_difference", _yes_difference, _QUESTIONS, "neither", "share", None),
    Metric("hallusionbench/fp_ratio", _false_positives, _QUESTIONS, "neither", "share", None),
    _percent("consistency/correct", "figure/all_right", "figure/n"),
    Metric("hallusionbench/consistency/inconsistent", _inconsistent, _FIGURES, "lower", "%", 4),
    _percent("consistency/wrong", "figure/none_right", "figure/n", better="lower"),
    _percent("figure_score", "figure/share_right", "figure/n", factor=1, unit="share"),
    *(_percent(cause, cause, "mistakes", ("",), better="neither") for cause in _CAUSES.values()),
)


# -- questions, and what the judge is asked ---------------------------------------------------------------------------


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads the 1,129 questions, 178 of them without an image; raises EvaluationError for another file."""
    return read_all_items(data_dir)


def judged_ids(items: Sequence[BenchmarkItem]) -> list[str]:
    """Returns the ids that replies may have: those of the items, and `ID/same` for the second question."""
    return [f"{item.id}{end}" for end in ("", _SAME) for item in items]


def judge_prompt(item: BenchmarkItem, answer: str) -> str:
    """Returns what the judge is asked, in our own wording: of an answer, or of two answers."""
    if "other_answer" in item.truth:
        return (
            "Two answers were given to two questions, which you do not know. Decide whether they agree: two answers "
            "agree if both can be true at once.\n\n"
            f"First answer: {answer}\nSecond answer: {item.truth['other_answer']}\n\n"
            'Reply with the one word "same" if they agree, or "different" if one of them contradicts the other.'
        )
    return (
        "You check the answer that an assistant gave to a question. Take the reference answer for the truth, whatever "
        "you know yourself.\n\n"
        f"Question: {item.prompt}\nReference answer: {item.truth['gt_answer_details']}\nAnswer of the assistant: "
        f'{answer}\n\nReply with one word: "correct" if the answer does not contradict the reference answer, '
        '"incorrect" if it does, "unclear" if it does not commit itself to an answer.'
    )


def reads(reply: str) -> bool:
    """Returns whether a reply holds a word that the judge is asked for."""
    return any(word in reply.lower() for word in (CORRECT, UNCLEAR, "same", "different"))


# -- scores -----------------------------------------------------------------------------------------------------------


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the rule that scores an answer by the judge's verdict; raises EvaluationError if there is no judge."""
    judge = require_judge(tools, "HallusionBench's own rule", "; without one, hallusionbench_yes_no reads yes and no")
    return lambda item, answer: score_reply(item, judge.reply(item, answer))


def read_verdict(reply: str) -> str:
    """Returns the verdict of a reply as officially: "incorrect" is looked for first, and no word of it is unclear."""
    return next((word for word in (INCORRECT, CORRECT) if word in reply.lower()), UNCLEAR)


def score_reply(item: BenchmarkItem, reply: str | None) -> ItemScore:
    """Scores an item by the judge's reply, None where there is none."""
    if reply is None:
        return ItemScore({}, {}, unscored="the judge gave no reply")
    verdict, truth = read_verdict(reply), item.truth
    right = verdict == CORRECT or (verdict == UNCLEAR and _is_without_figure(item))
    is_yes = truth["gt_answer"] == "1"
    counts = {"n": True, "right": right, "is_yes": is_yes, "said_yes": right == is_yes}
    counts["wrong_of_no"] = not right and not is_yes
    is_plain = any(word in reply.lower() for word in (CORRECT, UNCLEAR))
    return ItemScore(
        counts={f"{item.part}/{name}": float(count) for name, count in counts.items()},
        reason={"read_as": verdict, "label": verdict if right else CORRECT, "right": right}
        | {"reference": truth["gt_answer_details"], "reply": reply},
        traps={} if is_plain else {"verdict_unreadable": 1},
    )


def _is_without_figure(item: BenchmarkItem) -> bool:
    """Whether it is a question that is asked without its figure, where "I do not know" is right."""
    return item.part == "VS" and item.truth["figure_id"] == "0"


def _question(item: BenchmarkItem) -> tuple[str, str]:
    """What the same question about other figures of its set has in common."""
    return item.group, item.truth["question_id"]


def _make_groupings() -> list[Grouping]:
    def of(category: str, applies: Callable[[BenchmarkItem], bool], key: Callable[[BenchmarkItem], Any]) -> Any:
        return lambda item: key(item) if item.part == category and applies(item) else None

    kinds: dict[str, tuple[Callable[[BenchmarkItem], bool], Callable[[BenchmarkItem], Any]]] = {
        "figure": (lambda item: not _is_without_figure(item), lambda item: (item.group, item.truth["figure_id"])),
        "question": (lambda item: True, _question),
        "easy": (lambda item: item.truth["visual_input"] != "2", _question),
        "hard": (lambda item: item.truth["visual_input"] == "2", _question),
    }
    return [
        Grouping(f"{category}/{name}", of(category, *how)) for category in CATEGORIES for name, how in kinds.items()
    ]


def score_together(
    items: Sequence[BenchmarkItem], texts: Mapping[str, str], scores: Mapping[str, ItemScore], tools: Tools
) -> dict[str, ItemScore]:
    """Returns the scores with the counts of figures and questions, and what each mistake comes from."""
    counted = count_groups(items, scores, _make_groupings(), lambda score: score.reason.get("right"))
    originals = {_question(item): item for item in items if item.truth["figure_id"] == "0"}
    mistakes = [item for item in items if item.id in scores and scores[item.id].reason.get("right") is False]
    asked = {}
    for item in mistakes:
        original = originals.get(_question(item))
        if original is not None and _depends_on_same(item, original, scores):
            truth = {"other_answer": texts[original.id]}
            asked[item.id] = replace(item, id=f"{item.id}{_SAME}", truth=truth), texts[item.id]
    judge = tools.judge
    assert judge is not None  # make_scorer has raised
    if isinstance(judge, AskingJudge):
        judge.ask_all(list(asked.values()))
        tools.used["judge"] = judge.name
    for item in mistakes:
        reply = judge.reply(*asked[item.id]) if item.id in asked else ""
        cause = _find_cause(item, originals.get(_question(item)), scores, reply)
        score = counted[item.id]
        if cause is None:
            counted[item.id] = replace(score, unscored="what the mistake comes from is not known")
            continue
        score = add_counts(score, {"mistakes": 1.0, cause: 1.0})
        if item.id in asked and not {"same", "different"} & set((reply or "").lower().replace(".", " ").split()):
            score = replace(score, traps={**score.traps, "comparison_unreadable": 1})
        counted[item.id] = replace(score, reason={**score.reason, "cause": cause, "comparison": reply})
    return counted


def _verdict(item: BenchmarkItem | None, scores: Mapping[str, ItemScore]) -> str | None:
    score = scores.get(item.id) if item is not None else None
    return None if score is None else score.reason.get("read_as")


def _depends_on_same(item: BenchmarkItem, original: BenchmarkItem, scores: Mapping[str, ItemScore]) -> bool:
    """Whether the cause of a mistake depends on what was answered about the original figure."""
    if item.id == original.id or _verdict(item, scores) != INCORRECT:
        return False
    before = _verdict(original, scores)
    if item.part == "VD":
        return before == CORRECT
    return before == INCORRECT or (before == CORRECT and item.truth["visual_input"] == "2")


def _find_cause(
    item: BenchmarkItem, original: BenchmarkItem | None, scores: Mapping[str, ItemScore], reply: str | None
) -> str | None:
    """Returns what a mistake comes from by the authors' table; None where an answer or a reply is missing for that.

    `reply` says whether it agrees with the answer about the original figure, and is read where that decides.
    """
    before, now = _verdict(original, scores), _verdict(item, scores)
    if before is None or reply is None:
        return None
    is_same, is_first = "same" in reply.lower(), original is not None and item.id == original.id
    if item.part == "VD":
        language = not is_first and before == CORRECT and now == INCORRECT and is_same
        return _CAUSES[int(language), 1]
    if is_first:
        return _CAUSES[1, 0]
    if before == INCORRECT:
        return _CAUSES[1, int(not (now == INCORRECT and is_same))]
    edited = item.truth["visual_input"] == "2"
    language = before == CORRECT and now == INCORRECT and edited and is_same
    return _CAUSES[int(language), int(not language)]
