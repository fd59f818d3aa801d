"""Sample answers that were generated while training: one strip over the steps for each prompt and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mmdpo.files import find_inside
from mmdpo.report.layout import Section, article, paragraph, picture_html
from mmdpo.report.trained import SAMPLES, TrainedRun
from mmdpo.tables import Table

SHOWN_STEPS = 8
SHOWN_PROMPTS = 8


def samples_section(runs: Sequence[TrainedRun]) -> Section:
    """Returns the strips, prompts that runs share together."""
    prompts: dict[tuple[str, str], list[tuple[TrainedRun, list[Mapping[str, Any]]]]] = {}
    for run in runs:
        rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in run.samples:
            rows.setdefault((str(row.get("id")), str(row.get("chosen"))), []).append(row)
        for key, of_prompt in rows.items():
            prompts.setdefault(key, []).append((run, of_prompt))
    html = [
        paragraph(
            "Greedy answers to prompts that stay the same. Step 0 is the model before training; of more than "
            f"{SHOWN_STEPS} steps a few are shown, evenly spread."
        )
    ]
    html += [_prompt_html(name, strips) for (name, _), strips in list(prompts.items())[:SHOWN_PROMPTS]]
    if len(prompts) > SHOWN_PROMPTS:
        html.append(paragraph(f"{len(prompts) - SHOWN_PROMPTS} more prompts are in {SAMPLES}.", soft=True))
    return Section("samples", "Sample answers during training", "\n".join(html), tables={"samples": _grid(runs)})


def _prompt_html(name: str, strips: Sequence[tuple[TrainedRun, Sequence[Mapping[str, Any]]]]) -> str:
    run, rows = strips[0]
    pictures = "".join(
        picture_html(find_inside(run.folder, path), caption, f"{caption} of example {name}")
        for key, caption in (("pictures", "image"), ("corrupted_pictures", "corrupted"))
        for path in _as_list(rows[0].get(key))
    )
    prompt, chosen = (escape(str(rows[0].get(key, ""))) for key in ("prompt", "chosen"))
    said = f"<p><b>{prompt}</b></p>\n<p>chosen: {chosen}</p>"
    shown = "\n".join(_strip_html(run, rows, with_name=len(strips) > 1) for run, rows in strips)
    return article(name, pictures, f'<div class="beside">{said}</div>\n<div class="strips">{shown}</div>')


def _strip_html(run: TrainedRun, rows: Sequence[Mapping[str, Any]], *, with_name: bool) -> str:
    said = [tuple(escape(str(row.get(key, ""))) for key in ("step", "answer")) for row in thin(rows)]
    cards = "\n".join(f'<li><span class="soft">step {step}</span><br>{answer}</li>' for step, answer in said)
    name = f'<p class="soft">{escape(run.label)}</p>' if with_name else ""
    label = escape(f"Answers of {run.label} by step", quote=True)
    return f'{name}<ol class="strip" tabindex="0" aria-label="{label}">\n{cards}\n</ol>'


def thin(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns at most `SHOWN_STEPS` rows, the first and the last among them."""
    if len(rows) <= SHOWN_STEPS:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (SHOWN_STEPS - 1))] for place in range(SHOWN_STEPS)]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _grid(runs: Sequence[TrainedRun]) -> Table:
    headers = ("run", "step", "id", "prompt", "chosen", "answer")
    records = [{"run": run.label, **{key: row.get(key) for key in headers[1:]}} for run in runs for row in run.samples]
    rows = tuple(tuple(str(record[key]) for key in headers) for record in records)
    return Table(headers, rows, "Sample answers", tuple(records))
