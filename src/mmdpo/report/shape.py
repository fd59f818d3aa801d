"""Data of the wrong type is left out and named, so that what reads it need not expect it.

A shape is a type (`float` stands for whole numbers too), `(shape, None)` where null is as good, `[shape]` for a list,
`{str: shape}` for an object of any keys, or `{"key": shape, …}` for some keys of one; its other keys stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Shape: TypeAlias = Any
MOST_NAMED = 3
"""Misfits of one file that are named one by one."""
_NAMES = {str: "a text", float: "a number", bool: "true or false", dict: "an object", list: "a list"}
_MISFIT = object()


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
        parts = (_fit(inner, shape[0], f"{path}[{place}]", problems) for place, inner in enumerate(value))
        return [part for part in parts if part is not _MISFIT]
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return _miss(value, dict, path, problems)
        return {key: part for key, part in _fit_fields(value, shape, path, problems) if part is not _MISFIT}
    if shape is float:
        is_one = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        is_one = shape is Any or isinstance(value, shape)
    return value if is_one else _miss(value, shape, path, problems)


def _fit_fields(
    value: Mapping[str, Any], shape: Mapping[Any, Shape], path: str, problems: list[str]
) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        of_key = shape.get(str) if str in shape else shape.get(key, Any)
        yield key, _fit(inner, of_key, f"{path}.{key}" if path else key, problems)


def _miss(value: Any, wanted: type, path: str, problems: list[str]) -> Any:
    is_true_or_false = isinstance(value, bool)
    kind = bool if is_true_or_false else float if isinstance(value, int | float) else type(value)
    problems.append(f"{path or 'it'} is {_NAMES.get(kind, 'null')}, not {_NAMES[wanted]}")
    return _MISFIT
