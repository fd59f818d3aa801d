"""Results of one benchmark on a page: metrics with intervals, paired differences, and answers with what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import matplotlib
from PIL import Image

from mmdpo.files import Unshown, clean
from mmdpo.report.comparison import csv_comparison, draw_comparison, markdown_comparison
from mmdpo.report.evaluated import EvaluatedRun, choose_items, read_answers, why_incomparable
from mmdpo.report.figures import INLINE, inline_svg
from mmdpo.report.layout import (
    Picture,
    Section,
    answers_html,
    article,
    bullets,
    definitions,
    details,
    identify,
    paragraph,
    picture_html,
    table_html,
)
from mmdpo.report.runs import Answer
from mmdpo.tables import NO_BREAK, Table, matrix, show_interval

SHOWN_ITEMS = 6
LONGEST_ANSWER = 1200
"""Characters of an answer on the page."""
EXAMPLES_NOTE = "<h3>Answers</h3>\n<p>The first items in which any run is wrong.{how}</p>"
WORDS_NOTE = " Words for what is not there are <mark>marked</mark>."
RATING_NOTE = (
    " A judge that sees no picture rated each answer from 0 to 6; below 3 it found something that is not there."
)
CORRUPTED_NOTE = "A corrupted image is as the first training run makes it; the answers are about the original."
ARROWS = {"higher": " ↑", "lower": " ↓"}

Compare: TypeAlias = Callable[[Sequence[Path], Sequence[str]], Mapping[str, Any]]
"""Folders of results of one benchmark, and their labels → the content of a compare.json; raises ValueError."""


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of items come from: what knows the benchmarks fills this in."""

    find: Callable[[str, str, str], Picture | None] = lambda benchmark, item_id, image: None
    """Benchmark, item and the file name of its image → the picture, None where there is none to be had."""
    corrupt: Callable[[Path | Image.Image, str], Picture | None] = lambda picture, item_id: None
    """A picture and its item → as training would corrupt it, None where that is not known."""
    notes: tuple[str, ...] = ()
    """Why corrupted images cannot be shown, where a run names them."""


def evaluation_section(
    benchmark: str, runs: Sequence[EvaluatedRun], *, compare: Compare | None, pictures: Pictures
) -> Section:
    """Returns the results of runs on one benchmark; differences are taken to the first, where the data is the same."""
    name = f"eval-{identify(benchmark)}"
    grid = _metrics(benchmark, runs)
    asides = [note for run in runs for note in run.notes]
    html = [
        paragraph("The value that the official rule prints, with its 95 % interval. ↑ higher is better, ↓ lower."),
        table_html(grid),
    ]
    tables, texts, figures = {name: grid}, dict[str, str](), dict[str, Callable[[Path], object]]()
    comparable, why = _split(benchmark, runs)
    notes = list(why)
    if compare is not None and len(comparable) > 1:
        try:
            content = clean(compare([run.folder for run in comparable], [run.label for run in comparable]))
        except Exception as error:  # what a folder holds may surprise who calculates with it
            notes.append(f"no differences: {error}")
        else:
            html += [_differences_html(content, f"{name}-differences")]
            notes += [f"missing: {piece}" for piece in content["missing"]] + list(content["notes"])
            texts = {
                f"{name}_differences.csv": csv_comparison(content),
                f"{name}_differences.md": markdown_comparison(content),
            }
            figures = {f"{name}_differences": partial(draw_comparison, content)}
    html.insert(0, bullets([*dict.fromkeys(reason for run in runs for reason in run.partial), *notes]))
    html.insert(2, details(f"Notes of the scorer ({len(asides)})", bullets(asides)) if asides else "")
    html.append(examples_html(benchmark, runs, pictures))
    shown = "\n".join(part for part in html if part)
    return Section(name, f"Evaluation: {benchmark}", shown, tables=tables, texts=texts, figures=figures)


def _metrics(benchmark: str, runs: Sequence[EvaluatedRun]) -> Table:
    rows: dict[str, dict[str, str]] = {}
    records = []
    for run in runs:
        for metric, value in run.metrics.items():
            arrow = ARROWS.get(str(value.get("better")), "")
            head = f"{metric.removeprefix(f'{benchmark}/')} ({value.get('unit', '')}){arrow}"
            shown = show_interval(value.get("value"), value.get("low"), value.get("high"))
            rows.setdefault(head, {})[run.label] = shown
            records.append({"run": run.label, "metric": metric, **value})
    return matrix(f"{benchmark}: metrics", "metric", rows, [run.label for run in runs], records)


