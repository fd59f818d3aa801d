"""What every loss term is: cells, a weight, and one pure method from cell scores to a loss per example."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mmdpo.objective.losses import Beta
from mmdpo.records import CHOSEN, CORRUPTED, ORIGINAL, REJECTED, Cell, Comparisons, compares_images, needs_image


@dataclass(frozen=True)
class CellScore:
    """What the policy and the reference say of one cell of every example of a batch."""

    logprob: Float[Tensor, "B"]
    """log π(y|m,q) in nats: the sum over answer tokens, end of answer included. Carries the gradient."""
    tokens: Int[Tensor, "B"]
    """Number of answer tokens."""
    ref_logprob: Float[Tensor, "B"] | None = None
    """log π_ref(y|m,q) in nats; None where no term asks for it."""

    @property
    def logratio(self) -> Float[Tensor, "B"]:
        """log π − log π_ref, in nats; no gradient reaches the reference."""
        if self.ref_logprob is None:
            raise ValueError("this cell has no reference log-probability; its term must set `needs_reference`")
        return self.logprob - self.ref_logprob.detach()


Scores = Mapping[Cell, CellScore]


def to_cell(value: Cell | Iterable[str]) -> Cell:
    """Returns `[image, response]`, written as a pair of names, as a Cell.

    `corrupted:NAME` is the image that the corruption NAME makes, as NAME alone is.
    """
    parts = (value,) if isinstance(value, str) else tuple(value)
    if parts and isinstance(parts[0], str):
        parts = (parts[0].removeprefix(f"{CORRUPTED}:"), *parts[1:])
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"a cell is a pair [image, response] such as [{ORIGINAL}, {CHOSEN}]; got {value!r}")
    return Cell(*parts)


def name_cell(cell: Cell) -> str:
    """Returns the name of a cell in logs: TRL's `chosen` and `rejected`, ours beyond them."""
    known = {
        Cell(ORIGINAL, CHOSEN): "chosen",
        Cell(ORIGINAL, REJECTED): "rejected",
        Cell(CORRUPTED, CHOSEN): "corrupted",
    }
    return known.get(cell, f"{cell.image}_{cell.response}".replace(".", "_").replace(":", "_"))


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """The part that all terms share. A subclass adds its cells, its symbols and `losses`."""

    weight: float = 1.0
    """Factor of the term in the objective."""
    weight_column: str | None = None
    """A numeric column of the dataset that multiplies the term, example by example (s in MMedPO)."""
    beta: float | None = None
    """β of this term; None takes the run's."""
    beta_column: str | None = None
    """A numeric column of the dataset that multiplies β, example by example (DA-DPO)."""
    per_token: bool = False
    """Whether the term reads means over each answer's tokens instead of sums."""
    label: str = ""
    """Name in the logs (`loss/<label>`); derived from the cells unless given."""

    needs_reference: ClassVar[bool] = True
    tracks_reward: ClassVar[bool] = False
    """Whether the term has `mean_reward`, and takes its running mean as `delta` in `losses`."""

    @property
    @abstractmethod
    def cells(self) -> tuple[Cell, ...]:
        """The cells whose log-probabilities the term reads."""

    @property
    def needs_image(self) -> bool:
        """Whether the term says nothing of a row without images: a cell has none there, or two are one."""
        return any(map(needs_image, self.cells)) or any(compares_images(*pair) for pair in self.comparisons)

    @property
    def comparisons(self) -> Comparisons:
        """The pairs of cells that the term tells apart, the preferred one first."""
        return ()

    @abstractmethod
    def losses(self, scores: Scores, beta: Beta) -> Float[Tensor, "B"]:
        """Returns the term's loss per example, unweighted and unreduced.

        `beta` is the run's; one for each example has the term's own β and `beta_column` in it already.
        """

    @property
    def reads_means(self) -> bool:
        """Whether rewards are of means over each answer's tokens instead of sums."""
        return self.per_token

    def own_beta(self, beta: Beta) -> Beta:
        """Returns the term's β: the one of each example, else its own if it has one, else the run's."""
        return beta if self.beta is None or isinstance(beta, Tensor) else self.beta

    def normalise(self, **fields: object) -> None:
        """Replaces fields by their canonical values and checks the symbols; for `__post_init__` alone.

        Raises ValueError for a symbol of the wrong kind here, instead of in the first batch.
        """
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        for field in dataclasses.fields(self):
            _check_symbol(field, getattr(self, field.name), self.label)

    def reward(self, scores: Scores, cell: Cell, beta: Beta) -> Float[Tensor, "B"]:
        """r(m, y) = β · (log π(y|m,q) − log π_ref(y|m,q)), divided by |y|, the answer's tokens, if `reads_means`.

        Sources: DPO (arXiv 2305.18290); per token: the length-normalised DPO of Tülu 3 (2411.15124), after SimPO
        (2405.14734), which has no reference. As a reward then is as much smaller as answers are long, β must be larger.
        """
        score = scores[cell]
        logratio = score.logratio / score.tokens.clamp(min=1) if self.reads_means else score.logratio
        return self.own_beta(beta) * logratio


def _check_symbol(field: dataclasses.Field[Any], value: object, label: str) -> None:
    if field.name == "beta" and value is None:
        return
    if field.name == "beta" or isinstance(field.default, float):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            # YAML reads 1e-2, without a point, as text.
            raise ValueError(f"{field.name} of the term {label} must be a number, such as 0.01; got {value!r}")
        if field.name == "beta" and value <= 0:
            raise ValueError(f"beta of the term {label} must be positive; got {value}")
    elif isinstance(field.default, bool) and not isinstance(value, bool):
        raise ValueError(f"{field.name} of the term {label} must be true or false; got {value!r}")
