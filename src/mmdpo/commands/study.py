"""Train variants × seeds from one start, evaluate all, write one table."""

import re
from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Verb
from mmdpo.files import read_yaml
from mmdpo.options import Options, option, print_names
from mmdpo.shipped import STUDIES


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """Which study is run, and how much of it."""

    name: str | None = option(
        None,
        "A study that comes with the package, or a file.",
        metavar="NAME",
        positional=True,
        known=STUDIES.names,
    )
    config: str | None = option(None, "A study file.", metavar="FILE")
    out: Path | None = option(None, "Folder of the results; what was begun there is resumed.", unset="runs/NAME")
    jobs: int = option(1, "Trials that run at a time.", least=1)
    seeds: tuple[int, ...] = option((), "Run these seeds.", unset="those of the study")
    variants: tuple[str, ...] = option(
        (), "Run these, and the one that others are compared to.", unset="those of the study"
    )
    world: str | None = option(
        None, "In this embedded world: world, world_large.", known=lambda: ("world", "world_large"), unset="the study's"
    )
    tuning_seeds: tuple[int, ...] = option(
        (),
        "Try the values of `tune` on these seeds. More of them later try only what is new.",
        unset="those of the study",
    )
    tuned_in: Path | None = option(
        None,
        "Take the values that the same study has chosen in this folder, in place of trying them again: to confirm on "
        "new seeds what it found.",
    )
    list: bool = option(False, "Print what each study of the package asks, and exit.")
    print: bool = option(False, "Print the study file and exit, to make one's own of it.")


def run(options: StudyOptions) -> int:
    """Runs a study; returns 1 if a trial is missing, else 0."""
    if options.list:
        asked = {name: str(read_yaml(STUDIES.find(name)).get("about", "")) for name in STUDIES.names()}
        print_names({name: re.split(r"(?<=[.?]) ", " ".join(text.split()))[0] for name, text in asked.items()})
        return 0
    if options.tuning_seeds and options.tuned_in:
        raise ValueError(
            "--tuned_in takes values that were chosen elsewhere, so nothing is tried with --tuning_seeds: leave one out"
        )
    named = [name for name in (options.name, options.config) if name is not None]
    if len(named) != 1:
        known = ", ".join(STUDIES.names())
        raise ValueError(f"name one study: {known} (--list says what they ask), or a file with --config")
    try:
        file = STUDIES.find(named[0])  # before imports that take seconds
    except ValueError as error:
        raise ValueError(f"{error}; --list says what those of the package ask") from error
    if options.print:
        print(file.read_text(encoding="utf-8"), end="")
        return 0
    from rich.console import Console

    from mmdpo.study.study_file import read_study
    from mmdpo.study.study_run import prepare_server, run_study

    prepare_server()
    study = read_study(
        named[0],
        seeds=options.seeds or None,
        variants=options.variants or None,
        world=options.world,
        tuning_seeds=options.tuning_seeds or None,
    )
    out = options.out or Path("runs") / study.name
    results = run_study(study, out, options.jobs, Console(), tuned_in=options.tuned_in)
    return 1 if results["missing"] else 0


VERB = Verb(
    __doc__,
    StudyOptions,
    run,
    goes_on=True,
    page="studies",
    examples={
        "what there is": "mmdpo study --list",
        "DPO against mDPO, two seeds each": "mmdpo study comparative --variants dpo mdpo --seeds 0 1",
        "what it found, on new seeds": "mmdpo study comparative --seeds 100 101 102 --tuned_in runs/comparative "
        "--out runs/confirmed",
        "a study of one's own": "mmdpo study ablation --print > mine.yaml && mmdpo study --config mine.yaml",
    },
)
