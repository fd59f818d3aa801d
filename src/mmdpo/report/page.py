"""The page of a run: one HTML file that needs neither network nor any other file."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from mmdpo.report.curves import Panel, curve_panels
from mmdpo.report.figures import panel_svg
from mmdpo.report.runs import Answer, Run, ShownScene, read_run
from mmdpo.report.tables import COLUMNS, Scores
from mmdpo.report.wording import VARIANTS, WORLD_CAVEATS, fill, variant_label

TITLE = "mmdpo quickstart"
CURVES_NOTE = "As the trainers logged it. Rewards are drawn on one scale for all variants; losses are not comparable."
NO_CURVES = "No variant left a log of its training."


def write_page(run_dir: str | Path) -> Path:
    """Writes report.html into a run folder and returns its path.

    Raises:
        RunFolderError: as `read_run` does.
    """
    run = read_run(run_dir)
    results = run.results
    panels = curve_panels(run.histories)
    template = Template((files("mmdpo.report") / "page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(TITLE),
        summary=escape(_summary(results)),
        variants=_definitions({v.label: v.meaning for name, v in VARIANTS.items() if name in results["variants"]}),
        caveats=_caveats_html(results),
        table=_table_html(results["variants"]),
        columns=_definitions({column.header: column.meaning for column in COLUMNS}),
        scenes="\n".join(_scene_html(number, scene) for number, scene in enumerate(run.scenes, start=1)),
        curves_note=escape(CURVES_NOTE if panels else NO_CURVES),
        curves=_curves_html(panels),
        config=_config_html(run),
    )
    path = run.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _summary(results: Mapping[str, Any]) -> str:
    said = [f"{results['scenes']} test scenes", f"seed {results['seed']}"]
    if "pairs" in results:
        said.insert(0, f"{results['pairs']} preference pairs")
    if "seconds" in results:
        said.append(f"{results['seconds']:.0f} seconds in all")
    return " · ".join(said)


def _definitions(meanings: Mapping[str, str]) -> str:
    return "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in meanings.items())


def _caveats_html(results: Mapping[str, Any]) -> str:
    parts = (f"<h3>{escape(c.title)}</h3>\n<p>{escape(fill(c.full, results))}</p>" for c in WORLD_CAVEATS)
    return "\n".join(parts)


def _table_html(variants: Mapping[str, Scores]) -> str:
    heads = "".join(f'<th scope="col">{escape(column.header)}</th>' for column in COLUMNS)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(variant_label(name))}</th>'
        + "".join(f"<td>{escape(column.show(scores))}</td>" for column in COLUMNS)
        + "</tr>"
        for name, scores in variants.items()
    )
    return f'<table>\n<thead><tr><th scope="col">Variant</th>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def _scene_html(number: int, scene: ShownScene) -> str:
    truth = ", ".join(scene.truth)
    pictures = _picture_html(scene.image, "scene", f"Scene {number}, a {scene.setting} with {truth}")
    if scene.corrupted_image is not None:
        pictures += _picture_html(scene.corrupted_image, "corrupted", f"Scene {number}, corrupted")
    answers = "\n".join(
        f"<dt>{escape(variant_label(name))}</dt><dd>{_answer_html(answer)}</dd>"
        for name, answer in scene.answers.items()
    )
    return (
        f'<article class="scene">\n<h3>{number}. {escape(scene.setting)}: {escape(truth)}</h3>\n'
        f'<div class="sides">\n<div class="pictures">{pictures}</div>\n<dl class="pairs">\n{answers}\n</dl>\n</div>\n'
        "</article>"
    )


def _picture_html(path: Path, caption: str, description: str) -> str:
    return (
        f'<figure><img src="{_data_uri(path)}" alt="{escape(description, quote=True)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _answer_html(answer: Answer) -> str:
    text = "".join(
        f"<mark>{escape(span.text)}</mark>" if span.hallucinated else escape(span.text) for span in answer.spans()
    )
    return f'{text}<br><span class="soft">{escape(answer.note())}</span>'


def _curves_html(panels: Sequence[Panel]) -> str:
    return "\n".join(f"<div>{panel_svg(panel, f'panel{number}')}</div>" for number, panel in enumerate(panels, start=1))


def _config_html(run: Run) -> str:
    """Lists all of results.json but the scores, so that nothing the run recorded about itself is left out."""
    lines: dict[str, str] = {}
    for key, value in run.results.items():
        if key == "variants":
            continue
        if isinstance(value, Mapping):
            lines |= {f"{key}: {name}": str(inner) for name, inner in value.items()}
        else:
            lines[key] = str(value)
    return "\n".join(f"<dt>{escape(key)}</dt><dd><code>{escape(value)}</code></dd>" for key, value in lines.items())
