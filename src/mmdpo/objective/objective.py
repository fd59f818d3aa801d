"""An objective: a weighted sum of terms over cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmdpo.objective.losses import Beta
from mmdpo.objective.terms import Rank, Scores, Term
from mmdpo.records import Cell, Comparisons


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
    needs_rejected_images: bool = False
    """Whether every row has to bring the corrupted images itself (`rejected_images`)."""
    corrupts_equal_answers_only: bool = False
    """Whether only rows that compare one answer with itself are seen under a corrupted image."""

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an objective needs at least one term")
        for term in self.terms:
            if wrong := [cell for cell in term.cells if not isinstance(cell, Cell)]:
                raise ValueError(
                    f"the cells of the term {term.label or type(term).__name__} have to be Cell(image, response), as "
                    f"Cell('original', 'chosen'); got {wrong[0]!r}"
                )
        if sum(term.tracks_reward for term in self.terms) > 1:
            raise ValueError("an objective takes one term with a running mean (bco) at most")
        object.__setattr__(self, "terms", _with_distinct_labels(self.terms))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that a term reads, once, in the order of first use."""
        return tuple(dict.fromkeys(cell for term in self.terms for cell in term.cells))

    @property
    def comparisons(self) -> Comparisons:
        """Every pair of cells that a term tells apart, once."""
        return tuple(dict.fromkeys(pair for term in self.terms for pair in term.comparisons))

    @property
    def reference_cells(self) -> tuple[Cell, ...]:
        """The cells whose reference log-probability a term reads."""
        return tuple(dict.fromkeys(cell for term in self.terms if term.needs_reference for cell in term.cells))

    @property
    def weight_columns(self) -> tuple[str, ...]:
        """The dataset columns that weigh terms, or multiply β, by example."""
        columns = (column for term in self.terms for column in (term.weight_column, term.beta_column))
        return tuple(dict.fromkeys(column for column in columns if column))

    @property
    def beta_columns(self) -> tuple[str, ...]:
        """Those of them that multiply β."""
        return tuple(dict.fromkeys(term.beta_column for term in self.terms if term.beta_column))

    @property
    def tracking_term(self) -> Term | None:
        """The term whose running mean reward the trainer keeps, if there is one."""
        return next((term for term in self.terms if term.tracks_reward), None)

    def losses(
        self,
        scores: Scores,
        *,
        beta: float,
        weights: Mapping[str, Float[Tensor, "B"]] | None = None,
        delta: Float[Tensor, ""] | float = 0.0,
        has_images: Bool[Tensor, "B"] | None = None,
    ) -> ObjectiveLosses:
        """Returns the losses of a batch: total = Σ_t weight_t · s_t · loss_t, per example.

        `weights` holds s, one tensor per name in `weight_columns`; `delta` is the running mean of `tracking_term`. With
        `has_images`, terms that need an image leave the other examples out.
        """
        by_term: dict[str, Float[Tensor, "B"]] = {}  # labels are distinct
        for term in self.terms:
            moving = {"delta": delta} if term.tracks_reward else {}
            losses = term.losses(scores, self._find_beta(term, beta, weights or {}), **moving)
            batch, shape = next(iter(scores.values())).logprob.shape, getattr(losses, "shape", None)
            if shape != batch:  # a mean, say, which would be broadcast and weigh every example alike
                returned = f"a {type(losses).__name__}" if shape is None else f"a tensor of shape {tuple(shape)}"
                raise ValueError(
                    f"the term {term.label} has to return a loss for each of the {batch[0]} examples, "
                    f"unreduced; it returned {returned}"
                )
            by_term[term.label] = losses
        total: Tensor | None = None
        for term in self.terms:
            part = term.weight * by_term[term.label]
            if term.weight_column:
                part = part * (weights or {})[term.weight_column]
            if has_images is not None and term.needs_image:
                part = torch.where(has_images, part, 0.0)
            total = part if total is None else total + part
        assert total is not None
        return ObjectiveLosses(total, by_term)

    def mean_reward(
        self, scores: Scores, *, beta: float, weights: Mapping[str, Float[Tensor, "B"]] | None = None
    ) -> Float[Tensor, "B"]:
        """Returns what `delta` is the running mean of, per example; there has to be a `tracking_term`."""
        term: Any = self.tracking_term
        values: Float[Tensor, "B"] = term.mean_reward(scores, self._find_beta(term, beta, weights or {}))
        return values

    @staticmethod
    def _find_beta(term: Term, beta: float, weights: Mapping[str, Float[Tensor, "B"]]) -> Beta:
        return beta if term.beta_column is None else term.own_beta(beta) * weights[term.beta_column]

    def with_response_loss(self, loss_type: str, label_smoothing: float = 0.0) -> Objective:
        """Returns the objective with another loss on the terms that rank responses under one image.

        Raises ValueError where no such term exists, or where one has a loss of its own: an option would be ignored
        silently.
        """
        if loss_type == "sigmoid" and not label_smoothing:
            return self
        changed: list[Term] = []
        for term in self.terms:
            if isinstance(term, Rank) and len({cell.image for cell in term.ranked}) == 1:
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
        return dataclasses.replace(self, terms=tuple(changed))


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
