"""AMBER: objects named in descriptions, and yes/no questions on existence, attributes and relations, without a judge.

Source: Wang et al., AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation, 2023; scoring
as the authors' `inference.py`. Every denominator of the official code starts at 0.001, and its F1 is taken from the
printed precision and recall; the AMBER score is the paper's. `tolerant/…` are the measures of the questions over
answers read with more sense (`tolerant.py`), which leaves out those that say neither yes nor no.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmdpo.benchmarks.definitions import (
    BenchmarkItem,
    BenchmarkItems,
    Better,
    ItemScore,
    Linguistics,
    Metric,
    Peer,
    PromptSuffix,
    Similarity,
    Sums,
    Tools,
    Values,
)
from mmdpo.benchmarks.peers import LMMS_EVAL, VLMEVALKIT, read_vlmevalkit
from mmdpo.benchmarks.reading import EvaluationError, Row, read_data, read_data_text
from mmdpo.benchmarks.tolerant import TRAPS as TRAPS_OF_READING
from mmdpo.benchmarks.tolerant import find_traps, read_yes_no

LICENCE = "AMBER: Apache-2.0"
SIZE = 15_220
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
SUFFIXES = {
    VLMEVALKIT: PromptSuffix(
        "\nPlease answer yes or no.", "VLMEvalKit (build_prompt in vlmeval/dataset/image_yorn.py at 145bdaf1)"
    )
}
SUFFIXED_PARTS = _DIMENSIONS["overall"]
TRAPS = {
    "capitalised_noun": "nouns of the word list that are dropped because they are capitalised",
    "never_matched_noun": "nouns that the list holds as plurals alone (sunglasses, earrings, chopsticks, slippers)",
    "not_exactly_yes_or_no": 'answers that count as neither, being not exactly "Yes" or "No"; others ask for short '
    'answers: --prompt_suffix vlmevalkit adds VLMEvalKit\'s "Please answer yes or no."',
    "yes_or_no_in_other_words": 'those of them that begin with yes or no all the same ("yes", "No.", "Yes, it is")',
} | TRAPS_OF_READING
_OFFICIAL: Final = ""
_TOLERANT: Final = "tolerant/"
"""How answers are read: the beginning of the names of counts and metrics."""
_START: Final = 0.001
"""What every counter of the official code starts at."""


_RULES: Final = {"accuracy": ("correct", "n"), "precision": ("true_no", "said_no"), "recall": ("true_no", "is_no")}
"""Measure of questions → the counts that it divides."""


def _described(part: str, whole: str) -> Callable[[Sums], Values]:
    return lambda sums: sums[f"{GENERATIVE}/{part}"] / (sums[f"{GENERATIVE}/{whole}"] + _START) * 100


_chair = _described("flagged", "kept")
_unflagged = _described("unflagged", "n")


def _rate(sums: Sums, reading: str, dimension: str, rule: str) -> Values:
    """Per cent; attribute adds up the counters of its three parts, overall has counters of its own."""
    parts = [f"{reading}{name}" for name in _DIMENSIONS[dimension]]
    start = _START * (3 if dimension == "attribute" else 1)
    above, below = (np.sum([sums[f"{name}/{count}"] for name in parts], axis=0) for count in _RULES[rule])
    rate: Values = above / (below + start) * 100
    return rate


def _f1(sums: Sums, reading: str, dimension: str, digits: int | None = None) -> Values:
    """Per cent, from precision and recall that are rounded to `digits` first, as the official code prints them."""
    rates = [_rate(sums, reading, dimension, rule) for rule in ("precision", "recall")]
    precision, recall = rates if digits is None else (np.round(rate[:1], digits) for rate in rates)
    guard = 0.001 if dimension == "existence" else 0.0001
    return 2 * (precision / 100) * (recall / 100) / (precision / 100 + recall / 100 + guard) * 100


def _printed_f1(sums: Sums, reading: str, dimension: str) -> float:
    return round(float(_f1(sums, reading, dimension, digits=1)[0]), 1)


def _score(sums: Sums) -> Values:
    return (100 - _chair(sums) + _f1(sums, _OFFICIAL, "overall")) / 2


def _printed_score(sums: Sums) -> float:
    return round((100 - round(float(_chair(sums)[0]), 1) + _printed_f1(sums, _OFFICIAL, "overall")) / 2, 1)


def _discriminative(reading: str, dimension: str) -> tuple[Metric, ...]:
    over = tuple(f"{reading}{part}/n" for part in _DIMENSIONS[dimension])
    name = f"amber/{reading}{dimension}"
    plain = [
        Metric(f"{name}/{of}", partial(_rate, reading=reading, dimension=dimension, rule=of), over, "higher", "%", 1)
        for of in _RULES
    ]
    f1 = partial(_f1, reading=reading, dimension=dimension)
    printed = partial(_printed_f1, reading=reading, dimension=dimension)
    return (*plain, Metric(f"{name}/f1", f1, over, "higher", "%", 1, printed))


_OF_DESCRIPTIONS: Final = ("generative/n",)
_SCORED: Final = (*_OF_DESCRIPTIONS, *(f"{part}/n" for part in _DIMENSIONS["overall"]))
METRICS = (
    Metric("amber/chair", _chair, _OF_DESCRIPTIONS, "lower", "%", 1),
    Metric("amber/cover", _described("covered", "truth"), _OF_DESCRIPTIONS, "higher", "%", 1),
    Metric("amber/hal", lambda sums: 100 - _unflagged(sums), _OF_DESCRIPTIONS, "lower", "%", 1),
    Metric("amber/cog", _described("cognitive", "hallu"), _OF_DESCRIPTIONS, "lower", "%", 1),
    *(metric for dimension in _DIMENSIONS for metric in _discriminative(_OFFICIAL, dimension)),
    Metric("amber/score", _score, _SCORED, "higher", "points", 1, _printed_score),
    *(metric for dimension in _DIMENSIONS for metric in _discriminative(_TOLERANT, dimension)),
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads 1,004 descriptions, then 14,216 questions, by official numbers; raises EvaluationError for other files."""
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
    safe = read_data_text(folder / "safe_words.txt").split("\n")
    words = AmberWords.build(read_data(folder / "relation.json"), safe)

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
        counts, {"read_as": answer if official else "neither", "tolerant": tolerant, "label": truth}, traps
    )


