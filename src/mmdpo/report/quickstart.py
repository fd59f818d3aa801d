"""The folder of `mmdpo quickstart`: read, its table of results, its pictures, and its sections on a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.text import Text

from mmdpo.files import Unshown, find_inside, read_json, write_text
from mmdpo.report.figures import GREY, VARIANT_LABELS, curve_panels, draw_panels, shorten, write_figure
from mmdpo.report.layout import Curves, MarkedAnswer, Section, identify, render
from mmdpo.report.reading import EXAMPLES, NUMBER, RESULTS, TRAINER_STATE, Place, ReportError, fit, read_result
from mmdpo.tables import Table, show_number

COLUMNS = {
    "chair_i": ("CHAIR_i ↓", ".1f", "% of the named objects that are not in the scene"),
    "chair_s": ("CHAIR_s ↓", ".1f", "% of the captions that name at least one such object"),
    "cover": ("Cover ↑", ".1f", "% of the scenes' objects that are named"),
    "cog": ("Cog ↓", ".1f", "% of the named objects that are absent partners of an object that is there"),
    "delta_logp_chosen": (
        *("Δ log p(chosen)", "+.2f"),
        "change of the chosen answer's log-probability since the start, in nats, summed over its tokens",
    ),
    "accuracy_real": ("Pair acc., real image", ".1f", "% of the pairs whose chosen answer has the higher reward"),
    "accuracy_other": ("Pair acc., other image", ".1f", "the same under another scene's image"),
}
"""Keys of results.json → header, in which arrows say which way is better; format; and meaning."""
CAVEATS = (
    "The language prior that hallucinates is planted.",
    "Style alone decides 80 % of the pairs, so that DPO can do without the image is planted in part.",
    "Chosen answers are nearly the truth here, so supervised training on them, the control, does as well.",
    "Read CHAIR together with Cover: naming fewer objects lowers it.",
    "{scenes} scenes, one seed ({seed}): nothing here is a claim about real models.",
)
"""What the embedded world plants and what it does not show, in a sentence each; the page says it at length."""
SECTIONS = {
    "what": "What was run",
    "world": "What the world plants, and what this does not show",
    "results": "Results",
    "scenes": "Scenes",
    "training": "Training",
    "config": "Configuration",
}
_RESULTS = {"variants": {str: {str: NUMBER}}}
_EXAMPLE = {
    "image": str,
    "corrupted_image": (str, None),
    "truth": [str],
    "setting": str,
    "answers": {str: {"text": str, "hallucinated": [str], "missed": [str]}},
}

RED = "#b3121d"
WIDTH, IMAGE_SIDE, MARGIN, LINE_HEIGHT = 10.0, 4 / 3, 0.25, 0.19
"""Inches."""
INDENT, CAPTION = 15, 84
"""Characters before an answer, where the variant stands, and of its longest line."""
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for the brackets around hallucinated words while lines are broken: no other text has them."""
_BRACKETS = str.maketrans({_OPEN: "[", _CLOSE: "]", "\N{NO-BREAK SPACE}": " "})
Piece: TypeAlias = tuple[int, str, str, str]
"""Number of a line, a text that begins at its left edge, its colour and weight."""


@dataclass(frozen=True)
class ShownScene:
    """A scene of the report, with the answer of each variant."""

    image: Path | Unshown
    truth: tuple[str, ...]
    setting: str
    answers: Mapping[str, MarkedAnswer]
    corrupted_image: Path | Unshown | None


@dataclass(frozen=True)
class QuickstartFolder:
    """All that a report needs to know of the folder of a quickstart."""

    folder: Path
    results: Mapping[str, Any]
    """The content of results.json."""
    scenes: tuple[ShownScene, ...]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    """For each variant that was trained, its trainer's `log_history`."""


def read_quickstart(run_dir: str | Path, problems: list[str] | None = None) -> QuickstartFolder:
    """Reads the folder of a quickstart.

    What cannot be used is left out and named in `problems`; without such a list it is an error.

    Raises:
        ReportError: results.json cannot be read or is incomplete; without `problems` also where examples.json or a
            trainer's log is, or a picture that examples.json names is missing.
    """
    folder, found, verb = Path(run_dir), list[str](), "mmdpo quickstart"
    results = read_result(folder / RESULTS, ("variants", "scenes", "seed"), _RESULTS, found, verb)
    scenes = _read_scenes(folder, found)
    histories = {}
    for variant in results["variants"]:
        path = find_inside(folder, f"{variant}/{TRAINER_STATE}")
        if isinstance(path, Path) and path.is_file():
            try:
                log = read_result(path, ("log_history",), {"log_history": [dict]}, found, verb)
                histories[variant] = log["log_history"]
            except ReportError as error:
                found.append(str(error))
    if problems is None:
        for number, scene in enumerate(scenes):
            for image in (scene.image, scene.corrupted_image):
                if isinstance(image, Unshown):
                    found.append(f"{EXAMPLES}, example {number}: {image.reason}")
                elif image is not None and not image.is_file():
                    found.append(f"{EXAMPLES}, example {number}: there is no picture {image}")
        if found:
            raise ReportError(f"{folder}: {found[0]}")
    else:
        problems += found
    return QuickstartFolder(folder, results, scenes, histories)


