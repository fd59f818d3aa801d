"""RePOPE: POPE's questions with labels corrected, and without those that nobody can decide.

Source: Neuhaus and Hein, RePOPE: Impact of Annotation Errors on the POPE Benchmark, 2025; scoring as the authors'
`eval_utils.py`: the letters "yes" anywhere in an answer, else "no", else it is counted nowhere. Its questions are some
of POPE's, with their ids, so that POPE's answers score it: `mmdpo eval pope` prints both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore, Tools
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.tasks._repope import TRAPS as TRAPS
from mmdpo.benchmarks.tasks._repope import count_answer, find_label_files, make_metrics
from mmdpo.benchmarks.tasks.pope import find_id as find_id
from mmdpo.benchmarks.tasks.pope import read_split
from mmdpo.benchmarks.yes_no import find_yes_or_no

LICENCE = "RePOPE: no licence is named; made from POPE (MIT); its images are COCO val2014"
SIZE = 8_185
GENERATION: Mapping[str, Any] = {"max_new_tokens": 128}
ANSWERS_OF = "pope"
METRICS = make_metrics("repope")
_QUESTIONS: Final = 3_000
"""Of each of POPE's splits, which count from 1."""
HEADLINE = ("repope/macro/accuracy", "repope/macro/f1")


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads each `coco_repope_*.json` that is there, with POPE's ids; raises EvaluationError if none is."""
    files = find_label_files([data_dir])
    if not files:
        raise EvaluationError(f"{data_dir}: holds no coco_repope_random.json, nor one of another split")
    return tuple(item for split, file in files.items() for item in read_split(file, split))


def unasked_ids(data_dir: Path) -> frozenset[str]:
    """Returns the ids of POPE's questions that RePOPE has taken out of the splits that are there."""
    files = find_label_files([data_dir])
    asked = {item.id for split, file in files.items() for item in read_split(file, split)}
    return frozenset(f"{split}/{number}" for split in files for number in range(1, _QUESTIONS + 1)) - asked


def score(item: BenchmarkItem, answer: str) -> ItemScore:
    """Reads yes or no; an answer that says neither is counted nowhere."""
    label = item.truth["label"]
    counts, traps = count_answer("", item.part, answer, label)
    return ItemScore(counts, {"read_as": find_yes_or_no(answer), "label": label}, traps)
