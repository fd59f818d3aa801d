"""The tables of a study, from its results.json: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdpo.files import clean, read_json, write_text
from mmdpo.report.runs import RESULTS, RunFolderError
from mmdpo.report.shape import fit
from mmdpo.tables import csv_text

Summary: TypeAlias = Mapping[str, Any]
"""Mean, std, low, high, n and by_seed of one measure of one variant; of a difference p and q too."""

MISSING = "–"
MARK = "†"
"""Stands after a difference that stays clear where the number of comparisons is allowed for."""
MOST_FALSE = 0.05
"""The share of false ones among the differences that bear the mark, as expected."""
_CELL = 14
"""Characters of a column in the terminal."""
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


_NUMBER = (float, None)
_SUMMARIES = {str: {str: {"mean": _NUMBER, "std": _NUMBER, "low": _NUMBER, "high": _NUMBER, "q": _NUMBER}}}
RESULTS_SHAPE = {
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
_OPTIONAL = {"about": "", "command": "", "notes": (), "versions": {}, "statistics": "", "trial_seconds": 0.0}
MOST_DIGITS = 9


def write_tables(folder: str | Path) -> tuple[Path, Path]:
    """Writes table.md and table.csv beside a study's results.json and returns their paths.

    Raises RunFolderError for a folder without such a file.
    """
    results = read_study_results(folder)
    markdown, table = Path(folder) / "table.md", Path(folder) / "table.csv"
    write_text(markdown, study_markdown(results))
    write_text(table, study_csv(results))
    return markdown, table


def read_study_results(folder: str | Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Reads the results.json of a study.

    A value of a wrong type is left out, and named in `problems` where such a list is given. Raises RunFolderError for a
    file that is missing, or is of something else.
    """
    path = Path(folder) / RESULTS
    try:
        results = read_json(path)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); give the folder of `mmdpo study`") from error
    for key in ("study", "seeds", "baseline", "variants", "measures", "values", "differences", "missing"):
        if not isinstance(results, dict) or key not in results:
            raise RunFolderError(f"{path}: the key {key!r} is missing; give the folder of `mmdpo study`")
    found: list[str] = [] if problems is None else problems
    fitted: dict[str, Any] = fit(results, RESULTS_SHAPE, path.name, found)
    usable = {name: measure for name, measure in fitted["measures"].items() if _is_usable(measure)}
    for name in fitted["measures"]:
        if name not in usable:
            found.append(
                f"{path.name}: the measure {name} lacks a label, a unit, a direction or digits; it is left out"
            )
    parts = {key: _only(fitted[key], usable) for key in ("values", "differences")}
    missing = [{"variant": "", "seed": "", "error": "", **entry} for entry in fitted["missing"]]
    return {**_OPTIONAL, **fitted, "measures": usable, **parts, "missing": missing}


def _is_usable(measure: Mapping[str, Any]) -> bool:
    is_named = all(key in measure for key in ("label", "unit", "better"))
    return is_named and measure.get("digits") in range(MOST_DIGITS + 1)


