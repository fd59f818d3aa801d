"""Files of folders that anybody may have written: regular files of bounded size, read as plain text and data.

What is read here runs no code, waits for nothing, and holds no character that would steer a terminal or break an SVG.
"""

import errno
import hashlib
import itertools
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

MOST_BYTES = 512 * 2**20
"""A larger file is not read."""
MOST_YAML_BYTES, MOST_YAML_VALUES = 2**20, 50_000
"""The same for YAML, which takes minutes where JSON takes seconds, and unfolds aliases of aliases to many values."""
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


class UnusableFileError(ValueError):
    """A file that is not read, or a folder that is not written: says why."""


@dataclass(frozen=True)
class Unshown:
    """Stands in the place of a picture that is not opened."""

    reason: str


def irregular_kind(path: str | Path) -> str | None:
    """Returns `a folder`, `a named pipe`, … for what is no regular file, links followed; OSError for nothing there."""
    # A Path would be normalised, and its text is the user's.
    return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116


def check_regular(path: Path, *, most: int = MOST_BYTES) -> None:
    """Raises UnusableFileError for no regular file, or one of more than `most` bytes; OSError for nothing there."""
    if (kind := irregular_kind(path)) is not None:
        raise UnusableFileError(f"it is {kind} and no regular file")
    if (size := path.stat().st_size) > most:
        raise UnusableFileError(f"it has {size:,} bytes, more than the {most:,} that are read")


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
    """Yields what the first `most` lines of JSON hold, `clean`, None for a damaged one; raises as `check_regular`."""
    check_regular(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, itertools.islice(file, most)):
            try:
                yield _parse(line)
            except ValueError:
                yield None


def read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file, `clean`; raises OSError where there is none, ValueError for a damaged one."""
    text = read_text(path, most=MOST_YAML_BYTES)
    try:
        content = yaml.safe_load(text)
        if holds_more(content, MOST_YAML_VALUES):
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
    for entry in _walk(value):
        if isinstance(entry, float) and not math.isfinite(entry):
            raise ValueError(f"{name} holds {entry}: numbers have to be finite")
    return value


def clean(value: Any) -> Any:
    """Returns data whose texts, keys too, are `clean_text`, and whose numbers a float can hold, if as infinity.

    What YAML knows and JSON does not, such as a date, becomes text.
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


def printable(text: str) -> str:
    r"""Returns a text that is safe to print: controls but tab and line break, lone surrogates as `\x1b`, `\ud83d`."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def clean_text(text: str) -> str:
    """Returns a text that terminals, HTML and SVG take as it is."""
    return printable(text).translate({0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"})


def replace_surrogates(text: str) -> str:
    """Returns text in which halves of surrogate pairs, which are no characters, are replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


_ENCODER = json.JSONEncoder(ensure_ascii=False)
"""Made once: `json.dumps` makes one for every line of a file."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns a value as JSON that can be written as UTF-8: escaped where a string holds half a surrogate pair."""
    text = _ENCODER.encode(value) if indent is None else json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if not text.isascii() and _SURROGATE.search(text) else text


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON with a line break at the end, as `write_whole` does."""
    write_whole(path, to_json(value, indent) + "\n")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Writes each value as a line of JSON, as `write_whole` does; `read_rows` reads them."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows))


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place, then renames it: nobody finds half of it, the last of several writers stays.

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
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    mend = "make room there, then run the same command again" if is_full else "name another folder"
    return UnusableFileError(f"{path}: cannot be written ({error.strerror}); {mend}")


def digest_of(value: Any) -> str:
    """Returns the SHA-256, in hex, of a value's JSON: the same on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text whose control characters and lone surrogates, if any are left, are written out."""
    path.write_text(clean_text(text), encoding="utf-8")


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


def file_inside(folder: Path, name: str) -> Path:
    """Returns such a file to be read; raises UnusableFileError for what lies elsewhere or is no regular file."""
    found = find_inside(folder, name)
    if isinstance(found, Unshown):
        raise UnusableFileError(found.reason)
    if (kind := irregular_kind(found)) is not None:
        raise UnusableFileError(f"it is {kind} and no regular file")
    return found


def parse_json(text: str | bytes) -> Any:
    """Returns the value that a JSON text stands for; raises ValueError for any other text, however deep it nests."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UnusableFileError("it is nested too deeply") from None


def _parse(text: str) -> Any:
    try:
        return clean(parse_json(text))
    except RecursionError as error:
        raise UnusableFileError("it is nested too deeply") from error


def holds_more(value: Any, most: int) -> bool:
    """Says whether a value and all inside it are more than so many; aliases of YAML may make it endless."""
    return any(True for _ in itertools.islice(_walk(value), most, None))


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
