"""Table 1 of the paper: its columns, the rows for Bunny and LLaVA, and the metrics of this project beside them.

Source: Wang et al., mDPO: Conditional Preference Optimization for Multimodal Large Language Models, EMNLP 2024
(arXiv 2406.11839v2), Table 1. One run each, no intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SOURCE: Final = "Wang et al., mDPO, EMNLP 2024 (arXiv 2406.11839v2), Table 1"


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    header: str
    metrics: tuple[str, ...]
    """The metric of a result that stands there, the first that it has."""
    form: str

    @property
    def benchmark(self) -> str:
        """The benchmark that it belongs to."""
        return self.metrics[0].partition("/")[0]


COLUMNS: Final = (
    Column("MMHal score ↑", ("mmhal/score",), ".2f"),
    Column("MMHal HalRate ↓", ("mmhal/hallucination_rate",), ".2f"),
    Column("ObjHal CHAIRs ↓", ("object_halbench/llm/chair_s", "object_halbench/word/chair_s"), ".1f"),
    Column("ObjHal CHAIRi ↓", ("object_halbench/llm/chair_i", "object_halbench/word/chair_i"), ".1f"),
    Column("AMBER CHAIR ↓", ("amber/chair",), ".1f"),
    Column("AMBER Cover ↑", ("amber/cover",), ".1f"),
    Column("AMBER Hal ↓", ("amber/hal",), ".1f"),
    Column("AMBER Cog ↓", ("amber/cog",), ".1f"),
)

PAPER: Final[dict[str, tuple[float, ...]]] = {
    "Bunny-v1.0-3B": (2.11, 0.58, 43.0, 8.9, 9.8, 75.6, 64.9, 6.0),
    "Bunny-v1.0-3B + DPO": (2.28, 0.56, 44.3, 7.6, 7.9, 74.1, 58.9, 4.8),
    "Bunny-v1.0-3B + mDPO": (2.96, 0.42, 27.0, 4.6, 4.9, 67.4, 37.7, 2.4),
    "LLaVA-v1.5-7B": (2.19, 0.57, 54.7, 15.9, 7.4, 51.8, 34.7, 4.1),
    "LLaVA-v1.5-7B + DPO": (2.14, 0.65, 49.0, 13.0, 6.5, 55.1, 34.5, 2.3),
    "LLaVA-v1.5-7B + mDPO": (2.39, 0.54, 35.7, 9.8, 4.4, 52.4, 24.5, 2.4),
}
"""Row → its figures in the order of COLUMNS."""
