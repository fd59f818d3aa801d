"""POPE: is an object in the image, yes or no, with three ways of choosing absent objects.

Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023; scoring as the authors'
`evaluate.py`: an answer is "no" if one of the words of its first sentence is exactly No, no or not, else "yes". Answers
are joined by question id, not by their order. `tolerant/…` are the same measures over answers read with more sense
(`tolerant.py`), which leaves out those that say neither yes nor no; `repope/…` are they by RePOPE's labels and rule
(`repope.py`), where its data is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmdpo.benchmarks.definitions import (
    BenchmarkItem,
    BenchmarkItems,
    Better,
    ItemScore,
    Metric,
    Peer,
    PromptSuffix,
    Sums,
    Tools,
    Values,
    divide,
)
from mmdpo.benchmarks.peers import LMMS_EVAL, VLMEVALKIT, read_lmms_eval, read_vlmevalkit
from mmdpo.benchmarks.reading import EvaluationError, Row, find_by_order, read_data_text
from mmdpo.benchmarks.tasks._repope import TRAPS as TRAPS_OF_REPOPE
from mmdpo.benchmarks.tasks._repope import count_answer, find_label_files, make_metrics
from mmdpo.benchmarks.tolerant import TRAPS as TRAPS_OF_READING
from mmdpo.benchmarks.tolerant import find_traps, read_yes_no
from mmdpo.benchmarks.yes_no import MEASURES, count_outcome, find_yes_or_no, make_metric
from mmdpo.files import parse_json

LICENCE = "POPE: MIT; its images are COCO val2014"
SIZE = 9_000
GENERATION: Mapping[str, Any] = {"max_new_tokens": 128}
"""The first sentence alone is read."""
SPLITS: Final = ("random", "popular", "adversarial")
RELABELLED: Final = "repope/"
"""Begins the counts and metrics by RePOPE's labels and rule."""
SUFFIXES = {
    LMMS_EVAL: PromptSuffix(
        "\nAnswer the question using a single word or phrase.",
        "lmms-eval (lmms_eval/tasks/pope/utils.py at 2c03baf0), and LLaVA-1.5's own questions of POPE",
    ),
    VLMEVALKIT: PromptSuffix(
        " Please answer yes or no.",
        "VLMEvalKit's prompt for Qwen2-VL (vlmeval/vlm/qwen2_vl/prompt.py at 2aa72141); it asks many other models the "
        "bare question",
    ),
}
TRAPS = {
    "yes_without_saying_so": 'counted as "yes" though the first sentence has no "yes" ("NO", "", "There isn\'t one.")',
    "no_besides_yes": 'counted as "no" though the first sentence also says "yes"',
    **TRAPS_OF_READING,
    **TRAPS_OF_REPOPE,
}
HEADLINE = ("pope/macro/accuracy", "pope/macro/f1", "pope/repope/macro/accuracy", "pope/repope/macro/f1")


def _metric(reading: str, scope: str, measure: str) -> Metric:
    splits = SPLITS if scope == "macro" else (scope,)
    return make_metric(f"pope/{reading}{scope}/{measure}", measure, [f"{reading}{split}" for split in splits])


