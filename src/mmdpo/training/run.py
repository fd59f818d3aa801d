"""`mmdpo train`: from a recipe to a trained model in a run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import TrainerCallback
from trl import get_peft_config

from mmdpo.checkpoints.card import write_card
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.examples import read_examples
from mmdpo.data.read import check_names, has_splits, only_split, read_stream
from mmdpo.data.stream import PreferenceStream
from mmdpo.data.stream_items import StreamItems
from mmdpo.records import derive_generator
from mmdpo.training.config import MDPOConfig
from mmdpo.training.durable.resume import (
    RESOLVED_RECIPE,
    check_run_folder,
    find_checkpoint,
    is_resuming,
    own_run_folder,
)
from mmdpo.training.recipe import Recipe, RecipeError, parse_recipe
from mmdpo.training.trainer import MDPOTrainer
from mmdpo.world import find_world

logger = logging.getLogger(__name__)


def train(arguments: Sequence[str]) -> MDPOTrainer:
    """Trains what a recipe and flags describe, saves the model into the run folder, and returns the trainer.

    A run that ends with an error before its first checkpoint leaves no folder. Raises RecipeError,
    RunFolderError, RowError and what else is wrong with model or data, before the folder exists where it can be known;
    TrainingStopped where SIGTERM has ended it.
    """
    recipe = parse_recipe(arguments)
    folder = Path(recipe.training.output_dir)
    _look_at_workers(recipe.training)
    with own_run_folder(folder, is_main=recipe.training.process_index == 0):
        resume = find_checkpoint(recipe.training)
        if not is_resuming(recipe.training):
            check_run_folder(
                folder, "choose another output_dir, resume with --resume_from_checkpoint true, or remove it"
            )
        trainer = build_trainer(recipe)
        trainer.add_callback(_SaveRecipe(replace(recipe, training=trainer.args)))
        result = trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        trainer.save_state()
        pairs: int | float = trainer.state.global_step * trainer.get_total_train_batch_size(trainer.args)
        if not isinstance(trainer.train_dataset, StreamItems):  # of a stream: what was read, repeated rows too
            pairs = len(trainer.train_dataset)
        trainer.save_metrics("train", {**result.metrics, "train_samples": int(pairs)})
        if trainer.eval_dataset is not None and recipe.training.evaluates_at_end:
            trainer.save_metrics("eval", _find_evaluation(trainer) or trainer.evaluate())
        trainer.create_model_card()
        if recipe.training.push_to_hub:
            trainer.push_to_hub(dataset_name=recipe.script.dataset_name)
    return trainer


def _find_evaluation(trainer: MDPOTrainer) -> dict[str, float] | None:
    """Returns the metrics of an evaluation after the last step, None where there was none, or of other weights."""
    last = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
    if last is None or last["step"] != trainer.state.global_step or trainer.args.load_best_model_at_end:
        return None
    return {name: value for name, value in last.items() if name != "step"}


def _look_at_workers(args: MDPOConfig) -> None:
    """Says where more processes are asked for than the machine runs at a time."""
    asked = {name: getattr(args, name) or 0 for name in ("dataloader_num_workers", "dataset_num_proc")}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if args.process_index == 0 and max(asked.values()) > cores:
        told = " and ".join(f"{name} {count}" for name, count in asked.items() if count > cores)
        logger.warning("%s: more than the %d processors of this machine; fewer may be as fast", told, cores)


def build_trainer(recipe: Recipe) -> MDPOTrainer:
    """Returns the trainer of a recipe: data read and checked, model loaded, adapter added."""
    args, model = recipe.options(), recipe.model
    train_dataset, eval_dataset = open_stream(recipe) if recipe.script.dataset_streaming else read_data(recipe)
    return _RunTrainer(
        model=model.model_name_or_path,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        peft_config=get_peft_config(model),
    )


def read_data(recipe: Recipe) -> tuple[PreferenceDataset, PreferenceDataset | None]:
    """Returns the training and, where the recipe evaluates, the evaluation examples.

    The latter are `eval_dataset_name`, or a share `test_split_size` of the training rows, or the dataset's own split
    `dataset_test_split`.
    """
    script, args, test_split = recipe.script, recipe.training, recipe.script.dataset_test_split
    if script.dataset_streaming:
        raise RecipeError("dataset_streaming is for training alone: all rows are needed here")
    examples = _read(recipe, script.dataset_name, script.dataset_train_split, "dataset_train_split")
    if args.test_split_size is not None:
        if args.eval_dataset_name is not None:
            raise RecipeError("give one of eval_dataset_name and test_split_size")
        return split_examples(examples, args.test_split_size, args.seed)
    if args.eval_dataset_name is not None:
        return examples, _read(recipe, args.eval_dataset_name, test_split, "dataset_test_split")
    if args.eval_strategy == "no" and not args.eval_on_start:
        return examples, None
    if not has_splits(script.dataset_name):
        asking = "eval_on_start" if args.eval_strategy == "no" else "eval_strategy"
        raise RecipeError(
            f"{asking} asks for evaluations and {script.dataset_name} has one split: set test_split_size (a share "
            "of its rows) or eval_dataset_name"
        )
    return examples, _read(recipe, script.dataset_name, test_split, "dataset_test_split")


def open_stream(recipe: Recipe) -> tuple[PreferenceStream, PreferenceDataset | None]:
    """Returns the stream to train on and, where the recipe evaluates, the evaluation examples, which are read whole."""
    script, args, name = recipe.script, recipe.training, str(recipe.script.dataset_name)
    is_evaluated = args.eval_strategy != "no" or args.eval_on_start or args.eval_dataset_name is not None
    if args.test_split_size is not None:
        raise RecipeError("test_split_size needs to know all rows, and a stream does not: use eval_dataset_name")
    if find_world(name) is not None:
        raise RecipeError("an embedded world is made in memory: leave dataset_streaming out")
    if is_evaluated and args.eval_dataset_name is None and not has_splits(name):
        asking = "eval_on_start" if args.eval_strategy == "no" else "eval_strategy"
        raise RecipeError(f"{asking} asks for evaluations and {name} has one split: set eval_dataset_name")
    check_names(name, script.dataset_train_split, script.dataset_config, key="dataset_train_split")
    stream = read_stream(
        name,
        split=script.dataset_train_split,
        config=script.dataset_config,
        format=args.dataset_format,
        image_root=args.image_root,
    )
    if not is_evaluated:
        return stream, None
    held_out = args.eval_dataset_name or name
    return stream, _read(recipe, held_out, script.dataset_test_split, "dataset_test_split")


def _read(recipe: Recipe, name: str, split: str, key: str) -> PreferenceDataset:
    """Reads the split that a key of the recipe names. A file beside the dataset has neither `test` nor its config."""
    args, config = recipe.training, recipe.script.dataset_config
    if name != recipe.script.dataset_name and (find_world(name) is not None or not has_splits(name)):
        split, config = only_split(name, split), None
    check_names(name, split, config, key=key)
    return read_examples(
        name, split, config=config, format=args.dataset_format, image_root=args.image_root, seed=args.seed
    )


def split_examples(examples: PreferenceDataset, share: float, seed: int) -> tuple[PreferenceDataset, PreferenceDataset]:
    """Returns a training and an evaluation part, drawn by the seed alone."""
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        few = "at least one, and leave one to train on" if len(examples) > 1 else "some, and there is a single row"
        raise RecipeError(
            f"test_split_size {share} leaves {count} of {len(examples)} rows for evaluation: it has to hold out {few}. "
            "Give a larger share, more rows, or eval_dataset_name; or none of these (--test_split_size null "
            "--eval_strategy no)"
        )
    order = derive_generator(seed, "", "test split").permutation(len(examples))
    return examples.select(np.sort(order[count:]).tolist()), examples.select(np.sort(order[:count]).tolist())


class _RunTrainer(MDPOTrainer):
    """The trainer of a recipe, whose model card is written from the files of its run folder."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes README.md on the main process; what Trainer would say of the run stands in it too."""
        if self.is_world_process_zero():
            write_card(Path(self.args.output_dir))


class _SaveRecipe(TrainerCallback):
    """Writes the resolved recipe when training begins, beside the first log."""

    def __init__(self, recipe: Recipe) -> None:
        # Resolved now: building the trainer fills in objects that YAML cannot hold.
        self.text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the file on the main process."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RESOLVED_RECIPE).write_text(self.text, encoding="utf-8")
