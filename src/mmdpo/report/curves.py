"""What is plotted of a run: the trainers' logs sorted into panels of lines, without any drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmdpo.report.wording import variant_label

History: TypeAlias = Sequence[Mapping[str, Any]]
"""A trainer's `log_history`: one record per logged step, and summaries with other keys."""

VARIANT_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#7f7f7f")
"""From the palette of Okabe and Ito. Like the next, each stands out by 3 : 1 from a white page and from a dark one."""
PART_COLOURS = ("#7f7f7f", "#a6761d", "#7570b3", "#e7298a", "#1b9e77")
"""For the terms and the cells inside one variant: other hues, so that none is taken for a variant."""
DASHES = ("-", "--", "-.", ":", (0, (1, 3)))
"""So that colour is not the only cue."""

COMPARED = {
    "rewards/margins": ("Response margin", "reward, chosen − rejected"),
    "rewards/image_margins": ("Image margin", "reward, original − corrupted"),
    "logps/chosen": ("Chosen answer", "log-probability, nats"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
"""Metrics of which one panel shows all variants: title and unit."""
CELL_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/corrupted")


@dataclass(frozen=True)
class Line:
    """One metric of one variant over the steps where it was logged."""

    label: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    colour: str
    dashes: Any


@dataclass(frozen=True)
class Panel:
    """One small plot."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None
    """Range of the vertical axis where panels have to be comparable."""

    def describe(self) -> str:
        """Says what is plotted and where each line begins and ends, for readers who do not see it."""
        ends = (f"{line.label} from {line.values[0]:.3g} to {line.values[-1]:.3g}" for line in self.lines)
        return f"{self.title} by step: {'; '.join(ends)}"


def curve_panels(histories: Mapping[str, History]) -> list[Panel]:
    """Sorts the logs into panels: metrics that compare variants, then loss terms and rewards of each variant.

    A panel without a line is left out, so a variant that logs fewer metrics just shows in fewer panels.
    """
    compared = [_compare(histories, key, title, unit) for key, (title, unit) in COMPARED.items()]
    losses = [_one_variant(name, log, _loss_keys(log), "loss") for name, log in histories.items()]
    rewards = [_one_variant(name, log, CELL_REWARDS, "reward") for name, log in histories.items()]
    return [panel for panel in (*compared, *losses, *_same_limits(rewards)) if panel.lines]


def _compare(histories: Mapping[str, History], key: str, title: str, unit: str) -> Panel:
    lines = (
        _line(log, key, variant_label(name), place, VARIANT_COLOURS)
        for place, (name, log) in enumerate(histories.items())
    )
    return Panel(title, unit, tuple(line for line in lines if line.steps))


def _one_variant(name: str, log: History, keys: Sequence[str], unit: str) -> Panel:
    lines = (_line(log, key, key.rpartition("/")[2], place, PART_COLOURS) for place, key in enumerate(keys))
    title = f"{variant_label(name)}: {'loss and its terms' if unit == 'loss' else 'rewards'}"
    return Panel(title, unit, tuple(line for line in lines if line.steps))


def _loss_keys(log: History) -> list[str]:
    terms = list(dict.fromkeys(key for record in log for key in record if key.startswith("loss/")))
    # The loss of an objective with one term is that term: drawing both would hide one under the other.
    return ["loss", *terms] if len(terms) != 1 else terms


def _line(log: History, key: str, label: str, place: int, colours: Sequence[str]) -> Line:
    records = [record for record in log if key in record and "step" in record]
    return Line(
        label,
        tuple(float(record["step"]) for record in records),
        tuple(float(record[key]) for record in records),
        colours[place % len(colours)],
        DASHES[place % len(DASHES)],
    )


def _same_limits(panels: Sequence[Panel]) -> list[Panel]:
    values = [value for panel in panels for line in panel.lines for value in line.values if math.isfinite(value)]
    if not values:
        return list(panels)
    low, high = min(values), max(values)
    pad = 0.05 * (high - low) or 0.1
    return [Panel(panel.title, panel.unit, panel.lines, (low - pad, high + pad)) for panel in panels]
