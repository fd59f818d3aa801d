"""Train a model: --config recipe.yaml [--key value …]."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdpo.commands import Verb, quiet_libraries


def run(words: Sequence[str]) -> int:
    """Trains, by flags that TRL's parser reads; returns 75 where SIGTERM has stopped it, checkpoint saved, else 0."""
    from mmdpo.keys import check_flags, describe_keys

    if {"-h", "--help", "--help_all"} & set(words):
        print(describe_keys(every="--help_all" in words))
        return 0
    is_dry = "--dry_run" in words
    words = [word for word in words if word != "--dry_run"]
    # A misspelt flag is an error at once, before imports that take seconds.
    check_flags([word for word in words if word.partition("=")[0] != "--config"])

    import logging

    from accelerate import PartialState
    from rich.console import Console
    from rich.logging import RichHandler

    from mmdpo.training.run import train
    from mmdpo.training.stopping import EXIT_STATUS, TrainingStopped

    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
    # Of the processes that a launcher starts, rank 0 alone reports how the run goes.
    logging.getLogger("mmdpo").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if is_dry:
        from mmdpo.training.dry_run import dry_run

        quiet_libraries()
        dry_run(words, Console())
        return 0
    try:
        trainer = train(words)
        if trainer.is_world_process_zero():
            Console().print(f"Model, recipe and logs: {Path(trainer.args.output_dir)}", markup=False)
        status = 0
    except TrainingStopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"mmdpo: {stopped}", file=sys.stderr)
        status = EXIT_STATUS
    # Threads of process groups that still run when Python ends abort a process whose training is done.
    PartialState().destroy_process_group()
    return status


VERB = Verb(__doc__, None, run)
