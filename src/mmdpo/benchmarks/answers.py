"""Reading files of answers, ours and the official ones: JSON arrays, JSON lines, or objects one after the other.

    ours      {"id": …, "prompt": …, "image": …, "answer": …, "generation": {…}} on each line of answers.jsonl
    official  whatever fields the benchmark's own code reads; its `find_id` says which item a row answers

Fields stand in any order. What cannot be read is an error with file and line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems
from mmdpo.benchmarks.reading import EvaluationError, replace_surrogates
from mmdpo.files import UnusableFileError, check_regular

ANSWER_FIELDS = ("answer", "response", "model_answer", "caption", "text", "output")
"""Where the answer stands, the first that a row has; "text" is the question in some official files, so it is late."""


@dataclass(frozen=True)
class Row:
    """One object of a file."""

    values: Mapping[str, Any]
    file: Path
    line: int
    """Line of the file that it starts on, from 1."""
    position: int
    """Which object of the file it is, from 0."""

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class Answer:
    """One answer and where it was read."""

    text: str
    """Can be encoded: what is no character was replaced."""
    row: Row
    is_mended: bool = False
    """Whether something was replaced."""


@dataclass(frozen=True)
class Answers:
    """The answers of a run by item id."""

    by_id: Mapping[str, Answer]
    files: tuple[Path, ...]
    cut: tuple[str, ...] = ()
    """Where a file ends in the middle of a row, which was left out."""


FindId: TypeAlias = Callable[[Row, BenchmarkItems], str]
"""Row, items by id → the id of the item that the row answers; raises EvaluationError with the bare problem."""


@dataclass
class _Reading:
    answers: dict[str, Answer] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)


def read_answers(
    path: Path, benchmark: str, items: Mapping[str, BenchmarkItem], find_id: FindId, *, allow_cut: bool = False
) -> Answers:
    """Reads a file of answers, or those of a folder (`list_files`).

    `allow_cut` leaves out a last row that the file breaks off in.

    Raises:
        EvaluationError: no JSON, a row cut off, an id that is none of the benchmark's, two answers to one item, or no
            answer in a row.
        FileNotFoundError: there is no such file.
    """
    files = list_files(path)
    items, reading = BenchmarkItems.build(items.values()), _Reading()
    for file in files:
        for row in _read_rows(file, reading.cut, allow_cut):
            _add(reading.answers, row, benchmark, items, find_id)
    if not reading.answers:
        raise EvaluationError(f"{path}: holds no answer at all")
    return Answers(reading.answers, files, tuple(reading.cut))


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the objects of a JSON or JSON-lines file; raises EvaluationError with file and line."""
    return _read_rows(path, [], allow_cut=False)


def find_by_order(row: Row, items: Sequence[BenchmarkItem]) -> str:
    """Returns the item at the row's place in its file, for official files whose rows are named by nothing else.

    Raises EvaluationError if the row shows no question, or another one than the item's: then the order is not the
    official one.
    """
    asked = next((row.values[name] for name in ("question", "prompt", "query") if name in row.values), None)
    if row.position >= len(items):
        raise EvaluationError(f"row {row.position + 1} of rows without ids, where there are only {len(items):,} items")
    item = items[row.position]
    if not isinstance(asked, str) or item.prompt.strip() not in asked:
        raise EvaluationError(
            f"no id, and its question is not that of item {item.id} at its place ({item.prompt!r}); give rows an id"
        )
    return item.id


