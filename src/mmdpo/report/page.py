"""Pages: the quickstart's own, and the report on any mix of folders. One HTML file needs neither network nor others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    path.write_text(page_html(TITLE, summarise_quickstart(run.results), quickstart_sections(run)), encoding="utf-8")
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
    them in. What is damaged or missing in a folder is said on the page.

    Raises:
        RunFolderError: a folder does not exist or is none of those that this package writes.
    """
    found = find_folders(folders)
    missing: list[str] = []
    sections = _make_sections(found, missing, compare, pictures)
    if missing:
        sections.insert(0, Section("missing", "What is missing", bullets(missing)))
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page_html(REPORT_TITLE, _summarise(found), sections), encoding="utf-8")
    _write_files(sections, path.with_name(f"{path.stem}_files"))
    return path


def _make_sections(found: Found, missing: list[str], compare: Compare | None, pictures: Pictures) -> list[Section]:
    runs = [read_trained(place) for place in found.runs]
    evaluated = [read_evaluated(place) for place in found.evaluations]
    missing += [line for run in runs for line in run.missing] + [line for run in evaluated for line in run.missing]
    sections = [training_section(runs)] if runs else []
    for benchmark in dict.fromkeys(run.benchmark for run in evaluated):
        of_benchmark = [run for run in evaluated if run.benchmark == benchmark]
        missing += _name_absent(benchmark, of_benchmark, evaluated)
        sections.append(evaluation_section(benchmark, of_benchmark, compare=compare, pictures=pictures))
    if any(run.samples for run in runs):
        sections.append(samples_section([run for run in runs if run.samples]))
    for place in found.studies:
        study = read_study(place)
        missing += study.missing
        sections.append(study_section(study, pictures))
    sections += [diagnosis_section(place, missing) for place in found.diagnoses]
    for place in found.quickstarts:
        sections += _quickstart(place, missing)
    if runs:
        sections.append(settings_section(_with_versions(runs, evaluated)))
    return sections


def _name_absent(benchmark: str, present: Sequence[EvaluatedRun], evaluated: Sequence[EvaluatedRun]) -> list[str]:
    """Says which of the evaluated runs have no result of a benchmark."""
    labels = dict.fromkeys(run.label for run in evaluated)
    return [f"{label}: no result of {benchmark}" for label in labels if label not in {run.label for run in present}]


def _with_versions(runs: Sequence[TrainedRun], evaluated: Sequence[EvaluatedRun]) -> list[TrainedRun]:
    """Adds runs that were evaluated only, for the versions that generated their answers."""
    known = {run.label for run in runs}
    others = {run.label: run for run in evaluated if run.versions and run.label not in known}
    return [*runs, *(TrainedRun(o.label, o.folder, {}, (), o.versions, (), ()) for o in others.values())]


def _quickstart(place: Place, missing: list[str]) -> list[Section]:
    try:
        run = read_run(place.path)
        return quickstart_sections(run, f"{identify(place.label)}-", place.label)
    except (RunFolderError, KeyError, TypeError) as error:
        missing.append(f"{place.label}: the quickstart cannot be read ({error})")
        return []


def _summarise(found: Found) -> str:
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


def _write_files(sections: Sequence[Section], folder: Path) -> None:
    """Writes each table as Markdown and CSV and each figure as PNG and SVG."""
    folder.mkdir(exist_ok=True)
    for section in sections:
        texts = dict(section.texts)
        for name, grid in section.tables.items():
            texts |= {f"{name}.md": grid.markdown(), f"{name}.csv": grid.csv()}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, draw in section.figures.items():
            draw(folder / f"{name}.png")
