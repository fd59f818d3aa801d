"""The report of a diagnosis, from its files: for the terminal and as Markdown. Its page is `sections.diagnosis`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdpo.files import clean, read_json, read_rows
from mmdpo.report.runs import RunFolderError
from mmdpo.report.shape import fit
from mmdpo.tables import show_number

_NUMBER = (float, None)
_MEASURE = {"label": str, "unit": str, "value": _NUMBER, "accuracy": _NUMBER, "low": _NUMBER, "high": _NUMBER}
RESULT_SHAPE = {
    "kind": str,
    "pairs": float,
    "measures": {str: _MEASURE},
    "verdict": {"text": str},
    "rules": {str: _MEASURE},
    "features": [{"names": [str], "weight": float, "more_in_chosen": float, "more_in_rejected": float}],
    "notes": [str],
    "left_out": [str],
    "options": dict,
    "versions": {str: str},
}
_OPTIONAL: Mapping[str, Any] = {
    "notes": (),
    "left_out": (),
    "measures": {},
    "rules": {},
    "features": (),
    "versions": {},
}
CHANCE = 50
"""Per cent of pairs that a rule which knows nothing gets right."""
DIGITS = {"%": 1, "points": 1}
"""Decimals that are shown, by unit; 2 for any other."""
RESULT, EXAMPLES = "diagnosis.json", "examples.jsonl"
MISSING = "–"
TITLES = {"model": "Does the preference depend on the image?", "data": "Does the text alone decide?"}
RATE = {"unit": "%"}
"""What the share of pairs that a rule gets right is measured in."""
NAMED_TOGETHER = 5
"""Features that always go together and are named."""


def read_diagnosis(folder: Path, problems: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns diagnosis.json and the examples; what is of a wrong type is left out, and named in `problems`.

    Raises RunFolderError where diagnosis.json is missing or damaged, or says nothing.
    """
    try:
        result = fit(read_json(folder / RESULT), RESULT_SHAPE, RESULT, problems)
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder}: {error}; give the folder that `mmdpo diagnose` wrote") from error
    for key in ("kind", "pairs", "options"):
        if key not in result:
            raise RunFolderError(f"{folder / RESULT}: the key {key!r} is missing; is it a diagnosis?")
    if result["kind"] not in TITLES:
        raise RunFolderError(f"{folder / RESULT}: a diagnosis of kind {result['kind']!r} is not known")
    return {**_OPTIONAL, **result}, _read_pairs(folder / EXAMPLES, problems)


def _read_pairs(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        pairs = list(read_rows(path))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} is not read: {error}")
        return []
    found: list[dict[str, Any]] = fit(pairs, [dict], path.name, problems)
    return found


def print_diagnosis(result: Mapping[str, Any], console: Console) -> None:
    """Prints the measures, and what they say."""
    result = clean(result)
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
        rows = [
            [f"{m['label']} ({m['unit']})", show(m.get("value"), m), show_ends(m)] for m in result["measures"].values()
        ]
        yield ("measure", "mean", "95 % interval"), rows
        return
    if result["rules"]:
        found = [{**rule, **RATE} for rule in result["rules"].values()]
        rules = [[rule["label"], show(rule.get("accuracy"), rule), show_ends(rule)] for rule in found]
        yield ("a rule that reads", "right on % of pairs", "95 % interval"), rules
    if result["features"]:
        features = [
            [
                _name_feature(f["names"]),
                show_number(f["weight"], 2, signed=True),
                str(f["more_in_chosen"]),
                str(f["more_in_rejected"]),
            ]
            for f in result["features"]
        ]
        yield ("what decides", "weight", "pairs: more in chosen", "more in rejected"), features


def _name_feature(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_TOGETHER])
    return shown if len(names) <= NAMED_TOGETHER else f"{shown} and {len(names) - NAMED_TOGETHER} more"


def say(result: Mapping[str, Any]) -> str:
    """Returns the verdict in sentences; none claims what its interval does not leave out."""
    if result["kind"] == "model":
        return str(result.get("verdict", {}).get("text", ""))
    rule = result["rules"].get("text")
    if rule is None:
        return "There are too few pairs to say whether the text alone decides."
    low, high = rule.get("low"), rule.get("high")
    interval = "" if low is None or high is None else f" [{show_ends({**rule, **RATE})}]"
    right = f"{show(rule.get('accuracy'), RATE)} %{interval}"
    found = f"A rule that reads the text alone is right on {right} of unseen pairs"
    if not interval:
        return f"{found}. Whether the text alone decides cannot be told: there are too few pairs for an interval."
    if low <= CHANCE <= high:
        return f"{found}. Whether it does better than chance, {CHANCE} %, cannot be told."
    if high < CHANCE:
        return f"{found}, less than chance: what it learnt on some pairs is wrong on others."
    return f"{found}: so much of the preference can be learnt without the images."


def summarise(result: Mapping[str, Any]) -> str:
    """Returns what was looked at."""
    options = result["options"]
    said = [f"{result['pairs']} pairs of {options.get('dataset', MISSING)}"]
    said += [f"{key} {options[key]}" for key in ("model", "adapter", "reference") if options.get(key)]
    if "grouped_by" in result:
        said.append(f"tested on a {result['grouped_by']} that training has not seen")
    return " · ".join(said)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def show(value: Any, measure: Mapping[str, Any]) -> str:
    """Returns a number in the digits of a measure's unit."""
    return show_number(value, digits_of(measure))


def digits_of(measure: Mapping[str, Any]) -> int:
    """Returns the decimals that a measure is shown with."""
    return DIGITS.get(str(measure.get("unit")), 2)


def show_ends(measure: Mapping[str, Any]) -> str:
    """Returns both ends of a measure's interval, a dash where it has none."""
    low, high = measure.get("low"), measure.get("high")
    return MISSING if low is None or high is None else f"{show(low, measure)} … {show(high, measure)}"
