"""What the options of a run come to: worked out in one place, once, and read by everybody after that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmdpo.corruption import Corruption
from mmdpo.models.start import LoadOptions
from mmdpo.objective import Objective
from mmdpo.records import Cell, image_versions
from mmdpo.training.config import MDPOConfig


@dataclass(frozen=True)
class RunPlan:
    """A run as its options decide it. Nothing writes into `options` any more."""

    options: MDPOConfig
    """A copy of what was given, with what this run's data changes."""
    objective: Objective
    corruptions: Mapping[str, Corruption]
    """How each image version that a cell of the objective reads is made."""
    load: LoadOptions
    """How the model is opened."""
    trained_parts: tuple[str, ...]
    cached_cells: tuple[Cell, ...]
    """Reference cells that are scored before training, once for all epochs and runs."""
    live_cells: tuple[Cell, ...]
    """Reference cells that are scored in each step: those whose image is another one in each epoch, or all."""
    is_stream: bool
    """The training data is read while it is trained on."""

    def describe(self) -> list[tuple[str, str]]:
        """Returns names and values for people."""
        versions = ", ".join(f"{version}: {made.name}" for version, made in self.corruptions.items())
        return [
            ("objective", " + ".join(term.label for term in self.objective.terms)),
            ("image versions", versions or "the image alone"),
            ("trained parts", ", ".join(self.trained_parts)),
            ("reference, before training", _list_cells(self.cached_cells)),
            ("reference, in each step", _list_cells(self.live_cells)),
        ]


def resolve(args: MDPOConfig, *, is_stream: bool) -> RunPlan:
    """Returns the plan of a run. The options that are given stay as they are.

    Raises ValueError for options that the kind of data does not go with.
    """
    if is_stream and args.decisions is not None:
        raise ValueError(
            "decisions are about rows by their numbers, and a stream has none: leave dataset_streaming out"
        )
    if is_stream:
        # No row is known before it is read; and Trainer would make the batches to skip them on resuming, where a
        # stream goes to its place.
        args = args.with_changes(precompute_ref_log_probs=False, ignore_data_skip=True)
    elif args.shuffle_buffer_size is not None:
        raise ValueError("shuffle_buffer_size is for streams, and train_dataset is read whole: leave it out")
    else:
        args = args.with_changes()
    objective = args.build_objective()
    versions = image_versions(objective.cells)
    corruptions = {name: made for name, made in args.build_corruptions().items() if name in versions}
    cached = _list_cached(objective, corruptions, args)
    return RunPlan(
        options=args,
        objective=objective,
        corruptions=corruptions,
        load=args.load_options(),
        trained_parts=args.trained_parts,
        cached_cells=cached,
        live_cells=tuple(cell for cell in objective.reference_cells if cell not in cached),
        is_stream=is_stream,
    )


def count_steps(rows: int, args: MDPOConfig) -> int:
    """Returns the optimizer steps of an epoch over so many rows, as Trainer and accelerate come to them.

    Raises ValueError where `dataloader_drop_last` leaves none.
    """
    batch: int = args.train_batch_size * args.world_size
    parts: int = args.gradient_accumulation_steps
    step, drops = batch * parts, args.dataloader_drop_last
    by_step = args.train_sampling_strategy == "batch_rebalance"  # it drops what fills no step, not what fills no batch
    if drops and rows < (step if by_step else batch):
        needs = f"a step of batch_rebalance takes {step}" if by_step else f"a batch of all processes has {batch}"
        remedy = " or gradient_accumulation_steps" * (by_step and step > batch)
        raise ValueError(
            f"dataloader_drop_last leaves nothing of {rows} rows, since {needs}: leave it out, or lower "
            f"per_device_train_batch_size{remedy}"
        )
    if drops and by_step:
        return rows // step
    batches = rows // batch if drops else math.ceil(rows / batch)
    return math.ceil(batches / parts)


def _list_cached(objective: Objective, corruptions: Mapping[str, Corruption], args: MDPOConfig) -> tuple[Cell, ...]:
    """Returns the reference cells that are scored before training: all whose image stays the same in every epoch."""
    if not args.precompute_ref_log_probs:
        return ()
    if not args.corruption_per_epoch:
        return objective.reference_cells
    if args.max_length is not None and any(corruption.needs_other_image for corruption in corruptions.values()):
        return ()  # another picture every epoch has other numbers of tokens, and every answer may be cut elsewhere
    return tuple(cell for cell in objective.reference_cells if cell.image not in corruptions)


def _list_cells(cells: tuple[Cell, ...]) -> str:
    return ", ".join(f"[{cell.image}, {cell.response}]" for cell in cells) or "nothing"
