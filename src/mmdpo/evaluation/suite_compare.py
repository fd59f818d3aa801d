"""`mmdpo eval suite compare`: suites of several models as rows of one of the paper's tables, beside the paper's own.

    <out>/suites.json, suites.md, suites.csv

Values are those over all items of each suite; `mmdpo eval compare` has paired differences of all metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdpo.benchmarks.reading import EvaluationError, read_data
from mmdpo.benchmarks.tasks import load
from mmdpo.evaluation.compare import check_single, explain_tools, label_folders
from mmdpo.evaluation.paper_table import COLUMNS, PAPER, SOURCE, TableValue, build_paper_table, explain, find_cells
from mmdpo.files import printable, write_json, write_whole
from mmdpo.folders import make_folder
from mmdpo.tables import Table


@dataclass(frozen=True)
class SuiteRows:
    """Several suites: their figures by label and column, pieces that are missing, and what a reader should know."""

    number: str
    """Of the paper's table."""
    cells: Mapping[str, Mapping[str, TableValue | None]]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    def table(self, *, is_narrow: bool = False) -> Table:
        """Returns the paper's rows and these."""
        return build_paper_table(self.cells, number=self.number, is_narrow=is_narrow)

    def remarks(self) -> list[str]:
        """Returns what stands below the table, a line each."""
        return [*(f"missing: {what}" for what in self.missing), *self.notes]


def compare_suites(folders: Sequence[Path], *, number: str = "1", labels: Sequence[str] = ()) -> SuiteRows:
    """Returns suites, or runs of one benchmark, as rows of the paper's table of that number.

    Rows are called by `labels`, else by the folders' names. Raises EvaluationError for a folder without results, for
    other than one label for each folder, and where nothing that the table shows was scored; ValueError for no such
    table.
    """
    if number not in PAPER:
        raise ValueError(f"--table {number}: these of the paper's tables have rows here: {', '.join(PAPER)}")
    if labels and len(set(labels)) != len(folders):
        raise EvaluationError(f"--labels: give {len(folders)} different names, one for each run; got {len(labels)}")
    names = [printable(label) for label in labels] or label_folders(folders)
    missing: list[str] = []
    runs = {label: _read_results(folder, label, missing) for label, folder in zip(names, folders, strict=True)}
    cells = {label: find_cells(results) for label, results in runs.items()}
    columns = COLUMNS[: len(next(iter(PAPER[number].values())))]
    if not any(row[column.header] for row in cells.values() for column in columns):
        raise EvaluationError(
            f"no run has a figure of the paper's Table {number} ({', '.join(column.header for column in columns)}); "
            "score AMBER, MMHal-Bench or Object HalBench first: mmdpo eval suite"
        )
    notes = list[str]()
    for label, column in (
        (label, column) for label in runs for column in columns if cells[label][column.header] is None
    ):
        is_scored = column.metrics[0].partition("/")[0] in runs[label]
        lacks = f"{label}: {column.header}"
        (notes if is_scored else missing).append(f"{lacks} has no value: 0 / 0 by its rule" if is_scored else lacks)
    return SuiteRows(number, cells, tuple(missing), (*notes, *_explain(runs)))


def write_suites(rows: SuiteRows, out: Path) -> Path:
    """Writes suites.json, suites.md and suites.csv into a folder; returns the path of the Markdown."""
    make_folder(out)
    paper = {"source": f"{SOURCE}, Table {rows.number}", "rows": PAPER[rows.number]}
    write_json(out / "suites.json", asdict(rows) | {"paper": paper})
    notes = "".join(f"- {line}\n" for line in rows.remarks())
    write_whole(out / "suites.md", f"{rows.table().markdown()}\n{notes}")
    write_whole(out / "suites.csv", rows.table().csv())
    return out / "suites.md"


def _read_results(folder: Path, label: str, missing: list[str]) -> dict[str, Mapping[str, Any]]:
    """Returns contents of result.json by benchmark; a suite's are those that its last run wrote, or took over."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: no folder of results")
    paths = [folder / "result.json"]
    if not paths[0].is_file():
        paths = sorted(folder.glob("*/result.json"))
    if (folder / "suite.json").is_file():
        suite = read_data(folder / "suite.json")
        paths = [folder / path for path in suite["results"].values()]
        missing += [f"{label}: {name}: {reason}" for name, reason in suite["missing"].items()]
    if not paths:
        raise EvaluationError(f"{folder}: holds no result.json, nor folders that do; has `mmdpo eval` finished there?")
    results: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        try:
            result = read_data(path)
            benchmark = load(result["benchmark"]).name
            found = {key: result[key] for key in ("metrics", "made_by", "partial")}
        except (EvaluationError, OSError, KeyError, TypeError, ValueError) as error:
            missing.append(f"{label}: {path} cannot be read ({error}); score the run again")
            continue
        check_single(folder, benchmark, path.parent.name, results)
        results[benchmark] = found | {"partial_because": result.get("partial_because", [])}
    return results


def _explain(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yields each note once, with the rows that it is about where these are not all."""
    told: dict[str, list[str]] = {}
    for label, results in runs.items():
        for line in explain(results):
            told.setdefault(line, []).append(label)
    for line, labels in told.items():
        yield line if len(labels) == len(runs) else f"{', '.join(labels)}: {line}"
    first, *others = runs
    for other in others:
        for name in sorted(runs[first].keys() & runs[other].keys()):
            yield from explain_tools(name, *((label, runs[label][name]["made_by"]) for label in (first, other)))
    yield "Which differences are clear: mmdpo eval compare, with the same runs."
