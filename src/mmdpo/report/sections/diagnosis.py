"""A diagnosis on a page: what it says, its measures with intervals, and the pairs at both ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from mmdpo.files import clean_text, find_inside, write_text
from mmdpo.report.diagnosis import (
    RATE,
    TITLES,
    diagnosis_markdown,
    digits_of,
    read_diagnosis,
    say,
    summarise,
)
from mmdpo.report.diagnosis_picture import accuracies_of, accuracy_svg, draw_accuracies
from mmdpo.report.folders import Place
from mmdpo.report.layout import (
    Section,
    article,
    bullets,
    definitions,
    details,
    identify,
    page_html,
    paragraph,
    picture_html,
    table_html,
)
from mmdpo.report.runs import RunFolderError
from mmdpo.tables import Table, show_interval, show_number

SHOWN_PAIRS, SHOWN_ALONE = 6, 12
"""Pairs in a section among others, and on a page of its own."""
ORDER = {
    "model": "Pairs from both ends of the order, from the most to the least image-reliant.",
    "data": "Pairs from both ends of the order, from those that the text gets wrong to those that it gives away.",
}
PICTURES = {"picture": "image", "corrupted_picture": "corrupted", "other_picture": "another example's"}
"""Key of a pair → what its picture is called."""
PLACEHOLDER = "<image>"
"""Stands in a prompt where its image goes, which is shown beside."""
LONGEST_TEXT, LONGEST_TITLE = 600, 90
"""Characters of an answer, and of the prompt in a heading."""


def write_diagnosis(folder: str | Path) -> Path:
    """Writes diagnosis.md and diagnosis.html beside a diagnosis and returns the path of the page.

    Raises RunFolderError for a folder without one.
    """
    folder = Path(folder)
    problems: list[str] = []
    section = _make_section(Place(folder, clean_text(folder.name)), problems, SHOWN_ALONE, title="Verdict")
    if problems:
        raise RunFolderError("; ".join(problems))
    result, _ = read_diagnosis(folder, problems)
    write_text(folder / "diagnosis.md", diagnosis_markdown(result))
    page = folder / "diagnosis.html"
    write_text(page, page_html(TITLES[result["kind"]], summarise(result), [section]))
    return page


def diagnosis_section(place: Place, missing: list[str], shown: int = SHOWN_PAIRS) -> Section:
    """Returns the section of a diagnosis; what cannot be read is added to `missing`."""
    problems: list[str] = []
    try:
        return _make_section(place, problems, shown, title=f"Diagnosis: {place.label}")
    except (RunFolderError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"the diagnosis cannot be read ({error})")
        name = f"diagnosis-{identify(place.label)}"
        return Section(name, f"Diagnosis: {place.label}", paragraph("The diagnosis cannot be read."))
    finally:
        missing += [f"{place.label}: {problem}" for problem in problems]


def _make_section(place: Place, problems: list[str], shown: int, *, title: str) -> Section:
    name = f"diagnosis-{identify(place.label)}"
    result, pairs = read_diagnosis(place.path, problems)
    grids, accuracies = _grids(result), accuracies_of(result)
    html = [f'<p class="verdict">{escape(say(result))}</p>', bullets((*result["notes"], *result["left_out"]))]
    figures: dict[str, Callable[[Path], object]] = {}
    if accuracies:
        drawn = accuracy_svg(accuracies, f"{name}-accuracy")
        html.append(f'<div class="scroll wide" tabindex="0">{drawn}</div>')
        figures[f"{name}_accuracy"] = partial(draw_accuracies, accuracies)
    html += [table_html(grid) for grid in grids]
    html.append(paragraph(ORDER[result["kind"]]) if pairs else "")
    html += [_pair_html(pair, place.path, len(pairs)) for pair in _choose(pairs, shown)]
    settings = {key: str(value) for key, value in {**result["options"], **result["versions"]}.items()}
    html.append(details("Options and versions", definitions(settings, code=True)))
    return Section(
        name,
        title,
        "\n".join(part for part in html if part),
        tables={f"{name}_{number}" if number else name: grid for number, grid in enumerate(grids)},
        texts={f"{name}.md": diagnosis_markdown(result)},
        figures=figures,
    )


def _grids(result: Mapping[str, Any]) -> list[Table]:
    """Returns the measures of a model, or of data what text-only rules achieve and what decides."""
    measures = result["measures"] or {key: {**rule, **RATE} for key, rule in result["rules"].items()}
    rows, records = [], []
    for key, measure in measures.items():
        value = measure.get("value", measure.get("accuracy"))
        unit = measure["unit"] if result["measures"] else "% of pairs right"
        shown = show_interval(value, measure.get("low"), measure.get("high"), digits_of(measure))
        rows.append((f"{measure['label']} ({unit})", shown, str(measure.get("n", ""))))
        records.append({"measure": key, "value": value, **measure})
    grids = (
        [Table(("measure", "value", "n"), tuple(rows), "Measures with 95 % intervals", tuple(records))] if rows else []
    )
    features = result["features"]
    if features:
        headers = ("what decides", "weight", "pairs: more in chosen", "more in rejected")
        decisive = tuple((_name(f), show_number(f["weight"], 2, signed=True), *_counts(f)) for f in features)
        grids.append(Table(headers, decisive, "What decides", tuple({**f, "names": _name(f)} for f in features)))
    return grids


def _name(feature: Mapping[str, Any]) -> str:
    return ", ".join(map(str, feature["names"])) if "names" in feature else str(feature["name"])


def _counts(feature: Mapping[str, Any]) -> tuple[str, str]:
    return str(feature["more_in_chosen"]), str(feature["more_in_rejected"])


def _choose(pairs: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Returns `count` pairs of both ends of the order: those with pictures, where any have."""
    shown = [pair for pair in pairs if "picture" in pair] or list(pairs)
    half = count // 2
    return shown if len(shown) <= count else [*shown[:half], *shown[-half:]]


def _pair_html(pair: Mapping[str, Any], folder: Path, count: int) -> str:
    pictures = "".join(
        picture_html(find_inside(folder, pair[key]), caption, f"{caption} image of pair {pair.get('id')}")
        for key, caption in PICTURES.items()
        if pair.get(key)
    )
    prompt = " ".join(str(pair.get("prompt", "")).replace(PLACEHOLDER, " ").split())
    facts = {"prompt": _cut(prompt)} if len(prompt) > LONGEST_TITLE else {}
    facts |= {key: _cut(str(pair.get(key, ""))) for key in ("chosen", "rejected")}
    for key, name in (("margins", "margin"), ("gains", "log π with image − without")):
        if isinstance(pair.get(key), Mapping):
            facts[name] = " · ".join(f"{of} {show_number(value, 2, signed=True)}" for of, value in pair[key].items())
    if "score" in pair:
        facts["score of the text alone"] = show_number(pair["score"], 2, signed=True)
    if "rank" in pair:
        facts["place in the order"] = f"{pair['rank']} of {count}"
    where = str(pair.get("source") or f"pair {pair.get('id', '')}")
    return article(f"{where}: {_cut(prompt, LONGEST_TITLE)}" if prompt else where, pictures, definitions(facts))


def _cut(text: str, most: int = LONGEST_TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
