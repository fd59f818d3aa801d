"""`mmdpo data check`: what is in a dataset, and which rows cannot be trained on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from mmdpo.corruption import load as load_corruption
from mmdpo.data.check import Inspect, find_faults, inspect_example, write_faults
from mmdpo.data.check_summary import print_summary
from mmdpo.data.collate import Collator
from mmdpo.data.validate import require_images
from mmdpo.files import read_mapping
from mmdpo.models.load import load_generation_config, load_processor
from mmdpo.models.start import LoadOptions, resolve_start
from mmdpo.objective import Objective, build_objective
from mmdpo.records import CORRUPTED, NO_IMAGE, ORIGINAL, image_versions, response_names
from mmdpo.training import assembly
from mmdpo.training.row_check import FullCheck
from mmdpo.training.run import read_examples

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
