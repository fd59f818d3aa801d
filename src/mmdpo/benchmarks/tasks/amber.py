"""AMBER: objects named in descriptions, and yes/no questions on existence, attributes and relations, without a judge.

Source: Wang et al., AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation, 2023; scoring
as the authors' `inference.py`. Every denominator of the official code starts at 0.001, and its F1 is taken from the
printed precision and recall; the AMBER score is the paper's. How a description is held against its image:
`amber_words.py`. `tolerant/…` are the measures of the questions over answers read with more sense (`tolerant.py`),
which leaves out those that say neither yes nor no.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmdpo.benchmarks.amber_words import AmberWords, score_description
from mmdpo.benchmarks.answers import Row
from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, ItemScore, Metric, Sums, Tools, Values
from mmdpo.benchmarks.reading import EvaluationError, read_data, read_data_text
from mmdpo.benchmarks.tolerant import TRAPS as TRAPS_OF_READING
from mmdpo.benchmarks.tolerant import find_traps, read_yes_no

LICENCE = "AMBER: Apache-2.0"
GENERATION: Mapping[str, Any] = {"max_new_tokens": 512}
LANGUAGE_TOOLS = ("linguistics", "similarity")
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
} | TRAPS_OF_READING
_OFFICIAL: Final = ""
_TOLERANT: Final = "tolerant/"
"""How answers are read: the beginning of the names of counts and metrics."""
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


def _rate(sums: Sums, reading: str, dimension: str, part: str, whole: str) -> Values:
    """Per cent; attribute adds up the counters of its three parts, overall has counters of its own."""
    parts = [f"{reading}{name}" for name in _DIMENSIONS[dimension]]
    start = _START * (3 if dimension == "attribute" else 1)
    above, below = (np.sum([sums[f"{name}/{count}"] for name in parts], axis=0) for count in (part, whole))
    rate: Values = above / (below + start) * 100
    return rate


def _accuracy(sums: Sums, reading: str, dimension: str) -> Values:
    return _rate(sums, reading, dimension, "correct", "n")


def _precision(sums: Sums, reading: str, dimension: str) -> Values:
    return _rate(sums, reading, dimension, "true_no", "said_no")


def _recall(sums: Sums, reading: str, dimension: str) -> Values:
    return _rate(sums, reading, dimension, "true_no", "is_no")


def _f1(sums: Sums, reading: str, dimension: str) -> Values:
    return _combine(_precision(sums, reading, dimension), _recall(sums, reading, dimension), dimension)


def _combine(precision: Values, recall: Values, dimension: str) -> Values:
    guard = 0.001 if dimension == "existence" else 0.0001
    return 2 * (precision / 100) * (recall / 100) / (precision / 100 + recall / 100 + guard) * 100


def _printed_f1(sums: Sums, reading: str, dimension: str) -> float:
    precision, recall = (np.round(rule(sums, reading, dimension)[:1], 1) for rule in (_precision, _recall))
    return round(float(_combine(precision, recall, dimension)[0]), 1)


def _score(sums: Sums) -> Values:
    return (100 - _chair(sums) + _f1(sums, _OFFICIAL, "overall")) / 2


def _printed_score(sums: Sums) -> float:
    return round((100 - round(float(_chair(sums)[0]), 1) + _printed_f1(sums, _OFFICIAL, "overall")) / 2, 1)


def _discriminative(reading: str, dimension: str) -> tuple[Metric, ...]:
    over = tuple(f"{reading}{part}/n" for part in _DIMENSIONS[dimension])
    name, rules = f"amber/{reading}{dimension}", {"accuracy": _accuracy, "precision": _precision, "recall": _recall}
    plain = [
        Metric(f"{name}/{of}", partial(rule, reading=reading, dimension=dimension), over, "higher", "%", 1)
        for of, rule in rules.items()
    ]
    f1 = partial(_f1, reading=reading, dimension=dimension)
    printed = partial(_printed_f1, reading=reading, dimension=dimension)
    return (*plain, Metric(f"{name}/f1", f1, over, "higher", "%", 1, printed))


_DESCRIBED: Final = ("generative/n",)
_SCORED: Final = (*_DESCRIBED, *(f"{part}/n" for part in _DIMENSIONS["overall"]))
METRICS = (
    Metric("amber/chair", _chair, _DESCRIBED, "lower", "%", 1),
    Metric("amber/cover", _cover, _DESCRIBED, "higher", "%", 1),
    Metric("amber/hal", _hal, _DESCRIBED, "lower", "%", 1),
    Metric("amber/cog", _cog, _DESCRIBED, "lower", "%", 1),
    *(metric for dimension in _DIMENSIONS for metric in _discriminative(_OFFICIAL, dimension)),
    Metric("amber/score", _score, _SCORED, "higher", "points", 1, _printed_score),
    *(metric for dimension in _DIMENSIONS for metric in _discriminative(_TOLERANT, dimension)),
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads annotations and queries: 1,004 descriptions, then 14,216 questions; ids are the official numbers.

    Raises:
        EvaluationError: a file is missing or is not AMBER's.
    """
    folder = _data_folder(data_dir)
    annotations, queries = read_data(folder / "annotations.json"), read_data(folder / "query" / "query_all.json")
    try:
        asked = {query["id"]: query for query in queries}
        return tuple(
            BenchmarkItem(
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


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the `id` of an official row `{"id", "response"}`; raises EvaluationError if it has none."""
    if "id" not in row.values:
        raise EvaluationError(f"no id; it has {', '.join(row.values)}, and AMBER's rows are {{id, response}}")
    return str(row.values["id"])


def make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]:
    """Returns the official rules; descriptions use the language tool and the word similarity, questions neither."""
    folder = _data_folder(data_dir)
    words = AmberWords.build(
        associated=read_data(folder / "relation.json"), safe=read_data_text(folder / "safe_words.txt").split("\n")
    )

    def score(item: BenchmarkItem, answer: str) -> ItemScore:
        if item.part == GENERATIVE:
            return score_description(item, answer, words, tools.linguistics, tools.similarity)
        return _score_question(item, answer)

    return score


def _score_question(item: BenchmarkItem, answer: str) -> ItemScore:
    truth = item.truth["truth"]
    official = {"Yes": "yes", "No": "no"}.get(answer)
    tolerant = read_yes_no(answer)
    traps = find_traps(official, tolerant)
    if official is None:
        traps["not_exactly_yes_or_no"] = 1
        if answer.strip().lower().startswith(("yes", "no")):
            traps["yes_or_no_in_other_words"] = 1
    counts = _count(item.part, official, truth)
    if tolerant is not None:
        counts |= _count(f"{_TOLERANT}{item.part}", tolerant, truth)
    return ItemScore(
        counts=counts,
        reason={"read_as": answer if official else "neither", "tolerant": tolerant, "label": truth},
        traps=traps,
    )


def _count(part: str, said: str | None, truth: str) -> dict[str, float]:
    said_no, is_no = said == "no", truth == "no"
    counts = {"n": 1, "correct": said == truth, "said_no": said_no, "is_no": is_no, "true_no": said_no and is_no}
    return {f"{part}/{name}": float(count) for name, count in counts.items()}
