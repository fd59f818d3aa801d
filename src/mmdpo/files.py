"""Files of folders that anybody may have written: regular files of bounded size, read as plain text and data.

What is read here runs no code, waits for nothing, and holds no character that would steer a terminal or break an SVG.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmdpo.printable import printable

MOST_BYTES = 512 * 2**20
"""A larger file is not read."""
MOST_YAML_BYTES = 2**20
"""The same for YAML, which takes minutes where JSON takes seconds."""
MOST_YAML_VALUES = 50_000
"""A YAML file that unfolds to more values, as aliases of aliases do, is not used."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}


class UnusableFileError(ValueError):
    """A file that is not read, or a folder that is not written: says why."""


@dataclass(frozen=True)
class Unshown:
    """Stands in the place of a picture that is not opened."""

    reason: str


def irregular_kind(path: str | Path) -> str | None:
    """Returns what a path names if it is no regular file, links followed: `a folder`, `a named pipe`; else None.

    A pipe would be waited for, and a device has no end. Raises OSError for a path that leads to nothing.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116  a Path would be normalised, and its text is the user's
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def check_regular(path: Path, *, most: int = MOST_BYTES) -> None:
    """Raises UnusableFileError for no regular file, or one of more than `most` bytes; OSError for nothing there."""
    kind, found = irregular_kind(path), path.stat()
    if kind is not None:
        raise UnusableFileError(f"it is {kind} and no regular file")
    if found.st_size > most:
        raise UnusableFileError(f"it has {found.st_size:,} bytes, more than the {most:,} that are read")


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """Returns the text of a file as it stands there; raises as `check_regular`, and ValueError for no UTF-8."""
    check_regular(path, most=most)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:  # of files that say they are empty, as those of /proc do
        raise UnusableFileError(f"it has more than the {most:,} bytes that are read")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, `clean`; raises OSError where there is none, ValueError for a damaged one."""
    return _parse(read_text(path))


def read_rows(path: Path, *, most: int | None = None) -> Iterator[Any]:
    """Yields the content of each line of JSON, the first `most`, `clean`; None for a line that is damaged.

    Empty lines are passed over. Raises as `check_regular`.
    """
    check_regular(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file):
            if number == most:
                break
            if line.strip():
                try:
                    yield _parse(line)
                except ValueError:
                    yield None


def read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file, `clean`; raises OSError where there is none, ValueError for a damaged one."""
    text = read_text(path, most=MOST_YAML_BYTES)
    try:
        content = yaml.safe_load(text)
        if sum(1 for _ in zip(range(MOST_YAML_VALUES + 1), _walk(content), strict=False)) > MOST_YAML_VALUES:
            raise UnusableFileError(f"it unfolds to more than {MOST_YAML_VALUES:,} values")
        return clean(content)
    except yaml.YAMLError as error:
        raise UnusableFileError(f"no YAML: {error}") from error
    except RecursionError as error:
        raise UnusableFileError("it is nested too deeply") from error


def read_mapping(name: str, value: Any) -> dict[str, Any] | None:
    """Returns a mapping that may be written as JSON. Raises ValueError for anything else, and for infinite numbers."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} must be a mapping, or one in JSON; got {value[:200]!r} ({error})") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping of names to values; got {value!r}")
    check_finite(name, value)
    return value


def check_finite(name: str, value: Any) -> None:
    """Raises ValueError for a number, at any depth of an option's mappings and lists, that is not finite."""
    entries: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for entry in entries:
        check_finite(name, entry)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} holds {value}: numbers have to be finite")


def clean(value: Any) -> Any:
    """Returns data whose texts, keys too, can be shown anywhere, and whose numbers can be calculated with.

    Control characters and lone surrogates are written out, and a whole number beyond the range of a float becomes
    infinite. What YAML knows and JSON does not, such as a date, becomes text.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [clean(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
        return value
    return value if value is None or isinstance(value, bool | float) else clean_text(str(value))


def clean_text(text: str) -> str:
    """Returns a text that terminals, HTML and SVG take as it is."""
    return printable(text).translate(_NOT_XML)


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns a value as JSON that can be written as UTF-8: escaped where a string holds half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if _SURROGATE.search(text) else text


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON with a line break at the end, as `write_whole` does."""
    write_whole(path, to_json(value, indent) + "\n")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Writes each value as a line of JSON, as `write_whole` does; `read_rows` reads them."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows))


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that nobody ever finds half of it: beside its place first, then renamed onto it.

    Several processes may write one file at once; the last one stays.

    Raises UnusableFileError, which names the file, where it cannot be written; what was there before is kept.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partly")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise explain_unwritable(path, error) from error


def explain_unwritable(path: Path, error: OSError) -> UnusableFileError:
    """Returns the error to raise for a file that cannot be written."""
    mend = "make room there, then run the same command again" if error.errno in _FULL else "name another folder"
    return UnusableFileError(f"{path}: cannot be written ({error.strerror}); {mend}")


def digest_of(value: Any) -> str:
    """Returns what stands for a value that JSON can hold, the same on every machine: SHA-256 of its JSON, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text whose control characters and lone surrogates, if any are left, are written out."""
    path.write_text(clean_text(text), encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Makes a folder that files are to be written into, unless it is there.

    Raises UnusableFileError, which names the folder, where that is not possible or nothing may be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UnusableFileError(f"{folder} is a file: choose another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableFileError(f"{folder} cannot be made ({error.strerror}): choose another place") from error
    if not os.access(folder, os.W_OK):
        raise UnusableFileError(f"{folder} cannot be written to: choose another place, or change its rights")


def find_inside(folder: Path, name: Any) -> Path | Unshown:
    """Returns the file of a folder that something in it names, links followed; Unshown where it lies elsewhere."""
    if not isinstance(name, str) or not name:
        return Unshown("its file is not named")
    try:
        found = (folder / name).resolve()
        if found.is_relative_to(folder.resolve()):
            return found
    except (OSError, ValueError, RuntimeError):  # a name with a null, a name that is too long, a circle of links
        return Unshown("its file name cannot be used")
    return Unshown(f"{name} lies outside {folder}")


def _parse(text: str) -> Any:
    try:
        return clean(json.loads(text))
    except RecursionError as error:
        raise UnusableFileError("it is nested too deeply") from error


def _walk(value: Any) -> Iterator[Any]:
    """Yields a value and all inside it, one that stands in several places as often."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        yield current
        if isinstance(current, Mapping):
            waiting += [*current.keys(), *current.values()]
        elif isinstance(current, list | tuple | set):
            waiting += current