def _count(part: str, said: str | None, truth: str) -> dict[str, float]:
    said_no, is_no = said == "no", truth == "no"
    counts = {"n": 1, "correct": said == truth, "said_no": said_no, "is_no": is_no, "true_no": said_no and is_no}
    return {f"{part}/{name}": float(count) for name, count in counts.items()}


# -- descriptions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AmberWords:
    """AMBER's word lists."""

    associated: Mapping[str, Sequence[str]]
    """Word → the words that also stand for it; together they are the only nouns that are looked at."""
    vocabulary: frozenset[str]
    plural_only: frozenset[str]
    """Singulars of words that the vocabulary holds as plurals, which a lemmatised noun therefore never equals."""
    safe: frozenset[str]
    """Words that are kept and never flagged."""

    @classmethod
    def build(cls, associated: Mapping[str, Sequence[str]], safe: Sequence[str]) -> AmberWords:
        """Builds the lists from the contents of relation.json and safe_words.txt."""
        vocabulary = frozenset(associated).union(*associated.values())
        singulars = {word[:length] for word in vocabulary for length in (-1, -2) if word.endswith("s")}
        return cls(associated, vocabulary, frozenset(singulars - vocabulary), frozenset(safe))


def _list_targets(targets: Sequence[str], words: AmberWords) -> dict[str, int]:
    """Returns words of an image in the order in which the official code looks through them: word → its first target."""
    found: dict[str, int] = {}
    for index, target in enumerate(targets):
        for word in words.associated[target]:
            found.setdefault(word, index)
    for index, target in enumerate(targets):
        found.setdefault(target, index)
    return found


def _find_similar(targets: Mapping[str, int], is_similar: Callable[[str], bool]) -> int | None:
    word = next(filter(is_similar, targets), None)
    return None if word is None else targets[word]


