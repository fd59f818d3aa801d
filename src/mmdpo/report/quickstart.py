"""The folder of `mmdpo quickstart`: read, its table of results, its pictures, and its sections on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.text import Text

from mmdpo.files import Unshown, UnusableFileError, file_inside, find_inside, read_json, write_text
from mmdpo.report.figures import VARIANT_LABELS, curve_panels, draw_panels, inline_figure, write_figure
from mmdpo.report.layout import (
    Curves,
    MarkedAnswer,
    Section,
    make_thumbnail,
    name_part,
    render_page,
    render_parts,
    table_files,
)
from mmdpo.report.preference_picture import PICTURE, ShownPair, read_pair, share_left
from mmdpo.report.preference_picture import draw as draw_preference
from mmdpo.report.reading import EXAMPLES, RESULTS, TRAINER_STATE, Place, ReportError, fit, read_result
from mmdpo.tables import NO_BREAK, Table, show_number
from mmdpo.world import SMALL
from mmdpo.world.drawings import COLOURS_OF, draw_object

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
    "results": "Results",
    "scenes": "Scenes",
    "what": "What was run",
    "world": "What the world plants, and what this does not show",
    "training": "Training",
    "config": "Configuration",
}
SIZES = {
    "pairs": "{} preference pairs", "scenes": "{} test scenes", "seed": "seed {}", "seconds": "{:.0f} seconds in all",
}  # fmt: skip
_EXAMPLE = {
    "image": str,
    "corrupted_image": str,
    "truth": [str],
    "setting": str,
    "answers": {str: {"text": str, "hallucinated": [str], "missed": [str]}},
}

IMAGE_WIDTH, TEXT_WIDTH, MARGIN, LINE_HEIGHT = 4 / 3, 8.4, 0.25, 0.19
"""Inches of the picture of scenes."""
INDENT, CAPTION = 15, 99
"""Characters before an answer, where the variant stands, and of a line with both."""


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
    """The content of results.json, the scenes of examples.json, and the `log_history` of each variant's trainer."""

    results: Mapping[str, Any]
    scenes: tuple[ShownScene, ...]
    histories: Mapping[str, Sequence[Mapping[str, Any]]]
    pair: ShownPair | None = None


def read_quickstart(folder: Path, problems: list[str]) -> QuickstartFolder:
    """Reads the folder of a quickstart; what cannot be used is left out and named in `problems`.

    Raises ReportError where results.json cannot be read or is incomplete.
    """
    verb = "mmdpo quickstart"
    shape = {"variants": {str: {str: float}}}
    results = read_result(folder / RESULTS, ("variants", "scenes", "seed"), shape, problems, verb)
    histories = {}
    for variant in results["variants"]:
        try:
            path = file_inside(folder, f"{variant}/{TRAINER_STATE}")
            log = read_result(path, ("log_history",), {"log_history": [dict]}, problems, verb)
            histories[variant] = log["log_history"]
        except (OSError, UnusableFileError):
            continue  # of the start there is none
        except ReportError as error:
            problems.append(str(error))
    return QuickstartFolder(results, _read_scenes(folder, problems), histories, read_pair(folder, problems))


def _read_scenes(folder: Path, problems: list[str]) -> tuple[ShownScene, ...]:
    scenes = []
    try:
        records = fit(read_json(folder / EXAMPLES), [_EXAMPLE], EXAMPLES, problems)
    except (OSError, ValueError) as error:
        problems.append(f"{folder / EXAMPLES} cannot be read ({error})")
        return ()
    for number, record in enumerate(records):
        if missing := [key for key in ("image", "truth", "setting", "answers") if not record[key]]:
            problems.append(f"{EXAMPLES}, example {number}: the key {missing[0]!r} is missing")
            continue
        answers = {
            variant: MarkedAnswer(answer["text"], tuple(answer["hallucinated"]), tuple(answer["missed"]))
            for variant, answer in record["answers"].items()
        }
        image, corrupted = (
            find_inside(folder, record[key]) if record[key] else None for key in ("image", "corrupted_image")
        )
        assert image is not None
        scenes.append(ShownScene(image, tuple(record["truth"]), record["setting"], answers, corrupted))
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


def write_quickstart(run_dir: str | Path) -> Path:
    """Writes report.html, scenes.png and curves.png (and both as SVG) into the folder; returns the path of the page.

    Without scenes, or logs of training, there is no such picture. Raises ReportError as `read_quickstart` does; what
    else cannot be used is said on the page.
    """
    folder, problems = Path(run_dir), list[str]()
    run = read_quickstart(folder, problems)
    draw_panels(curve_panels(run.histories), folder / "curves.png")
    if run.scenes:
        write_figure(partial(_draw, run.scenes), folder / "scenes.png")
    said = [text.format(run.results[key]) for key, text in SIZES.items() if key in run.results]
    if run.pair is not None:
        write_figure(partial(draw_preference, run.pair, run.results["variants"]), folder / PICTURE)
    page = folder / "report.html"
    sections = _make_sections(run, "")
    write_text(page, render_page("mmdpo quickstart", " · ".join(said), sections, problems))
    return page


def quickstart_sections(place: Place, problems: list[str]) -> list[Section]:
    """Returns the sections on a page of several folders; raises, and names problems, as `read_quickstart` does."""
    return _make_sections(read_quickstart(place.path, problems), place.label)


