"""The folder of `mmdpo diagnose`: read, and shown in the terminal, as Markdown, and on a page with pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mmdpo.files import clean, clean_text, find_inside, write_text
from mmdpo.report.bars import Bar, draw_bars, say_bars
from mmdpo.report.figures import inline_figure, write_figure
from mmdpo.report.layout import File, Headline, Section, cut, identify, render, render_page, table_files
from mmdpo.report.reading import DIAGNOSIS, Place, ReportError, fit, read_lines, read_result
from mmdpo.report.tokens import SHAPE, ColouredAnswer, colour_answers, list_colours
from mmdpo.tables import MISSING, Table, show_ends, show_number

EXAMPLES, PER_TOKEN = "examples.jsonl", "per_token.jsonl"
_MEASURE = {"label": str, "unit": str, **dict.fromkeys(("value", "accuracy", "low", "high", "n"), float)}
RESULT_SHAPE = {
    "kind": str,
    "pairs": float,
    "measures": {str: _MEASURE},
    "verdict": {"text": str},
    "layers": [dict.fromkeys(("layer", "moved", "standard_deviation", "cosine"), float)],
    "rules": {str: _MEASURE},
    "features": [{"names": [str], "weight": float, "more_in_chosen": float, "more_in_rejected": float}],
    "notes": [str],
    "left_out": [str],
    "options": dict,
    "versions": {str: str},
    "grouped_by": str,
}
CHANCE = 50
"""Per cent of pairs that a rule which knows nothing gets right."""
CHARTED = {
    "model": ("accuracy_", "Pairs whose chosen answer is preferred, %, under"),
    "data": ("", "Unseen pairs on which a rule is right, %, that reads"),
    "conflict": ("accuracy_", "Questions answered right, %"),
    "empty_image": ("refusals_", "Prompts that are refused, %"),
}
"""Kind → how the names of the measures begin that are drawn as bars, and what stands above them."""
ENDS = {
    "model": ("Pairs that need the image most", "Pairs that need the image least"),
    "data": ("Pairs that the text gets wrong", "Pairs that the text gives away"),
}
"""Kind → what either end of the order is."""
TITLES = {
    "model": "Does the preference depend on the image?",
    "data": "Does the text alone decide?",
    "conflict": "Does it answer from the picture as from a text?",
    "empty_image": "What does an empty picture do?",
}
COUNTED = {"conflict": ("questions", "conflict"), "empty_image": ("prompts", "empty_image")}
"""Kind → what was looked at, and the option that names it; pairs of a dataset otherwise."""
NAMED_TOGETHER = 5
"""Features that always go together and are named."""
DEFAULT_NAME = "diagnosis"
"""A folder's name that tells nothing."""
SHOWN_PAIRS, SHOWN_ALONE = 6, 12
"""Pairs in a section among others, and on a page of its own."""
PICTURES = {
    "picture": ("image", "real"),
    "corrupted_picture": ("corrupted", "corrupted"),
    "other_picture": ("another example's", "other"),
}
"""Key of a pair → what its picture is called, and the key of its margin."""
UNDER = {"real": "its own image", "corrupted": "a corrupted one", "other": "another example's", "none": "no image"}
"""Key of a margin → the image in words."""
PLACEHOLDER = "<image>"
"""Stands in a prompt where its image goes, which is shown beside."""
LONGEST_TEXT, LONGEST_TITLE = 600, 90
"""Characters of an answer, and of the prompt in a heading."""


