"""The results.json of a study: its tables for the terminal, as Markdown and CSV, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from mmdpo.files import clean, write_text
from mmdpo.report.figures import GREY, name_rows, shorten, write_figure
from mmdpo.report.folders import RESULTS
from mmdpo.report.shape import NUMBER, read_result
from mmdpo.tables import ARROWS, MISSING, NO_BREAK, Table, show_ends, show_interval, show_number

Summary: TypeAlias = Mapping[str, Any]
"""Mean, std, low, high, n and by_seed of one measure of one variant; of a difference p and q too."""

MARK = "†"
"""Stands after a difference that stays clear where the number of comparisons is allowed for."""
MOST_FALSE = 0.05
"""The share of false ones among the differences that bear the mark, as expected."""
MOST_DIGITS = 9
_SUMMARIES = {str: {str: {"mean": NUMBER, "std": NUMBER, "low": NUMBER, "high": NUMBER, "q": NUMBER}}}
_SHAPE = {
    "study": str,
    "about": str,
    "command": str,
    "seeds": [float],
    "baseline": str,
    "variants": {str: str},
    "measures": {str: {"label": str, "unit": str, "better": str, "digits": float}},
    "values": _SUMMARIES,
    "differences": _SUMMARIES,
    "missing": [{"variant": str, "seed": float, "error": str}],
    "statistics": str,
    "notes": [str],
    "versions": {str: str},
    "trial_seconds": float,
}
_NEEDED = ("study", "seeds", "baseline", "variants", "measures", "values", "differences", "missing")
_OPTIONAL = {"about": "", "command": "", "notes": (), "versions": {}, "statistics": "", "trial_seconds": 0.0}

CELL = 14
"""Characters of a column in the terminal."""
BLUE = "#0969da"
LEFT_OUT = ("time/",)
"""Measures that say nothing of what was learnt, which the picture leaves out."""


def read_study_results(folder: str | Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Reads the results.json of a study.

    A value of a wrong type is left out, and named in `problems` where such a list is given. Raises ReportError for a
    file that is missing, or is of something else.
    """
    found: list[str] = [] if problems is None else problems
    fitted = read_result(Path(folder) / RESULTS, _NEEDED, _SHAPE, found, "mmdpo study")
    measures = {}
    for name, measure in fitted["measures"].items():
        is_named = all(key in measure for key in ("label", "unit", "better"))
        if is_named and measure.get("digits") in range(MOST_DIGITS + 1):
            measures[name] = {**measure, "digits": int(measure["digits"])}
        else:
            found.append(f"{RESULTS}: the measure {name} lacks a label, a unit, a direction or digits; it is left out")
    parts = {
        part: {variant: {name: v for name, v in of.items() if name in measures} for variant, of in fitted[part].items()}
        for part in ("values", "differences")
    }
    missing = [{"variant": "", "seed": "", "error": "", **entry} for entry in fitted["missing"]]
    return {**_OPTIONAL, **fitted, "measures": measures, **parts, "missing": missing}


def write_tables(folder: str | Path) -> tuple[Path, Path]:
    """Writes table.md and table.csv beside a study's results.json and returns their paths.

    Raises ReportError for a folder without such a file.
    """
    results = read_study_results(folder)
    markdown, table = Path(folder) / "table.md", Path(folder) / "table.csv"
    write_text(markdown, study_markdown(results))
    write_text(table, study_csv(results))
    return markdown, table


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
    for line in (*results["notes"], *_name_missing(results)):
        console.print(Text(line, style="yellow"))


def study_table(
    results: Mapping[str, Any],
    part: str,
    show: Callable[[Summary, int], str],
    *,
    title: str = "",
    names: Collection[str] | None = None,
    label: Callable[[str], str] = str,
) -> Table:
    """Returns the `values` or the `differences` of a study, as `part` says: a row a variant, a column a measure.

    `show` takes a summary and its decimals; `names` are the measures that are shown, all unless given; `label` says
    what a variant is called.
    """
    measures = {name: m for name, m in results["measures"].items() if names is None or name in names}
    headers = (f"{m['label']} ({m['unit']}){ARROWS.get(m['better'], '')}" for m in measures.values())
    of = {name: results[part].get(name, {}) for name in results["variants"]}
    if part == "differences":
        of = {name: values for name, values in of.items() if name in results[part]}
    rows = (
        (label(variant), *(show(values.get(name, {}), m["digits"]) for name, m in measures.items()))
        for variant, values in of.items()
    )
    records = [{"variant": v, "measure": k, **x} for v, values in results[part].items() for k, x in values.items()]
    return Table(("variant", *headers), tuple(rows), title, tuple(records))