def _only(of: Mapping[str, Mapping[str, Any]], measures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {variant: {name: v for name, v in values.items() if name in measures} for variant, values in of.items()}


def print_study(results: Mapping[str, Any], console: Console) -> None:
    """Prints means and spreads, as many measures side by side as the terminal is wide, then what is missing."""
    results = clean(results)
    names, measures = list(results["variants"]), results["measures"]
    first = max(map(len, names)) + 2
    many = max(1, (console.width - first) // (_CELL + 2))
    for start in range(0, len(measures), many):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True, min_width=first)
        shown = list(measures)[start : start + many]
        for name in shown:
            table.add_column(Text(textwrap.fill(_head(measures[name]), _CELL)), justify="right", min_width=_CELL)
        for name in names:
            values = results["values"].get(name, {})
            table.add_row(Text(name), *(_spread(values.get(m), measures[m]["digits"]) for m in shown))
        console.print(table)
        console.print()
    console.print(Text(explain_spread(results)))
    for line in (*results["notes"], *_name_missing(results)):
        console.print(Text(line, style="yellow"))


def study_markdown(results: Mapping[str, Any]) -> str:
    """Returns the page of a study's numbers: means, intervals and paired differences, each as a table."""
    measures, variants = results["measures"], list(results["variants"])
    others = [name for name in variants if name in results["differences"]]
    values = {name: results["values"].get(name, {}) for name in variants}
    lines = [f"# {results['study']}", "", results["about"], "", f"`{results['command']}`", ""]
    lines += _markdown(measures, variants, lambda v, m: _spread(values[v].get(m), measures[m]["digits"]))
    lines += ["", explain_spread(results), "", f"## Difference to {results['baseline']}", ""]
    lines += _markdown(measures, others, lambda v, m: _difference(results["differences"][v].get(m), measures[m]))
    lines += ["", explain_differences(results)]
    if has_intervals(results["values"]):
        lines += ["", "## Intervals of the means", ""]
        lines += _markdown(measures, variants, lambda v, m: _interval(values[v].get(m), measures[m]))
    about = [f"- **{name}**: {text}" for name, text in results["variants"].items() if text]
    lines += ["", "## Variants", "", *about] if about else []
    notes = [*results["notes"], *_name_missing(results)]
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines += ["", f"{results['trial_seconds']:.0f} s of trials in all. {versions}."]
    return "\n".join(lines) + "\n"


def study_csv(results: Mapping[str, Any]) -> str:
    """Returns one line for each variant and measure, unrounded; what is missing is an empty field."""
    own, differing = ("mean", "std", "low", "high", "n"), ("mean", "low", "high", "n", "p", "q")
    rows = []
    for variant in results["variants"]:
        for name, measure in results["measures"].items():
            value = results["values"].get(variant, {}).get(name, {})
            difference = results["differences"].get(variant, {}).get(name, {})
            numbers = [*(value.get(key) for key in own), *(difference.get(key) for key in differing)]
            rows.append([variant, name, measure["unit"], *numbers])
    return csv_text(["variant", "measure", "unit", *own, *(f"difference_{name}" for name in differing)], rows)


def _markdown(measures: Mapping[str, Any], variants: Sequence[str], show: Any) -> Iterator[str]:
    yield "| variant | " + " | ".join(_head(measure) for measure in measures.values()) + " |"
    yield "| --- |" + " ---: |" * len(measures)
    for variant in variants:
        yield f"| {variant} | " + " | ".join(show(variant, name) for name in measures) + " |"


def _head(measure: Mapping[str, Any]) -> str:
    return f"{measure['label']} ({measure['unit']}){ARROWS.get(measure['better'], '')}"


def explain_spread(results: Mapping[str, Any]) -> str:
    """Says what the values of a study's variants are: of one seed, or means over several."""
    seeds = ", ".join(map(str, results["seeds"]))
    if len(results["seeds"]) == 1:
        return f"Values with the seed {seeds} alone: how much another seed would change is not known."
    return f"Mean ± standard deviation over the seeds {seeds}."


def explain_differences(results: Mapping[str, Any]) -> str:
    """Says what the differences of a study are, and how many of those that look clear would be so by chance."""
    differences = results["differences"]
    if not has_intervals(differences):
        return "Differences between values of the same seed, without intervals: there are too few seeds for them."
    said = f"Mean difference and its 95 % interval: {results['statistics']}."
    compared = [value for of in differences.values() for value in of.values() if value.get("q") is not None]
    if compared:
        marked = sum(map(is_marked, compared))
        said += (
            f" {MARK} stands after the {marked} of {len(compared)} differences (all but those of the start, and of "
            "seconds) that stay clear where their number is allowed for: of those, 5 % are expected to be chance "
            "(Benjamini and Hochberg, on two-sided t-tests)."
        )
    return said


def has_intervals(of: Mapping[str, Mapping[str, Any]]) -> bool:
    """Returns whether any value of any variant has an interval."""
    return any(value.get("low") is not None for values in of.values() for value in values.values())


def is_marked(difference: Summary) -> bool:
    """Returns whether a difference stays clear where the number of comparisons is allowed for."""
    q = difference.get("q")
    return q is not None and q <= MOST_FALSE


def _spread(value: Summary | None, digits: int) -> str:
    if value is None or value.get("mean") is None:
        return MISSING
    return _number(value["mean"], digits) + ("" if value.get("std") is None else f" ± {_number(value['std'], digits)}")


def _interval(value: Summary | None, measure: Mapping[str, Any]) -> str:
    if value is None or value.get("low") is None or value.get("high") is None:
        return MISSING
    return f"{_number(value['low'], measure['digits'])} … {_number(value['high'], measure['digits'])}"


def _difference(value: Summary | None, measure: Mapping[str, Any]) -> str:
    if value is None or value.get("mean") is None:
        return MISSING
    interval = "" if value.get("low") is None else f" [{_interval(value, measure)}]"
    mark = f" {MARK}" if is_marked(value) else ""
    return _number(value["mean"], measure["digits"], sign="+") + interval + mark


def _number(value: float, digits: int, sign: str = "-") -> str:
    """Returns a rounded number with a true minus sign; one that rounds to nothing has no sign."""
    text = f"{value:{sign}.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def _name_missing(results: Mapping[str, Any]) -> list[str]:
    return [f"missing: {entry['variant']}, seed {entry['seed']}: {entry['error']}" for entry in results["missing"]]
