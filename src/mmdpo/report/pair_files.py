"""What a run of `mmdpo pairs` holds on disk: of its pairs, answers and verdicts those that are shown, and no others.

A dataset may hold millions of pairs with their pictures, and the answers gigabytes of text. Pairs are read by their
places, row group by row group; lines by the prompt that they begin with, so that no other one is parsed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mmdpo.files import Unshown, UnusableFileError, clean, clean_text, find_inside, irregular_kind, to_json
from mmdpo.records import derive_seed
from mmdpo.report.reading import MOST_NAMED, NUMBER, fit

DATASET, PARTS = "dataset", ("train.parquet", "eval.parquet")
SAMPLES, DROPPED, UNPAIRED = "samples.jsonl", "dropped.jsonl", "unpaired.jsonl"
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
MOST_TEXT, MOST_CLAIM = 6_000, 300
"""Characters of an answer and of a claim."""
MOST_REASONS = 50
MOST_ANSWERS, MOST_PICTURES, MOST_CLAIMS = 24, 4, 100
"""Answers and pictures of a prompt, and claims of an answer."""
_AT_ONCE = 64
_MOST_KEPT = 200
"""Answers of a prompt that are looked at, of which `MOST_ANSWERS` are shown."""
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.){0,1000}+")')
_CLAIM = {"text": str, "is_true": bool, "probability": NUMBER, "sentence": NUMBER}
_SAMPLE = {"k": float, "text": str, "kind": str, "tokens": NUMBER, "logprob": NUMBER}
_VERDICTS = {"verdicts": {str: {"score": NUMBER, "claims": [_CLAIM], "is_right": (bool, None)}}}
_PAIR = {
    "prompt_id": str,
    **dict.fromkeys(("margin", "k_chosen", "k_rejected", "score_chosen", "score_rejected", "clean"), NUMBER),
    **dict.fromkeys(("logp_chosen", "logp_rejected"), NUMBER),
}
_UNPAIRED = {"id": str, "question": str, "pictures": [str]}


@dataclass(frozen=True)
class Part:
    """One Parquet file of the pairs."""

    name: str
    file: Any
    columns: frozenset[str]
    groups: tuple[int, ...]
    """Rows of each row group."""


class PairFiles:
    """The pairs of a run, numbered through its files. Raises nothing: what cannot be read is added to `problems`."""

    def __init__(self, folder: Path, problems: list[str]) -> None:
        """Opens the files, and reads which columns and how many rows they have."""
        self.folder, self.problems = folder, problems
        self._failed = Counter[str]()
        self._parts = [part for name in PARTS if (part := self._open(name)) is not None]
        if not self._parts and not any((folder / DATASET / name).exists() for name in PARTS):
            problems.append(f"there is no {DATASET}/{PARTS[0]}, so no pairs are shown")

    def _open(self, name: str) -> Part | None:
        from pyarrow import parquet  # type: ignore[import-untyped]

        path = find_inside(self.folder, f"{DATASET}/{name}")
        try:
            if isinstance(path, Unshown):
                raise UnusableFileError(path.reason)
            if (kind := irregular_kind(path)) is not None:
                raise UnusableFileError(f"it is {kind} and no regular file")
            # With a buffer, columns are read piece by piece and not whole.
            file = parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
            groups = [max(0, file.metadata.row_group(n).num_rows) for n in range(file.metadata.num_row_groups)]
        except FileNotFoundError:
            return None
        except Exception as error:  # Arrow raises nearly anything on broken bytes
            self.problems.append(f"{DATASET}/{name} cannot be read ({_say(error)})")
            return None
        return Part(f"{DATASET}/{name}", file, frozenset(file.schema_arrow.names), tuple(groups))

    @property
    def count(self) -> int:
        """How many pairs there are, by what the files say."""
        return sum(sum(part.groups) for part in self._parts)

    @cached_property
    def margins(self) -> np.ndarray:
        """The margin of every pair that may be shown; not a number where it is not known."""
        from pyarrow import types

        values = np.full(min(self.count, MOST_ROWS), np.nan)
        start = 0
        for part in self._parts:
            place = start
            try:
                kind = part.file.schema_arrow.field("margin").type if "margin" in part.columns else None
                if kind is None or not (types.is_floating(kind) or types.is_integer(kind)):
                    raise UnusableFileError("there is no column margin of numbers")
                for batch in part.file.iter_batches(batch_size=2**16, columns=["margin"]):
                    if place >= len(values):
                        break
                    numbers = batch.column(0).cast("double").to_numpy(zero_copy_only=False)[: len(values) - place]
                    values[place : place + len(numbers)] = numbers
                    place += len(numbers)
            except Exception as error:
                self.problems.append(f"{part.name}: margins cannot be read ({_say(error)})")
            start += sum(part.groups)
        values[~np.isfinite(values)] = np.nan
        return values

    def read(self, places: Collection[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields pairs by their places, with what of `COLUMNS` there is; those that cannot be read are left out."""
        start = 0
        for part in self._parts:
            for group, size in enumerate(part.groups):
                offsets = sorted({place - start for place in places if start <= place < start + size})
                if offsets:
                    try:
                        for offset, row in self._read_group(part, group, offsets, COLUMNS):
                            yield start + offset, row
                    except Exception as error:
                        self._fail(part, group, error)
                start += size

    def count_words(self) -> list[tuple[int, int]]:
        """Returns how many words chosen and rejected answers have, of about `LOOKED_AT` pairs all over the files."""
        groups = [(part, group) for part in self._parts for group in range(len(part.groups))]
        found: list[tuple[int, int]] = []
        step = max(1, -(-self.count // LOOKED_AT))
        for part, group in groups[:: min(step, max(1, len(groups)))]:
            size = part.groups[group]
            offsets = range(min(size, LOOKED_AT - len(found)))
            if not offsets:
                continue
            try:
                for _, row in self._read_group(part, group, offsets, ("chosen", "rejected")):
                    one, other = (bound_text(text_of(row.get(side)))["words"] for side in ("chosen", "rejected"))
                    if one is not None and other is not None:
                        found.append((one, other))
            except Exception as error:
                self._fail(part, group, error)
        return found

    def _fail(self, part: Part, group: int, error: Exception) -> None:
        self._failed[part.name] += 1
        if self._failed[part.name] <= MOST_NAMED:
            self.problems.append(f"{part.name}: row group {group} cannot be read ({_say(error)})")
        elif self._failed[part.name] == MOST_NAMED + 1:
            self.problems.append(f"{part.name}: more row groups cannot be read")

    def _read_group(
        self, part: Part, group: int, offsets: Sequence[int], names: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields rows of a row group by their places in it; columns that are too large are left out, and named."""
        sizes = dict.fromkeys(names, 0)
        described = part.file.metadata.row_group(group)
        for number in range(described.num_columns):
            column = described.column(number)
            name = column.path_in_schema.partition(".")[0]
            if name in sizes:
                sizes[name] += max(column.total_uncompressed_size, column.total_compressed_size)
        columns = [name for name in names if name in part.columns and sizes[name] <= MOST_COLUMN]
        if large := [name for name in names if name in part.columns and name not in columns]:
            self.problems.append(f"{part.name}: row group {group} is too large, so {', '.join(large)} are not shown")
        wanted, start = set(offsets), 0
        for batch in part.file.iter_batches(batch_size=_AT_ONCE, row_groups=[group], columns=columns):
            for offset in sorted(wanted & set(range(start, start + batch.num_rows))):
                yield offset, {name: _cell(batch, name, offset - start) for name in columns}
            start += batch.num_rows
            if start > max(wanted, default=-1):
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
    known = {key: clean(row[key]) for key in _PAIR if key in row}
    turns = turns_of(row.get("prompt"))
    pair: dict[str, Any] = {**dict.fromkeys(_PAIR), **fit(known, _PAIR, DATASET, problems)}
    pair |= {"prompt_id": row.get("prompt_id") if isinstance(row.get("prompt_id"), str) else None}
    pair |= {"question": clean_text(turns[-1][:MOST_TEXT]) if turns else ""}
    for side in ("chosen", "rejected"):
        pair |= {side: bound_text(text_of(row.get(side))), f"claims_{side}": read_claims(row.get(f"claims_{side}"))}
    return pair


def bound_text(text: str) -> dict[str, Any]:
    """Returns a text, no more of it than a page shows, and how many words all of it has."""
    words = len(text.split()) if len(text) <= MOST_LINE else None
    return {"text": clean_text(text[:MOST_TEXT]), "words": words, "is_cut": len(text) > MOST_TEXT}


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
        claims = json.loads(text) if isinstance(text, str) and len(text) <= MOST_LINE else []
    except (ValueError, RecursionError):
        return []
    return fit_claims(fit(clean(claims), [_CLAIM], "", []))


def fit_claims(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the claims, of no more than a page shows, that say what they are and whether they are held to be true."""
    found: list[dict[str, Any]] = []
    for claim in claims[:MOST_CLAIMS]:
        text, sentence = claim.get("text", "")[:MOST_CLAIM], claim.get("sentence")
        if text.strip() and "is_true" in claim:
            found.append({**claim, "text": text, "sentence": sentence if isinstance(sentence, int) else None})
    return found


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


def _scan(folder: Path, name: str, problems: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the id that each line of a file begins with, in JSON, and the line; nothing where there is no file."""
    path, strange, read = find_inside(folder, name), 0, 0
    try:
        if isinstance(path, Unshown):
            raise UnusableFileError(path.reason)
        if (kind := irregular_kind(path)) is not None:
            raise UnusableFileError(f"it is {kind} and no regular file")
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE):
                read += len(line)
                if read > MOST_SCANNED:
                    problems.append(f"{name} has more than the {MOST_SCANNED:,} bytes that are read")
                    break
                found = _ID.match(line)
                if found is not None and (len(line) < MOST_LINE or line.endswith(b"\n")):
                    yield found[1], line
                    continue
                strange += bool(line.strip())
                while len(line) == MOST_LINE and not line.endswith(b"\n"):  # the rest of a long line
                    line = file.readline(MOST_LINE)
                    read += len(line)
    except FileNotFoundError:
        return
    except (OSError, UnusableFileError) as error:
        problems.append(f"{clean_text(name)} is not read: {clean_text(str(error))}")
    if strange:
        problems.append(f"{strange:,} lines of {clean_text(name)} are damaged and left out")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def find_rows(folder: Path, name: str, ids: Collection[str], problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields the objects in the lines of a file that begin with one of the ids, after that id."""
    known = {text.encode("utf-8", "surrogatepass"): own for own in ids for text in (json.dumps(own), to_json(own))}
    damaged = 0
    for found, line in _scan(folder, name, problems):
        own = known.get(found)
        if own is not None:
            row = _parse(line)
            damaged += row is None
            if row is not None:
                yield own, clean(row)
    if damaged:
        problems.append(f"{damaged:,} lines of {clean_text(name)} are damaged and left out")


def read_answers(folder: Path, ids: Collection[str], problems: list[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Returns the answers to prompts, by id and number."""
    stem = SAMPLES.removesuffix(".jsonl")
    names = [SAMPLES, *sorted(path.name for path in folder.glob(f"{stem}.part-*.jsonl"))]
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in names:
        for own, row in find_rows(folder, name, ids, problems):
            answer = fit(row, _SAMPLE, name, problems)
            of, k = found.setdefault(own, {}), answer.get("k")
            if isinstance(k, int) and "text" in answer and len(of) < _MOST_KEPT:
                of[k] = {**answer, **bound_text(answer["text"])}
    return {own: {k: of[k] for k in sorted(of)[:MOST_ANSWERS]} for own, of in found.items()}


def read_verdicts(
    folder: Path, label: str, ids: Collection[str], problems: list[str]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Returns what a judge holds of the answers to prompts, by id and number."""
    name = f"verdicts-{label}.jsonl"
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for own, row in find_rows(folder, name, ids, problems):
        for k, of in fit(row, _VERDICTS, name, problems).get("verdicts", {}).items():
            known = found.setdefault(own, {})
            if k.isdecimal() and len(k) < 10 and len(known) < _MOST_KEPT:
                known[int(k)] = {**of, "claims": fit_claims(of.get("claims", ()))}
    return found


def read_reasons(folder: Path, ids: Collection[str], problems: list[str]) -> dict[tuple[str, int | None], str]:
    """Returns why prompts (number None) and their answers are in no pair."""
    found: dict[tuple[str, int | None], str] = {}
    for own, row in find_rows(folder, DROPPED, ids, problems):
        k, reason = row.get("k"), row.get("reason")
        if isinstance(reason, str) and (k is None or isinstance(k, int)) and len(found) < len(ids) * _MOST_KEPT:
            found[own, k] = reason[:MOST_CLAIM]
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
    generator = Random(derive_seed(seed, "", "unpaired"))
    drawn: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for text, line in _scan(folder, DROPPED, problems):
        if line[len(b'{"id": ') + len(text) :].startswith(b', "k"'):  # an answer's line, which need not be parsed
            continue
        row = _parse(line) or {}
        own, reason = row.get("id"), row.get("reason")
        if row.get("k") is not None or not isinstance(own, str) or not isinstance(reason, str) or not is_known(own):
            continue
        if reason not in drawn and len(drawn) == MOST_REASONS:
            continue
        counts[reason] = counts.get(reason, 0) + 1
        of = drawn.setdefault(reason, [])
        if len(of) < count:
            of.append(own)
        elif (place := generator.randrange(counts[reason])) < count:
            of[place] = own
    by_count = sorted(drawn, key=lambda reason: -counts[reason])
    turns = [drawn[reason][turn] for turn in range(count) for reason in by_count if turn < len(drawn[reason])]
    return list(dict.fromkeys(turns))[:count]


def read_unpaired(folder: Path, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Returns question and pictures of the prompts without a pair that the build has put aside for the page, by id."""
    found: dict[str, dict[str, Any]] = {}
    for _, line in _scan(folder, UNPAIRED, problems):
        row = _parse(line) or {}
        own, prompt = row.get("id"), fit(clean(row), _UNPAIRED, UNPAIRED, problems)
        if isinstance(own, str) and len(found) < _MOST_KEPT:
            pictures = [find_inside(folder, name) for name in prompt.get("pictures", ())[:MOST_PICTURES]]
            found[own] = {"question": prompt.get("question", "")[:MOST_TEXT], "pictures": pictures}
    return found