def _read_scenes(folder: Path, problems: list[str]) -> tuple[ShownScene, ...]:
    path, scenes = folder / EXAMPLES, []
    try:
        records = fit(read_json(path), [_EXAMPLE], EXAMPLES, problems)
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read ({error})")
        return ()
    for number, record in enumerate(records):
        try:
            answers = {
                variant: MarkedAnswer(answer["text"], tuple(answer["hallucinated"]), tuple(answer["missed"]))
                for variant, answer in record["answers"].items()
            }
            image, truth, setting = (record[key] for key in ("image", "truth", "setting"))
        except KeyError as error:
            problems.append(f"{EXAMPLES}, example {number}: the key {error} is missing")
            continue
        corrupted = record.get("corrupted_image")
        corrupted = None if corrupted is None else find_inside(folder, corrupted)
        scenes.append(ShownScene(find_inside(folder, image), tuple(truth), setting, answers, corrupted))
    return tuple(scenes)


def results_table(variants: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Returns the table of results: scores by variant and key of results.json, None or absent where not measured."""
    rows = (
        (VARIANT_LABELS.get(name, name), *(show_number(of.get(key), form) for key, (_, form, _) in COLUMNS.items()))
        for name, of in variants.items()
    )
    records = ({"variant": name, **{key: of.get(key) for key in COLUMNS}} for name, of in variants.items())
    return Table(("Variant", *(header for header, *_ in COLUMNS.values())), tuple(rows), records=tuple(records))


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Prints the table of results, in 80 columns, and, right below it, what the world plants and does not show.

    `results` is the content of results.json; `variants`, `scenes` and `seed` are read.
    """
    units = Text("CHAIR, Cover, Cog and pair accuracy in %, log p in nats")
    console.print(results_table(results["variants"]).terminal(wrap=7, caption=units, caption_justify="left"))
    console.print()
    console.print(Text(" ".join(CAVEATS).format(scenes=results["scenes"], seed=results["seed"])))


def write_page(run_dir: str | Path) -> Path:
    """Writes report.html into the folder of a quickstart and returns its path; raises as `read_quickstart` does."""
    run = read_quickstart(run_dir)
    path, results = run.folder / "report.html", run.results
    said = [f"{results['pairs']} preference pairs"] if "pairs" in results else []
    said += [f"{results['scenes']} test scenes", f"seed {results['seed']}"]
    said += [f"{results['seconds']:.0f} seconds in all"] if "seconds" in results else []
    sections = _make_sections(run, "", "")
    write_text(path, render("page.html", title="mmdpo quickstart", summary=" · ".join(said), sections=sections))
    return path


def quickstart_sections(place: Place, missing: list[str]) -> list[Section]:
    """Returns the sections on a page of several folders; what cannot be used is added to `missing`.

    Raises ReportError as `read_quickstart` does.
    """
    problems: list[str] = []
    run = read_quickstart(place.path, problems)
    missing += [f"{place.label}: {problem}" for problem in problems]
    return _make_sections(run, f"{identify(place.label)}-", f"{place.label}: ")


def _make_sections(run: QuickstartFolder, prefix: str, before: str) -> list[Section]:
    """Returns the sections, whose ids begin with `prefix`, and their titles with what stands `before` them."""
    settings: dict[str, str] = {}
    for key, value in run.results.items():  # all but the scores: nothing the run recorded about itself is left out
        if isinstance(value, Mapping) and key != "variants":
            settings |= {f"{key}: {name}": str(inner) for name, inner in value.items()}
        elif key != "variants":
            settings[key] = str(value)
    table = replace(results_table(run.results["variants"]), title="Results")
    panels = curve_panels(run.histories)
    values = dict(
        results=run.results,
        table=table,
        columns={header: meaning for header, _, meaning in COLUMNS.values()},
        scenes=[_show_scene(number, scene) for number, scene in enumerate(run.scenes, start=1)],
        curves=Curves(panels, f"{prefix}curves"),
        settings=settings,
    )
    tables = {"results": {f"{prefix}results": table}}
    figures = {"training": {f"{prefix}curves": partial(draw_panels, panels)}} if panels else {}
    return [
        Section(
            f"{prefix}{part}",
            f"{before}{title}",
            render("quickstart.html", part=part, **values),
            tables=tables.get(part, {}),
            figures=figures.get(part, {}),
        )
        for part, title in SECTIONS.items()
    ]


def _show_scene(number: int, scene: ShownScene) -> dict[str, Any]:
    truth = ", ".join(scene.truth)
    pictures = [(scene.image, "scene", f"Scene {number}, a {scene.setting} with {truth}")]
    if scene.corrupted_image is not None:
        pictures.append((scene.corrupted_image, "corrupted", f"Scene {number}, corrupted"))
    answers = {VARIANT_LABELS.get(name, name): answer for name, answer in scene.answers.items()}
    return dict(title=f"{number}. {scene.setting}: {truth}", pictures=pictures, answers=answers)


def draw_curves(run_dir: str | Path) -> Path | None:
    """Draws what the trainers logged, all panels on one sheet, as curves.png and curves.svg.

    Returns the path of the PNG, or None where no variant left a log. Raises as `read_quickstart` does.
    """
    run = read_quickstart(run_dir)
    return draw_panels(curve_panels(run.histories), run.folder / "curves.png")


def draw_scenes(run_dir: str | Path) -> Path:
    """Draws the scenes of examples.json with each variant's answer as scenes.png and scenes.svg.

    Hallucinated words are red, bold and in brackets; what was missed is said in words. Returns the path of the PNG.
    Raises ReportError as `read_quickstart` does, and where there is no scene to draw.
    """
    run = read_quickstart(run_dir)
    if not run.scenes:
        raise ReportError(f"{run.folder / EXAMPLES}: no examples, nothing to draw")
    return write_figure(partial(_draw, run.scenes), run.folder / "scenes.png")


def _draw(scenes: Sequence[ShownScene]) -> Figure:
    blocks = [list(_write_lines(scene)) for scene in scenes]
    heights = [max(IMAGE_SIDE, (pieces[-1][0] + 1) * LINE_HEIGHT) + MARGIN for pieces in blocks]
    top, height = sum(heights), sum(heights) + MARGIN
    figure = Figure(figsize=(WIDTH, height))
    for scene, pieces, taken in zip(scenes, blocks, heights, strict=True):
        box = (MARGIN / WIDTH, (top - IMAGE_SIDE) / height, IMAGE_SIDE / WIDTH, IMAGE_SIDE / height)
        axes = figure.add_axes(box, frameon=False)
        assert isinstance(scene.image, Path)  # `read_quickstart` raises for others
        with Image.open(scene.image) as image:
            # "nearest" keeps the pixels of a small scene visible as pixels.
            axes.imshow(image.convert("RGB"), interpolation="nearest")
        axes.set_axis_off()
        for number, text, colour, weight in pieces:
            place = ((2 * MARGIN + IMAGE_SIDE) / WIDTH, (top - number * LINE_HEIGHT) / height)
            figure.text(*place, text, color=colour, weight=weight, family="DejaVu Sans Mono", size=9, va="top")
        top -= taken
    return figure


def _write_lines(scene: ShownScene) -> Iterator[Piece]:
    """Yields the text beside one scene: a heading, then each variant's answer and what it missed.

    All characters are equally wide, bold or not, so the words of a line that have another look are a text of their own,
    with blanks in the places of the others.
    """
    yield 0, f"{scene.setting}: {', '.join(scene.truth)}", "black", "bold"
    number = 1
    for variant, answer in scene.answers.items():
        yield number, shorten(VARIANT_LABELS.get(variant, variant)), "black", "bold"
        said = "".join(
            f"{_OPEN}{text.replace(' ', chr(0xA0))}{_CLOSE}" if is_wrong else text for text, is_wrong in answer.spans()
        )
        for line in textwrap.wrap(said, CAPTION) or [""]:
            pieces = re.split(f"({_OPEN}.*?{_CLOSE})", line)  # every other one is hallucinated
            for is_wrong, colour, weight in ((0, "black", "normal"), (1, RED, "bold")):
                shown = (piece if place % 2 == is_wrong else " " * len(piece) for place, piece in enumerate(pieces))
                text = "".join(shown).translate(_BRACKETS).rstrip()
                if text:
                    yield number, " " * INDENT + text, colour, weight
            number += 1
        for line in textwrap.wrap(f"missed: {', '.join(answer.missed)}", CAPTION) if answer.missed else ():
            yield number, " " * INDENT + line, GREY, "normal"
            number += 1
