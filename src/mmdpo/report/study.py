"""The folder of `mmdpo study`: its tables for the terminal, as Markdown and CSV, its picture, and its section.

A study that is not finished has no results.json, and so no means: its section then shows the trials that are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from mmdpo.files import clean, clean_text, read_yaml, write_text
from mmdpo.report import reading
from mmdpo.report.evaluated import EvaluatedRun, ItemPictures, choose_examples, read_evaluated
from mmdpo.report.figures import GREY, draw_panels, name_rows, overlay_panels, shorten, write_figure
from mmdpo.report.layout import Curves, File, Section, identify, render, table_files
from mmdpo.report.reading import NUMBER, RESULTS, SCORES, STUDY, TRIALS, Place, ReportError, number_at_end
from mmdpo.report.trained import TrainedRun, read_trained
from mmdpo.tables import ARROWS, MISSING, NO_BREAK, Table, matrix, show_ends, show_interval, show_number
from mmdpo.world import WORLDS

Summary: TypeAlias = Mapping[str, Any]
"""Mean, std, low, high, n and by_seed of one measure of one variant; of a difference p, holm and wide ends too."""
Show: TypeAlias = Callable[[Summary, int], str]
"""A summary and its decimals → what a table shows."""

MARK = "†"
"""Stands after a difference that stays clear where the number of comparisons is allowed for."""
MOST_FALSE = 0.05
"""The probability that even one of the differences that bear the mark is chance, at most."""
_NUMBERS = ("mean", "std", "low", "high", "p", "holm", "wide_low", "wide_high")
_SUMMARIES = {str: {str: dict.fromkeys(_NUMBERS, NUMBER)}}
_SHAPE = {
    **dict.fromkeys(("study", "about", "command", "baseline", "statistics"), str),
    "seeds": [float],
    "variants": {str: str},
    "measures": {str: {"label": str, "unit": str, "better": str, "digits": float}},
    "values": _SUMMARIES,
    "differences": _SUMMARIES,
    "missing": [{"variant": str, "seed": float, "error": str}],
    "notes": [str],
    "versions": {str: str},
    "trial_seconds": float,
}
_NEEDED = ("study", "seeds", "baseline", "variants", "measures", "values", "differences", "missing")
_OPTIONAL = {"about": "", "command": "", "notes": (), "versions": {}, "statistics": "", "trial_seconds": 0.0}

CELL = 14
"""Characters of a column in the terminal."""
BLUE = "#0969da"
ACROSS = 4
"""Panels side by side in the picture."""
MOST_ROWS = 512
"""Variants times measures in the picture: a study of many variants shows its first measures there."""
TRIAL = "trial.json"
START, START_LABEL = "start", "start (before training)"
GROUPS = {
    **dict.fromkeys(WORLDS, "Captions of test scenes"),
    "pairs": "Preferences on held-out pairs",
    "time": "Time",
}
"""What measures are about, by the first part of their names."""


def read_study_results(folder: str | Path, problems: list[str] | None = None) -> dict[str, Any]:
    """Reads the results.json of a study.

    A value of a wrong type is left out, and named in `problems` where such a list is given. Raises ReportError for a
    file that is missing, or is of something else.
    """
    found: list[str] = [] if problems is None else problems
    fitted = reading.read_result(Path(folder) / RESULTS, _NEEDED, _SHAPE, found, "mmdpo study")
    measures = {}
    for name, measure in fitted["measures"].items():
        if {"label", "unit", "better"} <= measure.keys() and measure.get("digits") in range(10):
            measures[name] = {**measure, "digits": int(measure["digits"])}
        else:
            found.append(f"{RESULTS}: the measure {name} lacks a label, a unit, a direction or digits; it is left out")
    parts = {
        part: {variant: {name: v for name, v in of.items() if name in measures} for variant, of in fitted[part].items()}
        for part in ("values", "differences")
    }
    missing = [{"variant": "", "seed": "", "error": "", **entry} for entry in fitted["missing"]]
    return {**_OPTIONAL, **fitted, "measures": measures, **parts, "missing": missing}


def write_study_files(folder: str | Path) -> tuple[Path, ...]:
    """Writes table.md, table.csv and picture.png (and .svg) beside a study's results.json and returns their paths.

    Raises ReportError as `read_study_results` does.
    """
    results, folder = read_study_results(folder), Path(folder)
    markdown, table = folder / "table.md", folder / "table.csv"
    write_text(markdown, study_markdown(results))
    write_text(table, study_csv(results))
    return markdown, table, write_figure(partial(_draw, results), folder / "picture.png")


def print_study(results: Mapping[str, Any], console: Console) -> None:
    """Prints means and spreads, as many measures side by side as the terminal is wide, then what is missing."""
    results = clean(results)
    names = list(results["measures"])
    many = max(1, (console.width - max(map(len, results["variants"])) - 2) // (CELL + 2))
    for start in range(0, len(names), many):
        table = study_table(results, "values", show_spread, names=names[start : start + many])
        console.print(table.terminal(wrap=CELL))
        console.print()
    console.print(Text(explain_spread(results)))
    for line in (*results["notes"], *_name_missing(results)):
        console.print(Text(line, style="yellow"))


def study_table(
    results: Mapping[str, Any],
    part: str,
    show: Show,
    *,
    title: str = "",
    names: Collection[str] | None = None,
    label: Callable[[str], str] = str,
) -> Table:
    """Returns the `values` or the `differences` of a study, as `part` says: a row a variant, a column a measure.

    `names` are the measures that are shown, all unless given; `label` says what a variant is called.
    """
    measures = {name: m for name, m in results["measures"].items() if names is None or name in names}
    headers = (f"{m['label']} ({m['unit']}){ARROWS.get(m['better'], '')}" for m in measures.values())
    of = results[part]
    rows = (
        (label(variant), *(show(of.get(variant, {}).get(name, {}), m["digits"]) for name, m in measures.items()))
        for variant in results["variants"]
        if part == "values" or variant in of
    )
    return Table(("variant", *headers), tuple(rows), title)


def study_markdown(results: Mapping[str, Any]) -> str:
    """Returns the page of a study's numbers: means, intervals and paired differences, each as a table."""
    parts = [f"# {results['study']}", results["about"], f"`{results['command']}`"]
    parts += [study_table(results, "values", show_spread).markdown().rstrip(), explain_spread(results)]
    parts += [f"## Difference to {results['baseline']}"]
    parts += [study_table(results, "differences", show_difference).markdown().rstrip(), explain_differences(results)]
    wide = wide_table(results)
    if wide is not None:
        parts += ["## Differences where their number is allowed for", wide.markdown().rstrip()]
    if _have_intervals(results["values"]):
        ends = study_table(results, "values", lambda of, digits: show_ends(of.get("low"), of.get("high"), digits))
        parts += ["## Intervals of the means", ends.markdown().rstrip()]
    about = [f"- **{name}**: {text}" for name, text in results["variants"].items() if text]
    parts += ["## Variants", "\n".join(about)] if about else []
    notes = [*results["notes"], *_name_missing(results)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n\n".join([*parts, f"{results['trial_seconds']:.0f} s of trials in all. {versions}.\n"])


def wide_table(results: Mapping[str, Any]) -> Table | None:
    """Returns the differences in what claims are made about with Holm's intervals; None where none was compared."""
    names = {name for of in results["differences"].values() for name, value in of.items() if _is_compared(value)}
    title = "Differences where their number is allowed for"
    return study_table(results, "differences", show_wide, names=names, title=title, label=_label) if names else None


def study_csv(results: Mapping[str, Any]) -> str:
    """Returns one line for each variant and measure, unrounded; what is missing is an empty field."""
    own, differing = ("mean", "std", "low", "high", "n"), ("mean", "low", "high", "n", *_NUMBERS[4:])
    records = []
    for variant in results["variants"]:
        for name, measure in results["measures"].items():
            value, difference = (results[part].get(variant, {}).get(name, {}) for part in ("values", "differences"))
            numbers = {key: value.get(key) for key in own} | {f"difference_{k}": difference.get(k) for k in differing}
            records.append({"variant": variant, "measure": name, "unit": measure["unit"], **numbers})
    return Table((), (), records=tuple(records)).csv()


def explain_spread(results: Mapping[str, Any]) -> str:
    """Says what the values of a study's variants are: of one seed, or means over several."""
    seeds = ", ".join(map(str, results["seeds"]))
    if len(results["seeds"]) == 1:
        return f"Values with the seed {seeds} alone: how much another seed would change is not known."
    return f"Mean ± standard deviation over the seeds {seeds}."


def explain_differences(results: Mapping[str, Any]) -> str:
    """Says what the differences of a study are, and how many of those that look clear would be so by chance."""
    differences = results["differences"]
    if not _have_intervals(differences):
        return "Differences between values of the same seed, without intervals: there are too few seeds for them."
    said = f"Mean difference and its 95 % interval: {results['statistics']}."
    compared = [of["holm"] for by_measure in differences.values() for of in by_measure.values() if _is_compared(of)]
    if compared:
        said += (
            f" {MARK} stands after the {sum(p <= MOST_FALSE for p in compared)} of {len(compared)} differences in what "
            "claims are made about that stay clear where their number is allowed for: the probability that even one "
            "of them is chance is at most 5 % (Holm, on two-sided t-tests). Their wider intervals stand below."
        )
    return said


def _have_intervals(of: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(value.get("low") is not None for values in of.values() for value in values.values())


def show_spread(value: Summary, digits: int) -> str:
    """Returns a mean with its standard deviation, where it has one."""
    mean, std = (show_number(value.get(key), digits) for key in ("mean", "std"))
    return mean if MISSING in (mean, std) else f"{mean}{NO_BREAK}±{NO_BREAK}{std}"


def show_difference(value: Summary, digits: int) -> str:
    """Returns a difference with its interval, where it has one, and the mark, where it stays clear among many."""
    shown = show_interval(value.get("mean"), value.get("low"), value.get("high"), digits, signed=True)
    return f"{shown}{NO_BREAK}{MARK}" if _is_compared(value) and value["holm"] <= MOST_FALSE else shown


def show_wide(value: Summary, digits: int) -> str:
    """Returns a difference with the interval that allows for the number of comparisons, where it is one of them."""
    if not _is_compared(value):
        return MISSING
    return show_interval(value.get("mean"), value.get("wide_low"), value.get("wide_high"), digits, signed=True)


def _is_compared(value: Summary) -> bool:
    return value.get("holm") is not None


def _name_missing(results: Mapping[str, Any]) -> list[str]:
    return [f"missing: {entry['variant']}, seed {entry['seed']}: {entry['error']}" for entry in results["missing"]]


def _draw(results: Mapping[str, Any]) -> Figure:
    """Draws every seed as a dot, means, and intervals where there are any; seconds say nothing of what was learnt."""
    names = list(results["variants"])
    measures = {name: measure for name, measure in results["measures"].items() if not name.startswith("time/")}
    shown = max(ACROSS, MOST_ROWS // max(1, len(names)) // ACROSS * ACROSS)
    measures = dict(list(measures.items())[:shown])
    rows = max(1, -(-len(measures) // ACROSS))
    size = (ACROSS * 2.5, rows * (len(names) * 0.24 + 0.85) + 0.45)
    figure = Figure(figsize=size, layout="constrained")
    what, line = shorten(results["study"]), shorten(results["baseline"])
    figure.suptitle(f"{what}: every seed, mean and 95 % interval; the line is {line}", x=0.01, ha="left", size=10)
    for place, (name, measure) in enumerate(measures.items()):
        axes: Any = figure.add_subplot(rows, ACROSS, place + 1)
        for height, variant in enumerate(names):
            value = results["values"].get(variant, {}).get(name)
            if value is None or value["mean"] is None:
                continue
            seeds = list(value["by_seed"].values())
            axes.plot(seeds, [height] * len(seeds), "o", markersize=3, color=GREY, alpha=0.55, markeredgewidth=0)
            if value["low"] is not None:
                axes.plot([value["low"], value["high"]], [height, height], color=BLUE, linewidth=1.5)
            axes.plot(value["mean"], height, "o", markersize=4.5, color=BLUE)
        axes.set_title(f"{shorten(measure['label'])}{ARROWS.get(measure['better'], '')}", loc="left", size=9)
        axes.set_xlabel(shorten(measure["unit"]), size=8)
        baseline = results["values"].get(results["baseline"], {}).get(name, {}).get("mean")
        if baseline is not None:
            axes.axvline(baseline, color=GREY, linewidth=0.8, alpha=0.6, zorder=0)
        name_rows(axes, names if place % ACROSS == 0 else [""] * len(names))
    return figure


def study_section(place: Place, problems: list[str], pictures: ItemPictures) -> Section:
    """Returns the section of a study, finished or not; what cannot be read is added to `problems`."""
    results: dict[str, Any] = {}
    try:
        results = read_study_results(place.path, problems)
    except ReportError as error:
        problems.append(f"the study has no results.json that can be read, so no means: {error}")
    problems += [f"{e['variant']}, seed {e['seed']}: {e['error']}" for e in results.get("missing", ())]
    trials, name = _read_trials(place, results), f"study-{identify(place.label)}"
    logs = {variant: [trial.history for trial in of if trial.history] for variant, of in trials.items()}
    panels = overlay_panels({variant: of for variant, of in logs.items() if of})
    curves = Curves(panels, f"{name}-curves")
    shown: dict[str, Any] = dict(
        results=results,
        curves=curves,
        has_seeds=any(len(of) > 1 for of in trials.values()),
        examples=[choose_examples(world, _answers_of(trials, world), pictures) for world in WORLDS],
    )
    if results:
        shown |= dict(
            values=_by_kind(results, "values", show_spread),
            differences=_by_kind(results, "differences", show_difference),
            wide=wide_table(results),
            explain_spread=explain_spread(results),
            explain_differences=explain_differences(results),
            about={variant: text for variant, text in results["variants"].items() if text and variant != START},
        )
        files: dict[str, File] = {f"{name}.md": study_markdown(results), f"{name}.csv": study_csv(results)}
    else:
        shown["trials"] = _list_trials(trials)
        files = table_files(f"{name}_trials", shown["trials"])
    if panels:
        files[f"{name}_curves.png"] = partial(draw_panels, panels)
    title = f"Study: {results.get('study', place.label)}"
    return Section(name, title, render("study.html", **shown), files, curves)


def _read_trials(place: Place, results: Mapping[str, Any]) -> dict[str, list[TrainedRun]]:
    """Returns the finished trials by variant, one for each seed, in the order of the results or of the study's file."""
    folders = sorted(place.path.glob(f"{TRIALS}/*/seed-*"), key=number_at_end)
    begun = {clean_text(folder.parent.name): None for folder in folders}
    planned = list(results.get("variants", ()))
    if not planned:
        try:
            listed = [START, *(str(variant["name"]) for variant in read_yaml(place.path / STUDY)["variants"])]
            planned = [name for name in listed if name in begun]
        except (OSError, ValueError, KeyError, TypeError):
            planned = []
    trials: dict[str, list[TrainedRun]] = {name: [] for name in (*planned, *begun)}
    for folder in folders:
        if (folder / TRIAL).is_file():
            name = clean_text(folder.parent.name)
            trial = read_trained(Place(folder, name), [], needs_model=False)
            trials[name].append(replace(trial, label=f"{name}, seed {number_at_end(folder)}"))
    return trials


def _by_kind(results: Mapping[str, Any], part: str, show: Show) -> dict[str, Table]:
    """Returns a table for each kind of measure, by its name, so that each is narrow enough to be seen whole."""
    names: dict[str, list[str]] = {}
    for name in results["measures"]:
        kind = name.partition("/")[0]
        names.setdefault(GROUPS.get(kind, kind), []).append(name)
    return {
        kind: study_table(results, part, show, title=f"{part.capitalize()}: {kind}", names=of, label=_label)
        for kind, of in names.items()
    }


def _label(variant: str) -> str:
    return START_LABEL if variant == START else variant


def _list_trials(trials: Mapping[str, Sequence[TrainedRun]]) -> Table:
    """Returns what the finished trials of a study without a result have measured."""
    rows, records = dict[str, dict[str, str]](), []
    for trial in (trial for of in trials.values() for trial in of):
        result = reading.read_object(trial.folder / TRIAL, [], costs="")
        metrics = reading.fit(result.get("metrics") or {}, {str: NUMBER}, trial.label, [])
        rows[trial.label] = {name: show_number(value) for name, value in metrics.items()}
        records.append({"trial": trial.label, **metrics})
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    return matrix("Trials that are finished", "trial", rows, names, records)


def _answers_of(trials: Mapping[str, Sequence[TrainedRun]], world: str) -> list[EvaluatedRun]:
    """Returns what each variant said of a world's scenes with the first seed that most of them have."""
    found: dict[int, list[EvaluatedRun]] = {}
    for variant, of in trials.items():
        for trial in of:
            folder = trial.folder / world
            if (folder / SCORES).is_file():
                run = replace(read_evaluated(Place(folder, variant), []), label=variant)
                found.setdefault(number_at_end(trial.folder), []).append(run)
                break
    return max(found.values(), key=len, default=[])