def read_diagnosis(folder: Path, problems: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns diagnosis.json and the examples; what is of a wrong type is left out, and named in `problems`.

    Raises ReportError where diagnosis.json is missing or damaged, or says nothing.
    """
    path = folder / DIAGNOSIS
    result = read_result(path, ("kind", "pairs", "options"), RESULT_SHAPE, problems, "mmdpo diagnose")
    if result["kind"] not in TITLES:
        raise ReportError(f"{path}: a diagnosis of kind {result['kind']!r} is not known")
    return result, list(read_lines(folder / EXAMPLES, problems))


def read_tokens(folder: Path, problems: list[str]) -> dict[float, dict[str, list[ColouredAnswer]]]:
    """Returns the coloured answers of pairs by their rank; none of a folder that was written without."""
    found: dict[float, dict[str, list[ColouredAnswer]]] = {}
    for row in read_lines(folder / PER_TOKEN, problems):
        row = fit(row, SHAPE, PER_TOKEN, problems)
        views = {name: colour_answers(answer) for name, answer in row["answers"].items()}
        if row["rank"] is not None:
            found[row["rank"]] = {name: of for name, of in views.items() if of}
    return found


def print_diagnosis(result: Mapping[str, Any], console: Console) -> None:
    """Prints the measures, and what they say."""
    result = fit(clean(result), RESULT_SHAPE, "", [])
    for table in _tables(result):
        console.print(table.terminal())
        console.print()
    console.print(Text(say(result), style="bold"))
    for note in result["notes"]:
        console.print(Text(note, style="yellow"))


def diagnosis_markdown(result: Mapping[str, Any]) -> str:
    """Returns the measures as Markdown."""
    head = f"# {TITLES[result['kind']]}\n\n{summarise(result)}\n\n{say(result)}\n\n"
    tables = "".join(f"{table.markdown()}\n" for table in _tables(result))
    notes = (*result["notes"], *(f"left out: {line}" for line in result["left_out"]))
    return head + tables + "".join(f"- {note}\n" for note in notes)


def say(result: Mapping[str, Any]) -> str:
    """Returns the verdict in sentences; none claims what its interval does not leave out."""
    if result["kind"] != "data":
        return str(result["verdict"]["text"])
    rule = result["rules"].get("text")
    if rule is None:
        return "There are too few pairs to say whether the text alone decides."
    low, high = rule["low"], rule["high"]
    right, ends = show_number(rule["accuracy"], 1), show_ends(low, high, 1)
    interval = "" if ends == MISSING else f" [{ends}]"
    found = f"A rule that reads the text alone is right on {right} %{interval} of unseen pairs"
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
    noun, option = COUNTED.get(result["kind"], ("pairs", "dataset"))
    said = [f"{show_number(result['pairs'], 0)} {noun} of {options.get(option, MISSING)}"]
    said += [f"{key} {options[key]}" for key in ("model", "adapter", "reference") if options.get(key)]
    if result["grouped_by"]:
        said.append(f"tested on a {result['grouped_by']} that training has not seen")
    return " · ".join(said)


def _tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns the measures of a model, or of data what text-only rules achieve and what decides."""
    is_model, rows, records = result["kind"] != "data", list[tuple[str, ...]](), []
    for key, of in result["measures" if is_model else "rules"].items():
        value, unit = (of["value"], of["unit"]) if is_model else (of["accuracy"], "%")
        digits = 1 if unit in ("%", "points") else 2
        label, ends = f"{of['label']} ({unit})" if is_model else of["label"], show_ends(of["low"], of["high"], digits)
        rows.append((label, show_number(value, digits), ends, show_number(of["n"], ",.0f")))
        known = {name: number for name, number in of.items() if number is not None and (name != "unit" or is_model)}
        records.append({"measure": key, **known, "value": value, "unit": unit})
    head = ("measure", "mean") if is_model else ("a rule that reads", "right on % of pairs")
    tables = [Table((*head, "95 % interval", "n"), tuple(rows), records=tuple(records))] if rows or is_model else []
    if result["layers"]:
        tables.append(_layers(result["layers"]))
    if is_model or not result["features"]:
        return tables
    rows, records = [], []
    for feature in result["features"]:
        names, more = feature["names"], len(feature["names"]) - NAMED_TOGETHER
        shown = ", ".join(names[:NAMED_TOGETHER]) + (f" and {more} more" if more > 0 else "")
        counts = (show_number(feature[count], 0) for count in ("more_in_chosen", "more_in_rejected"))
        rows.append((shown, show_number(feature["weight"], 2, signed=True), *counts))
        records.append({**feature, "names": ", ".join(names)})
    headers = ("what decides", "weight", "pairs: more in chosen", "more in rejected")
    return [*tables, Table(headers, tuple(rows), records=tuple(records))]


def _layers(layers: Sequence[Mapping[str, Any]]) -> Table:
    headers = ("after layer", "moved (% of its length)", "± over prompts", "cosine")
    rows = [
        (
            "embedding" if of["layer"] == 0 else show_number(of["layer"], ",.0f"),
            *(show_number(None if of[key] is None else 100 * of[key], 1) for key in ("moved", "standard_deviation")),
            show_number(of["cosine"], 3),
        )
        for of in layers
    ]
    return Table(headers, tuple(rows), records=tuple(map(dict, layers)))


def write_diagnosis(folder: str | Path) -> Path:
    """Writes diagnosis.md and diagnosis.html beside a diagnosis and returns the path of the page.

    Raises ReportError for a folder without one; what else cannot be used is said on the page.
    """
    folder = Path(folder)
    problems: list[str] = []
    result, pairs = read_diagnosis(folder, problems)
    tokens = read_tokens(folder, problems)
    section = _make_section(Place(folder, clean_text(folder.name)), result, pairs, tokens, SHOWN_ALONE, "Verdict")
    write_text(folder / "diagnosis.md", diagnosis_markdown(result))
    page = folder / "diagnosis.html"
    write_text(page, render_page(TITLES[result["kind"]], summarise(result), [section], problems))
    return page


def diagnosis_section(place: Place, problems: list[str]) -> Section:
    """Returns the section of a diagnosis; raises, and names what cannot be used, as `read_diagnosis` does."""
    result, pairs = read_diagnosis(place.path, problems)
    tokens = read_tokens(place.path, problems)
    title = TITLES[result["kind"]] + ("" if place.label == DEFAULT_NAME else f" ({place.label})")
    return _make_section(place, result, pairs, tokens, SHOWN_PAIRS, title)


def _make_section(
    place: Place,
    result: Mapping[str, Any],
    pairs: Sequence[Mapping[str, Any]],
    tokens: Mapping[float, Mapping[str, Sequence[ColouredAnswer]]],
    most: int,
    title: str,
) -> Section:
    name, tables = f"diagnosis-{identify(place.label)}", _tables(result)
    # Pairs of both ends of the order: those with pictures, where any have.
    shown = [pair for pair in pairs if "picture" in pair] or pairs
    half = min(len(shown), most) // 2
    groups = [shown[: len(shown) - half][: most - half], shown[len(shown) - half :]]
    heads = ENDS.get(result["kind"], ("", ""))
    above, bars = make_bars(result)
    chance = CHANCE if result["kind"] in ("model", "data") else None
    draw = partial(draw_bars, above, bars, chance)
    html = render(
        "diagnosis.html",
        verdict=say(result),
        chart=inline_figure(draw, f"{name}-bars", clean_text(say_bars(above, bars))) if bars else None,
        remarks=[*result["notes"], *result["left_out"]],
        tables=tables,
        groups=[
            (head, [_show_pair(pair, place.path, len(pairs), tokens) for pair in of])
            for head, of in zip(heads, groups, strict=True)
            if of
        ],
        has_tokens=any(pair.get("rank") in tokens for of in groups for pair in of),
        colours=list_colours(),
        settings={**result["options"], **result["versions"]},
    )
    files: dict[str, File] = {f"{name}.png": partial(write_figure, draw)} if bars else {}
    for number, table in enumerate(tables):
        files |= table_files(f"{name}_{number}" if number else name, table)
    files |= {f"{name}.md": diagnosis_markdown(result)}
    return Section(name, title, html, files, headline=Headline(title, name, say(result)))


def make_bars(result: Mapping[str, Any]) -> tuple[str, list[Bar]]:
    """Returns what is drawn of a diagnosis: what stands above, and a bar for each image, rule or condition."""
    begins, above = CHARTED[result["kind"]]
    found = result["rules"] if result["kind"] == "data" else result["measures"]
    bars = []
    for key, of in found.items():
        value = of["accuracy" if result["kind"] == "data" else "value"]
        if key.startswith(begins) and value is not None and math.isfinite(value):
            label = (of["label"] or key).removeprefix("pair accuracy, ")
            bars.append(Bar(clean_text(label), value, of["low"], of["high"]))
    return above, bars


def _show_pair(
    pair: Mapping[str, Any], folder: Path, count: int, tokens: Mapping[float, Mapping[str, Sequence[ColouredAnswer]]]
) -> dict[str, Any]:
    margins = pair["margins"] if isinstance(pair.get("margins"), Mapping) else {}
    pictures = [
        (
            find_inside(folder, pair[key]),
            caption + _say_margin(margins, of),
            f"{caption} image of pair {pair.get('id')}",
        )
        for key, (caption, of) in PICTURES.items()
        if pair.get(key)
    ]
    rank = pair.get("rank")
    answers = tokens.get(rank, {}) if isinstance(rank, int | float) else {}
    prompt = " ".join(str(pair.get("prompt", pair.get("question", ""))).replace(PLACEHOLDER, " ").split())
    facts = {"prompt": cut(prompt, LONGEST_TEXT)} if len(prompt) > LONGEST_TITLE else {}
    if isinstance(pair.get("answers"), Mapping):
        facts |= {f"answer, {of}": cut(str(text), LONGEST_TEXT) for of, text in pair["answers"].items()}
        facts |= {name: str(pair[name]) for name in ("right", "contrastive") if name in pair}
    else:
        plain = [key for key in ("chosen", "rejected") if key not in answers]
        facts |= {key: cut(str(pair.get(key, "")), LONGEST_TEXT) for key in plain}
    for key, name in (("margins", "margin"), ("gains", "log π with image − without")):
        if isinstance(pair.get(key), Mapping):
            facts[name] = " · ".join(f"{of} {show_number(value, 2, signed=True)}" for of, value in pair[key].items())
    if "score" in pair:
        facts["score of the text alone"] = show_number(pair["score"], 2, signed=True)
    if "rank" in pair:
        facts["place in the order"] = f"{pair['rank']} of {count}"
    where = str(pair.get("source") or f"pair {pair.get('id', '')}")
    title = f"{where}: {cut(prompt, LONGEST_TITLE)}" if prompt else where
    return dict(title=title, right=_say_right(margins), pictures=pictures, facts=facts, answers=answers)


def _say_margin(margins: Mapping[str, Any], image: str) -> str:
    value = margins.get(image)
    return f": margin {show_number(value, 2, signed=True)}" if isinstance(value, int | float) else ""


def _say_right(margins: Mapping[str, Any]) -> str:
    """Returns under which images a pair's chosen answer is preferred, and under which it is not."""
    known = {of: margins[of] for of in UNDER if isinstance(margins.get(of), int | float)}
    right, wrong = ([UNDER[of] for of, value in known.items() if (value > 0) is wanted] for wanted in (True, False))
    said = [f"{word} with {', '.join(of)}" for word, of in (("right", right), ("wrong", wrong)) if of]
    return "; ".join(said)[:1].upper() + "; ".join(said)[1:]
