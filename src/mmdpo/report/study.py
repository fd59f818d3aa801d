"""The results of `mmdpo study`: its tables for the terminal, as Markdown and CSV, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from mmdpo.files import clean, write_text
from mmdpo.report import reading
from mmdpo.report.figures import GREY, name_rows, shorten, write_figure
from mmdpo.report.reading import RESULTS
from mmdpo.tables import ARROWS, MISSING, NO_BREAK, Table, show_ends, show_interval, show_number

Summary: TypeAlias = Mapping[str, Any]
"""Mean, std, low, high, n and by_seed of one measure of one variant; of a difference p, holm and wide ends too."""
Show: TypeAlias = Callable[[Summary, int], str]
"""A summary and its decimals → what a table shows."""

MARK = "†"
"""Stands after a difference that stays clear where the number of comparisons is allowed for."""
MOST_FALSE = 0.05
"""The probability that even one of the differences that bear the mark is chance, at most."""
_NUMBERS = ("mean", "std", "low", "high", "p", "holm", "wide_low", "wide_high")
_SUMMARIES = {str: {str: dict.fromkeys(_NUMBERS, float) | {"by_seed": {str: float}}}}
_SHAPE = {
    **dict.fromkeys(("study", "about", "command", "baseline", "statistics"), str),
    "seeds": [float],
    "variants": {str: str},
    "measures": {str: {"label": str, "unit": str, "better": str, "digits": float}},
    "values": _SUMMARIES,
    "differences": _SUMMARIES,
    "missing": [{"variant": str, "seed": float, "error": str}],
    "notes": [str],
    "versions": {str: str},
    "trial_seconds": float,
}
_NEEDED = ("study", "seeds", "baseline", "variants", "measures", "values", "differences", "missing")

CELL = 14
"""Characters of a column in the terminal."""
BLUE = "#0969da"
ACROSS = 4
"""Panels side by side in the picture."""
TITLE = 28
"""Characters that fit over a panel."""
MOST_ROWS = 512
"""Variants times measures in the picture: a study of many variants shows its first measures there."""


def read_study_results(folder: str | Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Reads the results.json of a study.

    A value of a wrong type is left out, and named in `problems` where such a list is given. Raises ReportError for a
    file that is missing, or is of something else.
    """
    found: list[str] = [] if problems is None else problems
    fitted = reading.read_result(Path(folder) / RESULTS, _NEEDED, _SHAPE, found, "mmdpo study")
    measures = {}
    for name, measure in fitted["measures"].items():
        if measure["label"] and measure["better"] and measure["digits"] in range(10):
            measures[name] = {**measure, "digits": int(measure["digits"])}
        else:
            found.append(f"{RESULTS}: the measure {name} lacks a label, a direction or digits; it is left out")
    parts = {
        part: {variant: {name: v for name, v in of.items() if name in measures} for variant, of in fitted[part].items()}
        for part in ("values", "differences")
    }
    return {**fitted, "measures": measures, **parts, "trial_seconds": fitted["trial_seconds"] or 0.0}


def write_study_files(folder: str | Path) -> tuple[Path, ...]:
    """Writes table.md, table.csv and picture.png (and .svg) beside a study's results.json and returns their paths.

    Raises ReportError as `read_study_results` does.
    """
    results, folder = read_study_results(folder), Path(folder)
    markdown, table = folder / "table.md", folder / "table.csv"
    write_text(markdown, study_markdown(results))
    write_text(table, study_csv(results))
    return markdown, table, write_figure(partial(_draw, results), folder / "picture.png")


