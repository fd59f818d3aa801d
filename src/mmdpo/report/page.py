"""`mmdpo report`: one page about any mix of folders. The HTML file needs neither network nor others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmdpo.files import write_text
from mmdpo.folders import make_folder
from mmdpo.progress import count
from mmdpo.report.diagnosis import diagnosis_section
from mmdpo.report.evaluated import EvaluatedRun, ItemPictures, name_benchmark, read_evaluated
from mmdpo.report.evaluation import Benchmarks, evaluation_heads, evaluation_section, key_table, score_benchmark
from mmdpo.report.layout import Headline, Section, identify, render_page
from mmdpo.report.pairs import pairs_sections
from mmdpo.report.quickstart import quickstart_sections
from mmdpo.report.reading import Found, Place, ReportError, find_folders, name_results
from mmdpo.report.study_page import study_section
from mmdpo.report.trained import TrainedRun, read_trained, samples_section, settings_section, training_section


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    benchmarks: Benchmarks = Benchmarks(),  # noqa: B008 - it is frozen, as the next
    pictures: ItemPictures = ItemPictures(),  # noqa: B008
) -> Path:
    """Writes one page about the folders, and its figures and tables into a folder beside it; returns the page's path.

    `benchmarks` compares results and `pictures` finds the images of benchmarks: what knows the benchmarks hands them
    in. What is damaged or missing in a folder is said on the page, and the rest is shown.

    Raises:
        ReportError: a folder does not exist or is none of those that this package writes.
        UnusableFileError: the page cannot be written where it is to lie.
    """
    found = find_folders(folders)
    path = Path(out)
    make_folder(path.parent)
    missing: list[str] = [*found.left_out, *pictures.notes]
    heads, sections = _make_sections(found, missing, benchmarks, pictures)
    heads += [section.headline for section in sections if section.headline is not None]
    _write_files([*heads, *sections], path.with_name(f"{path.stem}_files"), missing)
    write_text(path, render_page("mmdpo report", summarise(found), sections, missing, heads))
    return path


def _make_sections(
    found: Found, missing: list[str], benchmarks: Benchmarks, pictures: ItemPictures
) -> tuple[list[Headline], list[Section]]:
    """Returns what benchmarks come to, and the sections: results first, then how they were trained."""
    runs = [read_trained(place, missing) for place in count(found.runs, "reading", "run")]
    results = _tell_apart(found.evaluations, name_benchmark)
    evaluated = [read_evaluated(place, missing) for place in count(results, "reading", "result")]
    by_folder = [replace(run, label=place.label) for run, place in zip(evaluated, found.evaluations, strict=True)]
    sections: list[Section] = []

    def add(name: str, make: Callable[[], Section | list[Section]]) -> None:
        """Adds what is made; where a folder holds what nothing here is ready for, the other sections are shown."""
        try:
            made = make()
            sections.extend([made] if isinstance(made, Section) else made)
        except ReportError as error:
            missing.append(f"{name}: cannot be read ({error})")
        except Exception as error:
            missing.append(f"{name}: cannot be shown ({type(error).__name__}: {error})")

    missing += name_absent(by_folder)
    scored = [
        score_benchmark(benchmark, [run for run in evaluated if run.benchmark == benchmark], benchmarks)
        for benchmark in dict.fromkeys(run.benchmark for run in evaluated)
    ]
    heads = evaluation_heads(scored, benchmarks, missing)
    on_top = {head.table.title for head in heads if head.table is not None}
    for of in count(scored, "drawing", "benchmark"):
        add(of.benchmark, partial(evaluation_section, of, pictures, has_key=key_table(of).title not in on_top))
    makers: tuple[tuple[Sequence[Place], Callable[..., Section | list[Section]]], ...] = (
        (found.studies, partial(study_section, pictures=pictures)),
        (_tell_apart(found.diagnoses, lambda path: "diagnosis"), diagnosis_section),
        (found.pairs, pairs_sections),
        (found.quickstarts, quickstart_sections),
    )
    several = [(place, make) for places, make in makers for place in _name_files_apart(places)]
    for place, make in count(several, "reading", "folder"):
        problems: list[str] = []
        add(place.label, partial(make, place, problems))
        missing += [f"{place.label}: {problem}" for problem in problems]
    if runs:
        add("the curves of training", partial(training_section, runs))
    sampled = [run for run in runs if run.samples]
    if sampled:
        add("sample answers", partial(samples_section, sampled))
    if runs:
        # Runs that were evaluated only are named for the versions that generated their answers.
        known = {run.label for run in runs}
        others = {run.label: run for run in by_folder if run.versions and run.label not in known}
        answered = [TrainedRun(run.label, run.folder, {}, (), run.versions) for run in others.values()]
        add("settings", partial(settings_section, [*runs, *answered]))
    return heads, sections


def _tell_apart(places: Sequence[Place], kind: Callable[[Path], str]) -> list[Place]:
    """Returns the places by labels of their own among those of a kind: a folder may hold several under its label."""
    kinds: dict[str, list[Place]] = {}
    for place in places:
        kinds.setdefault(kind(place.path), []).append(place)
    labels = {place: label for of in kinds.values() for place, label in zip(of, name_results(of), strict=True)}
    return [Place(place.path, labels[place]) for place in places]


def _name_files_apart(places: Sequence[Place]) -> list[Place]:
    """Returns the places of a kind, numbered where labels that differ give files one name, as `a b` and `a-b` do."""
    names = [identify(place.label) for place in places]
    times = [names[:number].count(name) for number, name in enumerate(names, start=1)]
    return [
        replace(place, label=f"{place.label} ({time})") if time > 1 else place
        for place, time in zip(places, times, strict=True)
    ]


def name_absent(evaluated: Sequence[EvaluatedRun]) -> list[str]:
    """Says which runs lack a result that others have, among runs that share a benchmark.

    Who scored one run on two benchmarks into two folders has compared nothing, and lacks nothing.
    """
    benchmarks: dict[str, dict[str, None]] = {}
    for run in evaluated:
        benchmarks.setdefault(run.label, {})[run.benchmark] = None
    return [
        f"{label}: no result of {benchmark}"
        for label, own in benchmarks.items()
        for benchmark in dict.fromkeys(run.benchmark for run in evaluated)
        if benchmark not in own and any(benchmark in of and of.keys() & own.keys() for of in benchmarks.values())
    ]


def summarise(found: Found) -> str:
    """Returns how many folders of each kind were found, and what they are called."""
    kinds = (
        ("training run", "training runs", found.runs),
        ("result", "results", found.evaluations),
        ("study", "studies", found.studies),
        ("diagnosis", "diagnoses", found.diagnoses),
        ("run of own pairs", "runs of own pairs", found.pairs),
        ("quickstart", "quickstarts", found.quickstarts),
    )
    said = [f"{len(of)} {one if len(of) == 1 else several}" for one, several, of in kinds if of]
    labels = dict.fromkeys(place.label for *_, of in kinds for place in of)
    return f"{', '.join(said)}: {', '.join(labels)}"


def _write_files(parts: Sequence[Headline | Section], folder: Path, missing: list[str]) -> None:
    make_folder(folder)
    files = [file for part in parts for file in part.files.items()]
    for name, content in count(files, "drawing", "file"):
        if isinstance(content, str):
            write_text(folder / name, content)
            continue
        try:
            content(folder / name)
        except OSError:
            raise
        except Exception as error:  # of values that no axis can be drawn for
            missing.append(f"{name} cannot be drawn ({type(error).__name__}: {error})")
