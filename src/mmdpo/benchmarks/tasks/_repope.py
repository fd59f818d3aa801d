"""RePOPE's labels, rule and measures, which `repope` has alone and `pope` beside its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mmdpo.benchmarks.definitions import Metric
from mmdpo.benchmarks.yes_no import MEASURES, count_outcome, find_yes_or_no, make_metric

SPLITS: Final = ("random", "popular", "adversarial")
UNANSWERED: Final = "repope_unanswered"
TRAPS: Final = {UNANSWERED: 'answers that hold neither "yes" nor "no", which RePOPE\'s rule counts nowhere'}


def find_label_files(folders: Iterable[Path]) -> dict[str, Path]:
    """Returns split → its file of relabelled questions, of the first folder that has any."""
    for folder in folders:
        files = {split: folder / f"coco_repope_{split}.json" for split in SPLITS}
        found = {split: file for split, file in files.items() if file.is_file()}
        if found:
            return found
    return {}


def count_answer(prefix: str, part: str, answer: str, label: str) -> tuple[dict[str, float], Mapping[str, int]]:
    """Returns the counts of an answer under `prefix`, and the trap that it falls into."""
    said = find_yes_or_no(answer)
    return ({}, {UNANSWERED: 1}) if said is None else (count_outcome(f"{prefix}{part}", said, label), {})


def make_metrics(benchmark: str, prefix: str = "") -> tuple[Metric, ...]:
    """Returns the measures of each split and their means, named `BENCHMARK/PREFIX…`."""
    scopes = {split: (split,) for split in SPLITS} | {"macro": SPLITS}
    return tuple(
        make_metric(f"{benchmark}/{prefix}{scope}/{measure}", measure, [f"{prefix}{split}" for split in splits])
        for scope, splits in scopes.items()
        for measure in MEASURES
    )
