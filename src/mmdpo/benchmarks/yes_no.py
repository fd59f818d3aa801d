"""Questions of yes and no: the outcomes that are counted, their measures, and a rule that several authors use.

An outcome is `true_yes`, `false_yes`, `true_no` or `false_no`: what was said, and whether that is right. Positive is
yes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from mmdpo.benchmarks.definitions import Better, Metric, Sums, Values, divide

OUTCOMES: Final = ("true_yes", "false_yes", "true_no", "false_no")


def _f1(hit: Values, alarm: Values, rejection: Values, miss: Values) -> Values:
    precision, recall = divide(hit, hit + alarm), divide(hit, hit + miss)
    return divide(2 * precision * recall, precision + recall)


MEASURES: Final[Mapping[str, Callable[[Values, Values, Values, Values], Values]]] = {
    "accuracy": lambda hit, alarm, rejection, miss: divide(hit + rejection, hit + alarm + rejection + miss),
    "precision": lambda hit, alarm, rejection, miss: divide(hit, hit + alarm),
    "recall": lambda hit, alarm, rejection, miss: divide(hit, hit + miss),
    "f1": _f1,
    "yes_ratio": lambda hit, alarm, rejection, miss: divide(hit + alarm, hit + alarm + rejection + miss),
}
"""Measure → its value from the counts of `OUTCOMES`, in their order."""


def count_outcome(part: str, said: str, label: str) -> dict[str, float]:
    """Returns the counts of one answer of yes or no."""
    return {f"{part}/n": 1, f"{part}/{'true' if said == label else 'false'}_{said}": 1}


def make_metric(name: str, measure: str, parts: Sequence[str]) -> Metric:
    """Returns a measure of the outcomes of some parts: its mean over them."""

    def compute(sums: Sums) -> Values:
        values = [MEASURES[measure](*(sums[f"{part}/{outcome}"] for outcome in OUTCOMES)) for part in parts]
        mean: Values = np.mean(values, axis=0)
        return mean

    better: Better = "neither" if measure == "yes_ratio" else "higher"
    return Metric(name, compute, tuple(f"{part}/n" for part in parts), better, "share", None)


def find_yes_or_no(answer: str) -> Literal["yes", "no"] | None:
    """Returns "yes" if these letters stand anywhere in an answer, in words or not, else "no" if those do, else None.

    The rule of RePOPE and DASH-B: "Cannot tell" is no, "its eyes are open" yes.
    """
    said = answer.lower()
    return "yes" if "yes" in said else "no" if "no" in said else None
