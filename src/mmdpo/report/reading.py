"""What lies in the folders that a report is asked about, and what their files hold.

A *shape* says what a file may hold: a type (`float` stands for whole numbers too), `[shape]` for a list, `{str: shape}`
for an object of any keys, or `{"key": shape, …}` for some keys of one, which are all there afterwards; its other keys
stay as they are. Data of another shape is left out and named, and null is left out, so that what comes after need
expect neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmdpo.files import clean_text, read_json, read_rows

RECIPE, TRAINER_STATE = "recipe.yaml", "trainer_state.json"
RESULT, SCORES, ANSWERS = "result.json", "scores.jsonl", "answers.jsonl"
RESULTS, EXAMPLES = "results.json", "examples.json"
STUDY, TRIALS, DIAGNOSIS = "study.yaml", "trials", "diagnosis.json"
PAIRS_OPTIONS, PAIRS = "pairs.yaml", "pairs.json"
LOOKED_FOR = (
    f"{RECIPE} or {TRAINER_STATE} (mmdpo train), {RESULT} (mmdpo eval), {RESULTS} with {EXAMPLES} (mmdpo quickstart), "
    f"{STUDY} (mmdpo study), {DIAGNOSIS} (mmdpo diagnose), {PAIRS_OPTIONS} (mmdpo pairs)"
)
WHOLE = {"runs": "run of mmdpo train", "studies": "study", "quickstarts": "quickstart", "pairs": "run of mmdpo pairs"}
"""Kinds of folders that are reported only by their own name."""
DEPTH = 3
"""Levels below a folder that are searched for results."""
_PASSED_OVER = ("sample_answers", "runs", "scenes", "pictures", TRIALS)
Shape: TypeAlias = Any
MOST_NAMED = 3
"""Misfits of one file, and folders inside an unreported one, that are named one by one."""
_NAMES = {str: "a text", float: "a number", bool: "true or false", dict: "an object", list: "a list"}
_LEFT_OUT = object()


class ReportError(ValueError):
    """A folder that cannot be reported on: says which file and key, and how to mend it."""


@dataclass(frozen=True)
class Place:
    """A folder of one kind, and what it is called."""

    path: Path
    label: str


@dataclass(frozen=True)
class Found:
    """Folders by kind, in the order in which they were named."""

    runs: tuple[Place, ...] = ()
    evaluations: tuple[Place, ...] = ()
    quickstarts: tuple[Place, ...] = ()
    studies: tuple[Place, ...] = ()
    diagnoses: tuple[Place, ...] = ()
    pairs: tuple[Place, ...] = ()
    left_out: tuple[str, ...] = ()
    """What lies in the folders and is not reported, with the reason."""


def find_folders(folders: Sequence[str | Path]) -> Found:
    """Returns what the folders are; results inside a run, or inside a folder of results, are found too.

    Raises ReportError for a folder that does not exist or is of no kind, saying what was looked for.
    """
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    found: dict[str, list[Place]] = {}
    left_out: list[str] = []
    for path, label in zip(paths, distinct_labels(paths), strict=True):
        if not path.is_dir():
            raise ReportError(f"{path}: no such folder")
        places = list(_look(path, label, left_out))
        if not places:
            raise ReportError(
                f"{path}: nothing to report on; looked there, and {DEPTH} levels down (not in folders called "
                f"{', '.join(_PASSED_OVER)}), for {LOOKED_FOR}{_shorten(left_out)}"
            )
        for kind, place in places:
            found.setdefault(kind, []).append(place)
    return Found(left_out=tuple(left_out), **{kind: tuple(of) for kind, of in found.items()})


def _shorten(lines: Sequence[str]) -> str:
    """Returns the first lines, each after a semicolon, and how many more there are."""
    more = len(lines) - MOST_NAMED
    return "".join(f"; {line}" for line in lines[:MOST_NAMED]) + (f"; and {more:,} more" if more > 0 else "")


def distinct_labels(paths: Sequence[Path]) -> list[str]:
    """Returns the last names of paths, as few of them as tell the paths apart, and as text that can be shown."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return [clean_text(label) for label in labels]


def name_results(places: Sequence[Place]) -> list[str]:
    """Returns what to call results of one benchmark, or diagnoses: labels, with the folder's name where two agree."""
    labels = [place.label for place in places]
    named = [
        place.label if labels.count(place.label) == 1 else f"{place.label}/{clean_text(place.path.name)}"
        for place in places
    ]
    return [
        name if named.count(name) == 1 else f"{name} ({named[: place + 1].count(name)})"
        for place, name in enumerate(named)
    ]


def number_at_end(path: Path) -> int:
    """Returns the number after the last hyphen of a folder's name, as of `checkpoint-100`; -1 where there is none."""
    digits = path.name.rpartition("-")[2]
    return int(digits) if re.fullmatch("[0-9]{1,18}", digits) else -1


def _look(path: Path, label: str, left_out: list[str]) -> Iterator[tuple[str, Place]]:
    own = _kind_of_whole(path)
    if own is not None:
        yield own, Place(path, label)
    if own in ("studies", "quickstarts"):
        return
    inside = [folder for folder in _walk(path, DEPTH, label, left_out) if folder != path]
    for folder in inside:
        kind = None if re.fullmatch("checkpoint-[0-9]+", folder.name) else _kind_of_whole(folder)
        if kind is not None:
            where = clean_text(folder.relative_to(path).as_posix())
            left_out.append(f"{label}/{where}: a {WHOLE[kind]} inside {label}; name its folder to report on it")
    for kind, files in (("evaluations", (RESULT, SCORES)), ("diagnoses", (DIAGNOSIS,))):
        if _holds(path, *files):
            yield kind, Place(path, label)
        places = [folder for folder in inside if _holds(folder, *files)]
        # Two results of one benchmark in one run, say of two checkpoints, are told apart by where they lie.
        ambiguous = len({folder.name for folder in places}) < len(places)
        for folder in places:
            where = clean_text(folder.parent.relative_to(path).as_posix())
            yield kind, Place(folder, f"{label}/{where}" if ambiguous and where != "." else label)


