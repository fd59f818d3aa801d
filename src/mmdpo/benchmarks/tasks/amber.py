"""AMBER: objects named in descriptions, and yes/no questions on existence, attributes and relations, without a judge.

Source: Wang et al., AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation, 2023; scoring
as the authors' `inference.py`. Every denominator of the official code starts at 0.001, and its F1 is taken from the
printed precision and recall; the AMBER score is the paper's. How a description is held against its image:
`amber_words.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmdpo.benchmarks.amber_words import AmberWords, score_description
from mmdpo.benchmarks.answers import Row
from mmdpo.benchmarks.reading import EvaluationError, read_json, read_text
from mmdpo.benchmarks.records import Item, Items, ItemScore, Metric, Sums, Tools, Values

LICENCE = "AMBER: Apache-2.0"
GENERATION: Mapping[str, Any] = {"max_new_tokens": 512}
GENERATIVE: Final = "generative"
_PARTS: Final = {
    "generative": GENERATIVE,
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
_DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "overall": ("existence", "state", "number", "action", "relation"),
    "existence": ("existence",),
    "attribute": ("state", "number", "action"),
    "state": ("state",),
    "number": ("number",),
    "action": ("action",),
    "relation": ("relation",),
}
TRAPS = {
    "capitalised_noun": "nouns of the word list that are dropped because they are capitalised",
    "never_matched_noun": "nouns that the list holds as plurals alone (sunglasses, earrings, chopsticks, slippers)",
    "not_exactly_yes_or_no": 'answers that count as neither, being not exactly "Yes" or "No"',
    "yes_or_no_in_other_words": 'those of them that begin with yes or no all the same ("yes", "No.", "Yes, it is")',
}
_START: Final = 0.001
"""What every counter of the official code starts at."""


def _chair(sums: Sums) -> Values:
    return sums["generative/flagged"] / (sums["generative/kept"] + _START) * 100


def _cover(sums: Sums) -> Values:
    return sums["generative/covered"] / (sums["generative/truth"] + _START) * 100


def _hal(sums: Sums) -> Values:
    return 100 - sums["generative/unflagged"] / (sums["generative/n"] + _START) * 100


def _cog(sums: Sums) -> Values:
    return sums["generative/cognitive"] / (sums["generative/hallu"] + _START) * 100


def _rate(sums: Sums, dimension: str, part: str, whole: str) -> Values:
    """Per cent; attribute adds up the counters of its three parts, overall has counters of its own."""
    parts = _DIMENSIONS[dimension]
    start = _START * (3 if dimension == "attribute" else 1)
    above, below = (np.sum([sums[f"{name}/{count}"] for name in parts], axis=0) for count in (part, whole))
    rate: Values = above / (below + start) * 100
    return rate


def _accuracy(sums: Sums, dimension: str) -> Values:
    return _rate(sums, dimension, "correct", "n")


def _precision(sums: Sums, dimension: str) -> Values:
    return _rate(sums, dimension, "true_no", "said_no")


def _recall(sums: Sums, dimension: str) -> Values:
    return _rate(sums, dimension, "true_no", "is_no")


def _f1(sums: Sums, dimension: str) -> Values:
    return _combine(_precision(sums, dimension), _recall(sums, dimension), dimension)


def _combine(precision: Values, recall: Values, dimension: str) -> Values:
    guard = 0.001 if dimension == "existence" else 0.0001
    return 2 * (precision / 100) * (recall / 100) / (precision / 100 + recall / 100 + guard) * 100


def _printed_f1(sums: Sums, dimension: str) -> float:
    precision, recall = (np.round(rule(sums, dimension)[:1], 1) for rule in (_precision, _recall))
    return round(float(_combine(precision, recall, dimension)[0]), 1)


def _score(sums: Sums) -> Values:
    return (100 - _chair(sums) + _f1(sums, "overall")) / 2


def _printed_score(sums: Sums) -> float:
    return round((100 - round(float(_chair(sums)[0]), 1) + _printed_f1(sums, "overall")) / 2, 1)


def _discriminative(dimension: str) -> tuple[Metric, ...]:
    over = tuple(f"{part}/n" for part in _DIMENSIONS[dimension])
    rules = {"accuracy": _accuracy, "precision": _precision, "recall": _recall}
    plain = [
        Metric(f"amber/{dimension}/{name}", partial(rule, dimension=dimension), over, "higher", "%", 1)
        for name, rule in rules.items()
    ]
    f1, printed = partial(_f1, dimension=dimension), partial(_printed_f1, dimension=dimension)
    return (*plain, Metric(f"amber/{dimension}/f1", f1, over, "higher", "%", 1, printed))


_DESCRIBED: Final = ("generative/n",)
METRICS = (
    Metric("amber/chair", _chair, _DESCRIBED, "lower", "%", 1),
    Metric("amber/cover", _cover, _DESCRIBED, "higher", "%", 1),
    Metric("amber/hal", _hal, _DESCRIBED, "lower", "%", 1),
    Metric("amber/cog", _cog, _DESCRIBED, "lower", "%", 1),
    *(metric for dimension in _DIMENSIONS for metric in _discriminative(dimension)),
    Metric(
        "amber/score",
        _score,
        _DESCRIBED + tuple(f"{part}/n" for part in _DIMENSIONS["overall"]),
        "higher",
        "points",
        1,
        _printed_score,
    ),
)


def read_items(data_dir: Path, tools: Tools) -> tuple[Item, ...]:
    """Reads annotations and queries: 1,004 descriptions, then 14,216 questions; ids are the official numbers.

    Raises:
        EvaluationError: a file is missing or is not AMBER's.
    """
    folder = _data_folder(data_dir)
    annotations, queries = read_json(folder / "annotations.json"), read_json(folder / "query" / "query_all.json")
    try:
        asked = {query["id"]: query for query in queries}
        return tuple(
            Item(
                id=str(record["id"]),
                part=_PARTS[record["type"]],
                prompt=asked[record["id"]]["query"],
                image=asked[record["id"]]["image"],
                truth={key: record[key] for key in ("truth", "hallu") if key in record},
            )
            for record in annotations
        )
    except (KeyError, TypeError) as error:
        raise EvaluationError(
            f"{folder}: annotations.json and query_all.json do not fit together ({error!r})"
        ) from error


def _data_folder(data_dir: Path) -> Path:
    return data_dir / "data" if (data_dir / "data").is_dir() else data_dir


def find_id(row: Row, items: Items) -> str:
    """Returns the `id` of an official row `{"id", "response"}`; raises EvaluationError if it has none."""
    if "id" not in row.values:
        raise EvaluationError(f"no id; it has {', '.join(row.values)}, and AMBER's rows are {{id, response}}")
    return str(row.values["id"])


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[Item, str], ItemScore]:
    """Returns the official rules; descriptions use the language tool and the word similarity, questions neither."""
    folder = _data_folder(data_dir)
    words = AmberWords.build(
        associated=read_json(folder / "relation.json"), safe=read_text(folder / "safe_words.txt").split("\n")
    )

    def score(item: Item, answer: str) -> ItemScore:
        if item.part == GENERATIVE:
            return score_description(item, answer, words, tools.linguistics, tools.similarity)
        return _score_question(item, answer)

    return score


def _score_question(item: Item, answer: str) -> ItemScore:
    truth = item.truth["truth"]
    said_no, is_no = answer == "No", truth == "no"
    correct = said_no if is_no else answer == "Yes"
    traps = {}
    if answer not in ("Yes", "No"):
        traps["not_exactly_yes_or_no"] = 1
        if answer.strip().lower().startswith(("yes", "no")):
            traps["yes_or_no_in_other_words"] = 1
    counts = {"n": 1, "correct": correct, "said_no": said_no, "is_no": is_no, "true_no": said_no and is_no}
    return ItemScore(
        counts={f"{item.part}/{name}": float(count) for name, count in counts.items()},
        reason={"read_as": answer if answer in ("Yes", "No") else "neither", "label": truth},
        traps=traps,
    )
