"""What a folder has to be for a result to be written there: nothing that somebody waited for is overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmdpo.benchmarks.answers import read_rows
from mmdpo.benchmarks.reading import EvaluationError, read_json

ANSWERS = "answers.jsonl"
RESULT = "result.json"


def check_folder(folder: Path, benchmark: str, answers: Iterable[Path] = ()) -> None:
    """Raises EvaluationError for a folder that holds something else than a run on these files of answers.

    That is a file, the result of another benchmark, or answers of a model, which may have taken hours, beside
    `answers` from elsewhere.
    """
    if folder.exists() and not folder.is_dir():
        raise EvaluationError(f"{folder}: is a file; --out names a folder")
    result, own = folder / RESULT, folder / ANSWERS
    other = read_json(result).get("benchmark") if result.exists() else benchmark
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
