"""HallusionBench, yes or no: the 951 questions with an image, without a judge, as VLMEvalKit scores them.

Source: Guan et al., HallusionBench, CVPR 2024, with the rule of VLMEvalKit (`YOrN_Extraction` and `Hallusion_rating` in
vlmeval/dataset/utils/yorn.py at 0c7163c9, exact matching): an answer that has "yes" or "no" as a word, and not both,
says so; any other is wrong. The authors' rule is `hallusionbench`; numbers of the two cannot be compared. Figures and
questions are told apart by subcategory, set and number alone, so that those of `ocr` in both categories fall together:
332 figures and 429 questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore, Tools, ratio_metric
from mmdpo.benchmarks.groups import Grouping, count_groups
from mmdpo.benchmarks.peers import read_vlmevalkit
from mmdpo.benchmarks.tasks._hallusionbench import ANSWER_FIELDS as ANSWER_FIELDS
from mmdpo.benchmarks.tasks._hallusionbench import CATEGORIES, SUBCATEGORIES, read_all_items
from mmdpo.benchmarks.tasks._hallusionbench import DATA_NAME as DATA_NAME
from mmdpo.benchmarks.tasks._hallusionbench import LICENCE as LICENCE
from mmdpo.benchmarks.tasks._hallusionbench import find_id as find_id

SIZE = 951
GENERATION: Mapping[str, Any] = {"max_new_tokens": 128}
ANSWERS_OF = "hallusionbench"
TRAPS = {"unknown": 'answers with neither or both of the words "yes" and "no", which count as wrong'}
HEADLINE = tuple(f"hallusionbench_yes_no/{name}" for name in ("aacc", "facc", "qacc"))

_SCOPES: Final = ("", *(f"{name.lower()}/" for name in (*CATEGORIES, *SUBCATEGORIES)))
_KINDS: Final = {"facc": "figure_id", "qacc": "question_id"}
"""Measure → what its groups have in common, besides subcategory and set."""


METRICS = tuple(
    ratio_metric(f"hallusionbench_yes_no/{scope}{name}", right, whole, scopes=[scope])
    for scope in _SCOPES
    for name, right, whole in (
        ("aacc", "right", "n"),
        *((name, f"{kind}/all_right", f"{kind}/n") for name, kind in _KINDS.items()),
    )
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads the 951 questions that have an image; raises EvaluationError for another file."""
    return tuple(item for item in read_all_items(data_dir) if item.image)


def unasked_ids(data_dir: Path) -> frozenset[str]:
    """Returns the ids of the questions without an image, which the authors' rule asks and this one does not."""
    return frozenset(item.id for item in read_all_items(data_dir) if not item.image)


def score(item: BenchmarkItem, answer: str) -> ItemScore:
    """Reads yes or no, and counts it in each scope that the question belongs to."""
    said, label = read_vlmevalkit(answer), "yes" if item.truth["gt_answer"] == "1" else "no"
    counts = {"n": 1.0, "right": float(said == label)}
    return ItemScore(
        counts={
            f"{scope}{name}": count for scope in _SCOPES if _applies(scope, item) for name, count in counts.items()
        },
        reason={"read_as": said, "label": label},
        traps={"unknown": 1} if said == "unknown" else {},
    )


def _applies(scope: str, item: BenchmarkItem) -> bool:
    return scope.strip("/") in ("", item.truth["category"].lower(), item.truth["subcategory"].lower())


def score_together(
    items: Sequence[BenchmarkItem], texts: Mapping[str, str], scores: Mapping[str, ItemScore], tools: Tools
) -> dict[str, ItemScore]:
    """Returns the scores with the counts of figures and questions, of all and of each category and subcategory."""

    def key(scope: str, number: str) -> Callable[[BenchmarkItem], Any]:
        names = ("subcategory", "set_id", number)
        return lambda item: tuple(item.truth[name] for name in names) if _applies(scope, item) else None

    groupings = [Grouping(f"{scope}{kind}", key(scope, kind)) for scope in _SCOPES for kind in _KINDS.values()]
    return count_groups(items, scores, groupings, lambda score: score.reason["read_as"] == score.reason["label"])
