"""The tables of a study, from its results.json: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdpo.report.runs import RESULTS, RunFolderError

Summary: TypeAlias = Mapping[str, Any]
"""Mean, std, low, high, n and by_seed of one measure of one variant."""

MISSING = "–"
_CELL = 14
"""Characters of a column in the terminal."""
ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


def write_tables(folder: str | Path) -> tuple[Path, Path]:
    """Writes table.md and table.csv beside a study's results.json and returns their paths.

    Raises RunFolderError for a folder without such a file.
    """
    results = read_study_results(folder)
    markdown, table = Path(folder) / "table.md", Path(folder) / "table.csv"
    markdown.write_text(study_markdown(results), encoding="utf-8")
    table.write_text(study_csv(results), encoding="utf-8")
    return markdown, table


def read_study_results(folder: str | Path) -> dict[str, Any]:
    """Reads the results.json of a study. Raises RunFolderError for one that is missing, or is of something else."""
    path = Path(folder) / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); give the folder of `mmdpo study`") from error
    for key in ("study", "variants", "measures", "values", "differences", "missing"):
        if not isinstance(results, dict) or key not in results:
            raise RunFolderError(f"{path}: the key {key!r} is missing; give the folder of `mmdpo study`")
    return dict(results)


def print_study(results: Mapping[str, Any], console: Console) -> None:
    """Prints means and spreads, as many measures side by side as the terminal is wide, then what is missing."""
    names, measures = list(results["variants"]), results["measures"]
    first = max(map(len, names)) + 2
    many = max(1, (console.width - first) // (_CELL + 2))
    for start in range(0, len(measures), many):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True, min_width=first)
        shown = list(measures)[start : start + many]
        for name in shown:
            table.add_column(textwrap.fill(_head(measures[name]), _CELL), justify="right", min_width=_CELL)
        for name in names:
            values = results["values"][name]
            table.add_row(name, *(_spread(values.get(m), measures[m]["digits"]) for m in shown))
        console.print(table)
        console.print()
    console.print(Text(_explain_spread(results)))
    for line in (*results["notes"], *_name_missing(results)):
        console.print(Text(line, style="yellow"))


def study_markdown(results: Mapping[str, Any]) -> str:
    """Returns the page of a study's numbers: means, intervals and paired differences, each as a table."""
    measures, variants = results["measures"], list(results["variants"])
    others = [name for name in variants if name in results["differences"]]
    lines = [f"# {results['study']}", "", results["about"], "", f"`{results['command']}`", ""]
    lines += _markdown(measures, variants, lambda v, m: _spread(results["values"][v].get(m), measures[m]["digits"]))
    lines += ["", _explain_spread(results), "", f"## Difference to {results['baseline']}", ""]
    lines += _markdown(measures, others, lambda v, m: _difference(results["differences"][v].get(m), measures[m]))
    lines += [
        "",
        f"Mean difference and its 95 % interval: {results['statistics']}.",
        "",
        "## Intervals of the means",
        "",
    ]
    lines += _markdown(measures, variants, lambda v, m: _interval(results["values"][v].get(m), measures[m]))
    about = [f"- **{name}**: {text}" for name, text in results["variants"].items() if text]
    lines += ["", "## Variants", "", *about] if about else []
    notes = [*results["notes"], *_name_missing(results)]
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines += ["", f"{results['trial_seconds']:.0f} s of trials in all. {versions}."]
    return "\n".join(lines) + "\n"


def study_csv(results: Mapping[str, Any]) -> str:
    """Returns one line for each variant and measure, unrounded; what is missing is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own, differing = ("mean", "std", "low", "high", "n"), ("mean", "low", "high", "n")
    writer.writerow(["variant", "measure", "unit", *own, *(f"difference_{name}" for name in differing)])
    for variant in results["variants"]:
        for name, measure in results["measures"].items():
            value = results["values"][variant].get(name, {})
            difference = results["differences"].get(variant, {}).get(name, {})
            numbers = [*(value.get(key) for key in own), *(difference.get(key) for key in differing)]
            writer.writerow([variant, name, measure["unit"], *numbers])
    return text.getvalue()


def _markdown(measures: Mapping[str, Any], variants: Sequence[str], show: Any) -> Iterator[str]:
    yield "| variant | " + " | ".join(_head(measure) for measure in measures.values()) + " |"
    yield "| --- |" + " ---: |" * len(measures)
    for variant in variants:
        yield f"| {variant} | " + " | ".join(show(variant, name) for name in measures) + " |"


def _head(measure: Mapping[str, Any]) -> str:
    return f"{measure['label']} ({measure['unit']}){ARROWS[measure['better']]}"


def _explain_spread(results: Mapping[str, Any]) -> str:
    return f"Mean ± standard deviation over the seeds {', '.join(map(str, results['seeds']))}."


def _spread(value: Summary | None, digits: int) -> str:
    if value is None or value["mean"] is None:
        return MISSING
    return _number(value["mean"], digits) + ("" if value["std"] is None else f" ± {_number(value['std'], digits)}")


def _interval(value: Summary | None, measure: Mapping[str, Any]) -> str:
    if value is None or value["low"] is None:
        return MISSING
    return f"{_number(value['low'], measure['digits'])} … {_number(value['high'], measure['digits'])}"


def _difference(value: Summary | None, measure: Mapping[str, Any]) -> str:
    if value is None or value["mean"] is None:
        return MISSING
    interval = "" if value["low"] is None else f" [{_interval(value, measure)}]"
    return _number(value["mean"], measure["digits"], sign="+") + interval


def _number(value: float, digits: int, sign: str = "-") -> str:
    """Returns a rounded number with a true minus sign; one that rounds to nothing has no sign."""
    text = f"{value:{sign}.{digits}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def _name_missing(results: Mapping[str, Any]) -> list[str]:
    return [f"missing: {entry['variant']}, seed {entry['seed']}: {entry['error']}" for entry in results["missing"]]
