"""Reading the files of an evaluation: a benchmark's data, and answers.

Files of rows are JSON arrays, JSON lines, or objects one after the other, with fields in any order:

    our answers        {"id": …, "prompt": …, "image": …, "answer": …, "generation": {…}} on each line of answers.jsonl
    official answers   whatever fields the benchmark's own code reads; its `find_id` says which item a row answers
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mmdpo import files
from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems

ANSWER_FIELDS = ("answer", "response", "model_answer", "caption", "text", "output")
"""Where the answer stands, the first that a row has; "text" is the question in some official files, so it is late."""
_SAMPLED = "filtered_resps"
"""Where the samples of lm-eval have it, in a list."""


class EvaluationError(ValueError):
    """Something given to an evaluation that cannot be used: says which file and line, what, and how to mend it."""


# -- a benchmark's data -----------------------------------------------------------------------------------------------


def read_data_text(path: Path) -> str:
    """Returns the text of one of a benchmark's files; raises EvaluationError if it is missing, or no regular file."""
    try:
        return files.read_text(path)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{path}: this file of the benchmark's data is missing; --data_dir names the "
            "folder that has it, or one in which that folder lies under the benchmark's name"
        ) from error
    except files.UnusableFileError as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error


def read_data(path: Path) -> Any:
    """Returns the content of one of a benchmark's JSON files; raises EvaluationError if it is missing or damaged."""
    text = read_data_text(path)
    try:
        return files.parse_json(text)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path}, line {error.lineno}: no JSON ({error.msg}); fetch the file again") from error
    except ValueError as error:
        raise EvaluationError(f"{path}: no JSON ({error}); fetch the file again") from error


# -- files of rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One object of a file: its `line`, from 1, and its `position` among the objects, from 0."""

    values: Mapping[str, Any]
    file: Path
    line: int
    position: int

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.file}, line {self.line}"

    def first(self, names: Sequence[str]) -> Any:
        """Returns the value of the first of these fields that it has, None if it has none."""
        return next((self.values[name] for name in names if name in self.values), None)


def read_rows(path: Path, cut: list[str] | None = None) -> Iterator[Row]:
    """Yields the objects of a JSON or JSON-lines file; raises EvaluationError with file and line.

    Where `cut` is given, a last row that the file breaks off in is left out, and its place appended there.
    """
    text = _decode(path)
    decoder = json.JSONDecoder()
    at, line, position = _skip(text, 0, "\ufeff"), 1, 0
    is_array = text[at : at + 1] == "["
    end = _skip(text, at + is_array)
    while end < len(text) and not (is_array and text[end] == "]"):
        line, at = line + text.count("\n", at, end), end
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if not _is_cut(text, at, error):
                raise EvaluationError(f"{path}, line {line}: no JSON ({error.msg}, column {error.colno})") from error
            _note_cut(f"{path}, line {line}", cut)
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
        _note_cut(f"{path}, line {line + text.count(chr(10), at)}", cut)
    elif is_array and (after := _skip(text, end + 1)) < len(text):
        raise EvaluationError(
            f"{path}, line {line + text.count(chr(10), at, after)}: more text after the end of the array; a file holds "
            "one array, or objects one after the other: give files that were joined apart"
        )


def _decode(path: Path) -> str:
    try:
        files.check_regular(path)
    except files.UnusableFileError as error:
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


def _note_cut(place: str, cut: list[str] | None) -> None:
    if cut is None:
        raise EvaluationError(
            f"{place}: the file breaks off in the middle of a row, so what wrote it did not finish; let it finish, or "
            "score what is there as a partial result (--partial)"
        )
    cut.append(place)


# -- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer, where it was read, and whether something in its text was no character and was replaced."""

    text: str
    row: Row
    is_mended: bool = False


@dataclass(frozen=True)
class Answers:
    """The answers of a run by item id; `cut` says where a file ends in the middle of a row, which was left out."""

    by_id: Mapping[str, Answer]
    files: tuple[Path, ...]
    cut: tuple[str, ...] = ()

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """How each was generated, as far as its file says it."""
        found = (answer.row.values.get("generation") for answer in self.by_id.values())
        return [settings if isinstance(settings, dict) else {} for settings in found]


FindId: TypeAlias = Callable[[Row, BenchmarkItems], str]
"""Row, items by id → the id of the item that the row answers; raises EvaluationError with the bare problem."""


@dataclass(frozen=True)
class Also:
    """Another benchmark whose answers are read too: ids of items that only it asks, and which of them were left out."""

    benchmark: str
    unasked: frozenset[str]
    left_out: list[str] = field(default_factory=list)


