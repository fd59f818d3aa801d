"""Sample answers while training: what the model says to the same few prompts at the start and every so many steps.

sample_answers.jsonl   one line per step and example: prompt, pictures, both answers of the pair, the model's answer
sample_answers/        the pictures, originals and corrupted ones
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import release_memory, send_to_device
from PIL.Image import Image
from torch import nn
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Items
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.data.stream_items import StreamItems
from mmdpo.files import to_json, write_whole
from mmdpo.models.load import plain_decoding
from mmdpo.records import CHOSEN, CORRUPTED, ORIGINAL, REJECTED, Cell, RowError
from mmdpo.scoring.forward import image_arguments

if TYPE_CHECKING:
    from mmdpo.training.trainer import MDPOTrainer

logger = logging.getLogger(__name__)

SAMPLES, PICTURES = "sample_answers.jsonl", "sample_answers"
MAX_NEW_TOKENS = 128
LONGEST_SIDE = 512
"""Pixels of a picture that is shown."""


@dataclass(frozen=True)
class Sample:
    """An example whose prompt is answered again and again."""

    row: Mapping[str, Any]
    """What its lines in the file say besides step and answer: id, prompt, paths of pictures, both answers."""
    images: Sequence[Image]
    """Small copies, as the next."""
    corrupted: Sequence[Image]
    """As training sees them; none where the objective has no corrupted image or it is made after the processor."""
    inputs: Batch
    """The prompt under the original images, alone, so that nothing is padded."""

    def pictures(self) -> Iterator[tuple[str, Image]]:
        """Yields the path of each picture in the run folder, and the picture."""
        yield from zip(self.row["pictures"], self.images, strict=True)
        yield from zip(self.row["corrupted_pictures"], self.corrupted, strict=True)


class SampleAnswers(TrainerCallback):
    """Lets the model answer fixed prompts greedily, and shows that to TensorBoard, W&B, Trackio and a file.

    The examples are the first of the evaluation dataset, else of the training dataset. Training continues as if nothing
    had been asked: random states and the modes of all modules are put back.
    """

    def __init__(self, trainer: MDPOTrainer, collator: Collator) -> None:
        """Raises ValueError where the engine keeps the model in pieces: one process alone could not answer."""
        plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
        if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
            raise ValueError(
                "sample_answers_steps: FSDP and ZeRO-3 keep the model in pieces, and sample answers come from one "
                "process: leave it out, or train with DDP or ZeRO-2"
            )
        self.trainer, self.collator = trainer, collator
        self.samples: tuple[Sample, ...] = ()
        self._pictures_shown = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Chooses the examples, saves their pictures and asks the start; a resumed run continues the file."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        self.samples = choose_samples(_find_items(self.trainer), self.collator, args.sample_answers)
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        for sample in self.samples:
            for path, image in sample.pictures():
                image.save(folder / path)
        if _cut_rows(folder / SAMPLES, state.global_step) < state.global_step or not state.global_step:
            self._ask(folder, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks every so many steps, and after the last one."""
        is_due = state.global_step % args.sample_answers_steps == 0 or state.global_step >= state.max_steps
        if state.is_world_process_zero and is_due:
            self._ask(Path(args.output_dir), state.global_step)

    def _ask(self, folder: Path, step: int) -> None:
        trainer = self.trainer
        try:
            with undisturbed(trainer.model), trainer.compute_loss_context_manager():
                answers = [answer(trainer.model, sample, self.collator) for sample in self.samples]
        except torch.OutOfMemoryError:
            release_memory()
            logger.warning("no sample answers at step %d: they do not fit into memory beside the training", step)
            return
        rows = [
            {"step": step, **sample.row, "answer": said} for sample, said in zip(self.samples, answers, strict=True)
        ]
        with (folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.writelines(to_json(row) + "\n" for row in rows)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                _show_in_tensorboard(callback.tb_writer, self.samples, rows, with_pictures=not self._pictures_shown)
            elif isinstance(callback, WandbCallback | TrackioCallback):
                library = import_module("wandb" if isinstance(callback, WandbCallback) else "trackio")
                library.log({"sample_answers": _table(library, self.samples, rows), "train/global_step": step})
        self._pictures_shown = True


def choose_samples(items: Items, collator: Collator, count: int) -> tuple[Sample, ...]:
    """Returns the first `count` examples, opened and tokenised; rows that cannot be prepared are passed over."""
    prepare = replace(collator.prepare, cells=(Cell(ORIGINAL, CHOSEN),))
    ask = replace(collator, prepare=prepare, weight_columns=())
    # What is cropped after the processor is no picture.
    versions = (ORIGINAL, CORRUPTED if collator.prepare.crop_space == "image" else "")

    def prepared() -> Iterator[tuple[Any, list[list[Image]], Batch]]:
        for place in range(len(items)):
            try:
                item = items[place]
                contexts = collator.prepare(item).contexts | prepare(item).contexts
                inputs = ask([item])
            except RowError:
                continue
            shown = [[_shrink(i) for i in contexts[v].images] if v in contexts else [] for v in versions]
            yield item.example, shown, inputs

    samples = []
    for number, (example, (images, corrupted), inputs) in enumerate(islice(prepared(), count), start=1):
        row = {
            "id": example.id,
            "prompt": plain_text(example.prompt).replace(IMAGE_PLACEHOLDER, "").strip(),
            "pictures": [f"{PICTURES}/{number}_{place}.png" for place in range(len(images))],
            "corrupted_pictures": [f"{PICTURES}/{number}_{place}_corrupted.png" for place in range(len(corrupted))],
            **{
                name: plain_text(example.responses[role])
                for name, role in (("chosen", CHOSEN), ("rejected", REJECTED))
                if role in example.responses
            },
        }
        samples.append(Sample(row, images, corrupted, inputs))
    return tuple(samples)


@torch.no_grad()  # not inference_mode: a model may keep what it computes, for the next step's backward pass
def answer(model: Any, sample: Sample, collator: Collator) -> str:
    """Returns the model's greedy answer to a sample, without special tokens."""
    device = next(model.parameters()).device
    batch: Any = send_to_device(sample.inputs, device)
    length = batch["prompt_ids"].shape[1]
    images = {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in image_arguments(batch, collator.prepare.renderer.family, device).items()
    }
    read = {
        "input_ids": batch["prompt_ids"],
        "attention_mask": batch["prompt_mask"].astype(int),
        **batch["token_types"],
    }
    tokenizer = collator.prepare.renderer.tokenizer
    room = MAX_NEW_TOKENS if collator.context_length is None else min(MAX_NEW_TOKENS, collator.context_length - length)
    tokens = model.generate(
        **{name: torch.as_tensor(values, device=device) for name, values in read.items()},
        **images,
        generation_config=plain_decoding(model, tokenizer, room),
        use_cache=True,  # training with checkpoints of activations has turned it off
    )
    text: str = tokenizer.decode(tokens[0, length:], skip_special_tokens=True)
    return text.strip()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode, and afterwards puts back the mode of each module and all random states."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    devices = [] if device.type == "cpu" else [device]
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices, device_type="cuda" if device.type == "cpu" else device.type):
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
        random.setstate(python)
        np.random.set_state(numpy)