def _kind_of_whole(path: Path) -> str | None:
    if _holds(path, STUDY) or (path / TRIALS).is_dir():
        return "studies"
    if _holds(path, RESULTS, EXAMPLES):
        return "quickstarts"
    if _holds(path, PAIRS_OPTIONS):
        return "pairs"
    return "runs" if _holds(path, RECIPE, TRAINER_STATE) or any(path.glob(f"checkpoint-*/{TRAINER_STATE}")) else None


def _holds(path: Path, *files: str) -> bool:
    return any((path / name).is_file() for name in files)


def _walk(path: Path, depth: int, label: str, left_out: list[str]) -> Iterator[Path]:
    """Yields a folder and those inside it, `depth` levels deep; says which cannot be opened or lie deeper."""
    try:
        inside = sorted(folder for folder in path.iterdir() if folder.is_dir())
    except OSError as error:
        left_out.append(f"{label}: {clean_text(str(path))} cannot be opened ({error.strerror})")
        return
    yield path
    inside = [folder for folder in inside if folder.name not in _PASSED_OVER and folder.name[0] not in "._"]
    if inside and not depth:
        left_out.append(f"{label}: {clean_text(str(path))} holds folders below {DEPTH} levels, not looked into")
        return
    for folder in inside:
        yield from _walk(folder, depth - 1, label, left_out)


def read_result(path: Path, needed: Sequence[str], shape: Shape, problems: list[str], verb: str) -> dict[str, Any]:
    """Returns the object in a JSON file that a folder cannot be shown without; what does not fit is in `problems`.

    Raises ReportError where there is no such file, it holds no object, or the object lacks a key that is needed.
    """
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise ReportError(f"{path}: no such file; give the folder of a finished `{verb}`") from error
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: not JSON ({error}); the run may have been cut short, repeat it") from error
    for key in needed:
        if not isinstance(content, dict) or key not in content:
            raise ReportError(f"{path}: the key {key!r} is missing; repeat the `{verb}` that wrote this file")
    return dict(fit(content, shape, path.name, problems))


def read_object(
    path: Path, problems: list[str], *, costs: str, read: Callable[[Path], Any] = read_json
) -> dict[str, Any]:
    """Returns the object in a file; where there is none, an empty one, and what that costs as a line in `problems`."""
    try:
        content = read(path)
        if isinstance(content, dict):
            return content
        problem = f"{path.name} holds no object"
    except FileNotFoundError:
        problem = f"there is no {path.name}"
    except (OSError, ValueError) as error:
        problem = f"{path.name} cannot be read ({error})"
    problems.append(f"{problem}, so {costs}")
    return {}


def read_lines(path: Path, problems: list[str], *, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yields the objects of a file of JSON lines, the first `most`; nothing where there is no file."""
    damaged = 0
    try:
        for row in read_rows(path, most=most):
            if isinstance(row, dict):
                yield row
            else:
                damaged += 1
    except OSError:
        return
    except ValueError as error:
        problems.append(f"{path.name} is not read: {error}")
    if damaged:
        problems.append(f"{damaged} lines of {path.name} are damaged and left out")


def fit(value: Any, shape: Shape, where: str, problems: list[str]) -> Any:
    """Returns what of a value has the shape; the rest is left out, and named in `problems` after `where`.

    What is not there, or is of another kind, is an empty text, list or object, or None in the place of a number.
    """
    found = ["it is null"] if value is None else []
    fitted = _fit(value, shape, "", found)
    problems += [f"{where}: {line}, so it is left out" for line in found[:MOST_NAMED]]
    if len(found) > MOST_NAMED:
        problems.append(f"{where}: {len(found) - MOST_NAMED} more values are of a wrong type and left out")
    return _nothing(shape) if fitted is _LEFT_OUT else fitted


def _nothing(shape: Shape) -> Any:
    if isinstance(shape, Mapping):
        return {key: _nothing(inner) for key, inner in shape.items() if key is not str}
    return [] if isinstance(shape, list) else shape() if shape in (str, dict, list) else None


def _fit(value: Any, shape: Shape, path: str, problems: list[str]) -> Any:
    if shape is Any:
        return value
    if value is None:
        return _LEFT_OUT
    if isinstance(shape, list) and isinstance(value, list):
        items = [_fit(inner, shape[0], f"{path}[{place}]", problems) for place, inner in enumerate(value)]
        return [item for item in items if item is not _LEFT_OUT]
    if isinstance(shape, Mapping) and isinstance(value, Mapping):
        fields = {
            key: _fit(inner, shape.get(str, shape.get(key, Any)), f"{path}.{key}" if path else key, problems)
            for key, inner in value.items()
        }
        kept = {key: field for key, field in fields.items() if field is not _LEFT_OUT}
        return kept | {key: inner for key, inner in _nothing(shape).items() if key not in kept}
    wanted = dict if isinstance(shape, Mapping) else list if isinstance(shape, list) else shape
    kind = type(value) if isinstance(value, bool) or not isinstance(value, int) else float
    if kind is wanted:
        return value
    problems.append(f"{path or 'it'} is {_NAMES[kind]}, not {_NAMES[wanted]}")
    return _LEFT_OUT
