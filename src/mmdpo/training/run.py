"""`mmdpo train`: from a recipe to a trained model in a run folder."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import TrainerCallback
from trl import get_peft_config

from mmdpo.checkpoints.card import write_card
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.read import read_dataset, read_stream
from mmdpo.data.stream import PreferenceStream
from mmdpo.data.stream_items import StreamItems
from mmdpo.folder_lock import LOCK, hold_folder
from mmdpo.records import derive_generator
from mmdpo.training.checkpoint_folder import MODEL_MARKS, UNFINISHED, find_last_whole, list_checkpoints, read_record
from mmdpo.training.config import MDPOConfig
from mmdpo.training.recipe import Recipe, RecipeError, parse_recipe
from mmdpo.training.row_order import SKIPPED_ROWS
from mmdpo.training.trainer import MDPOTrainer
from mmdpo.world.worlds import find_world

logger = logging.getLogger(__name__)

RESOLVED_RECIPE = "recipe.yaml"
"""File in the run folder with every key and the value that the run used; `--config` takes it."""

WORLD_SPLITS = {"train": (768, "preference"), "test": (256, "held-out")}
"""Number of pairs and purpose of each split of an embedded world."""


class RunFolderError(ValueError):
    """An output folder that a run must not write into."""


def train(arguments: Sequence[str]) -> MDPOTrainer:
    """Trains what a recipe and flags describe, saves the model into the run folder, and returns the trainer.

    A run that ends with an error before its first checkpoint leaves no folder behind. Raises RecipeError,
    RunFolderError, RowError and what else is wrong with model or data, before the folder exists where it can be known;
    TrainingStopped where SIGTERM has ended it.
    """
    recipe = parse_recipe(arguments)
    folder = Path(recipe.training.output_dir)
    with own_run_folder(folder, is_main=recipe.training.process_index == 0):
        resume = find_checkpoint(recipe.training)
        if not recipe.training.resume_from_checkpoint:
            check_run_folder(
                folder, "choose another output_dir, go on with --resume_from_checkpoint true, or remove it"
            )
        trainer = build_trainer(recipe)
        trainer.add_callback(_SaveRecipe(replace(recipe, training=trainer.args)))
        # Of the tokens that Trainer lets the model's configuration take over from the tokenizer, as it always does.
        logging.getLogger("transformers.trainer_utils").addFilter(_says_no_tokens)
        result = trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("train", {**result.metrics, "train_samples": _count_pairs(trainer)})
        if trainer.eval_dataset is not None and recipe.training.evaluates_at_end:
            trainer.save_metrics("eval", trainer.evaluate())
        trainer.create_model_card()
        if recipe.training.push_to_hub:
            trainer.push_to_hub(dataset_name=recipe.script.dataset_name)
    return trainer


def _says_no_tokens(record: logging.LogRecord) -> bool:
    return "new PAD/BOS/EOS tokens" not in str(record.msg)


def _count_pairs(trainer: MDPOTrainer) -> int:
    """Returns the pairs of the training data; of a stream, those that were read from it, repeated ones too."""
    if isinstance(trainer.train_dataset, StreamItems):
        return int(trainer.state.global_step * trainer.get_total_train_batch_size(trainer.args))
    return len(trainer.train_dataset)


def build_trainer(recipe: Recipe) -> MDPOTrainer:
    """Returns the trainer of a recipe: data read and checked, model loaded, adapter added."""
    args, model = recipe.options(), recipe.model
    train_dataset, eval_dataset = open_stream(recipe) if recipe.script.dataset_streaming else read_data(recipe)
    with warnings.catch_warnings():
        # PEFT asks for it on every load, and a user can do nothing about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
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
    examples = _read(recipe, script.dataset_name, script.dataset_train_split)
    if args.test_split_size is not None:
        if args.eval_dataset_name is not None:
            raise RecipeError("give one of eval_dataset_name and test_split_size")
        return split_examples(examples, args.test_split_size, args.seed)
    if args.eval_dataset_name is not None:
        return examples, _read(recipe, args.eval_dataset_name, test_split)
    if args.eval_strategy == "no":
        return examples, None
    if Path(str(script.dataset_name)).is_file():
        raise RecipeError(
            f"eval_strategy asks for evaluations and {script.dataset_name} is a single file without splits: set "
            " test_split_size (a share of its rows) or eval_dataset_name"
        )
    return examples, _read(recipe, script.dataset_name, test_split)


def open_stream(recipe: Recipe) -> tuple[PreferenceStream, PreferenceDataset | None]:
    """Returns the stream to train on and, where the recipe evaluates, the evaluation examples, which are read whole."""
    script, args, name = recipe.script, recipe.training, str(recipe.script.dataset_name)
    is_evaluated = args.eval_strategy != "no" or args.eval_dataset_name is not None
    if args.test_split_size is not None:
        raise RecipeError("test_split_size needs to know all rows, and a stream does not: use eval_dataset_name")
    if find_world(name) is not None:
        raise RecipeError("an embedded world is made in memory: leave dataset_streaming out")
    if is_evaluated and args.eval_dataset_name is None and (Path(name).is_file() or has_magic(name)):
        raise RecipeError(f"eval_strategy asks for evaluations and {name} has no splits: set eval_dataset_name")
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
    return stream, _read(recipe, held_out, script.dataset_test_split)


def _read(recipe: Recipe, name: str, split: str) -> PreferenceDataset:
    args, config = recipe.training, recipe.script.dataset_config
    return read_examples(
        name, split, config=config, format=args.dataset_format, image_root=args.image_root, seed=args.seed
    )


def read_examples(
    name: str,
    split: str,
    *,
    config: str | None = None,
    format: str = "auto",
    image_root: str | None = None,
    seed: int = 0,
) -> PreferenceDataset:
    """Returns a split of an embedded world (`world`), a file, a folder or a hub dataset."""
    world = find_world(name)
    if world is None:
        return read_dataset(name, split=split, config=config, format=format, image_root=image_root)
    from mmdpo.world.pairs import make_pairs

    if split not in WORLD_SPLITS:
        raise RecipeError(f"an embedded world has the splits {' and '.join(WORLD_SPLITS)}, not {split!r}")
    count, purpose = WORLD_SPLITS[split]
    return PreferenceDataset.from_rows(make_pairs(count, seed, purpose=purpose, world=world), name=f"{name}[{split}]")


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


def check_run_folder(folder: Path, remedy: str) -> None:
    """Raises RunFolderError, which says how to mend it, for a folder that holds something already."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another output_dir")
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise RunFolderError(f"{folder} holds a run already: {remedy}")


