"""An objective: a weighted sum of terms over cells, and how a recipe writes one."""

from __future__ import annotations

import dataclasses
import difflib
import json
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmdpo.examples import Cell
from mmdpo.objective import terms as term_files
from mmdpo.objective.presets import PRESETS
from mmdpo.objective.terms import Rank, Scores, Term


@dataclass(frozen=True)
class ObjectiveLosses:
    """Losses of one batch, per example and unreduced."""

    total: Float[Tensor, "B"]
    """Σ over terms of weight · example weight · loss."""
    by_term: Mapping[str, Float[Tensor, "B"]]
    """Each term's loss before its weights, under its label."""


@dataclass(frozen=True)
class Objective:
    """A sum of terms. Its cells say what has to be scored; it knows nothing of models or images."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an objective needs at least one term")
        object.__setattr__(self, "terms", _with_distinct_labels(self.terms))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that a term reads, once, in the order of first use."""
        return tuple(dict.fromkeys(cell for term in self.terms for cell in term.cells))

    @property
    def reference_cells(self) -> tuple[Cell, ...]:
        """The cells whose reference log-probability a term reads."""
        return tuple(dict.fromkeys(cell for term in self.terms if term.needs_reference for cell in term.cells))

    @property
    def weight_columns(self) -> tuple[str, ...]:
        """The dataset columns that weigh terms by example."""
        return tuple(dict.fromkeys(term.weight_column for term in self.terms if term.weight_column))

    def losses(
        self, scores: Scores, *, beta: float, weights: Mapping[str, Float[Tensor, "B"]] | None = None
    ) -> ObjectiveLosses:
        """Returns the losses of a batch: total = Σ_t weight_t · s_t · loss_t, per example.

        `weights` holds s, one tensor per name in `weight_columns`.
        """
        by_term = {term.label: term.losses(scores, beta) for term in self.terms}  # labels are distinct
        total: Tensor | None = None
        for term in self.terms:
            part = term.weight * by_term[term.label]
            if term.weight_column:
                part = part * (weights or {})[term.weight_column]
            total = part if total is None else total + part
        assert total is not None
        return ObjectiveLosses(total, by_term)

    def with_response_loss(self, loss_type: str, label_smoothing: float = 0.0) -> Objective:
        """Returns the objective with another loss on the terms that rank responses under one image.

        Raises ValueError where no such term exists, or where one has a loss of its own: an option would be ignored
        silently.
        """
        if loss_type == "sigmoid" and not label_smoothing:
            return self
        changed: list[Term] = []
        for term in self.terms:
            if isinstance(term, Rank) and len({cell.image for cell in term.order}) == 1:
                if (term.loss_type, term.label_smoothing) != ("sigmoid", 0):
                    raise ValueError(
                        f"the term {term.label} has a loss_type or label_smoothing of its own, and the run sets them "
                        "too; remove one of the two"
                    )
                changed.append(dataclasses.replace(term, loss_type=loss_type, label_smoothing=label_smoothing))
            else:
                changed.append(term)
        if tuple(changed) == self.terms:
            raise ValueError("loss_type and label_smoothing change terms that rank responses; this objective has none")
        return Objective(tuple(changed))


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
        return Objective(tuple(_load_preset(text)))
    if not isinstance(spec, list | tuple):
        raise ValueError(f"an objective is a preset's name or a list of terms; got {spec!r}")
    return Objective(tuple(term if isinstance(term, Term) else _build_term(term) for term in spec))


def preset_names() -> tuple[str, ...]:
    """Names that `objective:` takes."""
    return tuple(PRESETS)


def term_names() -> tuple[str, ...]:
    """Names of the terms: the files of `objective/terms`."""
    return tuple(module.name for module in pkgutil.iter_modules(term_files.__path__) if not module.name.startswith("_"))


def _load_preset(name: str) -> Iterable[Term]:
    if ":" in name:
        return build_objective(_load_attribute(name)).terms
    if name not in PRESETS:
        raise ValueError(f"unknown objective {name!r}.{_nearest(name, PRESETS)} Known: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _load_attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot load {name!r} (package.module:NAME): {error}") from error


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
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


def _with_distinct_labels(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    taken = {term.label for term in terms}
    distinct: list[Term] = []
    used: set[str] = set()
    for term in terms:
        label = term.label
        if label in used:
            # A number that no other term has been given by its writer or by an objective it came from.
            label = next(name for n in count(2) if (name := f"{label}_{n}") not in taken | used)
        used.add(label)
        distinct.append(dataclasses.replace(term, label=label))
    return tuple(distinct)


def _nearest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    # Of names equally near, two letters in the wrong order are the likelier slip: mpdo means mdpo, not mfpo.
    found.sort(key=lambda other: sorted(other) != sorted(name))
    return f" Did you mean {found[0]!r}?" if found else ""
