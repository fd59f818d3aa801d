"""The command line: verbs only, and the one place that reads argv and the environment."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdpo.evaluation.command import add_eval_verb
from mmdpo.evaluation.report_command import add_report_verb
from mmdpo.printable import printable
from mmdpo.study.command import add_diagnose_verb, add_study_verb

DTYPES = ("float32", "bfloat16", "float16")

EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
"""Errors that say all there is to say: shown without a traceback unless MMDPO_DEBUG is set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status.

    0; 1 for bad rows in a checked dataset; 2 for an error; 75 for training that SIGTERM has stopped, checkpoint saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        return _run(lambda: _train(arguments[1:]))  # its flags are every key of a recipe: TRL's parser reads them
    options = _build_parser().parse_args(arguments)
    return _run(lambda: options.verb(options))


def train_main() -> int:
    """Runs `mmdpo train` with the process's arguments as its flags."""
    return main(["train", *sys.argv[1:]])


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmdpo", description="Preference optimisation that makes vision-language models look at the image."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(verb=lambda options: _version() if options.version else _print(parser.format_help()))
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    quickstart = verbs.add_parser("quickstart", help="train and compare on the embedded world, in minutes, on a CPU")
    quickstart.add_argument("--output_dir", default="runs/quickstart")
    quickstart.add_argument("--seed", type=int, default=0)
    quickstart.set_defaults(verb=_quickstart)

    verbs.add_parser("train", help="train a model: --config recipe.yaml [--key value …]")  # `main` has taken it

    convert = verbs.add_parser("convert", help="turn a checkpoint of another layout into one that transformers loads")
    kinds = convert.add_subparsers(title="checkpoints", metavar="KIND", required=True)
    bunny = kinds.add_parser("bunny", help="Bunny-v1.0-3B to and from LlavaForConditionalGeneration")
    bunny.add_argument("source", metavar="SRC", help="a folder, or a hub name such as BAAI/Bunny-v1_0-3B")
    bunny.add_argument("target", metavar="DST", type=Path, help="a new folder")
    bunny.add_argument("--reverse", action="store_true", help="back to the original's names")
    bunny.add_argument("--original", type=Path, help="with --reverse: where the original's config and tokenizer lie")
    bunny.add_argument("--revision", default=None, help="branch, tag or commit of a hub name")
    bunny.add_argument("--dtype", choices=DTYPES, default=None, help="precision of the weights; the source's if unset")
    bunny.add_argument("--allow_pickle", action="store_true", help="open pickled weights where there are no others")
    bunny.set_defaults(verb=_convert_bunny)

    merge = verbs.add_parser("merge", help="make one model of a run: adapter and base, processor, model card")
    merge.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a checkpoint inside one")
    merge.add_argument("target", metavar="DST", type=Path, help="a new folder")
    merge.add_argument("--base", default=None, help="the adapter's base, where it is not what the adapter says")
    merge.add_argument("--dtype", choices=DTYPES, default=None, help="precision of the weights; the base's if unset")
    merge.add_argument("--push_to_hub", metavar="REPO", default=None, help="upload DST to this repository of the hub")
    merge.add_argument("--allow_pickle", action="store_true", help="open pickled weights where there are no others")
    merge.add_argument("--trust_remote_code", action="store_true", help="run Python code that comes with the base")
    merge.set_defaults(verb=_merge)

    add_eval_verb(verbs)
    add_report_verb(verbs)
    add_study_verb(verbs)
    add_diagnose_verb(verbs)

    data = verbs.add_parser("data", help="look at preference data")
    data_verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    check = data_verbs.add_parser("check", help="validate a dataset and print what is in it")
    check.add_argument("path", metavar="PATH", help="a file, a folder, a hub name, or `world`")
    check.add_argument("--split", default="train")
    check.add_argument("--dataset_config", default=None)
    check.add_argument("--dataset_format", default="auto")
    check.add_argument("--image_root", default=None, help="folder that relative image paths start from")
    check.add_argument("--model_name_or_path", default=None, help="measure in this model's tokens, exactly as training")
    check.add_argument("--chat_template", default=None, metavar="FILE", help="instead of the processor's own")
    check.add_argument("--chat_template_kwargs", default=None, metavar="JSON", help="variables of the chat template")
    check.add_argument("--objective", default="mdpo", help="the objective whose cells are tried, with a model")
    check.add_argument("--max_length", type=int, default=2048)
    check.add_argument("--max_image_pixels", type=int, default=100_000_000)
    check.add_argument("--num_proc", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    check.add_argument("--faults", default=None, metavar="FILE", help="write the faulty rows to this JSONL file")
    check.add_argument("--trust_remote_code", action="store_true")
    check.set_defaults(verb=_data_check)
    return parser


def _run(verb: object) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a verb
    try:
        return verb()  # type: ignore[operator, no-any-return]
    except EXPECTED_ERRORS as error:
        if os.environ.get("MMDPO_DEBUG"):
            raise
        # A URL may hold a user's password, whoever quotes it.
        told = re.sub(r"(://)[^/\s@]*:[^/\s@]*@", r"\1…@", str(error))
        print(f"mmdpo: {printable(told)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmdpo: interrupted", file=sys.stderr)
        return 130


def _print(text: str) -> int:
    print(text)
    return 0


def _version() -> int:
    from mmdpo import __version__

    return _print(f"mmdpo {__version__}")


def _quickstart(options: argparse.Namespace) -> int:
    import torch
    from rich.console import Console

    from mmdpo.study.quickstart import QuickstartPlan, run_quickstart

    _quiet_libraries()
    # Tensors this small gain nothing from a second thread, and waiting for one on a busy core costs several times over.
    torch.set_num_threads(1)
    run_quickstart(options.output_dir, QuickstartPlan(seed=options.seed), Console())
    return 0


def _train(arguments: Sequence[str]) -> int:
    from mmdpo.keys import check_flags, describe_keys

    if {"-h", "--help", "--help_all"} & set(arguments):
        return _print(describe_keys(every="--help_all" in arguments))
    is_dry = "--dry_run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry_run"]
    # A misspelt flag is said at once, before seconds of imports.
    check_flags([argument for argument in arguments if argument.partition("=")[0] != "--config"])

    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    from mmdpo.training.run import train
    from mmdpo.training.stopping import EXIT_STATUS, TrainingStopped

    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
    # Of the processes that a launcher starts, the first alone tells how the run goes.
    logging.getLogger("mmdpo").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if is_dry:
        from mmdpo.training.dry_run import dry_run

        _quiet_libraries()
        dry_run(arguments, Console())
        return 0
    try:
        trainer = train(arguments)
    except TrainingStopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"mmdpo: {stopped}", file=sys.stderr)
        return EXIT_STATUS
    if trainer.is_world_process_zero():
        Console().print(f"Model, recipe and logs: {Path(trainer.args.output_dir)}", markup=False)
    return 0


