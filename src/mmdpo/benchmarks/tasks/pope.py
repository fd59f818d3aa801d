"""POPE: is an object in the image, yes or no, with three ways of choosing absent objects.

Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023; scoring as the authors'
`evaluate.py`: an answer is "no" if one of the words of its first sentence is exactly No, no or not, else "yes".
Answers are joined by question id, not by their order. `tolerant/…` are the same measures over answers read with more
sense (`tolerant.py`), which leaves out those that say neither yes nor no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmdpo.benchmarks.definitions import (
    BenchmarkItem,
    BenchmarkItems,
    Better,
    ItemScore,
    Metric,
    Sums,
    Tools,
    Values,
    divide,
)
from mmdpo.benchmarks.reading import EvaluationError, Row, find_by_order, read_data_text
from mmdpo.benchmarks.tolerant import TRAPS as TRAPS_OF_READING
from mmdpo.benchmarks.tolerant import find_traps, read_yes_no
from mmdpo.files import parse_json

LICENCE = "POPE: MIT; its images are COCO val2014"
GENERATION: Mapping[str, Any] = {"max_new_tokens": 128}
"""The first sentence alone is read."""
SPLITS: Final = ("random", "popular", "adversarial")
TRAPS = {
    "yes_without_saying_so": 'counted as "yes" though the first sentence has no "yes" ("NO", "", "There isn\'t one.")',
    "no_besides_yes": 'counted as "no" though the first sentence also says "yes"',
} | TRAPS_OF_READING

_OUTCOMES: Final = ("true_yes", "false_yes", "true_no", "false_no")


def _f1(hit: Values, false_alarm: Values, rejection: Values, miss: Values) -> Values:
    precision, recall = divide(hit, hit + false_alarm), divide(hit, hit + miss)
    return divide(2 * precision * recall, precision + recall)


_RULES: Final[Mapping[str, Callable[[Values, Values, Values, Values], Values]]] = {
    "accuracy": lambda hit, alarm, rejection, miss: divide(hit + rejection, hit + alarm + rejection + miss),
    "precision": lambda hit, alarm, rejection, miss: divide(hit, hit + alarm),
    "recall": lambda hit, alarm, rejection, miss: divide(hit, hit + miss),
    "f1": _f1,
    "yes_ratio": lambda hit, alarm, rejection, miss: divide(hit + alarm, hit + alarm + rejection + miss),
}


def _metric(reading: str, split: str, rule: str) -> Metric:
    splits = [f"{reading}{name}" for name in (SPLITS if split == "macro" else (split,))]

    def compute(sums: Sums) -> Values:
        values = [_RULES[rule](*(sums[f"{name}/{outcome}"] for outcome in _OUTCOMES)) for name in splits]
        mean: Values = np.mean(values, axis=0)
        return mean

    better: Better = "neither" if rule == "yes_ratio" else "higher"
    return Metric(
        f"pope/{reading}{split}/{rule}", compute, tuple(f"{name}/n" for name in splits), better, "share", None
    )


METRICS = tuple(
    _metric(reading, split, rule) for reading in ("", "tolerant/") for split in (*SPLITS, "macro") for rule in _RULES
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads each `coco_pope_*.json` that is there, with ids as `random/1`; raises EvaluationError if none is."""
    files = {split: data_dir / f"coco_pope_{split}.json" for split in SPLITS}
    items = [item for split, file in files.items() if file.exists() for item in _read_split(file, split)]
    if not items:
        raise EvaluationError(f"{data_dir}: holds none of {', '.join(file.name for file in files.values())}")
    return tuple(items)


def _read_split(file: Path, split: str) -> list[BenchmarkItem]:
    items = []
    for number, line in enumerate(read_data_text(file).splitlines(), 1):
        try:
            row = parse_json(line)
            truth = {"label": {"yes": "yes", "no": "no"}[row["label"]]}
            items.append(BenchmarkItem(f"{split}/{row['question_id']}", split, row["text"], row["image"], truth))
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{file}, line {number}: no question of POPE ({error!r})") from error
    return items


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns `split/question_id`; the split is a field (split, category) or stands in the file's name.

    A row without a question id, as the official code writes them, is joined by order if its question is the item's.
    Raises EvaluationError if no split, or more than one, is named, or the questions differ.
    """
    named = str(row.values.get("split", row.values.get("category", row.file.name)))
    splits = [split for split in SPLITS if split in named]
    if len(splits) != 1:
        raise EvaluationError(
            f"which split is this? {named!r} names {' and '.join(splits) or 'none'} of {', '.join(SPLITS)}; give each "
            'row a field "split", or each split a file with its name'
        )
    if "question_id" in row.values:
        return f"{splits[0]}/{row.values['question_id']}"
    return find_by_order(row, items.parts.get(splits[0], ()))


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the official rule and the tolerant one beside it; they need neither data nor tools."""
    return _score


def _score(item: BenchmarkItem, answer: str) -> ItemScore:
    said, tolerant, label = read_answer(answer), read_yes_no(answer), item.truth["label"]
    says_yes = "yes" in re.findall(r"[a-z]+", answer.partition(".")[0].lower())
    trap = {("yes", False): "yes_without_saying_so", ("no", True): "no_besides_yes"}.get((said, says_yes))
    counts = _count(item.part, said, label)
    if tolerant is not None:
        counts |= _count(f"tolerant/{item.part}", tolerant, label)
    return ItemScore(
        counts=counts,
        reason={"read_as": said, "tolerant": tolerant, "label": label},
        traps=({trap: 1} if trap else {}) | find_traps(said, tolerant),
    )


def _count(part: str, said: str, label: str) -> dict[str, float]:
    return {f"{part}/n": 1, f"{part}/{'true' if said == label else 'false'}_{said}": 1}


def read_answer(answer: str) -> str:
    """Returns "no" or "yes" as the official script reads an answer."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"