def print_study(results: Mapping[str, Any], console: Console) -> None:
    """Prints means and spreads, as many measures side by side as the terminal is wide, then what is missing."""
    results = clean(results)
    names = list(results["measures"])
    many = max(1, (console.width - max(map(len, results["variants"])) - 2) // (CELL + 2))
    for start in range(0, len(names), many):
        table = study_table(results, "values", show_spread, names=names[start : start + many])
        console.print(table.terminal(wrap=CELL))
        console.print()
    console.print(Text(explain_spread(results)))
    for line in (*results["notes"], *(f"missing: {line}" for line in name_missing(results))):
        console.print(Text(line, style="yellow"))


def head_measure(measure: Mapping[str, Any]) -> str:
    """Returns the head of a measure's column: its name and unit, and which way is better."""
    unit = f" ({measure['unit']})" if measure["unit"] else ""
    return f"{measure['label']}{unit}{ARROWS.get(measure['better'], '')}"


def study_table(results: Mapping[str, Any], part: str, show: Show, *, names: Collection[str] | None = None) -> Table:
    """Returns the `values` or the `differences` of a study, as `part` says: a row a variant, a column a measure.

    `names` are the measures that are shown, all unless given.
    """
    measures = {name: m for name, m in results["measures"].items() if names is None or name in names}
    headers = map(head_measure, measures.values())
    of = results[part]
    rows = (
        (variant, *(show(of.get(variant, {}).get(name, {}), m["digits"]) for name, m in measures.items()))
        for variant in results["variants"]
        if part == "values" or variant in of
    )
    return Table(("variant", *headers), tuple(rows))


def study_markdown(results: Mapping[str, Any]) -> str:
    """Returns the page of a study's numbers: means, intervals and paired differences, each as a table."""
    parts = [f"# {results['study']}", results["about"], f"`{results['command']}`"]
    parts += [study_table(results, "values", show_spread).markdown().rstrip(), explain_spread(results)]
    parts += [f"## Difference to {results['baseline']}"]
    parts += [study_table(results, "differences", show_difference).markdown().rstrip(), explain_differences(results)]
    wide = wide_table(results)
    if wide is not None:
        parts += ["## Differences where their number is allowed for", replace(wide, title="").markdown().rstrip()]
    if _have_intervals(results["values"]):
        ends = study_table(results, "values", lambda of, digits: show_ends(of.get("low"), of.get("high"), digits))
        parts += ["## Intervals of the means", ends.markdown().rstrip()]
    about = [f"- **{name}**: {text}" for name, text in results["variants"].items() if text]
    parts += ["## Variants", "\n".join(about)] if about else []
    notes = [*results["notes"], *(f"missing: {line}" for line in name_missing(results))]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n\n".join([*parts, f"{results['trial_seconds']:.0f} s of trials in all. {versions}.\n"])


def wide_table(results: Mapping[str, Any], label: Callable[[str], str] = str) -> Table | None:
    """Returns the differences in what claims are made about with Holm's intervals; None where none was compared."""
    names = {name for of in results["differences"].values() for name, value in of.items() if _is_compared(value)}
    if not names:
        return None
    table = study_table(results, "differences", show_wide, names=names)
    rows = tuple((label(variant), *cells) for variant, *cells in table.rows)
    return replace(table, title="Differences where their number is allowed for", rows=rows)


def study_csv(results: Mapping[str, Any]) -> str:
    """Returns one line for each variant and measure, unrounded; what is missing is an empty field."""
    own, differing = ("mean", "std", "low", "high", "n"), ("mean", "low", "high", "n", *_NUMBERS[4:])
    records = []
    for variant in results["variants"]:
        for name, measure in results["measures"].items():
            value, difference = (results[part].get(variant, {}).get(name, {}) for part in ("values", "differences"))
            numbers = {key: value.get(key) for key in own} | {f"difference_{k}": difference.get(k) for k in differing}
            records.append({"variant": variant, "measure": name, "unit": measure["unit"], **numbers})
    return Table((), (), records=tuple(records)).csv()


def explain_spread(results: Mapping[str, Any]) -> str:
    """Says what the values of a study's variants are: of one seed, or means over several."""
    seeds = ", ".join(map(str, results["seeds"]))
    if len(results["seeds"]) == 1:
        return f"Values with the seed {seeds} alone: how much another seed would change is not known."
    return f"Mean ± standard deviation over the seeds {seeds}."


def explain_differences(results: Mapping[str, Any]) -> str:
    """Says what the differences of a study are, and how many of those that look clear would be so by chance."""
    differences = results["differences"]
    if not _have_intervals(differences):
        return "Differences between values of the same seed, without intervals: there are too few seeds for them."
    said = f"Mean difference and its 95 % interval: {results['statistics']}."
    compared = [of["holm"] for by_measure in differences.values() for of in by_measure.values() if _is_compared(of)]
    if compared:
        said += (
            f" {MARK} stands after the {sum(p <= MOST_FALSE for p in compared)} of {len(compared)} differences in what "
            "claims are made about that stay clear where their number is allowed for: the probability that even one "
            "of them is chance is at most 5 % (Holm, on two-sided t-tests). Their wider intervals stand below."
        )
    return said


def _have_intervals(of: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(value.get("low") is not None for values in of.values() for value in values.values())


def show_spread(value: Summary, digits: int) -> str:
    """Returns a mean with its standard deviation, where it has one."""
    mean, std = (show_number(value.get(key), digits) for key in ("mean", "std"))
    return mean if MISSING in (mean, std) else f"{mean}{NO_BREAK}±{NO_BREAK}{std}"


def show_difference(value: Summary, digits: int) -> str:
    """Returns a difference with its interval, where it has one, and the mark, where it stays clear among many."""
    shown = show_interval(value.get("mean"), value.get("low"), value.get("high"), digits, signed=True)
    return f"{shown}{NO_BREAK}{MARK}" if is_clear_among_many(value) else shown


def is_clear_among_many(value: Summary) -> bool:
    """Says whether a difference stays clear where the number of comparisons is allowed for."""
    return _is_compared(value) and value["holm"] <= MOST_FALSE


def show_wide(value: Summary, digits: int) -> str:
    """Returns a difference with the interval that allows for the number of comparisons, where it is one of them."""
    if not _is_compared(value):
        return MISSING
    return show_interval(value.get("mean"), value.get("wide_low"), value.get("wide_high"), digits, signed=True)


def _is_compared(value: Summary) -> bool:
    return value.get("holm") is not None


def name_missing(results: Mapping[str, Any]) -> list[str]:
    """Returns which trials have no result, and why."""
    return [f"{of['variant']}, seed {show_number(of['seed'], 0)}: {of['error']}" for of in results["missing"]]


def _draw(results: Mapping[str, Any]) -> Figure:
    """Draws every seed as a dot, means, and intervals where there are any; seconds say nothing of what was learnt."""
    names = list(results["variants"])
    measures = {name: measure for name, measure in results["measures"].items() if not name.startswith("time/")}
    shown = max(ACROSS, MOST_ROWS // max(1, len(names)) // ACROSS * ACROSS)
    measures = dict(list(measures.items())[:shown])
    rows = max(1, -(-len(measures) // ACROSS))
    size = (ACROSS * 2.5, rows * (len(names) * 0.24 + 0.85) + 0.45)
    figure = Figure(figsize=size, layout="constrained" if measures else None)  # of no panel it warns
    what, line = shorten(results["study"]), shorten(results["baseline"])
    found = "every seed, mean and 95 % interval" if _have_intervals(results["values"]) else "every seed and mean"
    found = found if len(results["seeds"]) > 1 else f"seed {show_number(results['seeds'][0], 0)}"
    figure.suptitle(f"{what}: {found}; the line is {line}", x=0.01, ha="left", size=10)
    for place, (name, measure) in enumerate(measures.items()):
        axes: Any = figure.add_subplot(rows, ACROSS, place + 1)
        for height, variant in enumerate(names):
            value = results["values"].get(variant, {}).get(name)
            if value is None or value["mean"] is None:
                continue
            seeds = list(value["by_seed"].values())
            axes.plot(seeds, [height] * len(seeds), "o", markersize=3, color=GREY, alpha=0.55, markeredgewidth=0)
            if value["low"] is not None:
                axes.plot([value["low"], value["high"]], [height, height], color=BLUE, linewidth=1.5)
            axes.plot(value["mean"], height, "o", markersize=4.5, color=BLUE)
        title = f"{shorten(measure['label'])}{ARROWS.get(measure['better'], '')}"
        axes.set_title(fill(title, TITLE), loc="left", size=9)
        axes.set_xlabel(shorten(measure["unit"]), size=8)
        baseline = results["values"].get(results["baseline"], {}).get(name, {}).get("mean")
        if baseline is not None:
            axes.axvline(baseline, color=GREY, linewidth=0.8, alpha=0.6, zorder=0)
        name_rows(axes, names if place % ACROSS == 0 else [""] * len(names))
    return figure