def _convert_bunny(options: argparse.Namespace) -> int:
    from mmdpo.checkpoints.bunny import convert_bunny, revert_bunny
    from mmdpo.models.start import find_folder

    _quiet_libraries()
    if options.original is not None and not options.reverse:
        raise ValueError("--original goes with --reverse")
    source = find_folder(options.source, revision=options.revision, allow_pickle=options.allow_pickle)
    dtype = _named_dtype(options.dtype)
    if options.reverse:
        revert_bunny(source, options.target, original=options.original, dtype=dtype)
    else:
        convert_bunny(source, options.target, dtype=dtype, allow_pickle=options.allow_pickle)
    return _print(f"Converted: {options.target}")


def _merge(options: argparse.Namespace) -> int:
    import logging

    from mmdpo.checkpoints.merge import merge_run, push_folder

    _quiet_libraries()
    if options.trust_remote_code:
        logging.warning("trust_remote_code: Python files that come with the base are run with your rights and tokens")
    merge_run(
        options.run,
        options.target,
        base=options.base,
        dtype=_named_dtype(options.dtype),
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    print(f"Merged: {options.target}")
    if options.push_to_hub:
        print(f"Uploaded: {push_folder(options.target, options.push_to_hub)}")
    return 0


def _named_dtype(name: str | None) -> Any:
    import torch

    return None if name is None else getattr(torch, name)


def _data_check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from mmdpo.training.data_check import check_dataset

    _quiet_libraries()
    return check_dataset(options, Console())


def _quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
