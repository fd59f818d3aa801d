"""The folder of a result, which a scored run is written into and counts are read from.

answers.jsonl   one line per item: id, prompt, image, answer, generation settings if they are known
scores.jsonl    one line per item: counts, and the reason of each
result.json     metrics with intervals, coverage, what the official rule could not see, what produced the numbers
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.evaluate import Evaluation
from mmdpo.benchmarks.reading import EvaluationError, read_data, read_rows
from mmdpo.benchmarks.stats import CountTable
from mmdpo.files import write_json, write_rows
from mmdpo.folders import make_folder

ANSWERS, SCORES, RESULT = "answers.jsonl", "scores.jsonl", "result.json"
_LARGEST_COUNT = 1e15
"""Of anything in one answer; what is no number is not below it."""


def check_folder(folder: Path, benchmark: str, answers: Iterable[Path] = ()) -> None:
    """Raises EvaluationError for a folder that holds something else than a run on these files of answers.

    That is a file, the result of another benchmark, or answers of a model, which may have taken hours, beside
    `answers` from elsewhere.
    """
    if folder.exists() and not folder.is_dir():
        raise EvaluationError(f"{folder}: is a file; --out names a folder")
    result, own = folder / RESULT, folder / ANSWERS
    other = read_data(result).get("benchmark") if result.exists() else benchmark
    if other != benchmark:
        raise EvaluationError(f"{result}: holds a result of {other}; choose another --out for {benchmark}")
    files = [file.resolve() for file in answers]
    # `details` are what `mmdpo eval --model` says of each answer; a file that was scored has none.
    is_other = files and own.exists() and own.resolve() not in files
    if is_other and any("details" in row.values for row in read_rows(own)):
        raise EvaluationError(
            f"{own}: holds the answers that a model gave here, and would be overwritten; choose another --out"
        )


def write_evaluation(evaluation: Evaluation, out: str | Path) -> Path:
    """Writes answers.jsonl, scores.jsonl and result.json into the folder `out`; returns the path of the last.

    Raises EvaluationError for a folder that holds something else (`check_folder`), UnusableFileError where the disk
    takes no more.
    """
    folder = Path(out)
    check_folder(folder, evaluation.benchmark, evaluation.answers.files)
    make_folder(folder)
    if (folder / ANSWERS).resolve() not in [file.resolve() for file in evaluation.answers.files]:
        write_rows(folder / ANSWERS, _answer_rows(evaluation))
    scored = [item for item in evaluation.items if item.id in evaluation.scores]
    about = (
        {"id": item.id, "part": item.part, "image": item.image} | ({"group": item.group} if item.group else {})
        for item in scored
    )
    rows = (head | vars(evaluation.scores[item.id]) for head, item in zip(about, scored, strict=True))
    write_rows(folder / SCORES, rows)
    write_json(folder / RESULT, _as_result(evaluation))
    return folder / RESULT


def read_table(run: str | Path) -> CountTable:
    """Returns the counts of a run that was written before; raises EvaluationError if `scores.jsonl` is damaged."""
    rows: dict[str, tuple[str, str, Mapping[str, float]]] = {}
    for row in read_rows(Path(run) / SCORES):
        item_id, image, counts = (row.values.get(name) for name in ("id", "image", "counts"))
        group = row.values.get("group", image)
        numbers = counts.values() if isinstance(counts, dict) else ("none",)
        are_counts = all(isinstance(count, int | float) and abs(count) < _LARGEST_COUNT for count in numbers)
        if not (isinstance(item_id, str) and isinstance(image, str) and isinstance(group, str) and are_counts):
            raise EvaluationError(f"{row.place}: no score of an item, which has id, image and counts")
        if item_id in rows:
            raise EvaluationError(f"{row.place}: a second score of item {item_id}")
        rows[item_id] = (item_id, group, row.values["counts"])
    return CountTable.build(list(rows.values()))


def _answer_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for item in evaluation.items:
        if item.id in evaluation.answers.by_id:
            answer = evaluation.answers.by_id[item.id]
            row = {"id": item.id, "benchmark": evaluation.benchmark, "prompt": item.prompt, "image": item.image}
            # What a model was asked has its suffix; an official file's own field is the same question or another thing.
            kept = ("prompt", "generation") if "generation" in answer.row.values else ()
            known = {name: answer.row.values[name] for name in kept if name in answer.row.values}
            yield row | {"answer": answer.text} | known


def _as_result(evaluation: Evaluation) -> dict[str, Any]:
    files = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in evaluation.answers.files}
    settings = filter(None, evaluation.answers.settings)
    generation = {json.dumps(of, sort_keys=True): of for of in settings}
    return {
        "benchmark": evaluation.benchmark,
        "partial": bool(evaluation.partial),
        "partial_because": evaluation.partial,
        "coverage": {part: asdict(coverage) for part, coverage in evaluation.coverage.items()},
        "metrics": {name: asdict(value) for name, value in evaluation.metrics.items()},
        "notes": {trap: asdict(note) for trap, note in evaluation.notes.items()},
        "made_by": evaluation.made_by,
        "statistics": evaluation.statistics,
        "answers": {"sha256": files, "generation": list(generation.values())},
    }
