"""Look at preference data."""

import os
from dataclasses import dataclass

from mmdpo.commands import Verb, Verbs, quiet_libraries
from mmdpo.options import REQUIRED, Options, option


@dataclass(frozen=True, kw_only=True)
class DataCheckOptions(Options):
    """Which dataset is checked, and for what."""

    path: str = option(REQUIRED, "A file, a folder, a hub name, or `world`.", metavar="PATH", positional=True)
    split: str = option("train", "Split of the dataset.")
    dataset_config: str | None = option(None, "Configuration of a hub dataset.")
    dataset_format: str = option("auto", "Format of the rows.")
    image_root: str | None = option(None, "Folder that relative image paths start from.")
    model_name_or_path: str | None = option(None, "Measure in this model's tokens, exactly as training does.")
    chat_template: str | None = option(None, "Template instead of the processor's own.")
    chat_template_kwargs: str | None = option(None, "Variables of the chat template, as JSON.")
    objective: str = option("mdpo", "The objective whose cells are tried, with a model.")
    max_length: int = option(2048, "Tokens of a row.")
    max_image_pixels: int = option(100_000_000, "Pixels of an image.")
    num_proc: int = option(min(4, os.cpu_count() or 1), "Number of processes.")
    faults: str | None = option(None, "Write the faulty rows to this JSONL file.")
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.")


def check(options: DataCheckOptions) -> int:
    """Prints what is in a dataset; returns 1 where a row is faulty, else 0."""
    from rich.console import Console

    from mmdpo.training.data_check import check_dataset

    quiet_libraries()
    return check_dataset(options, Console())


VERB = Verbs(__doc__, {"check": Verb("Validate a dataset and print what is in it.", DataCheckOptions, check)})
