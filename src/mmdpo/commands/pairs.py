"""Make preference pairs from a model's own answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdpo.commands import NoOptions, Verbs, verb
from mmdpo.files import printable
from mmdpo.options import REQUIRED, Options, option
from mmdpo.pairs.options import PairsOptions
from mmdpo.terminal import quiet_libraries

if TYPE_CHECKING:
    from mmdpo.pairs.run import PairsRun


_RUN = "mmdpo pairs {} --config pairs.yaml"


@verb("pairs", {"by the options in a file": _RUN.format("sample")}, uses=lambda: ("asking",), goes_on=True)
def sample(options: PairsOptions) -> int:
    """Let the policy answer every prompt K times."""
    from mmdpo.pairs.run import PairsRun

    quiet_libraries()
    run = PairsRun(options)
    if options.dry_run:
        return _estimate(options)
    if not _agrees(run, "sample"):
        return 1
    if refused := run.sample():
        print(f"note: the policy refused {refused:,} requests, whose answers are missing; the same command asks again")
    print(printable(f"answers: {run.folder / 'samples.jsonl'}"))
    return 0


@dataclass(frozen=True, kw_only=True)
class JudgeStepOptions(PairsOptions):
    """One run of the data engine, and which of its judges judge now."""

    only: tuple[str, ...] = option((), "Judges by their names.", unset="all")


@verb(
    "pairs",
    {"one of several judges": f"{_RUN.format('judge')} --only claims"},
    uses=lambda: ("judging", "asking"),
    goes_on=True,
)
def judge(options: JudgeStepOptions) -> int:
    """Let judges say what is wrong with every answer."""
    from mmdpo.pairs.run import PairsRun

    quiet_libraries()
    run = PairsRun(options)
    if options.dry_run:
        return _estimate(options)
    if not _agrees(run, "judge"):
        return 1
    found = run.judge(getattr(options, "only", ()))
    for label, (refused, unreadable) in found.items():
        if refused or unreadable:
            print(
                printable(
                    f"note: {label}: {refused:,} requests were refused, which the same command asks again, and "
                    f"{unreadable:,} replies cannot be read; the answers that they were about have no verdict"
                )
            )
    print(printable(f"verdicts: {', '.join(f'verdicts-{label}.jsonl' for label in found)} in {run.folder}"))
    return 0


@verb(
    "pairs",
    {"by another rule; nothing is asked again": f"{_RUN.format('build')} --rule clean_near --margin 2"},
    uses=lambda: ("judging", "building"),
)
def build(options: PairsOptions) -> int:
    """Make pairs of answers and verdicts, with a card and a recipe."""
    from rich.console import Console

    from mmdpo.pairs.run import PairsRun
    from mmdpo.report.pair_tables import make_tables

    quiet_libraries()
    if options.dry_run:
        return _estimate(options)
    run = PairsRun(options)
    result = run.build()
    console = Console()
    for table in make_tables(run.folder, result)[1:4]:
        console.print(table.terminal())
    for note in result["notes"]:
        print(printable(f"note: {note}"))
    print(printable(f"report: {run.folder / 'report.html'}"))
    where = run.folder / "dataset"
    print(
        printable(f"{sum(result['pairs'].values()):,} pairs: {where}; mmdpo train --config {run.folder / 'train.yaml'}")
    )
    return 0


@verb(
    "pairs",
    {
        "all three steps, by the options in a file": _RUN.format("all"),
        "without a file: eight answers to each picture of a folder": (
            "mmdpo pairs all --prompts photos --ask Describe. --model runs/mine --judge_model "
            "Qwen/Qwen2.5-VL-72B-Instruct --judge_base_url http://localhost:8000/v1 --out runs/pairs"
        ),
        "what is left to do, and what it will cost": f"{_RUN.format('all')} --dry_run",
    },
    goes_on=True,
)
def run_all(options: PairsOptions) -> int:
    """Do all three steps; each continues where it was stopped."""
    from mmdpo.pairs.run import PairsRun

    if options.dry_run:
        return _estimate(options)
    PairsRun(options).check_judges_needs()
    return sample.run(options) or judge.run(options) or build.run(options)


def _agrees(run: PairsRun, step: str) -> bool:
    """Asks whoever sits at a terminal before a step that will cost more than the budget leaves, and returns the reply.

    The estimate is what the step has cost so far, in proportion; of a step that has not begun there is none.
    """
    budget = run.options.judging.budget
    if budget is None or run.options.yes or not sys.stdin.isatty():
        return True
    rest = sum(each.row()["price"] or 0.0 for each in run.estimate() if each.step.partition(" ")[0] == step)
    left = budget - run.ledger.total
    if rest <= left:
        return True
    said = f"{step}: the rest will cost about {rest:.2f}, and {max(0.0, left):.2f} of the budget of {budget:g} is left."
    return input(f"{said} Go on until it is spent? [y/N] ").strip().lower() in ("y", "yes")


def _estimate(options: PairsOptions) -> int:
    """Prints what is left of every step, and what it will cost."""
    from rich.console import Console

    from mmdpo.pairs.run import PairsRun
    from mmdpo.tables import MISSING, Table

    run = PairsRun(options)
    rows, unknown = [], []
    for estimate in run.estimate():
        left = estimate.row()
        if left["requests"] is None:
            unknown.append(estimate.step)
        digits = {"price": ".2f", "seconds": ",.0f"}
        shown = [MISSING if left[name] is None else format(left[name], digits.get(name, ",.0f")) for name in left]
        rows.append((estimate.step, f"{estimate.done:,}", f"{estimate.left:,}", *shown))
    headers = ("step", "prompts done", "left", "requests", "tokens read", "written", "price", "seconds")
    table = Table(headers, tuple(rows), "What is left, in proportion to what was done")
    Console().print(table.terminal(wrap=7, padding=(0, 0, 0, 1)))
    if unknown:
        print(
            f"Nothing of {', '.join(unknown)} was done yet, so its rest is not known: run it with --limit 64 first, "
            "then this again. What those 64 cost is not lost, since the same run goes on."
        )
    return 0


@dataclass(frozen=True, kw_only=True)
class CheckJudgeOptions(PairsOptions):
    """One run of the data engine, and labelled answers."""

    gold: Path = option(REQUIRED, "Labelled answers: a JSONL file of pairs, or of answers with scores.")
    only: tuple[str, ...] = option((), "Judges by their names.", unset="all")


@verb(
    "pairs",
    {"is the judge right on labelled answers?": f"{_RUN.format('check-judge')} --gold gold.jsonl"},
    uses=lambda: ("judging", "asking"),
    goes_on=True,
)
def check(options: CheckJudgeOptions) -> int:
    """Measure a judge on labelled answers before you pay for many verdicts."""
    from rich.console import Console

    from mmdpo.pairs.check_judge import read_gold
    from mmdpo.pairs.run import PairsRun
    from mmdpo.report.pair_tables import check_table

    quiet_libraries()
    run = PairsRun(options)
    golds = read_gold(options.gold, run.vocabulary, options.input.image_root)
    for label, found in run.check_judges(golds, options.only).items():
        Console().print(check_table(label, found).terminal())
        if "note" in found:
            print(f"note: {found['note']}")
    return 0


@dataclass(frozen=True, kw_only=True)
class ShowOptions(Options):
    """Which run is shown, and how much of it."""

    run: Path = option(REQUIRED, "Folder of a run of mmdpo pairs.", metavar="RUN", positional=True)
    prompt: tuple[str, ...] = option((), "These prompts, by their ids.")
    number: int = option(10, "How many prompts.", least=1)
    dropped: bool = option(False, "Prompts that gave no pair alone.")


@verb("pairs", {"the first prompts, with all answers and verdicts": "mmdpo pairs show runs/pairs --number 3"})
def show(options: ShowOptions) -> int:
    """Print answers, verdicts, and which pair was taken."""
    from rich.console import Console

    from mmdpo.pairs.run import show_run

    quiet_libraries()
    console = Console(soft_wrap=True)
    for line in show_run(
        options.run, options.prompt, options.number, only_dropped=options.dropped, has_styles=console.is_terminal
    ):
        console.print(line)
    return 0


@verb("pairs")
def list_rules(options: NoOptions) -> int:
    """List the rules and the judges."""
    from mmdpo.pairs.judges import JUDGES, load
    from mmdpo.pairs.rules import RULES

    print("rules (chosen answer; rejected answer)")
    print("".join(f"  {name:14}{rule.about}\n" for name, rule in RULES.items()))
    print("judges")
    for name in JUDGES.names():
        about = (load(name).__doc__ or "").partition("\n")[0]
        print(f"  {name:14}{about}")
    return 0


VERB = Verbs(
    __doc__,
    {
        "sample": sample,
        "judge": judge,
        "build": build,
        "all": run_all,
        "show": show,
        "check-judge": check,
        "rules": list_rules,
    },
    page="pairs",
    examples={**run_all.examples, **show.examples},
)
