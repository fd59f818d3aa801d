"""Train a model by a recipe: a file, or one that comes with mmdpo."""

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mmdpo.commands import STOPPED, Verb
from mmdpo.files import printable
from mmdpo.options import help_width
from mmdpo.progress import loading
from mmdpo.terminal import hide_loading_bars, quiet_libraries, show_log

_USAGE = "usage: mmdpo train --config RECIPE [--dry_run] [--KEY VALUE …]"
_ABOUT = (
    "A recipe is a file of flat YAML, or the name of one of `mmdpo recipes`; a flag of the same name wins. "
    "`model_name_or_path` and `dataset_name` are needed; `world` means the embedded world for both, `world_large` the "
    "large one. --dry_run tries every row, and prints what the run would train, on how many tokens and in how much "
    "memory; it reads no weights and writes no file. --help_all lists every key."
)


def describe(*, every: bool) -> str:
    """Returns what `--help` prints, or with `every` what `--help_all` prints."""
    from mmdpo.keys import describe_keys

    width = help_width()
    return "\n".join(
        [_USAGE, "", *textwrap.wrap(_ABOUT, width), "", describe_keys(every=every), "", VERB.describe(width)]
    )


def run(words: Sequence[str]) -> int:
    """Trains, by flags that TRL's parser reads; returns 75 where SIGTERM has stopped it, checkpoint saved, else 0."""
    from mmdpo.keys import check_flags, find_recipe, pop_config

    if {"-h", "--help", "--help_all"} & set(words):
        print(describe(every="--help_all" in words))
        return 0
    is_dry = "--dry_run" in words
    words = [word for word in words if word != "--dry_run"]
    # A misspelt flag or recipe is an error at once, before imports that take seconds.
    flags = list(words)
    config = pop_config(flags)
    check_flags(flags)
    if config is not None:
        find_recipe(config)

    with loading():
        from accelerate import PartialState
        from rich.console import Console

        from mmdpo.training.run import train
        from mmdpo.training.stopping import TrainingStopped

        hide_loading_bars()
    # Of the processes that a launcher starts, rank 0 alone reports how the run goes.
    show_log(is_main=os.environ.get("RANK", "0") == "0")
    if is_dry:
        from mmdpo.training.dry_run import dry_run

        quiet_libraries()
        dry_run(words, Console())
        return 0
    try:
        trainer = train(words)
        if trainer.is_world_process_zero():
            folder = Path(trainer.args.output_dir)
            print(printable(f"Model, recipe and logs: {folder}; `mmdpo report {folder}` draws the curves"))
        status = 0
    except TrainingStopped as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"mmdpo: {stopped}", file=sys.stderr)
        status = STOPPED
    # Threads of process groups that still run when Python ends abort a process whose training is done.
    PartialState().destroy_process_group()
    return status


VERB = Verb(
    __doc__,
    None,
    run,
    page="training",
    examples={
        "mDPO on the embedded world, on a CPU": "mmdpo train --config world-mdpo",
        "your own pairs, with LoRA; --dry_run says first what it will take": (
            "mmdpo train --config vlm-mdpo-lora --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct "
            "--dataset_name pairs.jsonl --output_dir runs/mine --dry_run"
        ),
        "a recipe of your own": "mmdpo recipes vlm-mdpo-lora --print > mine.yaml && mmdpo train --config mine.yaml",
        "go on after an interruption": "mmdpo train --config mine.yaml --resume_from_checkpoint true",
        "one process for each GPU": "accelerate launch -m mmdpo.train --config mine.yaml",
    },
)
