"""How a recipe writes an objective: a preset's name, or a list of terms as YAML has it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmdpo.objective.objective import Objective
from mmdpo.objective.presets import CORRUPT_EQUAL_ANSWERS_ONLY, NEED_REJECTED_IMAGES, PRESETS
from mmdpo.objective.terms import Term
from mmdpo.registry import Registry, is_elsewhere, load_elsewhere, name_nearest

TERMS = Registry("objective.terms", "term", further="or package.module:NAME")


def build_objective(
    spec: str | Sequence[Mapping[str, Any] | Term] | Objective, *, runs_others: bool = True
) -> Objective:
    """Returns the objective that a recipe's `objective:` describes.

    `spec` is a preset's name, `package.module:NAME` for a list of terms elsewhere, JSON, or a list of terms. A term is
    a mapping from the term's name to its cells, with its symbols beside it:

        - rank: [[original, chosen], [corrupted, chosen]]
          weight: 0.5
        - anchor: [original, chosen]
          delta: 0.0

    With `runs_others` off nothing is imported that the spec names: for recipes of somebody else that are only read.
    Raises ValueError that names the nearest valid name for an unknown preset, term or symbol, and for a
    `package.module:NAME` that is not to be imported.
    """
    if isinstance(spec, Objective):
        return spec
    if isinstance(spec, str):
        text = spec.strip()
        if text.startswith(("[", "{")):
            return build_objective(_read_json(text), runs_others=runs_others)
        return _load_preset(text, runs_others)
    if not isinstance(spec, list | tuple):
        raise ValueError(f"an objective is a preset's name or a list of terms; got {spec!r}")
    return Objective(tuple(term if isinstance(term, Term) else _build_term(term, runs_others) for term in spec))


def preset_names() -> tuple[str, ...]:
    """Names that `objective:` takes."""
    return tuple(PRESETS)


def term_names() -> tuple[str, ...]:
    """Names of the terms: the files of `objective/terms`."""
    return TERMS.names()


def _load_preset(name: str, runs_others: bool) -> Objective:
    if is_elsewhere(name):
        return build_objective(load_elsewhere(name, "objective", runs_others=runs_others)[1])
    if name not in PRESETS:
        raise ValueError(f"unknown objective {name!r}{name_nearest(name, PRESETS)} There are {', '.join(PRESETS)}")
    return Objective(PRESETS[name], name in NEED_REJECTED_IMAGES, name in CORRUPT_EQUAL_ANSWERS_ONLY)


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the objective is not valid JSON: {error}") from error


def _load_term(name: str, runs_others: bool) -> type[Term]:
    if is_elsewhere(name):
        found = load_elsewhere(name, TERMS.kind, runs_others=runs_others)[1]
    else:
        members = vars(TERMS.load(name)).values()
        found = next(m for m in members if isinstance(m, type) and issubclass(m, Term) and m.__module__.endswith(name))
    if not (isinstance(found, type) and issubclass(found, Term)):
        raise ValueError(f"{name} is not a Term")
    return found


def _build_term(spec: Mapping[str, Any], runs_others: bool) -> Term:
    if isinstance(spec, type) and issubclass(spec, Term):
        raise ValueError(f"{spec.__name__} is a class, and a term is one with its symbols filled in: {spec.__name__}()")
    if not isinstance(spec, Mapping):
        raise ValueError(f"a term is a mapping such as {{rank: [[original, chosen], …]}}; got {spec!r}")
    heads = [key for key in spec if ":" in str(key) or key in term_names()]
    if len(heads) != 1:
        hints = [name_nearest(key, term_names()) for key in spec]
        hint = "." if heads else max(hints, key=len, default=".")
        raise ValueError(f"a term names exactly one of {', '.join(term_names())}; got keys {list(spec)}{hint}")
    kind = _load_term(str(heads[0]), runs_others)
    cells, *symbols = [field.name for field in dataclasses.fields(kind) if field.name in _own_fields(kind)]
    symbols += [field.name for field in dataclasses.fields(Term)]
    for key in spec:
        if key not in symbols and key != heads[0]:
            hint = name_nearest(key, symbols)
            raise ValueError(f"term {heads[0]} has no {key!r}{hint} It takes: {', '.join(symbols)}.")
    return kind(**{cells: spec[heads[0]]}, **{key: value for key, value in spec.items() if key != heads[0]})


def _own_fields(kind: type[Term]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - {field.name for field in dataclasses.fields(Term)}
