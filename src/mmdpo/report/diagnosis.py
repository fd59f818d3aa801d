"""The report of a diagnosis, from its files: for the terminal, as Markdown, and as one self-contained page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmdpo.report.runs import RunFolderError

RESULT, EXAMPLES = "diagnosis.json", "examples.jsonl"
MISSING = "–"
TITLES = {"model": "Does the preference depend on the image?", "data": "Does the text alone decide?"}
LONGEST_TEXT = 600
"""Characters of an answer on the page."""
SHOWN_WITHOUT_PICTURES = 6
NAMED_TOGETHER = 5
"""Features that always go together and are named."""
SMALL = 100
"""Pixels across."""


def write_diagnosis(folder: str | Path) -> Path:
    """Writes diagnosis.md and diagnosis.html beside a diagnosis and returns the path of the page.

    Raises RunFolderError for a folder without one.
    """
    folder = Path(folder)
    result, examples = read_diagnosis(folder)
    (folder / "diagnosis.md").write_text(diagnosis_markdown(result), encoding="utf-8")
    page = folder / "diagnosis.html"
    page.write_text(_page(result, examples, folder), encoding="utf-8")
    return page


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
    console.print(Text(_say(result), style="bold"))
    for note in result["notes"]:
        console.print(Text(note, style="yellow"))


def diagnosis_markdown(result: Mapping[str, Any]) -> str:
    """Returns the measures as Markdown."""
    lines = [f"# {TITLES[result['kind']]}", "", _summary(result), "", _say(result), ""]
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


def _say(result: Mapping[str, Any]) -> str:
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


def _summary(result: Mapping[str, Any]) -> str:
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


def _page(result: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], folder: Path) -> str:
    template = Template((files("mmdpo.report") / "diagnosis.html").read_text(encoding="utf-8"))
    show = _model_examples if result["kind"] == "model" else _data_examples
    settings = {**{f"options: {k}": v for k, v in result["options"].items()}, **result["versions"]}
    return template.substitute(
        title=escape(TITLES[result["kind"]]),
        summary=escape(_summary(result)),
        verdict=escape(_say(result)),
        notes="\n".join(f"<li>{escape(note)}</li>" for note in (*result["notes"], *result["left_out"])),
        tables="\n".join(_table_html(heads, rows) for heads, rows in _tables(result)),
        examples="\n".join(show(examples, folder)),
        config="\n".join(
            f"<dt>{escape(key)}</dt><dd><code>{escape(str(value))}</code></dd>" for key, value in settings.items()
        ),
    )


def _table_html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="{escape(heads[0], quote=True)}" tabindex="0">{table}</div>'


def _model_examples(examples: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[str]:
    shown = [example for example in examples if "picture" in example]
    for place, example in enumerate(shown):
        if place == 0:
            yield "<h3>Most image-reliant</h3>"
        if place and example["rank"] != shown[place - 1]["rank"] + 1:
            yield "<h3>Least image-reliant</h3>"
        pictures = _picture(folder / example["picture"], "image")
        if "corrupted_picture" in example:
            pictures += _picture(folder / example["corrupted_picture"], "corrupted")
        margins = " · ".join(f"{name} {_number(value, '+')}" for name, value in example["margins"].items())
        gains = " · ".join(f"{name} {_number(value, '+')}" for name, value in example["gains"].items())
        facts = {
            "prompt": example["prompt"],
            "chosen": example["chosen"],
            "rejected": example["rejected"],
            "margin": margins,
            "log π with image − without": gains,
        }
        yield _article(f"{example['rank']}. {example['id']}", facts, pictures)


def _data_examples(examples: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[str]:
    ends = (
        ("Pairs that the text gets wrong, or cannot decide", examples[:SHOWN_WITHOUT_PICTURES]),
        ("Pairs that the text gives away", examples[SHOWN_WITHOUT_PICTURES:][-SHOWN_WITHOUT_PICTURES:][::-1]),
    )
    for title, some in ends:
        if some:
            yield f"<h3>{escape(title)}</h3>"
        for example in some:
            facts = {key: example[key] for key in ("prompt", "chosen", "rejected")}
            yield _article(f"{example['id']}: score {_number(example['score'], '+')}", facts, "")


def _article(title: str, facts: Mapping[str, str], pictures: str) -> str:
    def cut(text: str) -> str:
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"

    listed = "\n".join(f"<dt>{escape(key)}</dt><dd>{escape(cut(value))}</dd>" for key, value in facts.items())
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return (
        f'<article class="scene"><h4>{escape(title)}</h4>\n'
        f'<div class="sides">{shown}<dl class="pairs">\n{listed}\n</dl></div></article>'
    )


def _picture(path: Path, caption: str) -> str:
    try:
        picture = path.read_bytes()
    except OSError:
        return f"<figure><figcaption>{escape(caption)}: the picture is gone</figcaption></figure>"
    content, width = base64.b64encode(picture).decode("ascii"), int.from_bytes(picture[16:20], "big")  # of a PNG
    look = ' class="small"' if width < SMALL else ""  # few pixels are to be seen as pixels
    return (
        f'<figure><img{look} src="data:image/png;base64,{content}" alt="{escape(caption, quote=True)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
