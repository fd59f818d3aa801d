"""Pages: the quickstart's own, and the report on any mix of folders. One HTML file needs neither network nor others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from mmdpo.files import make_folder, write_text
from mmdpo.report.evaluated import EvaluatedRun, read_evaluated
from mmdpo.report.folders import Found, Place, find_folders
from mmdpo.report.layout import Section, bullets, identify, page_html
from mmdpo.report.runs import RunFolderError, read_run
from mmdpo.report.sections.diagnosis import diagnosis_section
from mmdpo.report.sections.evaluation import Compare, Pictures, evaluation_section
from mmdpo.report.sections.quickstart import quickstart_sections, summarise_quickstart
from mmdpo.report.sections.samples import samples_section
from mmdpo.report.sections.study import read_study, study_section
from mmdpo.report.sections.training import settings_section, training_section
from mmdpo.report.trained import TrainedRun, read_trained

TITLE = "mmdpo quickstart"
REPORT_TITLE = "mmdpo report"


def write_page(run_dir: str | Path) -> Path:
    """Writes report.html into the folder of a quickstart and returns its path.

    Raises:
        RunFolderError: as `read_run` does.
    """
    run = read_run(run_dir)
    path = run.folder / "report.html"
    write_text(path, page_html(TITLE, summarise_quickstart(run.results), quickstart_sections(run)))
    return path


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    compare: Compare | None = None,
    pictures: Pictures = Pictures(),  # noqa: B008 - it is frozen
) -> Path:
    """Writes one page about the folders, and its figures and tables into a folder beside it; returns the page's path.

    `compare` takes paired differences and `pictures` finds the images of benchmarks: what knows the benchmarks hands
    them in. What is damaged or missing in a folder is said on the page, and the rest is shown.

    Raises:
        RunFolderError: a folder does not exist or is none of those that this package writes.
        UnusableFileError: the page cannot be written where it is to lie.
    """
    found = find_folders(folders)
    path = Path(out)
    make_folder(path.parent)
    missing: list[str] = [*found.left_out, *pictures.notes]
    sections = _make_sections(found, missing, compare, pictures)
    _write_files(sections, path.with_name(f"{path.stem}_files"), missing)
    if missing:
        sections.insert(0, Section("missing", "What is missing", bullets(list(dict.fromkeys(missing)))))
    write_text(path, page_html(REPORT_TITLE, summarise(found), sections))
    return path


def _make_sections(found: Found, missing: list[str], compare: Compare | None, pictures: Pictures) -> list[Section]:
    runs = [read_trained(place) for place in found.runs]
    evaluated = [read_evaluated(place) for place in found.evaluations]
    missing += [line for run in runs for line in run.missing] + [line for run in evaluated for line in run.missing]
    sections: list[Section] = []

    def add(name: str, make: Callable[[], Section | Iterable[Section]]) -> None:
        """Adds what is made; where a folder holds what nothing here is ready for, the other sections are shown."""
        try:
            made = make()
            sections.extend([made] if isinstance(made, Section) else made)
        except Exception as error:
            missing.append(f"{name}: cannot be shown ({type(error).__name__}: {error})")

    if runs:
        add("the curves of training", lambda: training_section(runs))
    missing += name_absent(evaluated)
    for benchmark in dict.fromkeys(run.benchmark for run in evaluated):
        of = [run for run in evaluated if run.benchmark == benchmark]
        add(benchmark, partial(evaluation_section, benchmark, of, compare=compare, pictures=pictures))
    if any(run.samples for run in runs):
        add("sample answers", lambda: samples_section([run for run in runs if run.samples]))
    for place in found.studies:
        add(place.label, partial(_study, place, missing, pictures))
    for place in found.diagnoses:
        add(place.label, partial(diagnosis_section, place, missing))
    for place in found.quickstarts:
        add(place.label, partial(_quickstart, place, missing))
    if runs:
        add("settings", lambda: settings_section(_with_versions(runs, evaluated)))
    return sections


def name_absent(evaluated: Sequence[EvaluatedRun]) -> list[str]:
    """Says which runs lack a result that others have, among runs that share a benchmark.

    Who scored one run on two benchmarks into two folders has compared nothing, and lacks nothing.
    """
    benchmarks: dict[str, set[str]] = {}
    for run in evaluated:
        benchmarks.setdefault(run.label, set()).add(run.benchmark)
    wanted = {
        label: set().union(*(other for name, other in benchmarks.items() if name != label and other & own))
        for label, own in benchmarks.items()
    }
    return [
        f"{label}: no result of {benchmark}"
        for label, own in benchmarks.items()
        for benchmark in dict.fromkeys(run.benchmark for run in evaluated)
        if benchmark in wanted[label] - own
    ]


def _study(place: Place, missing: list[str], pictures: Pictures) -> Section:
    study = read_study(place)
    missing += study.missing
    return study_section(study, pictures)


def _with_versions(runs: Sequence[TrainedRun], evaluated: Sequence[EvaluatedRun]) -> list[TrainedRun]:
    """Adds runs that were evaluated only, for the versions that generated their answers."""
    known = {run.label for run in runs}
    others = {run.label: run for run in evaluated if run.versions and run.label not in known}
    return [*runs, *(TrainedRun(o.label, o.folder, {}, (), o.versions, (), ()) for o in others.values())]


def _quickstart(place: Place, missing: list[str]) -> list[Section]:
    problems: list[str] = []
    try:
        run = read_run(place.path, problems)
    except RunFolderError as error:
        missing.append(f"{place.label}: the quickstart cannot be read ({error})")
        return []
    missing += [f"{place.label}: {problem}" for problem in problems]
    return quickstart_sections(run, f"{identify(place.label)}-", place.label)


def summarise(found: Found) -> str:
    """Returns how many folders of each kind were found, and what they are called."""
    kinds = {
        "training run": found.runs,
        "result": found.evaluations,
        "study": found.studies,
        "diagnosis": found.diagnoses,
        "quickstart": found.quickstarts,
    }
    plural = {"study": "studies", "diagnosis": "diagnoses"}
    said = [f"{len(of)} {kind if len(of) == 1 else plural.get(kind, f'{kind}s')}" for kind, of in kinds.items() if of]
    labels = dict.fromkeys(place.label for of in kinds.values() for place in of)
    return f"{', '.join(said)}: {', '.join(labels)}"


def _write_files(sections: Sequence[Section], folder: Path, missing: list[str]) -> None:
    """Writes each table as Markdown and CSV and each figure as PNG and SVG; says which figure cannot be drawn."""
    make_folder(folder)
    for section in sections:
        texts = dict(section.texts)
        for name, grid in section.tables.items():
            texts |= {f"{name}.md": grid.markdown(), f"{name}.csv": grid.csv()}
        for name, text in texts.items():
            write_text(folder / name, text)
        for name, draw in section.figures.items():
            try:
                draw(folder / f"{name}.png")
            except OSError:
                raise
            except Exception as error:  # of values that no axis can be drawn for
                missing.append(f"{name}.png cannot be drawn ({type(error).__name__}: {error})")
