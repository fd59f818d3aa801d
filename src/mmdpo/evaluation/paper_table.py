"""The paper's tables, and rows of one's own in the same columns: what a suite and several suites are printed as.

The paper's figures: Wang et al., mDPO: Conditional Preference Optimization for Multimodal Large Language Models, EMNLP
2024 (arXiv 2406.11839v2). One run each, no intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from mmdpo.benchmarks.evaluate import SUFFIX
from mmdpo.tables import MISSING, NO_BREAK, Table, show_interval

SOURCE: Final = "Wang et al., mDPO, EMNLP 2024 (arXiv 2406.11839v2)"
_NO_JUDGE: Final = "a judge that is not named"


class PaperColumn(NamedTuple):
    """A column of the table: a benchmark's metric, the first of these that a result has, and how it is printed."""

    header: str
    metrics: tuple[str, ...]
    form: str


COLUMNS: Final = (
    PaperColumn("MMHal score ↑", ("mmhal/score",), ".2f"),
    PaperColumn("MMHal HalRate ↓", ("mmhal/hallucination_rate",), ".2f"),
    PaperColumn("ObjHal CHAIRs ↓", ("object_halbench/llm/chair_s", "object_halbench/word/chair_s"), ".1f"),
    PaperColumn("ObjHal CHAIRi ↓", ("object_halbench/llm/chair_i", "object_halbench/word/chair_i"), ".1f"),
    PaperColumn("AMBER CHAIR ↓", ("amber/chair",), ".1f"),
    PaperColumn("AMBER Cover ↑", ("amber/cover",), ".1f"),
    PaperColumn("AMBER Hal ↓", ("amber/hal",), ".1f"),
    PaperColumn("AMBER Cog ↓", ("amber/cog",), ".1f"),
)

PAPER: Final[Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "1": {
        "Bunny-v1.0-3B": (2.11, 0.58, 43.0, 8.9, 9.8, 75.6, 64.9, 6.0),
        "Bunny-v1.0-3B + DPO": (2.28, 0.56, 44.3, 7.6, 7.9, 74.1, 58.9, 4.8),
        "Bunny-v1.0-3B + mDPO": (2.96, 0.42, 27.0, 4.6, 4.9, 67.4, 37.7, 2.4),
        "LLaVA-v1.5-7B": (2.19, 0.57, 54.7, 15.9, 7.4, 51.8, 34.7, 4.1),
        "LLaVA-v1.5-7B + DPO": (2.14, 0.65, 49.0, 13.0, 6.5, 55.1, 34.5, 2.3),
        "LLaVA-v1.5-7B + mDPO": (2.39, 0.54, 35.7, 9.8, 4.4, 52.4, 24.5, 2.4),
    },
    "2": {
        "paper: mDPO": (2.96, 0.42, 27.0, 4.6),
        "paper: without the conditional term": (2.36, 0.53, 40.3, 7.1),
        "paper: without the anchor": (2.50, 0.48, 34.3, 5.7),
        "paper: without both (DPO)": (2.28, 0.56, 44.3, 7.6),
    },
    "3": {
        "paper: another image": (2.81, 0.46, 40.7, 6.6),
        "paper: crop 0–20 %": (2.96, 0.42, 27.0, 4.6),
        "paper: crop 20–50 %": (2.92, 0.42, 33.7, 5.4),
        "paper: MoCo v2": (2.82, 0.44, 32.3, 5.9),
    },
    "4": {
        "paper: y_w": (2.96, 0.42, 27.0, 4.6),
        "paper: y_w, y_l": (2.98, 0.39, 29.3, 5.0),
        "paper: y_w, y_l, m_l": (2.85, 0.40, 34.7, 6.1),
    },
}
"""Number of a table → row → its figures in the order of COLUMNS. Tables 2 to 4 are of Bunny-v1.0-3B."""


@dataclass(frozen=True)
class TableValue:
    """One figure of a run: as the official scorer prints it, with its 95 % interval."""

    metric: str
    value: float
    low: float | None
    high: float | None


def find_cells(results: Mapping[str, Mapping[str, Any]]) -> dict[str, TableValue | None]:
    """Returns the figure of each column; `results` are contents of result.json by benchmark."""
    cells: dict[str, TableValue | None] = {}
    for column in COLUMNS:
        metrics = results.get(column.metrics[0].partition("/")[0], {}).get("metrics", {})
        name = next((name for name in column.metrics if name in metrics), "")
        value, low, high = (metrics.get(name, {}).get(key) for key in ("value", "low", "high"))
        cells[column.header] = None if value is None else TableValue(name, value, low, high)
    return cells


