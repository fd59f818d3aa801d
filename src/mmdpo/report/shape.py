"""What files of run folders hold: data of a wrong type is left out and named, so that readers need not expect it.

A shape is a type (`float` stands for whole numbers too), `(shape, None)` where null is as good, `[shape]` for a list,
`{str: shape}` for an object of any keys, or `{"key": shape, …}` for some keys of one; its other keys stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mmdpo.files import read_json, read_rows

Shape: TypeAlias = Any
NUMBER = (float, None)
MOST_NAMED = 3
"""Misfits of one file that are named one by one."""
_NAMES = {str: "a text", float: "a number", bool: "true or false", dict: "an object", list: "a list"}
_MISFIT = object()


class ReportError(ValueError):
    """A folder that cannot be reported on: says which file and key, and how to mend it."""


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
    fitted: dict[str, Any] = fit(content, shape, path.name, problems)
    return fitted


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

    Nothing is left of a value of another kind: an empty object, an empty list, or None.
    """
    found: list[str] = []
    fitted = _fit(value, shape, "", found)
    problems += [f"{where}: {line}, so it is left out" for line in found[:MOST_NAMED]]
    if len(found) > MOST_NAMED:
        problems.append(f"{where}: {len(found) - MOST_NAMED} more values are of a wrong type and left out")
    if fitted is not _MISFIT:
        return fitted
    return {} if isinstance(shape, Mapping) else [] if isinstance(shape, list) else None


def _fit(value: Any, shape: Shape, path: str, problems: list[str]) -> Any:
    if isinstance(shape, tuple):
        return None if value is None else _fit(value, shape[0], path, problems)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _miss(value, list, path, problems)
        items = (_fit(inner, shape[0], f"{path}[{place}]", problems) for place, inner in enumerate(value))
        return [item for item in items if item is not _MISFIT]
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return _miss(value, dict, path, problems)
        fields = {
            key: _fit(inner, shape.get(str, shape.get(key, Any)), f"{path}.{key}" if path else key, problems)
            for key, inner in value.items()
        }
        return {key: field for key, field in fields.items() if field is not _MISFIT}
    if shape is float:
        is_one = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        is_one = shape is Any or isinstance(value, shape)
    return value if is_one else _miss(value, shape, path, problems)


def _miss(value: Any, wanted: type, path: str, problems: list[str]) -> Any:
    kind = type(value) if isinstance(value, bool) or not isinstance(value, int) else float
    problems.append(f"{path or 'it'} is {_NAMES.get(kind, 'null')}, not {_NAMES[wanted]}")
    return _MISFIT
