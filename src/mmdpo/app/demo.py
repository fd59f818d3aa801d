"""`mmdpo app --demo`: the embedded world, the quickstart's runs, their answers and a diagnosis, made where missing."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mmdpo.app.sources import DatasetSource, Sources
from mmdpo.diagnosis.diagnose import RESULT as DIAGNOSIS
from mmdpo.diagnosis.diagnose import diagnose
from mmdpo.diagnosis.options import DiagnosisOptions
from mmdpo.evaluation.benchmark_run import run_benchmark
from mmdpo.evaluation.options import EvaluationOptions
from mmdpo.options import parse_options
from mmdpo.report.diagnosis import write_diagnosis
from mmdpo.report.reading import EXAMPLES, RESULT, RESULTS
from mmdpo.study.quickstart import QuickstartPlan, run_quickstart
from mmdpo.study.study_file import START
from mmdpo.world import SMALL

QUICKSTART, DEMO = Path("runs/quickstart"), Path("runs/demo")
SHOWN = ("dpo", "mdpo")
"""Runs of the quickstart whose answers are shown beside the start's."""
DIAGNOSED_PAIRS = 256


def prepare_demo(console: Console, *, quickstart: Path = QUICKSTART, demo: Path = DEMO) -> Sources:
    """Makes what is not there yet, with progress, and returns what is opened; the second time that is at once.

    Raises RunFolderError for a folder of a quickstart that was cut short, and what training and answering raise.
    """
    plan = QuickstartPlan()
    if not all((quickstart / name).is_file() for name in (RESULTS, EXAMPLES)):
        console.print("The quickstart's runs are made first, which takes a minute or two.")
        run_quickstart(quickstart, plan, console)
    models = {START: SMALL.name, **{name: str(quickstart / name) for name in SHOWN}}
    for name, model in models.items():
        if not (demo / name / RESULT).is_file():
            console.print(f"Answers of {name}:")
            words = [f"--model={model}", f"--out={demo / name}"]
            run_benchmark(SMALL.name, parse_options(EvaluationOptions, words, f"eval {SMALL.name}"))
    diagnosis = demo / "diagnosis"
    if not (diagnosis / DIAGNOSIS).is_file():
        options = DiagnosisOptions(
            dataset=SMALL.name, split="train", pairs=DIAGNOSED_PAIRS, out=diagnosis, model=models["mdpo"],
            reference=SMALL.name, seed=plan.seed,
        )  # fmt: skip
        diagnose(options, console)
        write_diagnosis(diagnosis)
    return Sources(
        datasets=(DatasetSource(SMALL.name, seed=plan.seed),),
        runs=(*(demo / name for name in models), diagnosis),
        models=tuple(models.values()),
        decisions=demo / "decisions.jsonl",
        votes=demo / "votes.sqlite",
        seed=plan.seed,
        is_demo=True,
    )