def _find_items(trainer: MDPOTrainer) -> Items:
    """Returns the evaluation examples, of several datasets the first, else those of training; of a stream its head."""
    found: Any = trainer.eval_dataset
    if isinstance(found, Mapping):
        found = next(iter(found.values()), None)
    if found is None:
        found = trainer.train_dataset
    return found.head() if isinstance(found, StreamItems) else found


def _cut_rows(path: Path, step: int) -> int:
    """Removes what an interrupted run wrote after the step that this one resumes from; returns the last step left."""
    kept: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        with suppress(ValueError):  # cut in the middle
            kept[line] = json.loads(line)["step"]
    kept = {line: written for line, written in kept.items() if written <= step}
    if path.is_file():
        write_whole(path, "".join(line + "\n" for line in kept))
    return max(kept.values(), default=-1)


def _shrink(image: Image) -> Image:
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small


def _show_in_tensorboard(
    writer: Any, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], *, with_pictures: bool
) -> None:
    """Writes the answers, and the pictures the first time, for these stay the same."""
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True), start=1):
        for kind, images in (("image", sample.images), ("corrupted", sample.corrupted)) if with_pictures else ():
            for place, image in enumerate(images):
                name = f"sample_answers/{number}/{kind}" + (f"_{place}" if place else "")
                writer.add_image(name, np.asarray(image), row["step"], dataformats="HWC")
        table = "\n\n".join(f"**{name}**: {row[name]}" for name in ("prompt", "chosen", "answer"))
        writer.add_text(f"sample_answers/{number}/answer", table, row["step"])


def _table(library: Any, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> Any:
    """Returns a table of W&B or of Trackio, which have the same classes; of several images it shows the first."""
    data = []
    for sample, row in zip(samples, rows, strict=True):
        shown = [library.Image(images[0]) if images else None for images in (sample.images, sample.corrupted)]
        data.append([row["step"], row["id"], *shown, row["prompt"], row["chosen"], row["answer"]])
    return library.Table(columns=["step", "id", "image", "corrupted", "prompt", "chosen", "answer"], data=data)
