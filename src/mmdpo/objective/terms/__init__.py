"""Loss terms, one file each; the file's name is the term's name in a recipe."""

from mmdpo.objective.terms._term import CellScore, Scores, Term, name_cell, to_cell
from mmdpo.objective.terms.anchor import Anchor
from mmdpo.objective.terms.bco import BCO
from mmdpo.objective.terms.nll import NLL
from mmdpo.objective.terms.rank import Rank

__all__ = ["BCO", "NLL", "Anchor", "CellScore", "Rank", "Scores", "Term", "name_cell", "to_cell"]
