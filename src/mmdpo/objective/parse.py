"""How a recipe writes an objective: a preset's name, or a list of terms as YAML has it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from mmdpo.objective import terms as term_files
from mmdpo.objective.objective import Objective
from mmdpo.objective.presets import NEED_REJECTED_IMAGES, PRESETS
from mmdpo.objective.terms import Term


def build_objective(spec: str | Sequence[Mapping[str, Any] | Term] | Objective) -> Objective:
    """Returns the objective that a recipe's `objective:` describes.

    `spec` is a preset's name, `package.module:NAME` for a list of terms elsewhere, JSON, or a list of terms. A term is
    a mapping from the term's name to its cells, with its symbols beside it:

        - rank: [[original, chosen], [corrupted, chosen]]
          weight: 0.5
        - anchor: [original, chosen]
          delta: 0.0

    Raises ValueError that names the nearest valid name for an unknown preset, term or symbol.
    """
    if isinstance(spec, Objective):
        return spec
    if isinstance(spec, str):
        text = spec.strip()
        if text.startswith(("[", "{")):
            return build_objective(_read_json(text))
        return _load_preset(text)
    if not isinstance(spec, list | tuple):
        raise ValueError(f"an objective is a preset's name or a list of terms; got {spec!r}")
    return Objective(tuple(term if isinstance(term, Term) else _build_term(term) for term in spec))


def preset_names() -> tuple[str, ...]:
    """Names that `objective:` takes."""
    return tuple(PRESETS)


def term_names() -> tuple[str, ...]:
    """Names of the terms: the files of `objective/terms`."""
    return tuple(module.name for module in pkgutil.iter_modules(term_files.__path__) if not module.name.startswith("_"))


def _load_preset(name: str) -> Objective:
    if ":" in name:
        return build_objective(_load_attribute(name))
    if name not in PRESETS:
        raise ValueError(f"unknown objective {name!r}.{_nearest(name, PRESETS)} Known: {', '.join(PRESETS)}.")
    return Objective(PRESETS[name], needs_rejected_images=name in NEED_REJECTED_IMAGES)


def _load_attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot load {name!r} (package.module:NAME): {error}") from error


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the objective is not valid JSON: {error}") from error


def _load_term(name: str) -> type[Term]:
    if ":" in name:
        found = _load_attribute(name)
    elif name in term_names():
        members = vars(import_module(f"{term_files.__name__}.{name}")).values()
        found = next(m for m in members if isinstance(m, type) and issubclass(m, Term) and m.__module__.endswith(name))
    else:
        raise ValueError(f"unknown term {name!r}.{_nearest(name, term_names())} Known: {', '.join(term_names())}.")
    if not (isinstance(found, type) and issubclass(found, Term)):
        raise ValueError(f"{name} is not a Term")
    return found


def _build_term(spec: Mapping[str, Any]) -> Term:
    if not isinstance(spec, Mapping):
        raise ValueError(f"a term is a mapping such as {{rank: [[original, chosen], …]}}; got {spec!r}")
    heads = [key for key in spec if ":" in str(key) or key in term_names()]
    if len(heads) != 1:
        hint = "" if heads else next(filter(None, (_nearest(str(key), term_names()) for key in spec)), "")
        raise ValueError(f"a term names exactly one of {', '.join(term_names())}; got keys {list(spec)}.{hint}")
    kind = _load_term(heads[0])
    cells, *symbols = [field.name for field in dataclasses.fields(kind) if field.name in _own_fields(kind)]
    symbols += [field.name for field in dataclasses.fields(Term)]
    for key in spec:
        if key not in symbols and key != heads[0]:
            hint = _nearest(str(key), symbols)
            raise ValueError(f"term {heads[0]} has no {key!r}.{hint} It takes: {', '.join(symbols)}.")
    return kind(**{cells: spec[heads[0]]}, **{key: value for key, value in spec.items() if key != heads[0]})


def _own_fields(kind: type[Term]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - {field.name for field in dataclasses.fields(Term)}


def _nearest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    # Of names equally near, two letters in the wrong order are the likelier slip: mpdo means mdpo, not mfpo.
    found.sort(key=lambda other: sorted(other) != sorted(name))
    return f" Did you mean {found[0]!r}?" if found else ""