def score_description(
    item: BenchmarkItem, answer: str, words: AmberWords, linguistics: Linguistics, similarity: Similarity
) -> ItemScore:
    """Scores one description; steps (a) to (f) of the official rule, for each noun in order, repeats included."""
    all_nouns = linguistics.nouns(answer)
    nouns = [noun for noun in all_nouns if noun in words.vocabulary]
    truth, hallu = item.truth["truth"], item.truth["hallu"]
    there, expected = (_list_targets(targets, words) for targets in (truth, hallu))
    covered: set[int] = set()
    cognitive: set[int] = set()
    flagged = []
    for noun in nouns:
        if noun in words.safe:
            continue
        is_similar = partial(similarity.similar, noun)
        if (target := there.get(noun)) is not None:
            covered.add(target)
            continue
        found = (expected.get(noun), _find_similar(expected, is_similar))
        cognitive |= {target for target in found if target is not None}
        if (target := _find_similar(there, is_similar)) is not None:
            covered.add(target)
        else:
            flagged.append(noun)
    counts = {"n": 1, "kept": len(nouns), "flagged": len(flagged), "unflagged": not flagged}
    counts |= {"covered": len(covered), "truth": len(truth), "cognitive": len(cognitive), "hallu": len(hallu)}
    unseen = [noun for noun in all_nouns if noun not in words.vocabulary]
    traps = {
        "capitalised_noun": sum(1 for noun in unseen if noun.lower() in words.vocabulary),
        "never_matched_noun": sum(1 for noun in unseen if noun in words.plural_only),
    }
    return ItemScore(
        counts={f"generative/{name}": float(count) for name, count in counts.items()},
        reason={
            "kept": nouns,
            "flagged": flagged,
            "covered": [truth[index] for index in sorted(covered)],
            "cognitive": [hallu[index] for index in sorted(cognitive)],
        },
        traps={name: count for name, count in traps.items() if count},
    )


# -- what others would print ------------------------------------------------------------------------------------------


def _count_for_lmms_eval(item: BenchmarkItem, answer: str, score: ItemScore) -> Mapping[str, float]:
    """Counts a description as officially; lmms-eval asks no questions."""
    of_description = score.counts if item.part == GENERATIVE else {}
    return {f"{LMMS_EVAL}/{name.partition('/')[2]}": count for name, count in of_description.items()}


def _lmms_eval_metric(name: str, part: str, whole: str, better: Better) -> Metric:
    """Per cent, not rounded: the counters start at 0.001 for every description, and are then added up."""

    def compute(sums: Sums) -> Values:
        found = sums[f"{LMMS_EVAL}/{part}"] / (sums[f"{LMMS_EVAL}/{whole}"] + _START * sums[f"{LMMS_EVAL}/n"]) * 100
        return 100 - found if name == "amber_hal" else found

    return Metric(f"amber/{LMMS_EVAL}/{name}", compute, (f"{LMMS_EVAL}/n",), better, "%", None)


_VLMEVALKIT_CATEGORIES: Final = ("existence", "attribute", "relation")


def _count_for_vlmevalkit(item: BenchmarkItem, answer: str, score: ItemScore) -> Mapping[str, float]:
    """Counts the answer to a question; VLMEvalKit asks for no descriptions."""
    if item.part == GENERATIVE:
        return {}
    category = next(category for category in _VLMEVALKIT_CATEGORIES if item.part in _DIMENSIONS[category])
    name = f"{VLMEVALKIT}/{category}"
    return {f"{name}/n": 1.0, f"{name}/correct": float(read_vlmevalkit(answer) == item.truth["truth"])}


def _vlmevalkit_metric(name: str, categories: Sequence[str]) -> Metric:
    """Per cent; of several categories the mean, whatever their sizes."""
    parts = [f"{VLMEVALKIT}/{category}" for category in categories]

    def compute(sums: Sums) -> Values:
        mean: Values = np.mean([sums[f"{of}/correct"] / np.maximum(sums[f"{of}/n"], 1) for of in parts], axis=0) * 100
        return mean

    over = tuple(f"{of}/n" for of in parts)
    return Metric(f"amber/{VLMEVALKIT}/{name}", compute, over, "higher", "%", None)


PEERS = {
    LMMS_EVAL: Peer(
        "lmms-eval, lmms_eval/tasks/amber_g/utils.py at 226ba420, with the similar words named here; it takes the "
        "first of en_core_web_md, sm and lg that is installed, and marks Cog as better the higher it is",
        (
            _lmms_eval_metric("amber_chair", "flagged", "kept", "lower"),
            _lmms_eval_metric("amber_cover", "covered", "truth", "higher"),
            _lmms_eval_metric("amber_hal", "unflagged", "n", "lower"),
            _lmms_eval_metric("amber_cog", "cognitive", "hallu", "lower"),
        ),
        _count_for_lmms_eval,
    ),
    VLMEVALKIT: Peer(
        "VLMEvalKit, vlmeval/dataset/utils/yorn.py at 0c7163c9, by exact matching, without a judge",
        (
            *(_vlmevalkit_metric(category, (category,)) for category in _VLMEVALKIT_CATEGORIES),
            _vlmevalkit_metric("avg_acc", _VLMEVALKIT_CATEGORIES),
        ),
        _count_for_vlmevalkit,
    ),
}
