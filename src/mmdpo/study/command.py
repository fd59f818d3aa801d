"""The verbs `study` and `diagnose`. Nothing heavy is imported before one of them is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmdpo.printable import printable


def add_study_verb(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds `study`, which sets `verb`, a function of the options that returns the exit status."""
    parser = verbs.add_parser("study", help="train variants × seeds from one start, evaluate all, write one table")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a study that comes with the package, or a file")
    parser.add_argument("--config", metavar="FILE", help="a study file")
    parser.add_argument("--out", metavar="DIR", help="runs/NAME unless given; an interrupted study there goes on")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trials that run at a time")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="instead of those of the study")
    parser.add_argument(
        "--variants", nargs="+", metavar="VARIANT", help="these, and the one that others are compared to"
    )
    parser.add_argument("--world", metavar="WORLD", help="in this embedded world: world, world_large")
    parser.add_argument("--list", action="store_true", help="print what each study of the package asks, and exit")
    parser.add_argument("--print", action="store_true", help="print the study file and exit, to make one's own of it")
    parser.set_defaults(verb=_study)


def _study(options: argparse.Namespace) -> int:
    from mmdpo.study.study_file import StudyError, describe_shipped, read_study, read_text, shipped_names

    if options.list:
        print("".join(f"{name:20}{about}\n" for name, about in describe_shipped().items()), end="")
        return 0
    named = [name for name in (options.name, options.config) if name is not None]
    if len(named) != 1:
        known = ", ".join(shipped_names())
        raise StudyError(f"name one study: {known} (--list says what they ask), or a file with --config")
    if options.print:
        print(read_text(named[0]), end="")
        return 0
    from rich.console import Console

    from mmdpo.study.pool import prepare_server
    from mmdpo.study.run import run_study

    prepare_server()
    study = read_study(named[0], seeds=options.seeds, variants=options.variants, world=options.world)
    results = run_study(study, options.out or Path("runs") / study.name, options.jobs, Console())
    return 1 if results["missing"] else 0


def add_diagnose_verb(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds `diagnose`, which sets `verb`, a function of the options that returns the exit status."""
    parser = verbs.add_parser("diagnose", help="does a model's preference, or the data alone, need the image?")
    parser.add_argument("--dataset", required=True, metavar="PATH", help="pairs: a file, a folder, a hub name, `world`")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder; a diagnosis cut short goes on there")
    parser.add_argument("--model", metavar="MODEL", help="a hub name, a run folder, an adapter, or `world`")
    parser.add_argument("--adapter", help="on the model; the reference is then the model without it")
    parser.add_argument("--reference", metavar="MODEL", help="what the model was trained from, for rewards")
    parser.add_argument("--data_only", action="store_true", help="no model: does the text alone decide?")
    parser.add_argument("--split", help="train unless given (of `world`: test)")
    parser.add_argument("--dataset_config")
    parser.add_argument("--dataset_format", default="auto")
    parser.add_argument("--image_root", help="folder that relative image paths start from")
    parser.add_argument("--pairs", type=int, metavar="N", help="as many pairs, drawn by the seed; all unless given")
    parser.add_argument("--corruption", default="crop_0_20", help="what makes the corrupted image")
    parser.add_argument("--beta", type=float, default=0.1, help="β of the rewards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=8, help="pairs at a time")
    parser.add_argument("--max_length", type=int, default=2048)
    parser.add_argument("--chat_template", metavar="FILE", help="instead of the processor's own")
    parser.add_argument("--chat_template_kwargs", metavar="JSON", help="variables of the chat template")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 on a GPU unless given")
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument(
        "--no_probe", dest="probe", action="store_false", help="do not try two pairs by plain forwards first"
    )
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    parser.set_defaults(verb=_diagnose)


def _diagnose(options: argparse.Namespace) -> int:
    from rich.console import Console
    from transformers.utils import logging

    from mmdpo.diagnosis.diagnose import DiagnosisPlan, check_folder, diagnose, diagnose_data
    from mmdpo.report.diagnosis import print_diagnosis
    from mmdpo.report.sections.diagnosis import write_diagnosis

    _check_diagnosis(options)
    out = Path(options.out)
    check_folder(out)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    given = {key: value for key, value in vars(options).items() if key in DiagnosisPlan.__dataclass_fields__}
    plan, console = DiagnosisPlan(**{**given, "model": options.model or ""}), Console()
    result = diagnose_data(plan, out, console) if options.data_only else diagnose(plan, out, console)
    print_diagnosis(result, console)
    console.print(f"\nPage: {printable(str(write_diagnosis(out)))}", highlight=False, markup=False)
    return 0


def _check_diagnosis(options: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together."""
    if options.data_only:
        named = [name for name in ("model", "adapter", "reference") if getattr(options, name) is not None]
        if named:
            raise ValueError(f"--data_only needs no model: leave out --{', --'.join(named)}, or --data_only")
    elif options.model is None:
        raise ValueError("--model is missing; without a model, --data_only diagnoses the data")
    if options.adapter is not None and options.reference is not None:
        raise ValueError("give --adapter, whose reference is the model without it, or --reference, not both")
    if options.resamples < 100:
        raise ValueError(f"--resamples is {options.resamples}; an interval needs 100 at least")
    for name in ("pairs", "batch_size", "max_length"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it takes a number above 0")
    if not options.beta > 0:
        raise ValueError(f"--beta is {options.beta}; it takes a number above 0")
