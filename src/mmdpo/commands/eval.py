"""Ask a model, or score answers, by the official rule."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmdpo.benchmarks.tasks import BENCHMARKS, load, names
from mmdpo.commands import Verb, Verbs, verb
from mmdpo.evaluation.options import EvaluationOptions, SuiteOptions
from mmdpo.options import REQUIRED, Options, option


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Which runs are compared."""

    runs: tuple[Path, ...] = option(REQUIRED, "Folders of results, or of suites.", metavar="RUN", positional=True)
    out: Path | None = option(None, "Folder of the comparison.", unset="`compare` beside the first run")
    markdown: bool = option(False, "Print the tables as Markdown.")
    resamples: int = option(2000, "Number of resamples of the bootstrap.")
    seed: int = option(0, "Seed of the bootstrap.")


@dataclass(frozen=True, kw_only=True)
class SuiteCompareOptions(Options):
    """Which suites are rows of which table."""

    runs: tuple[Path, ...] = option(REQUIRED, "Folders of suites, in their order.", metavar="RUN", positional=True)
    labels: tuple[str, ...] = option((), "Names of the rows.", unset="those of the folders")
    table: str = option("1", "Table of the paper whose rows stand above.", choices=("1", "2", "3", "4"))
    markdown: bool = option(False, "Print the table as Markdown.")
    out: Path | None = option(None, "Also write suites.json, suites.md and suites.csv into this folder.")


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(Options):
    """What is fetched, and where it goes."""

    names: tuple[str, ...] = option(
        REQUIRED, "Benchmarks, or all.", metavar="NAME", positional=True, known=lambda: (*names(), "all")
    )
    data_dir: Path | None = option(None, "Folder of the benchmarks.", unset="a cache, where `mmdpo eval` looks")
    no_images: bool = option(False, "Fetch only what is needed to score answers.")


def run_benchmark(name: str, options: EvaluationOptions) -> int:
    """Runs one benchmark."""
    from mmdpo.evaluation.benchmark_run import run_benchmark

    run_benchmark(name, options)
    return 0


@verb(
    "reproduce",
    {
        "base, DPO and mDPO beside the paper's rows of Table 1": (
            "mmdpo eval suite compare runs/base/eval runs/dpo/eval runs/mdpo/eval"
        )
    },
)
def compare_suites(options: SuiteCompareOptions) -> int:
    """Print several suites as rows of one table."""
    from rich.console import Console

    from mmdpo.evaluation.suite_compare import compare_suites, write_suites
    from mmdpo.files import printable

    rows = compare_suites(options.runs, number=options.table, labels=options.labels)
    if options.markdown:
        print(printable(rows.table().markdown()))
    else:
        Console().print(rows.table(is_narrow=True).terminal(wrap=6, padding=(0, 0, 0, 1)))
    print(printable("\n".join(rows.remarks())))
    if options.out is not None:
        print(printable(f"Table: {write_suites(rows, options.out)}"))
    return 1 if rows.missing else 0


@verb(
    "evaluation",
    {
        "every benchmark whose data is there, in one command": (
            "mmdpo eval suite --model runs/mine --judge_model gpt-4o --judge_url https://api.openai.com/v1 "
            "--out runs/suite"
        )
    },
    verbs={"compare": compare_suites},
    goes_on=True,
)
def suite(options: SuiteOptions) -> int:
    """Run all benchmarks and print them beside the paper's Table 1."""
    from mmdpo.evaluation.suite import run_suite

    return 1 if run_suite(options).missing else 0


@verb("evaluation", {"two models on the same items": "mmdpo eval compare runs/dpo/pope runs/mdpo/pope"})
def compare(options: CompareOptions) -> int:
    """Set runs beside each other: differences, intervals and a picture."""
    from rich.console import Console

    from mmdpo.evaluation.compare import as_content, compare_runs, write_comparison
    from mmdpo.files import printable
    from mmdpo.report.comparison import markdown_comparison, print_comparison

    comparison = compare_runs(options.runs, resamples=options.resamples, seed=options.seed)
    picture = write_comparison(comparison, options.out or options.runs[0].resolve().parent / "compare")
    if options.markdown:
        print(printable(markdown_comparison(as_content(comparison))))
    else:
        print_comparison(as_content(comparison), Console())
    print(printable(f"Tables and picture: {picture.parent}"))
    return 1 if comparison.missing else 0


@verb("evaluation", {"data and images, where `mmdpo eval` looks for them": "mmdpo eval download pope amber"})
def download(options: DownloadOptions) -> int:
    """Fetch data and images of benchmarks from their public places."""
    from mmdpo.evaluation.download import download_all

    download_all(options.names, options.data_dir, images=not options.no_images)
    return 0


def _name_commands(name: str) -> dict[str, str]:
    """Returns commands of a benchmark."""
    if name.startswith("world"):
        return {"ask a model": f"mmdpo eval {name} --model {name} --out runs/{name}-scores"}
    return {
        "ask a model": f"mmdpo eval {name} --model runs/mine --out runs/mine/{name}",
        "ask a server": (
            f"mmdpo eval {name} --model Qwen/Qwen2.5-VL-7B-Instruct --base_url http://localhost:8000/v1 "
            f"--out runs/qwen/{name}"
        ),
        "score answers that exist": f"mmdpo eval {name} --answers answers.jsonl --out runs/{name}",
    }


def _make_verb(name: str) -> Verb:
    return Verb(
        BENCHMARKS.about(name),
        EvaluationOptions,
        partial(run_benchmark, name),
        uses=partial(lambda name: load(name).uses, name),
        goes_on=True,
        page="evaluation",
        examples=_name_commands(name),
    )


VERB = Verbs(
    __doc__,
    {"compare": compare, "download": download, "suite": suite, **{name: _make_verb(name) for name in names()}},
    kind="benchmark",
    page="evaluation",
    examples={**download.examples, **_name_commands("pope"), **compare.examples},
)