def build_paper_table(
    runs: Mapping[str, Mapping[str, TableValue | None]],
    *,
    number: str = "1",
    is_narrow: bool = False,
    paper_last: bool = False,
) -> Table:
    """Returns the rows of one of the paper's tables and then the runs', in the columns that this table has.

    With `paper_last` the runs' rows stand first.

    A narrow one has intervals below values, for terminals of 80 columns.
    """
    paper = PAPER[number]
    columns = COLUMNS[: len(next(iter(paper.values())))]
    given: dict[str, list[TableValue | None]] = {
        label: [TableValue("", value, None, None) for value in values] for label, values in paper.items()
    }
    own = {label: [cells[column.header] for column in columns] for label, cells in runs.items()}
    rows, records = [], []
    for label, cells in (*own.items(), *given.items()) if paper_last else (*given.items(), *own.items()):
        pairs = list(zip(columns, cells, strict=True))
        figures = {
            f"{column.header[:-2]}{end}": None if cell is None else getattr(cell, name)
            for column, cell in pairs
            for end, name in (("", "value"), (" low", "low"), (" high", "high"))
        }
        records.append({"row": label, **figures})
        shown = [
            MISSING if cell is None else show_interval(cell.value, cell.low, cell.high, column.form)
            for column, cell in pairs
        ]
        if is_narrow:
            label = f"  + {label.partition(' + ')[2]}" if label in paper and " + " in label else label
            shown = [text.replace(" [", "\n").replace(f"{NO_BREAK}…{NO_BREAK}", "…\n").rstrip("]") for text in shown]
        rows.append((label, *shown))
    return Table(("", *(column.header for column in columns)), tuple(rows), records=tuple(records))


def explain(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields what a reader of a row should know: which judge and which tools; `results` as in `find_cells`."""
    yield (
        f"The paper's rows: {SOURCE}; one run each, without intervals. Intervals here: 95 %, bootstrap over images, or "
        "over groups of questions that count together."
    )
    for name, result in results.items():
        if result["partial"]:
            yield f"{name} is partial: {'; '.join(result['partial_because'])}"
        if data := result["made_by"].get("data"):
            yield f"{name} stands on {data}."
        if suffix := result["made_by"].get(SUFFIX):
            yield f"{name} was asked with {suffix} after its questions."
    if "mmhal" in results:
        yield from _explain_mmhal(results["mmhal"])
    if "object_halbench" in results:
        yield from _explain_object_halbench(results["object_halbench"])
    if "amber" in results:
        used = results["amber"]["made_by"]
        yield (
            f"AMBER by {used.get('linguistics', 'no language tool')}; similar words by "
            f"{used.get('similarity', 'nothing')}. The official scorer uses NLTK and en_core_web_lg."
        )


def _explain_mmhal(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"MMHal-Bench was rated by {result['made_by'].get('judge', _NO_JUDGE)} with this project's "
        "own prompt; the paper's judge was GPT-4 with the official one. Another judge is another scale."
    )
    score = result["metrics"].get("mmhal/score", {})
    if score.get("visible_difference") is not None:
        yield (
            f"MMHal-Bench's {score['n']} questions tell two runs apart that differ by "
            f"{score['visible_difference']:.2f} or more; smaller differences in the table may be chance."
        )


def _explain_object_halbench(result: Mapping[str, Any]) -> Iterator[str]:
    metrics, judge = result["metrics"], result["made_by"].get("judge", _NO_JUDGE)
    mode = "llm" if "object_halbench/llm/chair_s" in metrics else "word"
    how = f"LLM mode, objects listed by {judge}" if mode == "llm" else "word mode, without a language model"
    refined = _value(result, f"object_halbench/{mode}/chair_s_refine", ".1f")
    yield (
        f"Object HalBench in {how}. Published tables mix the modes, and the paper does not say which its rows are in. "
        f"Over answers that name an object at all CHAIRs is {refined}."
    )


def _value(result: Mapping[str, Any], metric: str, form: str) -> str:
    value = result["metrics"].get(metric, {}).get("value")
    return MISSING if value is None else format(value, form)
