"""What a run of `mmdpo pairs` holds on disk: of its pairs, answers and verdicts those that are shown, and no others.

A dataset may hold millions of pairs with their pictures, and the answers gigabytes of text. Pairs are read by their
places, row group by row group; lines by the prompt that they begin with, so that no other one is parsed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from mmdpo.files import Unshown, UnusableFileError, clean, clean_text, file_inside, find_inside, parse_json, to_json
from mmdpo.records import derive_seed
from mmdpo.report.reading import MOST_NAMED, fit
from mmdpo.texts import count_words

DATASET, PARTS = "dataset", ("train.parquet", "eval.parquet")
SAMPLES, DROPPED, UNPAIRED = "samples.jsonl", "dropped.jsonl", "unpaired.jsonl"
SIDES = ("chosen", "rejected")
COLUMNS = (
    "prompt_id", "prompt", "chosen", "rejected", "images", "margin", "k_chosen", "k_rejected", "score_chosen",
    "score_rejected", "logp_chosen", "logp_rejected", "claims_chosen", "claims_rejected", "clean",
)  # fmt: skip
"""Columns of the dataset that a page shows."""
MOST_ROWS = 2_000_000
"""Pairs that those on a page are chosen among."""
MOST_COLUMN = 2**30
"""Bytes of one column in one row group; a larger one is not opened."""
LOOKED_AT = 4_000
"""Pairs whose texts are read for their lengths."""
MOST_SCANNED, MOST_LINE = 8 * 2**30, 4 * 2**20
"""Bytes of a file of lines, and of one line."""
LONGEST_ANSWER, MOST_LINES, LONGEST_QUESTION, LONGEST_CLAIM = 2_400, 40, 6_000, 300
"""Characters and lines of an answer, and characters of a question and of a claim."""
MOST_REASONS = 50
MOST_ANSWERS, MOST_PICTURES, MOST_CLAIMS = 24, 4, 100
"""Answers and pictures of a prompt, and claims of an answer."""
_AT_ONCE = 64
_MOST_KEPT = 200
"""Answers of a prompt that are looked at, of which `MOST_ANSWERS` are shown."""
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.){0,1000}+")')
_CLAIM = {"text": str, "is_true": bool, "probability": float, "sentence": float}
_SAMPLE = {"k": float, "text": str, "kind": str, "tokens": float, "logprob": float}
_VERDICTS = {"verdicts": {str: {"score": float, "claims": [_CLAIM], "is_right": bool}}}
_PAIR = dict.fromkeys(("margin", "clean", *(f"{of}_{side}" for of in ("k", "score", "logp") for side in SIDES)), float)
_UNPAIRED = {"question": str, "pictures": [str]}


class Group(NamedTuple):
    """A row group of a Parquet file of pairs."""

    name: str
    """Of the file."""
    file: Any
    number: int
    start: int
    """Place of its first pair among all."""
    size: int


class PairFiles:
    """The pairs of a run, numbered through its files. Raises nothing: what cannot be read is added to `problems`."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        """Opens the files, and reads how many rows they have."""
        self.folder, self.problems = folder, problems
        self.count = 0
        """How many pairs there are, by what the files say."""
        self._failed = Counter[str]()
        self._groups: list[Group] = []
        for name in PARTS:
            self._open(f"{DATASET}/{name}")
        if not any((folder / DATASET / name).exists() for name in PARTS):
            problems.append(f"there is no {DATASET}/{PARTS[0]}, so no pairs are shown")

    def _open(self, name: str) -> None:
        from pyarrow import parquet  # type: ignore[import-untyped]

        try:
            # With a buffer, columns are read piece by piece and not whole.
            file = parquet.ParquetFile(file_inside(self.folder, name), buffer_size=2**20, pre_buffer=False)
            sizes = [max(0, file.metadata.row_group(n).num_rows) for n in range(file.metadata.num_row_groups)]
        except FileNotFoundError:
            return
        except Exception as error:  # Arrow raises nearly anything on broken bytes
            self.problems.append(f"{name} cannot be read ({_say(error)})")
            return
        for number, size in enumerate(sizes):
            self._groups.append(Group(name, file, number, self.count, size))
            self.count += size

    @cached_property
    def margins(self) -> np.ndarray:
        """The margin of every pair that may be shown; not a number where it is not known."""
        from pyarrow import types

        values = np.full(min(self.count, MOST_ROWS), np.nan)
        for name, file, _, place, _ in (group for group in self._groups if not group.number):
            try:
                kind = file.schema_arrow.field("margin").type if "margin" in file.schema_arrow.names else None
                if kind is None or not (types.is_floating(kind) or types.is_integer(kind)):
                    raise UnusableFileError("there is no column margin of numbers")
                for batch in file.iter_batches(batch_size=2**16, columns=["margin"]):
                    if place >= len(values):
                        break
                    numbers = batch.column(0).cast("double").to_numpy(zero_copy_only=False)[: len(values) - place]
                    values[place : place + len(numbers)] = numbers
                    place += len(numbers)
            except Exception as error:
                self.problems.append(f"{name}: margins cannot be read ({_say(error)})")
        values[~np.isfinite(values)] = np.nan
        return values

    def read(self, places: Collection[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields pairs by their places, with what of `COLUMNS` there is; those that cannot be read are left out."""
        for group in self._groups:
            offsets = sorted({place - group.start for place in places if 0 <= place - group.start < group.size})
            yield from ((group.start + offset, row) for offset, row in self._read(group, offsets, COLUMNS))

    def count_words(self) -> list[tuple[int, int]]:
        """Returns how many words chosen and rejected answers have, of about `LOOKED_AT` pairs all over the files."""
        found: list[tuple[int, int]] = []
        step = max(1, -(-self.count // LOOKED_AT))
        for group in self._groups[:: min(step, max(1, len(self._groups)))]:
            for _, row in self._read(group, range(min(group.size, LOOKED_AT - len(found))), SIDES):
                one, other = (bound_text(text_of(row.get(side)))["words"] for side in SIDES)
                if one is not None and other is not None:
                    found.append((one, other))
        return found

    def _read(self, group: Group, offsets: Sequence[int], names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields rows of a row group by their places in it; what cannot be read is left out, and named."""
        try:
            yield from self._read_rows(group, offsets, names) if offsets else ()
        except Exception as error:
            self._failed[group.name] += 1
            if self._failed[group.name] <= MOST_NAMED:
                self.problems.append(f"{group.name}: row group {group.number} cannot be read ({_say(error)})")
            elif self._failed[group.name] == MOST_NAMED + 1:
                self.problems.append(f"{group.name}: more row groups cannot be read")

    def _read_rows(
        self, group: Group, offsets: Sequence[int], names: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        sizes = Counter[str]()
        described = group.file.metadata.row_group(group.number)
        for column in map(described.column, range(described.num_columns)):
            name = column.path_in_schema.partition(".")[0]
            sizes[name] += max(column.total_uncompressed_size, column.total_compressed_size)
        there = [name for name in names if name in group.file.schema_arrow.names]
        columns = [name for name in there if sizes[name] <= MOST_COLUMN]
        if large := [name for name in there if name not in columns]:
            said = f"row group {group.number} is too large, so {', '.join(large)} are not shown"
            self.problems.append(f"{group.name}: {said}")
        wanted, start = set(offsets), 0
        for batch in group.file.iter_batches(batch_size=_AT_ONCE, row_groups=[group.number], columns=columns):
            for offset in sorted(wanted & set(range(start, start + batch.num_rows))):
                yield offset, {name: _cell(batch, name, offset - start) for name in columns}
            start += batch.num_rows
            if start > max(wanted):
                break


def _cell(batch: Any, name: str, row: int) -> Any:
    try:
        return batch.column(name)[row].as_py()
    except ValueError:  # of a text that is no UTF-8
        return None


def _say(error: Exception) -> str:
    return clean_text(f"{type(error).__name__}: {error}"[:200].replace("\n", " "))


def fit_pair(row: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns a pair as a page reads it: numbers, question, and by side answer, count of words and claims."""
    pair: dict[str, Any] = fit(clean({key: row.get(key) for key in _PAIR}), _PAIR, DATASET, problems)
    turns = turns_of(row.get("prompt"))
    pair |= {"prompt_id": row["prompt_id"] if isinstance(row.get("prompt_id"), str) else ""}
    pair |= {"question": clean_text(turns[-1][:LONGEST_QUESTION]) if turns else ""}
    for side in SIDES:
        pair |= {side: bound_text(text_of(row.get(side))), f"claims_{side}": read_claims(row.get(f"claims_{side}"))}
    return pair


def bound_text(text: str) -> dict[str, Any]:
    """Returns of a text what a page has room for, whether that is not all, and how many words all of it has."""
    own, words = text.strip(), count_words(text) if len(text) <= MOST_LINE else None
    lines = own[:LONGEST_ANSWER].split("\n")
    shown = clean_text("\n".join(line.rstrip() for line in lines[:MOST_LINES]))
    return {"text": shown, "words": words, "is_cut": len(own) > LONGEST_ANSWER or len(lines) > MOST_LINES}


def turns_of(value: Any) -> list[str]:
    """Returns the text of every turn of a conversation, one text for a text.

    >>> turns_of([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}])
    ['What is it?']
    """
    if isinstance(value, str):
        return [value]
    found = []
    for turn in value if isinstance(value, list) else ():
        content = turn.get("content") if isinstance(turn, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        found.append("\n".join(text for text in texts if isinstance(text, str)))
    return found


def text_of(value: Any) -> str:
    """Returns the text of an answer."""
    return "\n".join(turns_of(value))


def read_claims(text: Any) -> list[dict[str, Any]]:
    """Returns the claims in a column of the dataset, which holds them as JSON; none of what is something else."""
    try:
        claims = parse_json(text) if isinstance(text, str) and len(text) <= MOST_LINE else []
    except ValueError:
        return []
    return choose_claims(fit(clean(claims), [_CLAIM], "", []))


def choose_claims(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the claims, of no more than a page shows, that say what they are and whether they are held to be true."""
    return [
        {
            **claim,
            "text": claim["text"][:LONGEST_CLAIM],
            "sentence": claim["sentence"] if isinstance(claim["sentence"], int) else None,
        }
        for claim in claims[:MOST_CLAIMS]
        if claim["text"].strip() and claim["is_true"] is not None
    ]


def find_pictures(folder: Path, value: Any) -> list[Path | bytes | Unshown]:
    """Returns the pictures of a row: embedded, or the files inside the folder that it names."""
    found: list[Path | bytes | Unshown] = []
    for each in value if isinstance(value, list) else [value]:
        content, name = (each.get("bytes"), each.get("path")) if isinstance(each, dict) else (each, each)
        if isinstance(content, bytes):
            found.append(content)
        elif isinstance(name, str):
            found.append(find_inside(folder, name))
    return found[:MOST_PICTURES]


# -- lines -------------------------------------------------------------------------------------------------------------


def _read_lines(
    folder: Path, name: str, problems: list[str], is_wanted: Callable[[bytes, bytes], bool] = lambda own, line: True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the ids that lines of a file begin with, and what the lines hold; nothing where there is no file.

    `is_wanted` takes the id, in JSON, and the line; no other one is parsed.
    """
    damaged = read = 0
    try:
        with file_inside(folder, name).open("rb") as file:
            while line := file.readline(MOST_LINE):
                read += len(line)
                if read > MOST_SCANNED:
                    problems.append(f"{name} has more than the {MOST_SCANNED:,} bytes that are read")
                    break
                found, is_whole = _ID.match(line), len(line) < MOST_LINE or line.endswith(b"\n")
                if found is None or not is_whole:
                    damaged += bool(line.strip())
                elif is_wanted(found[1], line):
                    try:
                        yield parse_json(found[1]), clean(parse_json(line))
                    except (ValueError, RecursionError):
                        damaged += 1
                while not is_whole:  # the rest of a long line
                    line = file.readline(MOST_LINE)
                    read += len(line)
                    is_whole = len(line) < MOST_LINE or line.endswith(b"\n")
    except FileNotFoundError:
        return
    except (OSError, UnusableFileError) as error:
        problems.append(f"{clean_text(name)} is not read: {clean_text(str(error))}")
    if damaged:
        problems.append(f"{damaged:,} lines of {clean_text(name)} are damaged and left out")


def find_rows(
    folder: Path, name: str, ids: Collection[str], problems: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects in the lines of a file that begin with one of the ids, after that id."""
    known = {text.encode("utf-8", "surrogatepass") for own in ids for text in (json.dumps(own), to_json(own))}
    return _read_lines(folder, name, problems, lambda own, line: own in known)


def read_answers(folder: Path, ids: Collection[str], problems: list[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Returns the answers to prompts, by id and number."""
    stem = SAMPLES.removesuffix(".jsonl")
    names = [SAMPLES, *sorted(path.name for path in folder.glob(f"{stem}.part-*.jsonl"))]
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in names:
        for own, row in find_rows(folder, name, ids, problems):
            answer, of = fit(row, _SAMPLE, name, problems), found.setdefault(own, {})
            if isinstance(answer["k"], int) and len(of) < _MOST_KEPT:
                of[answer["k"]] = {**answer, **bound_text(answer["text"])}
    return {own: {k: of[k] for k in sorted(of)[:MOST_ANSWERS]} for own, of in found.items()}


def read_verdicts(
    folder: Path, label: str, ids: Collection[str], problems: list[str]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Returns what a judge holds of the answers to prompts, by id and number."""
    name = f"verdicts-{label}.jsonl"
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for own, row in find_rows(folder, name, ids, problems):
        for k, of in fit(row, _VERDICTS, name, problems)["verdicts"].items():
            known = found.setdefault(own, {})
            if k.isdecimal() and len(k) < 10 and len(known) < _MOST_KEPT:
                known[int(k)] = {**of, "claims": choose_claims(of["claims"])}
    return found


def read_reasons(folder: Path, ids: Collection[str], problems: list[str]) -> dict[tuple[str, int | None], str]:
    """Returns why prompts (number None) and their answers are in no pair."""
    found: dict[tuple[str, int | None], str] = {}
    for own, row in find_rows(folder, DROPPED, ids, problems):
        k, reason = row.get("k"), row.get("reason")
        if isinstance(reason, str) and (k is None or isinstance(k, int)) and len(found) < len(ids) * _MOST_KEPT:
            found[own, k] = reason[:LONGEST_CLAIM]
    return found


def choose_unpaired(
    folder: Path,
    count: int,
    seed: int,
    problems: list[str],
    is_known: Callable[[str], bool] = lambda own: True,
) -> list[str]:
    """Returns the ids of prompts without a pair, drawn by the seed: one for each reason, then another one for each.

    `is_known` says which prompts may be taken.
    """

    def is_of_prompt(own: bytes, line: bytes) -> bool:  # an answer's line need not be parsed
        return not line[len(b'{"id": ') + len(own) :].startswith(b', "k"')

    generator = Random(derive_seed(seed, "", "unpaired"))
    drawn: dict[str, list[str]] = {}
    counts = Counter[str]()
    for own, row in _read_lines(folder, DROPPED, problems, is_of_prompt):
        reason = row.get("reason")
        if row.get("k") is not None or not isinstance(reason, str) or not is_known(own):
            continue
        if reason not in drawn and len(drawn) == MOST_REASONS:
            continue
        counts[reason] += 1
        of = drawn.setdefault(reason, [])
        if len(of) < count:
            of.append(own)
        elif (place := generator.randrange(counts[reason])) < count:
            of[place] = own
    by_count = [reason for reason, _ in counts.most_common()]
    turns = [drawn[reason][turn] for turn in range(count) for reason in by_count if turn < len(drawn[reason])]
    return list(dict.fromkeys(turns))[:count]


def read_unpaired(folder: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Returns question and pictures of the prompts without a pair that the build has put aside for the page, by id."""
    found: dict[str, dict[str, Any]] = {}
    for own, row in _read_lines(folder, UNPAIRED, problems):
        prompt = fit(row, _UNPAIRED, UNPAIRED, problems)
        if len(found) < _MOST_KEPT:
            pictures = [find_inside(folder, name) for name in prompt["pictures"][:MOST_PICTURES]]
            found[own] = {"question": prompt["question"][:LONGEST_QUESTION], "pictures": pictures}
    return found