METRICS = (
    *(_metric("", scope, measure) for scope in (*SPLITS, "macro") for measure in MEASURES),
    *make_metrics("pope", RELABELLED),
    *(_metric("tolerant/", scope, measure) for scope in (*SPLITS, "macro") for measure in MEASURES),
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads each `coco_pope_*.json` that is there, with ids as `random/1`; raises EvaluationError if none is.

    RePOPE's labels are read too, where its files are in the same folder or in `repope` beside it.
    """
    files = {split: data_dir / f"coco_pope_{split}.json" for split in SPLITS}
    items = [item for split, file in files.items() if file.exists() for item in read_split(file, split)]
    if not items:
        raise EvaluationError(f"{data_dir}: holds none of {', '.join(file.name for file in files.values())}")
    relabelled = find_label_files([data_dir, data_dir.parent / "repope"])
    if not relabelled:
        return tuple(items)
    labels = {item.id: item.truth["label"] for split, file in relabelled.items() for item in read_split(file, split)}
    tools.used["repope"] = f"{len(labels):,} labels of RePOPE, {', '.join(file.name for file in relabelled.values())}"
    return tuple(replace(item, truth={**item.truth, "relabelled": labels.get(item.id)}) for item in items)


def read_split(file: Path, split: str) -> list[BenchmarkItem]:
    """Reads a file of questions in POPE's format; raises EvaluationError for another one."""
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


def score(item: BenchmarkItem, answer: str) -> ItemScore:
    """Scores an answer by the official rule, the tolerant one beside it, and RePOPE's where its label is known."""
    said, tolerant, label = read_answer(answer), read_yes_no(answer), item.truth["label"]
    says_yes = "yes" in re.findall(r"[a-z]+", answer.partition(".")[0].lower())
    trap = {("yes", False): "yes_without_saying_so", ("no", True): "no_besides_yes"}.get((said, says_yes))
    counts, traps = count_outcome(item.part, said, label), find_traps(said, tolerant)
    reason = {"read_as": said, "tolerant": tolerant, "label": label}
    if tolerant is not None:
        counts |= count_outcome(f"tolerant/{item.part}", tolerant, label)
    corrected = item.truth.get("relabelled")
    if corrected is not None:
        of_repope, unanswered = count_answer(RELABELLED, item.part, answer, corrected)
        counts, traps = counts | of_repope, {**traps, **unanswered}
        reason |= {"relabelled": corrected, "read_by_repope": find_yes_or_no(answer)}
    return ItemScore(counts, reason, ({trap: 1} if trap else {}) | traps)


def read_answer(answer: str) -> str:
    """Returns "no" or "yes" as the official script reads an answer."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


# -- what others would print ------------------------------------------------------------------------------------------


def _zero_for_nan(values: Values) -> Values:
    found: Values = np.nan_to_num(values, nan=0.0)
    return found


def _peer_f1(said: Values, hit: Values, found: Values) -> Values:
    precision, recall = (_zero_for_nan(divide(hit, whole)) for whole in (said, found))
    return _zero_for_nan(divide(2 * precision * recall, precision + recall))


_PEER_RULES: Final[Mapping[str, Callable[[Mapping[str, Values]], Values]]] = {
    "accuracy": lambda counts: divide(counts["correct"], counts["n"]),
    "precision": lambda counts: _zero_for_nan(divide(counts["hit"], counts["said_yes"])),
    "recall": lambda counts: _zero_for_nan(divide(counts["hit"], counts["found_or_missed"])),
    "f1": lambda counts: _peer_f1(counts["said_yes"], counts["hit"], counts["found_or_missed"]),
    "yes_ratio": lambda counts: divide(counts["is_yes"], counts["n"]),
}
"""Measure → its value of a split's counts; what would be divided by zero is 0, as with both harnesses."""
_PEER_COUNTS: Final = ("n", "correct", "hit", "said_yes", "found_or_missed", "is_yes")


def _peer_metrics(
    peer: str, splits: Mapping[str, tuple[str, ...]], names: Mapping[str, str], unit: str
) -> tuple[Metric, ...]:
    """Returns a harness's metrics: its name of a split → the splits, its name of a measure → the measure."""

    def metric(group: str, name: str) -> Metric:
        parts, factor = [f"{peer}/{split}" for split in splits[group]], 100.0 if unit == "%" else 1.0

        def compute(sums: Sums) -> Values:
            added = {count: np.sum([sums[f"{part}/{count}"] for part in parts], axis=0) for count in _PEER_COUNTS}
            return factor * _PEER_RULES[names[name]](added)

        better: Better = "neither" if names[name] == "yes_ratio" else "higher"
        return Metric(f"pope/{peer}/{group}/{name}", compute, tuple(f"{part}/n" for part in parts), better, unit, None)

    return tuple(metric(group, name) for group in splits for name in names)


def _count_for_peer(
    item: BenchmarkItem, answer: str, score: ItemScore, peer: str, read: Callable[[str], str], unread_is_miss: bool
) -> Mapping[str, float]:
    """Counts one answer; where `unread_is_miss`, an answer that is neither counts against recall."""
    said, label, part = read(answer), item.truth["label"], f"{peer}/{item.part}"
    counts = {
        "n": True,
        "correct": said == label,
        "hit": said == label == "yes",
        "said_yes": said == "yes",
        "found_or_missed": label == "yes" and (unread_is_miss or said in ("yes", "no")),
        "is_yes": label == "yes",
    }
    return {f"{part}/{name}": float(count) for name, count in counts.items()}


PEERS = {
    LMMS_EVAL: Peer(
        "lmms-eval, lmms_eval/tasks/pope/utils.py at 2c03baf0; its yes ratio is that of the questions, not of answers",
        _peer_metrics(
            LMMS_EVAL,
            {"all": SPLITS, "random": ("random",), "pop": ("popular",), "adv": ("adversarial",)},
            {f"pope_{name}": name.removesuffix("_score") for name in ("accuracy", "precision", "recall", "f1_score")}
            | {"pope_yes_ratio": "yes_ratio"},
            "share",
        ),
        partial(_count_for_peer, peer=LMMS_EVAL, read=read_lmms_eval, unread_is_miss=False),
    ),
    VLMEVALKIT: Peer(
        "VLMEvalKit, vlmeval/dataset/utils/yorn.py at 0c7163c9, by exact matching, without a judge",
        _peer_metrics(
            VLMEVALKIT,
            {"overall": SPLITS} | {split: (split,) for split in SPLITS},
            {"overall": "f1", "acc": "accuracy", "precision": "precision", "recall": "recall"},
            "%",
        ),
        partial(_count_for_peer, peer=VLMEVALKIT, read=read_vlmevalkit, unread_is_miss=True),
    ),
}