def list_files(path: Path) -> tuple[Path, ...]:
    """Returns a file, the answers of a run's folder, or the `.json` and `.jsonl` files of another folder.

    Raises FileNotFoundError if there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file of answers")
        return (path,)
    if (path / "answers.jsonl").is_file():
        return (path / "answers.jsonl",)
    files = tuple(sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl")))
    if not files:
        raise FileNotFoundError(f"{path}: a folder without any .json or .jsonl file")
    return files


def _add(answers: dict[str, Answer], row: Row, benchmark: str, items: BenchmarkItems, find_id: FindId) -> None:
    if row.values.get("benchmark", benchmark) != benchmark:
        raise EvaluationError(f"{row.place}: an answer of {row.values['benchmark']}, not of {benchmark}")
    try:
        item_id = str(row.values["id"]) if str(row.values.get("id")) in items else find_id(row, items)
    except EvaluationError as error:
        if "id" not in row.values:
            raise EvaluationError(f"{row.place}: {error}") from error
        item_id = str(row.values["id"])
    if item_id not in items:
        ids = list(items)
        raise EvaluationError(
            f"{row.place}: id {item_id!r} is none of the {len(ids):,} items of {benchmark} ({ids[0]} … {ids[-1]}); "
            "is this a file of another benchmark?"
        )
    if item_id in answers:
        raise EvaluationError(
            f"{row.place}: a second answer to item {item_id}; the first is at {answers[item_id].row.place}. Remove one"
        )
    said = _find_text(row)
    text = replace_surrogates(said)
    answers[item_id] = Answer(text, row, is_mended=text != said)


def _find_text(row: Row) -> str:
    found = next((name for name in ANSWER_FIELDS if name in row.values), None)
    if found is None:
        raise EvaluationError(
            f"{row.place}: no answer; it has {', '.join(row.values) or 'no field'}, and the answer should stand in one "
            f"of {', '.join(ANSWER_FIELDS)}"
        )
    text = row.values[found]
    if not isinstance(text, str):
        raise EvaluationError(f"{row.place}: {found!r} should be text, and is {json.dumps(text)[:40]}")
    return text


def _read_rows(path: Path, cut: list[str], allow_cut: bool) -> Iterator[Row]:
    text = _decode(path)
    decoder = json.JSONDecoder()
    at, line, position = _skip(text, 0, "\ufeff"), 1, 0
    is_array = text[at : at + 1] == "["
    end = _skip(text, at + is_array)
    while end < len(text) and text[end] != "]":
        line, at = line + text.count("\n", at, end), end
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if not _is_cut(text, at, error):
                raise EvaluationError(f"{path}, line {line}: no JSON ({error.msg}, column {error.colno})") from error
            _note_cut(f"{path}, line {line}", cut, allow_cut)
            return
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or too deep
            raise EvaluationError(f"{path}, line {line}: JSON that cannot be read ({error})") from error
        if not isinstance(value, dict):
            raise EvaluationError(
                f"{path}, line {line}: should be an object with an id and an answer, is {value!r:.40}"
            )
        yield Row(value, path, line, position)
        position, end = position + 1, _skip(text, end, ",")
    if is_array and end >= len(text):
        _note_cut(f"{path}, line {line + text.count(chr(10), at)}", cut, allow_cut)


def _decode(path: Path) -> str:
    try:
        check_regular(path)
    except UnusableFileError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end == len(content) and error.reason == "unexpected end of data":  # cut within a character
            return content[: error.start].decode("utf-8")
        line = content.count(b"\n", 0, error.start) + 1
        raise EvaluationError(f"{path}, line {line}: not UTF-8; save the file in that encoding") from error


def _skip(text: str, at: int, more: str = "") -> int:
    while at < len(text) and (text[at].isspace() or text[at] in more):
        at += 1
    return at


def _is_cut(text: str, at: int, error: json.JSONDecodeError) -> bool:
    """Returns whether a row that cannot be read is one that the file ends in, rather than one that is damaged."""
    rest = text[at:].rstrip()
    if not rest.startswith("{"):
        return False
    unfinished = "\n" not in rest and not rest.endswith("}")
    return unfinished or error.pos >= at + len(rest) or error.msg.startswith("Unterminated string")


def _note_cut(place: str, cut: list[str], allow_cut: bool) -> None:
    if not allow_cut:
        raise EvaluationError(
            f"{place}: the file breaks off in the middle of a row, so what wrote it did not finish; let it finish, or "
            "score what is there as a partial result (--partial)"
        )
    cut.append(place)
