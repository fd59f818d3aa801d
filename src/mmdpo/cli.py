"""The command line: verbs only, and the one place that reads argv and the environment."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
"""Errors that say all there is to say: shown without a traceback unless MMDPO_DEBUG is set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0, 1 for bad rows in a checked dataset, 2 for an error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"] and not {"-h", "--help"} & set(arguments):
        return _run(lambda: _train(arguments[1:]))  # its flags are every key of a recipe: TRL's parser reads them
    options = _build_parser().parse_args(arguments)
    return _run(lambda: options.verb(options))


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

    train = verbs.add_parser("train", help="train a model: --config recipe.yaml [--key value …]", add_help=False)
    train.add_argument("-h", "--help", action="store_true")
    train.set_defaults(verb=lambda _: _train_help())

    data = verbs.add_parser("data", help="look at preference data")
    data_verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    check = data_verbs.add_parser("check", help="validate a dataset and print what is in it")
    check.add_argument("path", metavar="PATH", help="a file, a folder, a hub name, or `world`")
    check.add_argument("--split", default="train")
    check.add_argument("--dataset_config", default=None)
    check.add_argument("--dataset_format", default="auto")
    check.add_argument("--image_root", default=None, help="folder that relative image paths start from")
    check.add_argument("--model_name_or_path", default=None, help="measure in this model's tokens, exactly as training")
    check.add_argument("--objective", default="mdpo", help="the objective whose cells are tried, with a model")
    check.add_argument("--max_length", type=int, default=2048)
    check.add_argument("--max_image_pixels", type=int, default=100_000_000)
    check.add_argument("--num_proc", type=int, default=4, help="threads")
    check.add_argument("--faults", default=None, metavar="FILE", help="write the faulty rows to this JSONL file")
    check.add_argument("--trust_remote_code", action="store_true")
    check.set_defaults(verb=_data_check)
    return parser


def _run(verb: object) -> int:
    try:
        return verb()  # type: ignore[operator, no-any-return]
    except EXPECTED_ERRORS as error:
        if os.environ.get("MMDPO_DEBUG"):
            raise
        print(f"mmdpo: {error}", file=sys.stderr)
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
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    from mmdpo.training.run import train

    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
    logging.getLogger("mmdpo").setLevel(logging.INFO)
    trainer = train(arguments)
    if trainer.is_world_process_zero():
        Console().print(f"Model, recipe and logs: {Path(trainer.args.output_dir)}")
    return 0


def _train_help() -> int:
    from mmdpo.training.recipe import describe_keys

    return _print(describe_keys())


def _data_check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from mmdpo.training.inspect import check_dataset

    _quiet_libraries()
    return check_dataset(options, Console())


def _quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