def _split(benchmark: str, runs: Sequence[EvaluatedRun]) -> tuple[list[EvaluatedRun], list[str]]:
    """Returns the runs on the data of the first one, and what is to be said of the others."""
    usable = [run for run in runs if run.metrics and run.items]
    comparable, notes = usable[:1], []
    for run in usable[1:]:
        why = why_incomparable(usable[0], run)
        if why:
            notes.append(f"{benchmark}: not the same data, so there is no difference between these runs: {why}")
        else:
            comparable.append(run)
    return comparable, notes


def _differences_html(content: Mapping[str, Any], prefix: str) -> str:
    first, *others = content["runs"]
    rows: dict[str, dict[str, str]] = {}
    for row in content["rows"]:
        if row["difference"] is not None:
            head = row["metric"].partition("/")[2] + ARROWS.get(row["better"], "")
            digits = 4 if row["unit"] == "share" else 2
            shown = show_interval(row["difference"], row["low"], row["high"], digits, signed=True)
            rows.setdefault(head, {})[row["run"]] = shown + (f"{NO_BREAK}*" if row["excludes_zero"] else "")
    statistics = content["statistics"]
    how = (
        f"Paired bootstrap over {statistics['resampled']}s that both runs have scored: {statistics['resamples']:,} "
        f"resamples, 95 % intervals. * the interval excludes 0."
    )
    grid = matrix(f"Differences to {first}", "metric", rows, others, ())
    return (
        f"<h3>Differences to {escape(first)}</h3>\n{paragraph(how)}\n{table_html(grid)}\n{_picture_of(content, prefix)}"
    )


def _picture_of(content: Mapping[str, Any], prefix: str) -> str:
    with TemporaryDirectory() as folder, matplotlib.rc_context(INLINE):
        drawn = (
            draw_comparison(content, Path(folder) / "differences.png").with_suffix(".svg").read_text(encoding="utf-8")
        )
    label = f"Differences to {content['runs'][0]} with their intervals; the table above has the numbers"
    return f'<div class="scroll wide" tabindex="0">{inline_svg(drawn, prefix, label)}</div>'


def examples_html(benchmark: str, runs: Sequence[EvaluatedRun], pictures: Pictures) -> str:
    """Returns a few items with their pictures and what each run said."""
    shown = [run for run in runs if run.items]
    if not shown:
        return ""
    ids = choose_items(shown, SHOWN_ITEMS)
    said = {run.label: read_answers(run.folder, ids) for run in shown}
    items = [_item_html(benchmark, item_id, shown, said, pictures) for item_id in ids]
    note = CORRUPTED_NOTE if any(">corrupted</figcaption>" in item for item in items) else ""
    scored = [item for run in shown for item in run.items.values()]
    how = WORDS_NOTE if any(item.flags_words for item in scored) else ""
    how += RATING_NOTE if any(item.reasons for item in scored) else ""
    return "\n".join((EXAMPLES_NOTE.format(how=how), paragraph(note), *items))


def _item_html(
    benchmark: str,
    item_id: str,
    runs: Sequence[EvaluatedRun],
    said: Mapping[str, Mapping[str, Mapping[str, Any]]],
    pictures: Pictures,
) -> str:
    rows = [said[run.label].get(item_id, {}) for run in runs]
    image = next(run.items[item_id].image for run in runs if item_id in run.items)
    picture = pictures.find(benchmark, item_id, image)
    shown = picture_html(picture, "image", f"Image of item {item_id}")
    corrupted = None if picture is None or isinstance(picture, Unshown) else pictures.corrupt(picture, item_id)
    if corrupted is not None:
        shown += picture_html(corrupted, "corrupted", f"Corrupted image of item {item_id}")
    answers = {run.label: _answer(run, item_id, row) for run, row in zip(runs, rows, strict=True)}
    prompt = next((str(row["prompt"]) for row in rows if row.get("prompt")), "")
    reference = next((i.reference for run in runs if (i := run.items.get(item_id)) and i.reference), "")
    said_of_item = definitions({"reference answer": cut(reference)}, soft=True) if reference else ""
    title = f"{item_id}: {cut(prompt)}" if prompt else item_id
    return article(title, shown, f'<div class="beside">{said_of_item}{answers_html(answers)}</div>')


def _answer(run: EvaluatedRun, item_id: str, row: Mapping[str, Any]) -> Answer:
    item = run.items.get(item_id)
    if item is None or "answer" not in row:
        return Answer("–", remark="no answer")
    nothing = "nothing hallucinated" if item.flags_words and not item.flagged else ""
    said = " · ".join(part for part in (nothing, item.remark) if part)
    return Answer(cut(str(row["answer"])), item.flagged, remark=said, reasons=cut(item.reasons))


def cut(text: str) -> str:
    """Returns the beginning of a text that is too long for a page."""
    return text if len(text) <= LONGEST_ANSWER else f"{text[:LONGEST_ANSWER]} …"
