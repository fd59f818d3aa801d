"""How pairs are made of answers and verdicts: what `mmdpo pairs build` is told."""

from __future__ import annotations

from dataclasses import dataclass

from mmdpo.pairs.options import BuildOptions
from mmdpo.pairs.rules import load


class BuildError(ValueError):
    """Pairs that cannot be built: says what is missing and what to do."""


@dataclass(frozen=True, kw_only=True)
class BuildPlan(BuildOptions):
    """How pairs are made. Raises ValueError for a rule that is none, or a number out of range."""

    seed: int = 0
    licence: str = ""
    """Of the images, where their rows do not say it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        load(self.rule)
        if self.max_margin is not None and not self.max_margin >= self.margin:
            raise ValueError(f"max_margin is {self.max_margin}; give no less than the margin, {self.margin:g}")
