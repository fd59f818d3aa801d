"""The folder of a result: what is written into it, what of it is read again, and over what nothing is written.

answers.jsonl   one line per item: id, prompt, image, answer, generation settings if they are known
scores.jsonl    one line per item: counts, and the reason of each
result.json     metrics with intervals, coverage, what the official rule could not see, what produced the numbers
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.answers import read_rows
from mmdpo.benchmarks.evaluate import Evaluation
from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.stats import CountTable
from mmdpo.files import make_folder, to_json, write_json, write_whole

ANSWERS = "answers.jsonl"
RESULT = "result.json"
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
    if files and own.exists() and own.resolve() not in files and _is_of_a_model(own):
        raise EvaluationError(
            f"{own}: holds the answers that a model gave here, and would be overwritten; choose another --out"
        )


def _is_of_a_model(answers: Path) -> bool:
    """Returns whether `mmdpo eval --model` wrote a file: what it says of each answer is in none that was scored."""
    return any("details" in row.values for row in read_rows(answers))


def write_evaluation(evaluation: Evaluation, out: str | Path) -> Path:
    """Writes answers.jsonl, scores.jsonl and result.json into the folder `out`; returns the path of the last.

    Raises:
        EvaluationError: the folder holds something else (`check_folder`).
        UnusableFileError: the disk takes no more.
    """
    folder = Path(out)
    check_folder(folder, evaluation.benchmark, evaluation.answers.files)
    make_folder(folder)
    result = folder / RESULT
    if (folder / ANSWERS).resolve() not in [file.resolve() for file in evaluation.answers.files]:
        write_whole(folder / ANSWERS, _as_lines(_answer_rows(evaluation)))
    write_whole(folder / "scores.jsonl", _as_lines(_score_rows(evaluation)))
    write_json(result, _as_result(evaluation))
    return result


def read_table(run: str | Path) -> CountTable:
    """Returns the counts of a run that was written before; raises EvaluationError if `scores.jsonl` is damaged."""
    rows: dict[str, tuple[str, str, Mapping[str, float]]] = {}
    for row in read_rows(Path(run) / "scores.jsonl"):
        item_id, image, counts = (row.values.get(name) for name in ("id", "image", "counts"))
        if not (isinstance(item_id, str) and isinstance(image, str) and _are_counts(counts)):
            raise EvaluationError(f"{row.place}: no score of an item, which has id, image and counts")
        if item_id in rows:
            raise EvaluationError(f"{row.place}: a second score of item {item_id}")
        rows[item_id] = (item_id, image, row.values["counts"])
    return CountTable.build(list(rows.values()))


def _are_counts(counts: Any) -> bool:
    """Returns whether something maps names to numbers that can be added up."""
    return isinstance(counts, dict) and all(
        isinstance(count, int | float) and abs(count) < _LARGEST_COUNT for count in counts.values()
    )


def _answer_rows(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    for item in evaluation.items:
        if item.id in evaluation.answers.by_id:
            answer = evaluation.answers.by_id[item.id]
            row = {"id": item.id, "benchmark": evaluation.benchmark, "prompt": item.prompt, "image": item.image}
            known = {name: answer.row.values[name] for name in ("generation",) if name in answer.row.values}
            yield row | {"answer": answer.text} | known


def _score_rows(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    for item in evaluation.items:
        if item.id in evaluation.scores:
            yield {"id": item.id, "part": item.part, "image": item.image} | vars(evaluation.scores[item.id])


def _as_result(evaluation: Evaluation) -> dict[str, Any]:
    files = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in evaluation.answers.files}
    known = [answer.row.values.get("generation") for answer in evaluation.answers.by_id.values()]
    generation = {json.dumps(settings, sort_keys=True): settings for settings in known if settings}
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


def _as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(to_json(row) + "\n" for row in rows)