def study_markdown(results: Mapping[str, Any]) -> str:
    """Returns the page of a study's numbers: means, intervals and paired differences, each as a table."""
    parts = [f"# {results['study']}", results["about"], f"`{results['command']}`"]
    parts += [study_table(results, "values", show_spread).markdown().rstrip(), explain_spread(results)]
    parts += [f"## Difference to {results['baseline']}"]
    parts += [study_table(results, "differences", show_difference).markdown().rstrip(), explain_differences(results)]
    if _have_intervals(results["values"]):
        parts += ["## Intervals of the means", study_table(results, "values", _show_ends).markdown().rstrip()]
    about = [f"- **{name}**: {text}" for name, text in results["variants"].items() if text]
    parts += ["## Variants", "\n".join(about)] if about else []
    notes = [*results["notes"], *_name_missing(results)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n\n".join([*parts, f"{results['trial_seconds']:.0f} s of trials in all. {versions}.\n"])


def study_csv(results: Mapping[str, Any]) -> str:
    """Returns one line for each variant and measure, unrounded; what is missing is an empty field."""
    own, differing = ("mean", "std", "low", "high", "n"), ("mean", "low", "high", "n", "p", "q")
    records = []
    for variant in results["variants"]:
        for name, measure in results["measures"].items():
            value = results["values"].get(variant, {}).get(name, {})
            difference = results["differences"].get(variant, {}).get(name, {})
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
    compared = [value for of in differences.values() for value in of.values() if value.get("q") is not None]
    if compared:
        marked = sum(map(_is_marked, compared))
        said += (
            f" {MARK} stands after the {marked} of {len(compared)} differences (all but those of the start, and of "
            "seconds) that stay clear where their number is allowed for: of those, 5 % are expected to be chance "
            "(Benjamini and Hochberg, on two-sided t-tests)."
        )
    return said


def _have_intervals(of: Mapping[str, Mapping[str, Any]]) -> bool:
    """Returns whether any value of any variant has an interval."""
    return any(value.get("low") is not None for values in of.values() for value in values.values())


def _is_marked(difference: Summary) -> bool:
    """Returns whether a difference stays clear where the number of comparisons is allowed for."""
    q = difference.get("q")
    return q is not None and q <= MOST_FALSE


def show_spread(value: Summary, digits: int) -> str:
    """Returns a mean with its standard deviation, where it has one."""
    mean, std = (show_number(value.get(key), digits) for key in ("mean", "std"))
    return mean if MISSING in (mean, std) else f"{mean}{NO_BREAK}±{NO_BREAK}{std}"


def show_difference(value: Summary, digits: int) -> str:
    """Returns a difference with its interval, where it has one, and the mark, where it stays clear among many."""
    shown = show_interval(value.get("mean"), value.get("low"), value.get("high"), digits, signed=True)
    return shown + (f"{NO_BREAK}{MARK}" if _is_marked(value) else "")


def _show_ends(value: Summary, digits: int) -> str:
    return show_ends(value.get("low"), value.get("high"), digits)


def _name_missing(results: Mapping[str, Any]) -> list[str]:
    return [f"missing: {entry['variant']}, seed {entry['seed']}: {entry['error']}" for entry in results["missing"]]


def draw_study(folder: str | Path) -> Path:
    """Draws picture.png and picture.svg beside a study's results.json and returns the path of the PNG.

    Every seed is a dot; a variant without a value has an empty row, and without an interval its dots alone. Raises
    ReportError as `read_study_results` does.
    """
    return write_figure(partial(_draw, read_study_results(folder)), Path(folder) / "picture.png")


def _draw(results: Mapping[str, Any]) -> Figure:
    names = list(results["variants"])
    measures = {name: measure for name, measure in results["measures"].items() if not name.startswith(LEFT_OUT)}
    across = 4
    rows = max(1, -(-len(measures) // across))
    size = (across * 2.5, rows * (len(names) * 0.24 + 0.85) + 0.45)
    figure = Figure(figsize=size, layout="constrained")
    what, line = shorten(results["study"]), shorten(results["baseline"])
    figure.suptitle(f"{what}: every seed, mean and 95 % interval; the line is {line}", x=0.01, ha="left", size=10)
    for place, (name, measure) in enumerate(measures.items()):
        axes = figure.add_subplot(rows, across, place + 1)
        _draw_measure(axes, measure, [results["values"].get(variant, {}).get(name) for variant in names])
        baseline = results["values"].get(results["baseline"], {}).get(name)
        if baseline is not None and baseline.get("mean") is not None:
            axes.axvline(baseline["mean"], color=GREY, linewidth=0.8, alpha=0.6, zorder=0)
        name_rows(axes, names if place % across == 0 else [""] * len(names))
    return figure


def _draw_measure(axes: Any, measure: Mapping[str, Any], values: Sequence[Mapping[str, Any] | None]) -> None:
    for height, value in enumerate(values):
        if value is None or value["mean"] is None:
            continue
        seeds = list(value["by_seed"].values())
        axes.plot(seeds, [height] * len(seeds), "o", markersize=3, color=GREY, alpha=0.55, markeredgewidth=0)
        if value["low"] is not None:
            axes.plot([value["low"], value["high"]], [height, height], color=BLUE, linewidth=1.5)
        axes.plot(value["mean"], height, "o", markersize=4.5, color=BLUE)
    axes.set_title(f"{shorten(measure['label'])}{ARROWS.get(measure['better'], '')}", loc="left", size=9)
    axes.set_xlabel(shorten(measure["unit"]), size=8)
