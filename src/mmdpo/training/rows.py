"""Rows that a trainer is given become examples, and are tried exactly as training would, without a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.corruption import load as load_corruption
from mmdpo.data.check import CheckResult, ExampleFacts, Inspect, find_faults
from mmdpo.data.collate import Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import leave_out_dropped
from mmdpo.data.faults import refuse_faults
from mmdpo.data.items import Item
from mmdpo.data.validate import require_images
from mmdpo.models.load import load_generation_config, load_processor
from mmdpo.models.start import LoadOptions, Start, resolve_start
from mmdpo.models.weights import digest_folder
from mmdpo.objective import Objective
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

logger = logging.getLogger(__name__)


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
    """Returns what `inspect` found of the rows; faulty ones raise as `refuse_faults` says."""
    require_images(dataset)
    workers = args.dataset_num_proc or args.dataloader_num_workers
    result = find_faults(dataset, inspect, num_workers=workers, progress=not args.disable_tqdm)
    refuse_faults(name, result.faults, len(dataset), skip=args.on_bad_row == "skip")
    return result


def open_full_check(
    name: str, load: LoadOptions, objective: Objective, *, max_length: int, max_image_pixels: int
) -> FullCheck:
    """Returns the check of rows with a model's processor, as training with the objective would read them."""
    start = resolve_start(name, load)
    named = set(image_versions(objective.cells)) - {ORIGINAL, NO_IMAGE, CORRUPTED}
    collator = assembly.make_collator(
        load_processor(start),
        start.config,
        objective,
        {CORRUPTED: load_corruption("crop_0_20"), **{name: load_corruption(name) for name in named}},
        max_length=max_length,
        max_image_pixels=max_image_pixels,
        generation_config=load_generation_config(start),
    )
    return FullCheck(collator)
