"""Write one self-contained HTML page about runs, results, studies and diagnoses."""

from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Verb
from mmdpo.files import printable
from mmdpo.options import REQUIRED, Options, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """What the page is about, and where it goes."""

    runs: tuple[Path, ...] = option(REQUIRED, "Folders that mmdpo wrote.", metavar="RUN", positional=True)
    out: Path = option(Path("report.html"), "The page.")
    image_dir: Path | None = option(None, "Folder of the images of benchmarks.")


def run(options: ReportOptions) -> int:
    """Writes the page, and says what it is about and what was left out."""
    from mmdpo.evaluation.pictures import know_benchmarks, make_pictures
    from mmdpo.report.page import summarise, write_report
    from mmdpo.report.reading import find_folders

    if options.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {options.out}: name the page, such as report.html")
    if options.image_dir is not None and not options.image_dir.is_dir():
        raise ValueError(f"--image_dir {options.image_dir}: no such folder")
    found = find_folders(options.runs)
    pictures = make_pictures(options.runs, options.image_dir)
    page = write_report(options.runs, options.out, benchmarks=know_benchmarks(), pictures=pictures)
    print(printable(f"Found: {summarise(found)}"))
    for line in found.left_out:
        print(printable(f"Left out: {line}"))
    print(printable(f"Report: {page}; figures and tables: {page.with_name(f'{page.stem}_files')}"))
    return 0


VERB = Verb(
    __doc__,
    ReportOptions,
    run,
    page="report",
    examples={
        "two runs beside each other": "mmdpo report runs/dpo runs/mdpo --out report.html",
        "all runs of a folder, pictures of benchmarks too": "mmdpo report runs/* --image_dir val2014",
    },
)