def prepare_run_folder(folder: str | Path, remedy: str) -> Path:
    """Makes an empty run folder and returns it.

    Raises RunFolderError for one that holds something already, or that cannot be made or written into.
    """
    path = Path(folder)
    check_run_folder(path, remedy)
    _make_writable(path)
    return path


def find_checkpoint(args: MDPOConfig) -> str | None:
    """Returns the checkpoint that `resume_from_checkpoint` means: a folder, or with `true` the last one that is whole.

    With `true` a run that has no checkpoint yet starts from the beginning, so that a job that is queued again may
    always pass it. Raises CheckpointError for a checkpoint that is not whole, and RunFolderError where the folder holds
    something else than a run's beginning.
    """
    wanted = str(args.resume_from_checkpoint or "false")
    args.resume_from_checkpoint = None if wanted.lower() in ("false", "no") else wanted
    if args.resume_from_checkpoint is None:
        return None
    if wanted.lower() not in ("true", "yes"):
        read_record(Path(wanted))
        return wanted
    folder = Path(args.output_dir)
    last = find_last_whole(folder)
    if last is not None:
        return str(last)
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if is_beginning(held):
        logger.info("%s holds no checkpoint yet: training starts from the beginning", folder)
        return None
    raise RunFolderError(
        f"{folder} holds no checkpoint to resume from, and is no run's beginning either (it holds "
        f"{', '.join(sorted(held)[:8])}): choose another output_dir, or remove it"
    )


def is_beginning(names: Collection[str]) -> bool:
    """Says whether the files of a folder are what a run leaves that was killed before its first checkpoint."""
    is_finished = any(name in MODEL_MARKS or name.endswith(".safetensors") for name in names)
    return not is_finished and (RESOLVED_RECIPE in names or set(names) <= {SKIPPED_ROWS, UNFINISHED, LOCK})


@contextmanager
def own_run_folder(folder: Path, *, is_main: bool) -> Iterator[None]:
    """Makes a folder and holds it for this run; an error before its first checkpoint leaves nothing of the run behind.

    Raises RunFolderError for a folder that cannot be written into, FolderInUseError for one that another run holds.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _make_writable(folder)  # asked for now: a reference pass may take hours
        with hold_folder(folder) if is_main else nullcontext():
            before = set(folder.iterdir())
            try:
                yield
            except Exception:
                if not list_checkpoints(folder):
                    _remove_new(folder, before)
                raise
    except Exception:
        for path in made:
            with suppress(OSError):  # another process may be at work there
                path.rmdir()
        raise


def _remove_new(folder: Path, before: Collection[Path]) -> None:
    """Removes what came into being in a folder. Other processes may be at it too, and none of them should die of it."""
    for entry in set(folder.iterdir()) - {*before, folder / LOCK}:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _make_writable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another output_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error.strerror}): choose another output_dir") from error
    if not os.access(folder, os.W_OK):
        raise RunFolderError(f"{folder} must not be written into: choose another output_dir, or change its rights")


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
