"""`mmdpo pairs check-judge`: is a judge right, and what moves it besides the truth, before it costs anything?

Gold rows are prompts with labelled answers: pairs (`chosen`, `rejected`), or `answers`, a list of `{"text", "score"}`;
each may have a `model`, who wrote it. Rows with `objects` say what is there, and so which claims are true.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.data.read import open_rows
from mmdpo.pairs.asking import JudgeError
from mmdpo.pairs.judges import PENALTY, Context, Verdict, find_objects, find_there, load
from mmdpo.pairs.judging import JudgeChoice, judge_lot
from mmdpo.pairs.prompts import Prompt, read_row
from mmdpo.pairs.samples import LOT, Sample
from mmdpo.records import RowError
from mmdpo.texts import count_words

WIDE = 2.0
"""Difference of a judge's scores from which two answers are far apart; 1 is one worth having."""
FEW_RIGHT, MOST_VOTES = 90.0, 3
"""Per cent of claims that are judged rightly below which more votes are worth their price, and how many there are."""
NARROW = 0.1
"""How much longer, at most, the longer of two answers is that do not differ in length."""


@dataclass(frozen=True)
class Gold:
    """A prompt with labelled answers."""

    prompt: Prompt
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    """Higher is better."""
    models: tuple[str, ...]
    """Who wrote each; empty where nobody says."""


def read_gold(path: Path, vocabulary: Mapping[str, str], image_root: Path | None = None) -> list[Gold]:
    """Reads gold rows. Without scores an answer's score follows from the row's `objects`, as the judge of them counts.

    Raises RowError, which names the row, for a row without two answers or without a label.
    """
    found = open_rows(path)
    golds = []
    for number, row in enumerate(found.rows, start=1):
        source = f"{found.name}, row {number}"
        prompt = read_row(row, number, found.name, image_root or found.root)
        if isinstance(row.get("answers"), list):
            answers = [dict(answer) if isinstance(answer, Mapping) else {"text": answer} for answer in row["answers"]]
        elif isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
            answers = [
                {"text": row[name], "score": score, "model": row.get(f"{name}_model")}
                for name, score in (("chosen", 1.0), ("rejected", 0.0))
            ]
        else:
            raise RowError(
                "give `chosen` and `rejected` as texts, or a list `answers` of texts with scores", source=source
            )
        if len(answers) < 2 or not all(isinstance(answer.get("text"), str) for answer in answers):
            raise RowError("two answers, each with a `text`, are needed", source=source)
        scores = [answer.get("score") for answer in answers]
        if any(score is None for score in scores):
            if "objects" not in prompt.truth or not vocabulary:
                raise RowError(
                    "an answer has no `score`, and none follows from `objects` (with --vocabulary) either",
                    source=source,
                )
            scores = [_score(answer["text"], prompt, vocabulary) for answer in answers]
        for score in scores:
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise RowError(f"`score` is {score!r:.40}; give a number", source=source)
        golds.append(
            Gold(
                prompt,
                tuple(answer["text"] for answer in answers),
                tuple(float(score) for score in scores),  # type: ignore[arg-type]
                tuple(str(answer.get("model") or "") for answer in answers),
            )
        )
    if not golds:
        raise JudgeError(f"{path}: there are no labelled answers")
    return golds


def _score(text: str, prompt: Prompt, vocabulary: Mapping[str, str]) -> float:
    there = find_there(prompt, vocabulary)
    named = find_objects(text, vocabulary)
    right = sum(name in there for name in named)
    return right - PENALTY * (len(named) - right)


def check_judge(
    golds: Sequence[Gold], choice: JudgeChoice, context: Context, asker: Any, *, own: str = ""
) -> dict[str, Any]:
    """Returns how often a judge is right about labelled answers, and how length, order and author move it.

    All shares are in per cent, with 95 % intervals after Wilson. `own` is the model whose answers it might favour.

    pairs      of pairs that differ in their label: right, ties as half
    claims     of claims about objects, where the rows say what is there: right; wrongly struck; wrongly believed
    margin     pairs whose scores by the judge differ by less than 2, and by more: right. What a margin is worth
    length     pairs whose better answer is the longer one, and those whose better one is the shorter: right. Their
               difference is how much length moves the judge
    order      of comparisons: the verdict turned with the order
    author     pairs whose better answer is of `own`, and those whose worse one is: right, and the difference
    """
    judge = load(choice.judge)
    verdicts = list(_judge(golds, judge, context, asker))
    judged = [
        (gold, better, worse, of[better], of[worse])
        for gold, of in zip(golds, verdicts, strict=True)
        for better, worse in permutations(range(len(gold.texts)), 2)
        if gold.scores[better] > gold.scores[worse]
    ]
    gaps = [
        (gold, better, worse, first.score - second.score)
        for gold, better, worse, first, second in judged
        if first is not None and second is not None
    ]
    right = [(gold, better, worse, float(np.sign(gap) + 1) / 2) for gold, better, worse, gap in gaps]
    if not right:
        raise JudgeError(
            "no two labelled answers differ in their label, or none was judged: there is nothing to check by"
        )
    found: dict[str, Any] = {
        "judge": choice.judge,
        "golds": len(golds),
        "unjudged": len(judged) - len(right),
        "pairs": {
            "accuracy": _share([value for *_, value in right]),
            "ties": _share([float(value == 0.5) for *_, value in right]),
        },
        "margin": _by_margin([gap for *_, gap in gaps]),
        "length": _by_length(right),
        "order": _by_order([verdict for of in verdicts for verdict in of if verdict is not None]),
        "claims": _by_claim(golds, verdicts, context.vocabulary),
        "author": _by_author(right, own) if own else None,
    }
    scores = {verdict.score for of in verdicts for verdict in of if verdict is not None}
    if len(scores) == 1:
        found["note"] = f"the judge gives every answer the score {next(iter(scores)):g}: nothing can be built by it"
    elif "votes" in getattr(judge, "OPTIONS", ()) and context.votes < MOST_VOTES and found["claims"]:
        share = found["claims"]["accuracy"]["value"]
        if share < FEW_RIGHT:
            found["note"] = (
                f"{share:.0f} % of claims are judged rightly, fewer than {FEW_RIGHT:.0f} %: with votes: {MOST_VOTES} "
                "each is asked about in three wordings, whose mean counts"
            )
    return found


