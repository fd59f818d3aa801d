"""The folder of `mmdpo quickstart`: read, its table of results, and its sections on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.text import Text

from mmdpo.files import Unshown, find_inside, read_json, write_text
from mmdpo.report.curves import VARIANT_LABELS, curve_panels, draw_panels
from mmdpo.report.folders import EXAMPLES, RESULTS, TRAINER_STATE
from mmdpo.report.layout import Curves, MarkedAnswer, Section, render
from mmdpo.report.shape import NUMBER, ReportError, fit, read_result
from mmdpo.tables import Table, show_number

Scores: TypeAlias = Mapping[str, float | None]
"""The scores of one variant by the keys of results.json; None or absent where not measured."""


COLUMNS = {
    "chair_i": ("CHAIR_i ↓", ".1f", "% of the named objects that are not in the scene"),
    "chair_s": ("CHAIR_s ↓", ".1f", "% of the captions that name at least one such object"),
    "cover": ("Cover ↑", ".1f", "% of the scenes' objects that are named"),
    "cog": ("Cog ↓", ".1f", "% of the named objects that are absent partners of an object that is there"),
    "delta_logp_chosen": (
        "Δ log p(chosen)",
        "+.2f",
        "change of the chosen answer's log-probability since the start, in nats, summed over its tokens",
    ),
    "accuracy_real": (
        "Pair acc., real image",
        ".1f",
        "% of the pairs whose chosen answer has the higher reward",
    ),
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

_SCORES = {str: {str: NUMBER}}
_EXAMPLE = {
    "image": str,
    "corrupted_image": (str, None),
    "truth": [str],
    "setting": str,
    "answers": {str: {"text": str, "hallucinated": [str], "missed": [str]}},
}


@dataclass(frozen=True)
class ShownScene:
    """A scene of the report, with the answer of each variant."""

    image: Path | Unshown
    truth: tuple[str, ...]
    setting: str
    answers: Mapping[str, MarkedAnswer]
    corrupted_image: Path | Unshown | None = None


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
    folder, found = Path(run_dir), list[str]()
    results = read_result(
        folder / RESULTS, ("variants", "scenes", "seed"), {"variants": _SCORES}, found, "mmdpo quickstart"
    )
    scenes = _read_scenes(folder, found)
    histories = {}
    for variant in results["variants"]:
        path = find_inside(folder, f"{variant}/{TRAINER_STATE}")
        if isinstance(path, Path) and path.is_file():
            try:
                log = read_result(path, ("log_history",), {"log_history": [dict]}, found, "mmdpo quickstart")
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


def results_table(variants: Mapping[str, Scores]) -> Table:
    """Returns the table of results."""
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
    path = run.folder / "report.html"
    summary = summarise_quickstart(run.results)
    write_text(path, render("page.html", title="mmdpo quickstart", summary=summary, sections=quickstart_sections(run)))
    return path


def draw_curves(run_dir: str | Path) -> Path | None:
    """Draws what the trainers logged, all panels on one sheet, as curves.png and curves.svg.

    Returns the path of the PNG, or None where no variant left a log. Raises as `read_quickstart` does.
    """
    run = read_quickstart(run_dir)
    return draw_panels(curve_panels(run.histories), run.folder / "curves.png")


def quickstart_sections(run: QuickstartFolder, prefix: str = "", label: str = "") -> list[Section]:
    """Returns the sections; on a page of several folders `prefix` begins their ids, and `label` their titles."""
    results, title = run.results, f"{label}: " if label else ""
    table = replace(results_table(results["variants"]), title="Results")
    panels = curve_panels(run.histories)
    values = dict(
        results=results,
        table=table,
        columns={header: meaning for header, _, meaning in COLUMNS.values()},
        scenes=[_show_scene(number, scene) for number, scene in enumerate(run.scenes, start=1)],
        curves=Curves(panels, f"{prefix}curves"),
        settings=_settings(results),
    )
    parts = {
        "what": "What was run",
        "world": "What the world plants, and what this does not show",
        "results": "Results",
        "scenes": "Scenes",
        "training": "Training",
        "config": "Configuration",
    }
    figures = {f"{prefix}curves": partial(draw_panels, panels)} if panels else {}
    return [
        Section(
            f"{prefix}{part}",
            f"{title}{name}",
            render("quickstart.html", part=part, **values),
            tables={f"{prefix}results": table} if part == "results" else {},
            figures=figures if part == "training" else {},
        )
        for part, name in parts.items()
    ]


def summarise_quickstart(results: Mapping[str, Any]) -> str:
    """Returns the sizes of a quickstart in a line."""
    said = [f"{results['scenes']} test scenes", f"seed {results['seed']}"]
    if "pairs" in results:
        said.insert(0, f"{results['pairs']} preference pairs")
    if "seconds" in results:
        said.append(f"{results['seconds']:.0f} seconds in all")
    return " · ".join(said)


def _show_scene(number: int, scene: ShownScene) -> dict[str, Any]:
    truth = ", ".join(scene.truth)
    pictures = [(scene.image, "scene", f"Scene {number}, a {scene.setting} with {truth}")]
    if scene.corrupted_image is not None:
        pictures.append((scene.corrupted_image, "corrupted", f"Scene {number}, corrupted"))
    answers = {VARIANT_LABELS.get(name, name): answer for name, answer in scene.answers.items()}
    return dict(title=f"{number}. {scene.setting}: {truth}", pictures=pictures, answers=answers)


def _settings(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns all of results.json but the scores, so that nothing the run recorded about itself is left out."""
    lines: dict[str, str] = {}
    for key, value in results.items():
        if isinstance(value, Mapping) and key != "variants":
            lines |= {f"{key}: {name}": str(inner) for name, inner in value.items()}
        elif key != "variants":
            lines[key] = str(value)
    return lines
