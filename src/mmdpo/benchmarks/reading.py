"""Reading the files of an evaluation, and the error that says which of them cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mmdpo import files

_SURROGATE = re.compile("[\ud800-\udfff]")


class EvaluationError(ValueError):
    """Something given to an evaluation that cannot be used: says which file and line, what, and how to mend it."""


def read_data_text(path: Path) -> str:
    """Returns the text of one of a benchmark's files; raises EvaluationError if it is missing, or no regular file."""
    try:
        return files.read_text(path)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: this file of the benchmark's data is missing; check --data_dir") from error
    except files.UnusableFileError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error


def read_data(path: Path) -> Any:
    """Returns the content of one of a benchmark's JSON files; raises EvaluationError if it is missing or damaged."""
    try:
        return parse_json(read_data_text(path))
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path}, line {error.lineno}: no JSON ({error.msg}); fetch the file again") from error
    except ValueError as error:
        raise EvaluationError(f"{path}: no JSON ({error}); fetch the file again") from error


def parse_json(text: str | bytes) -> Any:
    """Returns the value that a JSON text stands for; raises ValueError for any other text, however deep it nests."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def replace_surrogates(text: str) -> str:
    """Returns text in which halves of surrogate pairs, which are no characters, are replaced by U+FFFD."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
