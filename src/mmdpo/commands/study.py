"""Train variants × seeds from one start, evaluate all, write one table."""

from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Verb
from mmdpo.options import Options, option


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """Which study is run, and how much of it."""

    name: str | None = option(None, "A study that comes with the package, or a file.", metavar="NAME", positional=True)
    config: str | None = option(None, "A study file.")
    out: Path | None = option(None, "Folder of the results, runs/NAME unless given; what was begun there is resumed.")
    jobs: int = option(1, "Trials that run at a time.")
    seeds: tuple[int, ...] = option((), "Seeds instead of those of the study.")
    variants: tuple[str, ...] = option((), "These, and the one that others are compared to.")
    world: str | None = option(None, "In this embedded world: world, world_large.")
    list: bool = option(False, "Print what each study of the package asks, and exit.")
    print: bool = option(False, "Print the study file and exit, to make one's own of it.")


def run(options: StudyOptions) -> int:
    """Runs a study; returns 1 if a trial is missing, else 0."""
    from mmdpo.shipped import STUDIES
    from mmdpo.study.study_file import StudyError, describe_shipped, read_study, read_text

    if options.list:
        print("".join(f"{name:20}{about}\n" for name, about in describe_shipped().items()), end="")
        return 0
    named = [name for name in (options.name, options.config) if name is not None]
    if len(named) != 1:
        known = ", ".join(STUDIES.names())
        raise StudyError(f"name one study: {known} (--list says what they ask), or a file with --config")
    if options.print:
        print(read_text(named[0]), end="")
        return 0
    from rich.console import Console

    from mmdpo.study.study_run import prepare_server, run_study

    prepare_server()
    study = read_study(named[0], seeds=options.seeds or None, variants=options.variants or None, world=options.world)
    results = run_study(study, options.out or Path("runs") / study.name, options.jobs, Console())
    return 1 if results["missing"] else 0


VERB = Verb(__doc__, StudyOptions, run)
