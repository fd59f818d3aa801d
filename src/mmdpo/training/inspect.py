"""`mmdpo data check`: what is in a dataset, and which rows cannot be trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from mmdpo.data.summary import print_summary
from mmdpo.data.validate import Inspect, find_faults, inspect_example, require_images, write_faults
from mmdpo.training import build
from mmdpo.training.check import FullCheck
from mmdpo.training.config import MDPOConfig
from mmdpo.training.run import read_examples

if TYPE_CHECKING:
    from mmdpo.commands.data import DataCheckOptions


def check_dataset(options: DataCheckOptions, console: Console) -> int:
    """Prints the summary of a dataset; returns 1 where a row is faulty, else 0.

    With `options.model_name_or_path` every row is tried exactly as training would, and lengths are the model's tokens;
    without, text and images are checked and lengths are words.
    """
    args = MDPOConfig(
        output_dir="unused",
        objective=options.objective,
        max_length=options.max_length,
        max_image_pixels=options.max_image_pixels,
        dataset_format=options.dataset_format,
        image_root=options.image_root,
        chat_template=options.chat_template,
        chat_template_kwargs=options.chat_template_kwargs,
        trust_remote_code=options.trust_remote_code,
        use_cpu=True,
        report_to="none",
    )
    examples = read_examples(options.path, options.split, args, config=options.dataset_config)
    require_images(examples)
    inspect: Inspect = inspect_example
    if options.model_name_or_path:
        name = options.model_name_or_path
        processor, config = build.load_processor(name, args), build.load_config(name, args)
        collator = build.build_collator(processor, config, args, build.load_generation_config(name, args))
        inspect = FullCheck(collator)
    result = find_faults(examples, inspect, num_workers=options.num_proc, progress=console.is_terminal)
    print_summary(result, examples, console)
    if options.faults:
        write_faults(options.faults, result.faults)
    return 1 if result.faults else 0
