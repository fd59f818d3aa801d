"""Fetch, check, convert and make preference data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmdpo.commands import Verbs, verb
from mmdpo.files import printable, read_mapping
from mmdpo.keys import names_of
from mmdpo.options import REQUIRED, Options, option
from mmdpo.progress import loading
from mmdpo.terminal import quiet_libraries

if TYPE_CHECKING:
    from mmdpo.data.dataset import PreferenceDataset


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Options):
    """Which dataset."""

    path: str = option(REQUIRED, "A file, a folder, a hub name, or `world`.", metavar="PATH", positional=True)
    split: str = option("train", "Split of the dataset.")
    dataset_config: str | None = option(None, "Configuration of a hub dataset.")
    image_root: str | None = option(None, "Folder that relative image paths start from.")


@dataclass(frozen=True, kw_only=True)
class DataCheckOptions(DatasetOptions):
    """Which dataset is checked, and for what."""

    dataset_format: str = option("auto", "Format of the rows.", known=names_of("dataset_format"))
    model_name_or_path: str | None = option(None, "Measure in this model's tokens, exactly as training does.")
    chat_template: str | None = option(
        None, "Chat template: a Jinja file, or vicuna, which is LLaVA-1.5's.", unset="the processor's"
    )
    chat_template_kwargs: str | None = option(None, "Variables of the chat template, as JSON.")
    objective: str = option("mdpo", "The objective that rows are tried for.", known=names_of("objective"))
    max_length: int = option(2048, "Tokens of a row.")
    max_image_pixels: int = option(100_000_000, "Pixels of an image.")
    num_proc: int = option(min(4, os.cpu_count() or 1), "Number of processes.")
    faults: str | None = option(None, "Write the faulty rows to this JSONL file.")
    decisions: Path | None = option(None, "Leave out the rows that this file of `mmdpo app` drops.", metavar="FILE")
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.")


@verb(
    "data",
    {
        "what is in a file, and which rows are faulty": "mmdpo data check pairs.jsonl --image_root photos",
        "lengths in the tokens of a model, as training counts them": (
            "mmdpo data check pairs.jsonl --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --faults faults.jsonl"
        ),
    },
)
def check(options: DataCheckOptions) -> int:
    """Validate a dataset and print what is in it."""
    with loading():
        from rich.console import Console

        from mmdpo.data.check import Inspect, find_faults, inspect_example
        from mmdpo.data.check_summary import print_summary
        from mmdpo.data.decisions import leave_out_dropped
        from mmdpo.data.faults import write_faults
        from mmdpo.data.validate import require_images
        from mmdpo.objective import build_objective
        from mmdpo.records import response_names

        quiet_libraries()
    console, dataset = Console(), _read(options)
    if options.decisions is not None:
        kept = leave_out_dropped(dataset, options.decisions, is_needed=True)
        told = f"{options.decisions} drops {len(dataset) - len(kept)} of {len(dataset)} rows; the others are checked"
        console.print(printable(told), markup=False, highlight=False)
        dataset = kept
    require_images(dataset)
    objective = build_objective(options.objective)
    inspect: Inspect = partial(
        inspect_example, responses=response_names(objective.cells), comparisons=objective.comparisons
    )
    if options.model_name_or_path:
        from mmdpo.models.start import LoadOptions
        from mmdpo.training.rows import open_full_check

        load = LoadOptions(
            chat_template=options.chat_template,
            chat_template_kwargs=read_mapping("chat_template_kwargs", options.chat_template_kwargs),
            trust_remote_code=options.trust_remote_code,
        )
        sizes = {"max_length": options.max_length, "max_image_pixels": options.max_image_pixels}
        inspect = open_full_check(options.model_name_or_path, load, objective, **sizes)
    result = find_faults(dataset, inspect, num_workers=options.num_proc, progress=console.is_terminal)
    print_summary(result, dataset, console)
    if options.faults:
        write_faults(options.faults, result.faults)
    return 1 if result.faults else 0


@dataclass(frozen=True, kw_only=True)
class DataDownloadOptions(Options):
    """What is fetched, and where it goes."""

    names: tuple[str, ...] = option(
        REQUIRED, "Sets of preference data: mdpo, which the paper trained on.", metavar="NAME", positional=True
    )
    out: Path = option(Path("data"), "Folder of the data; recipes look in data.")
    no_images: bool = option(False, "Fetch the rows alone.")


@verb("reproduce", {"the paper's pairs and their images": "mmdpo data download mdpo"})
def download(options: DataDownloadOptions) -> int:
    """Fetch the preference data that the paper trained on."""
    from mmdpo.evaluation.download import download_preferences

    download_preferences(options.names, options.out, images=not options.no_images)
    return 0


@dataclass(frozen=True, kw_only=True)
class DataConvertOptions(DatasetOptions):
    """Which dataset is written, and as what. Raises ValueError for a file that does not end in .parquet."""

    out: Path = option(REQUIRED, "Write this .parquet file.", metavar="OUT", positional=True)
    dataset_format: str = option("auto", "Format of the rows.", known=names_of("dataset_format"))
    pairs: Literal["best_worst", "all"] = option(
        "best_worst", "Of rows with several rated answers, the best over the worst, or every two of different scores."
    )
    sample: int | None = option(None, "Draw so many pairs.", least=1)
    seed: int = option(0, "Seed of the sample.")
    normalise: str | None = option(
        None, "Numeric column whose value, normalised to 0.75 … 1.25, becomes the column weight (MMedPO)."
    )
    on_bad_row: Literal["error", "skip"] = option("error", "What a faulty row does.")
    faults: Path | None = option(None, "Write the faulty rows to this JSONL file.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parquet(self.out)


@verb(
    "data",
    {
        "published pairs as a file of one's own": "mmdpo data convert openbmb/RLHF-V-Dataset rlhf-v.parquet",
        "rows with several rated answers": "mmdpo data convert MMInstruction/VLFeedback vlf.parquet --pairs all",
    },
)
def convert(options: DataConvertOptions) -> int:
    """Write a dataset of any format as one Parquet file."""
    with loading():
        from mmdpo.data.convert import convert_dataset, describe
        from mmdpo.data.faults import write_faults

        quiet_libraries()
    conversion = convert_dataset(
        _read(options),
        options.out,
        pairs=options.pairs,
        sample=options.sample,
        seed=options.seed,
        normalise=options.normalise,
        skip=options.on_bad_row == "skip",
    )
    if options.faults is not None:
        write_faults(options.faults, conversion.faults)
    print(printable(describe(conversion, options.out)))
    return 0


@dataclass(frozen=True, kw_only=True)
class SymDPOOptions(DatasetOptions):
    """Which triplets rows are made of, and which rows. Raises ValueError for a file that does not end in .parquet."""

    out: Path = option(REQUIRED, "Write this .parquet file.", metavar="OUT", positional=True)
    rows: int = option(10_000, "How many rows.", least=1)
    demonstrations: int = option(4, "How many demonstrations a row shows.", least=2)
    shares: str | None = option(None, "How often each form is drawn, as JSON.", unset="30 % general")
    seed: int = option(0, "Seed of all that is drawn.")
    image_column: str = option("image", "Column of the picture.")
    question_column: str = option("question", "Column of the question.")
    answer_column: str = option("answer", "Column of the answer.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parquet(self.out)


@verb(
    "data",
    {
        "10,000 rows with four demonstrations each": (
            "mmdpo data symdpo triplets.jsonl symdpo.parquet --rows 10000 --demonstrations 4"
        )
    },
)
def symdpo(options: SymDPOOptions) -> int:
    """Make SymDPO's pairs of questions and answers about pictures."""
    from mmdpo.data.convert import write_examples
    from mmdpo.data.read import open_rows
    from mmdpo.data.symdpo import SHARES, make_rows, read_triplets

    quiet_libraries()
    found = open_rows(options.path, split=options.split, config=options.dataset_config)
    triplets = read_triplets(
        found.rows,
        name=found.name,
        image_root=Path(options.image_root) if options.image_root else found.root,
        columns=(options.image_column, options.question_column, options.answer_column),
    )
    examples = make_rows(
        triplets,
        options.rows,
        demonstrations=options.demonstrations,
        shares=read_mapping("--shares", options.shares) or SHARES,
        seed=options.seed,
    )
    count = write_examples(examples, options.out)
    print(printable(f"{len(triplets):,} triplets read; {count:,} rows written: {options.out}"))
    return 0


def _read(options: DataCheckOptions | DataConvertOptions) -> PreferenceDataset:
    from mmdpo.data.examples import read_examples

    return read_examples(
        options.path,
        options.split,
        config=options.dataset_config,
        format=options.dataset_format,
        image_root=options.image_root,
    )


def check_parquet(out: Path) -> None:
    """Raises ValueError for a file that is to be written and does not end in .parquet."""
    if out.suffix != ".parquet":
        raise ValueError(f"{out}: what is written is a .parquet file; name it so")


VERB = Verbs(
    __doc__,
    {"check": check, "download": download, "convert": convert, "symdpo": symdpo},
    page="data",
    examples={**check.examples, **convert.examples},
)
