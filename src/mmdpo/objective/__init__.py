"""Objectives: terms over cells, and the published ones as lists of terms. Imports torch alone."""

from mmdpo.objective.objective import Objective, ObjectiveLosses
from mmdpo.objective.parse import build_objective, preset_names, term_names
from mmdpo.objective.presets import PRESETS
from mmdpo.objective.terms import BCO, NLL, Anchor, CellScore, Rank, Scores, Term, name_cell

__all__ = [
    "BCO",
    "NLL",
    "PRESETS",
    "Anchor",
    "CellScore",
    "Objective",
    "ObjectiveLosses",
    "Rank",
    "Scores",
    "Term",
    "build_objective",
    "name_cell",
    "preset_names",
    "term_names",
]
