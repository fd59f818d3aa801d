"""The quickstart on a page: what was run, what the world plants, the table, scenes and curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from mmdpo.report.curves import curve_panels
from mmdpo.report.figures import draw_panels
from mmdpo.report.layout import (
    Section,
    answers_html,
    article,
    curves_html,
    definitions,
    paragraph,
    picture_html,
    table_html,
)
from mmdpo.report.runs import Run, ShownScene
from mmdpo.report.tables import COLUMNS, csv_table, markdown_table
from mmdpo.report.wording import VARIANTS, WORLD_CAVEATS, fill, variant_label
from mmdpo.tables import Table

WHAT = (
    "Every variant starts from the same supervised checkpoint of a small captioner and sees the same preference pairs "
    "of an embedded synthetic world: pictures of 48 × 48 pixels, a few icons on a grid. Then each describes the same "
    "scenes, which no training saw."
)
TABLE_NOTE = "The arrow says which way is better; – means not measured. On a narrow screen the table scrolls sideways."
SCENES_NOTE = (
    "<p>Objects that a caption names although they are not in the scene are <mark>marked</mark>. The corrupted image "
    "stands beside the original; the captions describe the original.</p>"
)
CURVES_NOTE = "As the trainers logged it. Rewards are drawn on one scale for all variants; losses are not comparable."
NO_CURVES = "No variant left a log of its training."


def quickstart_sections(run: Run, prefix: str = "", label: str = "") -> list[Section]:
    """Returns the sections; on a page of several folders `prefix` begins their ids, and `label` their titles."""
    results, title = run.results, f"{label}: " if label else ""
    variants = results["variants"]
    meanings = {known.label: known.meaning for name, known in VARIANTS.items() if name in variants}
    caveats = "\n".join(
        f"<h3>{escape(caveat.title)}</h3>\n{paragraph(fill(caveat.full, results))}" for caveat in WORLD_CAVEATS
    )
    panels = curve_panels(run.histories)
    columns = definitions({column.header: column.meaning for column in COLUMNS}, soft=True)
    table = table_html(_table(variants))
    scenes = "\n".join(_scene_html(number, scene) for number, scene in enumerate(run.scenes, start=1))
    curves = f"{paragraph(CURVES_NOTE if panels else NO_CURVES)}\n{curves_html(panels, f'{prefix}curves')}"
    texts = {f"{prefix}results.md": markdown_table(variants), f"{prefix}results.csv": csv_table(variants)}
    return [
        Section(f"{prefix}what", f"{title}What was run", f"{paragraph(WHAT)}\n{definitions(meanings)}"),
        Section(f"{prefix}world", f"{title}What the world plants, and what this does not show", caveats),
        Section(
            f"{prefix}results",
            f"{title}Results",
            f"{table}\n{paragraph(TABLE_NOTE, soft=True)}\n{columns}",
            texts=texts,
        ),
        Section(f"{prefix}scenes", f"{title}Scenes", f"{SCENES_NOTE}\n{scenes}"),
        Section(
            f"{prefix}training",
            f"{title}Training",
            curves,
            figures={f"{prefix}curves": lambda path: draw_panels(panels, path)} if panels else {},
        ),
        Section(f"{prefix}config", f"{title}Configuration", definitions(_settings(results), code=True)),
    ]


def summarise_quickstart(results: Mapping[str, Any]) -> str:
    """Returns the sizes of a quickstart in a line."""
    said = [f"{results['scenes']} test scenes", f"seed {results['seed']}"]
    if "pairs" in results:
        said.insert(0, f"{results['pairs']} preference pairs")
    if "seconds" in results:
        said.append(f"{results['seconds']:.0f} seconds in all")
    return " · ".join(said)


def _table(variants: Mapping[str, Any]) -> Table:
    rows = tuple((variant_label(name), *(c.show(scores) for c in COLUMNS)) for name, scores in variants.items())
    return Table(("Variant", *(column.header for column in COLUMNS)), rows, "Results")


def _scene_html(number: int, scene: ShownScene) -> str:
    truth = ", ".join(scene.truth)
    pictures = picture_html(scene.image, "scene", f"Scene {number}, a {scene.setting} with {truth}")
    if scene.corrupted_image is not None:
        pictures += picture_html(scene.corrupted_image, "corrupted", f"Scene {number}, corrupted")
    answers = {variant_label(name): answer for name, answer in scene.answers.items()}
    return article(f"{number}. {scene.setting}: {truth}", pictures, answers_html(answers))


def _settings(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns all of results.json but the scores, so that nothing the run recorded about itself is left out."""
    lines: dict[str, str] = {}
    for key, value in results.items():
        if isinstance(value, Mapping) and key != "variants":
            lines |= {f"{key}: {name}": str(inner) for name, inner in value.items()}
        elif key != "variants":
            lines[key] = str(value)
    return lines
