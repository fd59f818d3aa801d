"""A diagnosis on a page: what it says, its measures with intervals, and the pairs at both ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.report.diagnosis import TITLES, diagnosis_markdown, read_diagnosis, say, summarise
from mmdpo.report.folders import Place
from mmdpo.report.grid import Grid, show_interval, show_number
from mmdpo.report.layout import (
    Section,
    article,
    bullets,
    definitions,
    identify,
    page_html,
    paragraph,
    picture_html,
    table_html,
)
from mmdpo.report.runs import RunFolderError

SHOWN_PAIRS, SHOWN_ALONE = 6, 12
"""Pairs in a section among others, and on a page of its own."""
ORDER = {
    "model": "Pairs from both ends of the order, from the most to the least image-reliant.",
    "data": "Pairs from both ends of the order, from those that the text gets wrong to those that it gives away.",
}
LONGEST_TEXT = 600
"""Characters of an answer."""


def write_diagnosis(folder: str | Path) -> Path:
    """Writes diagnosis.md and diagnosis.html beside a diagnosis and returns the path of the page.

    Raises RunFolderError for a folder without one.
    """
    folder = Path(folder)
    result, _ = read_diagnosis(folder)
    (folder / "diagnosis.md").write_text(diagnosis_markdown(result), encoding="utf-8")
    missing: list[str] = []
    section = diagnosis_section(Place(folder, folder.name), missing, SHOWN_ALONE)
    if missing:
        raise RunFolderError("; ".join(missing))
    page = folder / "diagnosis.html"
    page.write_text(page_html(TITLES[result["kind"]], summarise(result), [section]), encoding="utf-8")
    return page


def diagnosis_section(place: Place, missing: list[str], shown: int = SHOWN_PAIRS) -> Section:
    """Returns the section of a diagnosis; what cannot be read is added to `missing`."""
    name, title = f"diagnosis-{identify(place.label)}", f"Diagnosis: {place.label}"
    try:
        result, pairs = read_diagnosis(place.path)
        grids = _grids(result)
        html = [paragraph(say(result)), bullets((*result.get("notes", ()), *result.get("left_out", ())))]
        html += [table_html(grid) for grid in grids]
        html.append(paragraph(ORDER.get(str(result.get("kind")), "")))
        html += [_pair_html(pair, place.path) for pair in _choose(pairs, shown)]
        settings = {**result.get("options", {}), **result.get("versions", {})}
        html.append(definitions({key: str(value) for key, value in settings.items()}, code=True))
        texts = {f"{name}.md": diagnosis_markdown(result)}
    except (RunFolderError, KeyError, TypeError, AttributeError) as error:
        missing.append(f"{place.label}: the diagnosis cannot be read ({error})")
        return Section(name, title, paragraph("The diagnosis cannot be read."))
    tables = {f"{name}_{number}" if number else name: grid for number, grid in enumerate(grids)}
    return Section(name, title, "\n".join(part for part in html if part), tables=tables, texts=texts)


def _grids(result: Mapping[str, Any]) -> list[Grid]:
    """Returns the measures of a model, or of data what text-only rules achieve and what decides."""
    measures = result.get("measures") or result.get("rules") or {}
    rows, records = [], []
    for key, measure in measures.items():
        value = measure.get("value", measure.get("accuracy"))
        unit = measure.get("unit", "% of pairs right")
        shown = show_interval(value, measure.get("low"), measure.get("high"), 2)
        rows.append((f"{measure['label']} ({unit})", shown, str(measure.get("n", ""))))
        records.append({"measure": key, "value": value, **measure})
    grids = (
        [Grid("Measures with 95 % intervals", ("measure", "value", "n"), tuple(rows), tuple(records))] if rows else []
    )
    features = result.get("features") or ()
    if features:
        headers = ("what decides", "weight", "pairs: more in chosen", "more in rejected")
        decisive = tuple((_name(f), show_number(f["weight"], 2, signed=True), *_counts(f)) for f in features)
        grids.append(Grid("What decides", headers, decisive, tuple({**f, "names": _name(f)} for f in features)))
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


def _pair_html(pair: Mapping[str, Any], folder: Path) -> str:
    pictures = "".join(
        picture_html(folder / pair[key], caption, f"{caption} of pair {pair.get('id')}")
        for key, caption in (("picture", "image"), ("corrupted_picture", "corrupted"))
        if pair.get(key)
    )
    facts = {key: _cut(str(pair.get(key, ""))) for key in ("prompt", "chosen", "rejected")}
    for key, name in (("margins", "margin"), ("gains", "log π with image − without")):
        if isinstance(pair.get(key), Mapping):
            facts[name] = " · ".join(f"{of} {show_number(value, 2, signed=True)}" for of, value in pair[key].items())
    if "score" in pair:
        facts["score of the text alone"] = show_number(pair["score"], 2, signed=True)
    rank = f"{pair['rank']}. " if "rank" in pair else ""
    return article(f"{rank}{pair.get('id', '')}", pictures, definitions(facts))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
