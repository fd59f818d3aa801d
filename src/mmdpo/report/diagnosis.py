"""The report of a diagnosis, from its files: for the terminal and as Markdown. Its page is `sections.diagnosis`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdpo.report.runs import RunFolderError

RESULT, EXAMPLES = "diagnosis.json", "examples.jsonl"
MISSING = "–"
TITLES = {"model": "Does the preference depend on the image?", "data": "Does the text alone decide?"}
NAMED_TOGETHER = 5
"""Features that always go together and are named."""


def read_diagnosis(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns diagnosis.json and the examples. Raises RunFolderError where one is missing or damaged."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        path = folder / EXAMPLES
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        return result, [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder}: {error}; give the folder that `mmdpo diagnose` wrote") from error


def print_diagnosis(result: Mapping[str, Any], console: Console) -> None:
    """Prints the measures, and what they say."""
    for heads, rows in _tables(result):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        console.print()
    console.print(Text(say(result), style="bold"))
    for note in result["notes"]:
        console.print(Text(note, style="yellow"))


def diagnosis_markdown(result: Mapping[str, Any]) -> str:
    """Returns the measures as Markdown."""
    lines = [f"# {TITLES[result['kind']]}", "", summarise(result), "", say(result), ""]
    for heads, rows in _tables(result):
        lines += [_row(heads), "| --- |" + " ---: |" * (len(heads) - 1), *(_row(row) for row in rows), ""]
    lines += [f"- {note}" for note in result["notes"]]
    lines += [f"- left out: {line}" for line in result["left_out"]]
    return "\n".join(lines) + "\n"


def _tables(result: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], list[list[str]]]]:
    """Yields heads and rows."""
    if result["kind"] == "model":
        rows = [[f"{m['label']} ({m['unit']})", _number(m["value"]), _interval(m)] for m in result["measures"].values()]
        yield ("measure", "mean", "95 % interval"), rows
        return
    if result["rules"]:
        rules = [[rule["label"], _number(rule["accuracy"]), _interval(rule)] for rule in result["rules"].values()]
        yield ("a rule that reads", "right on % of pairs", "95 % interval"), rules
    if result["features"]:
        features = [
            [_name_feature(f["names"]), _number(f["weight"], "+"), str(f["more_in_chosen"]), str(f["more_in_rejected"])]
            for f in result["features"]
        ]
        yield ("what decides", "weight", "pairs: more in chosen", "more in rejected"), features


def _name_feature(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_TOGETHER])
    return shown if len(names) <= NAMED_TOGETHER else f"{shown} and {len(names) - NAMED_TOGETHER} more"


def say(result: Mapping[str, Any]) -> str:
    """Returns the verdict in a sentence."""
    if result["kind"] == "model":
        return str(result["verdict"]["text"])
    if not result["rules"]:
        return "There are too few pairs to say whether the text alone decides."
    rule = result["rules"]["text"]
    interval = "" if rule["low"] is None else f" [{_interval(rule)}]"
    return (
        f"A rule that reads the text alone is right on {_number(rule['accuracy'])} %{interval} of unseen pairs: "
        "so much of the preference can be learnt without the images."
    )


def summarise(result: Mapping[str, Any]) -> str:
    """Returns what was looked at."""
    options = result["options"]
    said = [f"{result['pairs']} pairs of {options['dataset']}"]
    said += [f"{key} {options[key]}" for key in ("model", "adapter", "reference") if options[key]]
    if "grouped_by" in result:
        said.append(f"tested on a {result['grouped_by']} that training has not seen")
    return " · ".join(said)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None, sign: str = "-") -> str:
    if value is None:
        return MISSING
    text = f"{value:{sign}.2f}" if abs(value) < 10 else f"{value:{sign}.1f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def _interval(measure: Mapping[str, Any]) -> str:
    return MISSING if measure["low"] is None else f"{_number(measure['low'])} … {_number(measure['high'])}"
