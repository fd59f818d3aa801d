"""Rows of any form become examples, and are tried without training: by the dry run, and by `mmdpo data check`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mmdpo.corruption import load as load_corruption
from mmdpo.data.check import (
    CheckResult,
    ExampleFacts,
    Inspect,
    find_faults,
    inspect_example,
    refuse_faults,
    write_faults,
)
from mmdpo.data.check_summary import print_summary
from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import leave_out_dropped
from mmdpo.data.items import Item
from mmdpo.data.read import read_dataset
from mmdpo.data.validate import require_images
from mmdpo.files import printable, read_mapping
from mmdpo.keys import RecipeError
from mmdpo.models.load import load_generation_config, load_processor
from mmdpo.models.start import LoadOptions, Start, resolve_start
from mmdpo.models.weights import digest_folder
from mmdpo.objective import Objective, build_objective
from mmdpo.records import (
    CHOSEN,
    CORRUPTED,
    NO_IMAGE,
    ORIGINAL,
    REJECTED,
    PreferenceExample,
    image_versions,
    response_names,
)
from mmdpo.training import assembly
from mmdpo.training.config import MDPOConfig
from mmdpo.world import find_world

logger = logging.getLogger(__name__)

_ROWS_LOOKED_AT = 32
"""Of a dataset whose images start from a root, to see whether they do."""
WORLD_SPLITS = {"train": (768, "preference"), "test": (256, "held-out")}
"""Number of pairs and purpose of each split of an embedded world."""


def read_examples(
    name: str,
    split: str,
    *,
    config: str | None = None,
    format: str = "auto",
    image_root: str | None = None,
    seed: int = 0,
) -> PreferenceDataset:
    """Returns a split of an embedded world (`world`), a file, a folder or a hub dataset; warns of a useless root."""
    world = find_world(name)
    if world is None:
        found = read_dataset(name, split=split, config=config, format=format, image_root=image_root)
        if image_root is not None and not _uses_root(found):
            logger.warning(
                "%s: image_root %s is not used, since no image of the first %d rows is a relative path",
                name, image_root, min(len(found), _ROWS_LOOKED_AT),
            )  # fmt: skip
        return found
    from mmdpo.world.pairs import make_pairs

    if split not in WORLD_SPLITS:
        raise RecipeError(f"an embedded world has the splits {' and '.join(WORLD_SPLITS)}, not {split!r}")
    if config is not None:
        raise RecipeError(f"dataset_config is {config!r}, and an embedded world has none: leave dataset_config out")
    if image_root is not None:
        logger.warning("%s: image_root %s is not used, since an embedded world draws its images", name, image_root)
    count, purpose = WORLD_SPLITS[split]
    return PreferenceDataset.from_rows(make_pairs(count, seed, purpose=purpose, world=world), name=f"{name}[{split}]")


def _uses_root(dataset: PreferenceDataset) -> bool:
    """Returns whether an image of the first rows lies below the root that is given; a faulty row may."""
    root = Path(dataset.image_root or "")
    for place in range(min(len(dataset), _ROWS_LOOKED_AT)):
        try:
            example = dataset[place]
        except Exception:  # odd rows raise nearly anything, and are named where they are checked
            return True
        images = (*example.images, *example.rejected_images, *example.regions)
        if any(isinstance(image, str | Path) and Path(image).is_relative_to(root) for image in images):
            return True
    return False


def to_preferences(dataset: Any, name: str, args: MDPOConfig) -> PreferenceDataset:
    """Returns rows in any format as a PreferenceDataset, without those that `args.decisions` drops.

    Raises TypeError for what are no rows, and as `leave_out_dropped`, which wants decisions about the rows of training.
    """
    if isinstance(dataset, str | bytes | Path) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{name} is a {type(dataset).__name__}, not rows with a length; give a datasets.Dataset, list of rows or "
            "PreferenceDataset (a datasets.IterableDataset can be trained on, and nothing else be done with it)"
        )
    how: dict[str, Any] = dict(name=name, format=args.dataset_format, image_root=args.image_root)
    is_read = isinstance(dataset, PreferenceDataset)
    rows: PreferenceDataset = dataset if is_read else PreferenceDataset.from_rows(dataset, **how)
    if args.decisions is None:
        return rows
    return leave_out_dropped(rows, Path(args.decisions), is_needed=name == "train")


def warn_of_other_samplers(dataset: Any, start: Start) -> None:
    """Warns where most answers of a dataset that `mmdpo pairs` made are another model's than the one that starts.

    Pairs of several rounds in one run teach less than those of the model itself, round by round.
    """
    samplers = dataset.column("sampler") if isinstance(dataset, PreferenceDataset) else None
    folders = [folder for folder in (Path(start.base), start.adapter) if folder is not None and folder.is_dir()]
    if not samplers or not folders:
        return
    own = "@".join(digest_folder(folder)[:16] for folder in folders)
    others = [name for name in samplers if isinstance(name, str) and "@" in name and not name.endswith(f"@{own}")]
    if 2 * len(others) > len(samplers):
        logger.warning(
            "%d of %d rows have answers of another model (%s) than the one that training starts from: make pairs of "
            "its own answers (mmdpo pairs), or train in rounds (mmdpo iterate)",
            len(others),
            len(samplers),
            others[0],
        )


@dataclass(frozen=True)
class FullCheck:
    """Makes a batch of one example, and says how long it is and how large its images are."""

    collator: Collator

    def __call__(self, example: PreferenceExample) -> ExampleFacts:
        """Returns what was measured. Raises RowError for an example that cannot be trained on."""
        prepared = self.collator.prepare(Item(example, 0, other_images=example.images))
        batch = self.collator.collate([prepared])
        answers = {name: len(prepared.answers[name]) for name in response_names(self.collator.prepare.cells)}
        images = next(context.images for context in prepared.contexts.values())
        return ExampleFacts(
            prompt_tokens=int(batch["prompt_mask"].sum(1).max()),
            chosen_tokens=answers.get(CHOSEN),
            rejected_tokens=answers.get(REJECTED),
            image_sizes=tuple(image.size for image in images),
            unit="tokens",
        )


def check_rows(dataset: PreferenceDataset, name: str, inspect: Inspect, args: MDPOConfig) -> CheckResult:
    """Returns what `inspect` found of the rows; faulty ones raise as `mmdpo.data.check.refuse_faults` says."""
    require_images(dataset)
    workers = args.dataset_num_proc or args.dataloader_num_workers
    result = find_faults(dataset, inspect, num_workers=workers, progress=not args.disable_tqdm)
    refuse_faults(name, result.faults, len(dataset), skip=args.on_bad_row == "skip")
    return result


if TYPE_CHECKING:
    from mmdpo.commands.data import DataCheckOptions


def check_dataset(options: DataCheckOptions, console: Console) -> int:
    """Prints the summary of a dataset; returns 1 where a row is faulty, else 0.

    With `options.model_name_or_path` every row is tried exactly as training would, and lengths are the model's tokens;
    without, text and images are checked and lengths are words.
    """
    examples = read_examples(
        options.path,
        options.split,
        config=options.dataset_config,
        format=options.dataset_format,
        image_root=options.image_root,
    )
    if options.decisions is not None:
        kept = leave_out_dropped(examples, options.decisions, is_needed=True)
        told = f"{options.decisions} drops {len(examples) - len(kept)} of {len(examples)} rows; the others are checked"
        console.print(printable(told), markup=False, highlight=False)
        examples = kept
    require_images(examples)
    objective = build_objective(options.objective)
    inspect: Inspect = partial(
        inspect_example, responses=response_names(objective.cells), comparisons=objective.comparisons
    )
    if options.model_name_or_path:
        inspect = FullCheck(_open_collator(options, objective))
    result = find_faults(examples, inspect, num_workers=options.num_proc, progress=console.is_terminal)
    print_summary(result, examples, console)
    if options.faults:
        write_faults(options.faults, result.faults)
    return 1 if result.faults else 0


def _open_collator(options: DataCheckOptions, objective: Objective) -> Collator:
    load = LoadOptions(
        chat_template=options.chat_template,
        chat_template_kwargs=read_mapping("chat_template_kwargs", options.chat_template_kwargs),
        trust_remote_code=options.trust_remote_code,
    )
    start = resolve_start(options.model_name_or_path, load)
    named = set(image_versions(objective.cells)) - {ORIGINAL, NO_IMAGE, CORRUPTED}
    return assembly.make_collator(
        load_processor(start),
        start.config,
        objective,
        {CORRUPTED: load_corruption("crop_0_20"), **{name: load_corruption(name) for name in named}},
        max_length=options.max_length,
        max_image_pixels=options.max_image_pixels,
        generation_config=load_generation_config(start),
    )
