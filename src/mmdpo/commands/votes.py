"""Report what blind votes on the answers of runs came to; export and import votes as CSV."""

from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Verbs, verb
from mmdpo.files import printable
from mmdpo.options import REQUIRED, Options, option


@dataclass(frozen=True, kw_only=True)
class VotesOptions(Options):
    """Which votes."""

    file: Path = option(REQUIRED, "File of votes, which `mmdpo app --votes` writes.", metavar="FILE", positional=True)


@dataclass(frozen=True, kw_only=True)
class VotesReportOptions(VotesOptions):
    """Which votes are reported on, and where the report goes besides the terminal."""

    out: Path | None = option(None, "Write votes.json, votes.md and votes.csv into this folder.")
    resamples: int = option(2000, "Number of resamples of the bootstrap.")
    seed: int = option(0, "Seed of the bootstrap.")


@verb("app", {"win, tie and lose of the votes in a file": "mmdpo votes report votes.db --out runs/votes"})
def report(options: VotesReportOptions) -> int:
    """Print how often each run won, tied and lost, with intervals, and how far raters agree."""
    from rich.console import Console

    from mmdpo.votes.report import make_report, print_report, write_report
    from mmdpo.votes.store import VoteStore

    content = make_report(VoteStore.read(options.file), resamples=options.resamples, seed=options.seed)
    print_report(content, Console())
    if options.out is not None:
        write_report(content, options.out)
        print(printable(f"Report: {options.out / 'votes.md'}; unrounded: votes.json, votes.csv"))
    return 0


@dataclass(frozen=True, kw_only=True)
class VotesExportOptions(VotesOptions):
    """Which votes are written, and where."""

    csv: Path = option(REQUIRED, "Write this .csv file.", metavar="CSV", positional=True)


@verb("app", {"votes for a spreadsheet": "mmdpo votes export votes.db votes.csv"})
def export(options: VotesExportOptions) -> int:
    """Write votes as CSV."""
    from mmdpo.votes.exchange import export_votes
    from mmdpo.votes.store import VoteStore

    votes = export_votes(VoteStore.read(options.file), options.csv)
    said = f"{len(votes.counting):,} votes written, and {len(votes.replaced):,} that their raters have changed"
    print(printable(f"{said}: {options.csv}"))
    return 0


@dataclass(frozen=True, kw_only=True)
class VotesImportOptions(VotesOptions):
    """Which votes are read, and into which file."""

    csv: Path = option(REQUIRED, "A file that `mmdpo votes export` wrote.", metavar="CSV", positional=True)
    runs: tuple[Path, ...] = option((), "The runs that are voted on, for a FILE that is not there yet.", metavar="RUN")


@verb("app", {"votes of another machine into the same file": "mmdpo votes import votes.db theirs.csv"})
def merge(options: VotesImportOptions) -> int:
    """Read votes from CSV; votes that are known already change nothing."""
    from mmdpo.report.reading import find_folders
    from mmdpo.votes.exchange import import_votes
    from mmdpo.votes.store import VoteStore
    from mmdpo.votes.study import read_voted_runs

    if options.runs:
        store = VoteStore.open(options.file, read_voted_runs(find_folders(options.runs).evaluations).study)
    else:
        store = VoteStore.read(options.file)
    merged = import_votes(store, options.csv)
    print(
        f"{merged.added:,} votes added; {merged.known:,} were known; {merged.replaced:,} replaced earlier votes of "
        f"their raters; {merged.outdated:,} kept as replaced by later ones"
    )
    return 0


VERB = Verbs(
    __doc__,
    {"report": report, "export": export, "import": merge},
    page="app",
    examples={**report.examples, **export.examples, **merge.examples},
)