def _judge(golds: Sequence[Gold], judge: Any, context: Context, asker: Any) -> Iterator[Sequence[Verdict | None]]:
    for start in range(0, len(golds), LOT):
        lot = [
            (gold.prompt, [Sample(gold.prompt.id, k, text) for k, text in enumerate(gold.texts, start=1)])
            for gold in golds[start : start + LOT]
        ]
        yield from judge_lot(judge, lot, context, asker)


def _by_margin(gaps: Sequence[float]) -> dict[str, Any]:
    """Returns how often the judge is right, by how far apart it holds two answers; ties are in neither."""
    near = [float(gap > 0) for gap in gaps if 0 < abs(gap) < WIDE]
    return {"narrow": _share(near), "wide": _share([float(gap > 0) for gap in gaps if abs(gap) >= WIDE])}


def _by_length(right: Sequence[tuple[Gold, int, int, float]]) -> dict[str, Any]:
    longer, shorter = list[float](), list[float]()
    for gold, better, worse, value in right:
        words = [count_words(gold.texts[place]) for place in (better, worse)]
        if max(words) > (1 + NARROW) * min(words):
            (longer if words[0] > words[1] else shorter).append(value)
    return _contrast("better_longer", longer, "better_shorter", shorter)


def _by_author(right: Sequence[tuple[Gold, int, int, float]], own: str) -> dict[str, Any]:
    ours = [value for gold, a, b, value in right if gold.models[a] == own != gold.models[b]]
    theirs = [value for gold, a, b, value in right if gold.models[b] == own != gold.models[a]]
    return _contrast("better_own", ours, "worse_own", theirs)


def _by_order(verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    """Returns how often comparisons turned; each is counted by both of its answers."""
    compared = sum(verdict.comparisons for verdict in verdicts)
    if not compared:
        return None
    turned = sum(verdict.inconsistent for verdict in verdicts)
    return {"turned": _wilson(turned / compared, compared // 2)}


def _by_claim(
    golds: Sequence[Gold], verdicts: Sequence[Sequence[Verdict | None]], vocabulary: Mapping[str, str]
) -> dict[str, Any] | None:
    """Returns how often claims are judged rightly; those that name one object, whose row says what is there."""
    true, false = list[float](), list[float]()
    for gold, of in zip(golds, verdicts, strict=True):
        if "objects" not in gold.prompt.truth or not vocabulary:
            continue
        there = find_there(gold.prompt, vocabulary)
        seen = set[str]()
        for claim in (claim for verdict in of if verdict is not None for claim in verdict.claims):
            named = find_objects(claim.text, vocabulary)
            if len(named) == 1 and claim.text not in seen:
                seen.add(claim.text)
                (true if named[0] in there else false).append(float(claim.is_true == (named[0] in there)))
    if not true and not false:
        return None
    return {
        "accuracy": _share(true + false),
        "wrongly_struck": _share([1 - value for value in true]),
        "wrongly_believed": _share([1 - value for value in false]),
    }


def _contrast(one: str, ones: Sequence[float], other: str, others: Sequence[float]) -> dict[str, Any]:
    shares = _share(ones), _share(others)
    values = [share["value"] for share in shares]
    return {
        one: shares[0],
        other: shares[1],
        "difference": values[0] - values[1] if None not in values else None,
    }


def _share(values: Sequence[float]) -> dict[str, Any]:
    return _wilson(sum(values) / len(values) if values else None, len(values))


def _wilson(share: float | None, n: int) -> dict[str, Any]:
    """Returns a share in per cent with its 95 % interval. Source: Wilson (1927)."""
    if share is None or not n:
        return {"value": None, "low": None, "high": None, "n": n}
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": 100 * share, "low": 100 * (centre - half), "high": 100 * (centre + half), "n": n}
