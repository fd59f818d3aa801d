"""How pairs are made of answers and verdicts: what `mmdpo pairs build` is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmdpo.pairs.rules import RULES
from mmdpo.registry import name_nearest


class BuildError(ValueError):
    """Pairs that cannot be built: says what is missing and what to do."""


@dataclass(frozen=True)
class BuildPlan:
    """How pairs are made. Raises BuildError for a rule that is none, or a number out of range."""

    rule: str = "clean_near"
    margin: float = 1.0
    """Least margin: wrong claims or points of score, as the rule counts."""
    max_margin: float | None = None
    """Most margin: what is too easy teaches little."""
    per_prompt: int = 1
    per_image: int = 3
    near_duplicate: float = 0.9
    """Share of common pieces from which two answers to a prompt are one."""
    mistakes: str = "drop"
    """Chosen answers with a wrong claim: `drop` them, `weigh` them (column `clean` is 0), or `keep` them."""
    max_ratio: float | None = None
    """How many times as long, at most, the longer answer of a pair is."""
    balance: str = "mean"
    """`mean`: chosen and rejected answers have as many words in the mean; `style`: marks of style too; `none`."""
    combine: str = "both"
    """Several judges: `both` (all agree on a pair, or it is dropped), `first_then` (the later ones judge only answers
    that would be in a pair), `mean` of their scores."""
    eval_share: float = 0.0
    """Share of the images whose pairs are kept apart."""
    seed: int = 0
    round: int = 1
    licence: str = ""
    """Of the images, where their rows do not say it."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BuildError(
                f"there is no rule {self.rule!r}{name_nearest(self.rule, RULES)} There are {', '.join(RULES)}"
            )
        choices = {
            "mistakes": ("drop", "weigh", "keep"),
            "balance": ("mean", "style", "none"),
            "combine": ("both", "first_then", "mean"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise BuildError(f"{name} is {getattr(self, name)!r}; give {', '.join(known)}")
        for name in ("per_prompt", "per_image"):
            if getattr(self, name) < 1:
                raise BuildError(f"{name} is {getattr(self, name)}; give 1 or more")
        if not 0 < self.near_duplicate <= 1:
            raise BuildError(f"near_duplicate is {self.near_duplicate}; give a share above 0 and at most 1")
        if not 0 <= self.eval_share < 1:
            raise BuildError(f"eval_share is {self.eval_share}; give a share from 0 to below 1")
        if self.max_ratio is not None and not self.max_ratio >= 1:
            raise BuildError(f"max_ratio is {self.max_ratio}; give 1 or more")
        if not math.isfinite(self.margin):
            raise BuildError(f"margin is {self.margin}; give a number")
        if self.max_margin is not None and not self.max_margin >= self.margin:
            raise BuildError(f"max_margin is {self.max_margin}; give no less than the margin, {self.margin:g}")