def read_answers(
    path: Path,
    benchmark: str,
    items: BenchmarkItems,
    find_id: FindId,
    *,
    fields: Sequence[str] = ANSWER_FIELDS,
    also: Also | None = None,
    allow_cut: bool = False,
) -> Answers:
    """Reads a file of answers, or those of a folder (`list_files`).

    An answer stands in the first of `fields` that its row has. Answers of the benchmark that `also` names are read too,
    but for those that it leaves out. `allow_cut` leaves out a last row that the file breaks off in.

    Raises EvaluationError for no JSON, a row cut off, an id that is none of the benchmark's, two answers to one item,
    or no answer in a row; FileNotFoundError where there is no such file.
    """
    cut: list[str] = []
    found, answers = list_files(path, benchmark), dict[str, Answer]()
    for row in (row for file in found for row in read_rows(file, cut if allow_cut else None)):
        if row.values.get("benchmark", benchmark) not in (benchmark, also and also.benchmark):
            raise EvaluationError(f"{row.place}: an answer of {row.values['benchmark']}, not of {benchmark}")
        item_id = _find_item(row, items, find_id)
        if also is not None and item_id in also.unasked:
            also.left_out.append(item_id)
            continue
        if item_id not in items:
            ids = list(items)
            raise EvaluationError(
                f"{row.place}: id {item_id!r} is none of the {len(ids):,} items of {benchmark} ({ids[0]} … {ids[-1]}); "
                "is this a file of another benchmark?"
            )
        if item_id in answers:
            first = answers[item_id].row.place
            raise EvaluationError(
                f"{row.place}: a second answer to item {item_id}; the first is at {first}. Remove one"
            )
        said = _find_text(row, fields)
        text = files.replace_surrogates(said)
        answers[item_id] = Answer(text, row, is_mended=text != said)
    if not answers:
        raise EvaluationError(f"{path}: holds no answer at all")
    return Answers(answers, found, tuple(cut))


def list_files(path: Path, name: str) -> tuple[Path, ...]:
    """Returns a file; of a folder a run's answers, else those with the benchmark's name, else all `.json(l)` files.

    Raises FileNotFoundError where there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file of answers")
        return (path,)
    for own in ("answers.jsonl", f"{name}.jsonl", f"{name}.json"):  # of a run, and as in a suite's folder
        if (path / own).is_file():
            return (path / own,)
    found = tuple(sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl")))
    if not found:
        raise FileNotFoundError(f"{path}: a folder without any .json or .jsonl file")
    return found


def find_by_order(row: Row, items: Sequence[BenchmarkItem]) -> str:
    """Returns the item at the row's place in its file, for official files whose rows are named by nothing else.

    Raises EvaluationError if the row shows no question, or another one than the item's: then the order is not the
    official one.
    """
    asked = row.first(("question", "prompt", "query"))
    if row.position >= len(items):
        raise EvaluationError(f"row {row.position + 1} of rows without ids, where there are only {len(items):,} items")
    item = items[row.position]
    if not isinstance(asked, str) or item.prompt.strip() not in asked:
        raise EvaluationError(
            f"no id, and its question is not that of item {item.id} at its place ({item.prompt!r}); give rows an id"
        )
    return item.id


def find_by_image(row: Row, items: BenchmarkItems) -> str:
    """Returns a row's `image_id`, else the item at its place: the `find_id` of two benchmarks.

    Raises EvaluationError for a row without an image id whose question is not that of its place.
    """
    return str(row.values["image_id"]) if "image_id" in row.values else find_by_order(row, items.parts["all"])


def _find_item(row: Row, items: BenchmarkItems, find_id: FindId) -> str:
    if str(row.values.get("id")) in items:
        return str(row.values["id"])
    try:
        return find_id(row, items)
    except EvaluationError as error:
        if "id" not in row.values:
            raise EvaluationError(f"{row.place}: {error}") from error
        return str(row.values["id"])


def _find_text(row: Row, fields: Sequence[str]) -> str:
    found = next((name for name in fields if name in row.values), None)
    match row.values.get(_SAMPLED):
        case [str(only)] if found is None:
            return only
    if found is None:
        raise EvaluationError(
            f"{row.place}: no answer; it has {', '.join(row.values) or 'no field'}, and the answer should stand in one "
            f"of {', '.join(fields)}"
        )
    text = row.values[found]
    if not isinstance(text, str):
        raise EvaluationError(f"{row.place}: {found!r} should be text, and is {json.dumps(text)[:40]}")
    return text
