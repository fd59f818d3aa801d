"""Reading and writing the files of an evaluation, and the error that says which of them cannot be used."""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmdpo import files

_SURROGATE = re.compile("[\ud800-\udfff]")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        return parse_json(read_text(path))
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


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns a value as JSON that can be written as UTF-8: escaped where a string holds half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if _SURROGATE.search(text) else text


def replace_surrogates(text: str) -> str:
    """Returns text in which halves of surrogate pairs, which are no characters, are replaced by U+FFFD."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, unless it is there; raises EvaluationError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_unwritable(folder, error) from error


def explain_unwritable(path: Path, error: OSError) -> EvaluationError:
    """Returns the error to raise for a file or folder that cannot be written."""
    mend = "make room there, then run the same command again" if error.errno in _FULL else "name another folder"
    return EvaluationError(f"{path}: cannot be written ({error.strerror}); {mend}")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that nobody ever finds half of it: beside its place first, then renamed onto it.

    Raises EvaluationError where it cannot be written; what was there before is kept.
    """
    beside = path.with_name(f".{path.name}.partly")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)  # noqa: PTH105 - pathlib's rename says less about what it overwrites
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise explain_unwritable(path, error) from error
