"""Reading the files of an evaluation, and the error that says which of them cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmdpo.report import files


class EvaluationError(ValueError):
    """Something given to an evaluation that cannot be used: says which file and line, what, and how to mend it."""


def read_text(path: Path) -> str:
    """Returns the text of one of a benchmark's files; raises EvaluationError if it is missing, or no regular file."""
    try:
        return files.read_text(path)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: this file of the benchmark's data is missing; check --data_dir") from error
    except files.UnusableFileError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Returns the content of one of a benchmark's JSON files; raises EvaluationError if it is missing or damaged."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path}, line {error.lineno}: no JSON ({error.msg}); fetch the file again") from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that nobody ever finds half of it: beside its place first, then renamed onto it.

    Raises EvaluationError where the disk takes no more; what was there before is kept.
    """
    beside = path.with_name(f".{path.name}.partly")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)  # noqa: PTH105 - pathlib's rename says less about what it overwrites
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise EvaluationError(
            f"{path}: cannot be written ({error.strerror}); make room there, then run the same command again"
        ) from error
