"""Merge a run's adapter into its base model, and write it with its processor and a model card."""

import logging
from dataclasses import dataclass
from pathlib import Path

from mmdpo.commands import Dtype, Verb
from mmdpo.options import REQUIRED, Options, option
from mmdpo.progress import loading
from mmdpo.terminal import quiet_libraries


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Which run is merged, and where the model goes."""

    run: Path = option(REQUIRED, "A run folder, or a checkpoint inside one.", metavar="RUN", positional=True)
    target: Path = option(REQUIRED, "A new folder.", metavar="DST", positional=True)
    base: str | None = option(None, "The adapter's base.", unset="what the adapter says")
    dtype: Dtype | None = option(None, "Precision of the weights.", unset="the base's")
    push_to_hub: str | None = option(None, "Upload DST to this repository of the hub.")
    allow_pickle: bool = option(False, "Open pickled weights where there are no others; they can run code.")
    trust_remote_code: bool = option(False, "Run Python code that comes with the base.")


def run(options: MergeOptions) -> int:
    """Merges, and uploads where that is asked."""
    with loading():
        from mmdpo.checkpoints.merge import merge_run, push_folder

        quiet_libraries()
    if options.trust_remote_code:
        logging.warning("trust_remote_code: Python files that come with the base are run with your rights and tokens")
    merge_run(
        options.run,
        options.target,
        base=options.base,
        dtype=options.dtype,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    print(f"Merged: {options.target}")
    if options.push_to_hub:
        print(f"Uploaded: {push_folder(options.target, options.push_to_hub)}")
    return 0


VERB = Verb(
    __doc__,
    MergeOptions,
    run,
    page="checkpoints",
    examples={
        "one model of adapter and base, for vLLM or transformers": "mmdpo merge runs/mine merged",
        "a checkpoint, in bfloat16, uploaded": (
            "mmdpo merge runs/mine/checkpoint-500 merged --dtype bfloat16 --push_to_hub me/my-mdpo"
        ),
    },
)