def _make_sections(run: QuickstartFolder, label: str) -> list[Section]:
    """Returns the sections; `label` is the folder's among others, empty on a page of its own."""
    settings: dict[str, str] = {}
    for key, value in run.results.items():  # all but the scores: nothing the run recorded about itself is left out
        if isinstance(value, Mapping) and key != "variants":
            settings |= {f"{key}: {name}": str(inner) for name, inner in value.items()}
        elif key != "variants":
            settings[key] = str(value)
    table = replace(results_table(run.results["variants"]), title="Results")
    panels = curve_panels(run.histories)
    files = {"results": table_files("results", table, label)}
    if panels:
        files["training"] = {name_part("curves.png", label): partial(draw_panels, panels)}
    return render_parts(
        "quickstart.html",
        SECTIONS,
        label,
        files,
        sentence=say_results(run.results["variants"]),
        key=table,
        results=run.results,
        columns={header: meaning for header, _, meaning in COLUMNS.values()},
        scenes=[_show_scene(number, scene) for number, scene in enumerate(run.scenes, start=1)],
        curves=Curves(panels, name_part("curves", label)),
        settings=settings,
        picture=None if run.pair is None else _inline_picture(run.pair, run.results["variants"], label),
        legend=[(name, make_thumbnail(_draw_icon(name))) for name in SMALL.objects],
    )


def _inline_picture(pair: ShownPair, variants: Mapping[str, Mapping[str, Any]], label: str) -> Markup:
    left = {name: share for name, of in variants.items() if (share := share_left(of)) is not None}
    said = ", ".join(f"{VARIANT_LABELS.get(name, name)} {show_number(share, 0)} %" for name, share in left.items())
    description = f"One pair and two pictures. Share of its preference that a model keeps with another picture: {said}"
    return inline_figure(partial(draw_preference, pair, variants), name_part("preference", label), description)


def _draw_icon(name: str) -> Image.Image:
    icon = draw_object(name, COLOURS_OF[name][0], 40)
    return Image.alpha_composite(Image.new("RGBA", icon.size, "white"), icon).convert("RGB")


def say_results(variants: Mapping[str, Mapping[str, float | None]]) -> str:
    """Returns in a sentence how much is hallucinated, and who makes use of the image."""
    chair = [(name, of["chair_i"]) for name, of in variants.items() if of.get("chair_i") is not None]
    said = [f"{show_number(value, 1)}{NO_BREAK}% ({VARIANT_LABELS.get(name, name)})" for name, value in chair]
    sentences = [f"Of the objects that captions name, {', '.join(said)} are not in the scene."] if said else []
    lost = []
    for name, of in variants.items():
        real, other = of.get("accuracy_real"), of.get("accuracy_other")
        if real is not None and other is not None:
            lost.append(f"{show_number(real - other, 1)} ({VARIANT_LABELS.get(name, name)})")
    if lost:
        sentences.append(f"Points of pair accuracy lost with another scene's image: {', '.join(lost)}.")
    return " ".join(sentences) or "Nothing was measured."


def _show_scene(number: int, scene: ShownScene) -> dict[str, Any]:
    truth = ", ".join(scene.truth)
    pictures = [(scene.image, "scene", f"Scene {number}, a {scene.setting} with {truth}")]
    if scene.corrupted_image is not None:
        pictures.append((scene.corrupted_image, "corrupted", f"Scene {number}, corrupted"))
    answers = {VARIANT_LABELS.get(name, name): answer for name, answer in scene.answers.items()}
    return dict(title=f"{number}. {scene.setting}: {truth}", pictures=pictures, answers=answers)


def _draw(scenes: Sequence[ShownScene]) -> Figure:
    """Draws each scene with what each variant said of it: hallucinated words in brackets, what was missed in words."""
    texts = []
    for scene in scenes:
        lines = [f"{scene.setting}: {', '.join(scene.truth)}"]
        for variant, answer in scene.answers.items():
            said = "".join(f"[{text}]" if is_wrong else text for text, is_wrong in answer.spans())
            missed = f" (missed: {', '.join(answer.missed)})" if answer.missed else ""
            label = VARIANT_LABELS.get(variant, variant)[: INDENT - 1].ljust(INDENT)
            lines += textwrap.wrap(f"{label}{said}{missed}", CAPTION, subsequent_indent=" " * INDENT)
        texts.append("\n".join(lines))
    heights = [max(IMAGE_WIDTH, (text.count("\n") + 1) * LINE_HEIGHT) for text in texts]
    size = (IMAGE_WIDTH + TEXT_WIDTH + 3 * MARGIN, sum(heights) + (len(heights) + 1) * MARGIN)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(scenes), 2, width_ratios=(IMAGE_WIDTH, TEXT_WIDTH), height_ratios=heights)
    for place, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        left, right = (figure.add_subplot(grid[place, column]) for column in (0, 1))
        if isinstance(scene.image, Path) and scene.image.is_file():
            with Image.open(scene.image) as image:
                left.imshow(image.convert("RGB"), interpolation="nearest")  # the pixels of a small scene stay visible
        left.set_anchor("N")
        look: Any = dict(family="DejaVu Sans Mono", size=9, va="top", in_layout=False)
        right.text(0, 1, text, transform=right.transAxes, **look)
        for axes in (left, right):
            axes.set_axis_off()
    return figure
