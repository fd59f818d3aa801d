"""What the terminal shows of a run: a bar where there is a terminal, and one readable line for each log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any

from rich.progress import Progress
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback as TransformersProgress

SHOWN = {
    "loss": "loss {:.4f}",
    "rewards/margins": "margin {:.3f}",
    "rewards/image_margins": "image margin {:.3f}",
    "rewards/accuracies": "accuracy {:.0%}",
}
"""What a line on the terminal says of a log, in this order; all of it is in trainer_state.json and the loggers."""


def describe_log(logs: Mapping[str, Any], step: int, steps: int, left: float | None = None) -> str:
    """Returns a log as one readable line; of a log that is neither of training nor of an evaluation, all of it.

    `left` is how many seconds training will still take, None where that is not known. No accuracy is told while policy
    and reference are equal: neither answer is preferred then, and 0 % would look like a failure.
    """
    if "train_runtime" in logs:
        loss = f", mean loss {logs['train_loss']:.4f}" if "train_loss" in logs else ""
        return f"trained to step {step} in {tqdm.format_interval(logs['train_runtime'])}{loss}"
    prefix = next((name.removesuffix("loss") for name in logs if name == "loss" or name.endswith("_loss")), None)
    if prefix is None:
        return str(dict(logs))
    known = {name: logs.get(f"{prefix}{name}") for name in SHOWN}
    if known["rewards/margins"] is not None and round(known["rewards/margins"], 6) == 0:
        known["rewards/accuracies"] = None
    said = [text.format(known[name]) for name, text in SHOWN.items() if isinstance(known[name], int | float)]
    head = " ".join(filter(None, (f"step {step}/{steps}" if steps else "", prefix.removesuffix("_"))))
    told = [] if prefix or left is None or step >= steps else [f"{tqdm.format_interval(left)} left"]
    return "  ".join([head, *said, *told])


class _Lines:
    """Writes one line for each log, with how long the other steps will take by those of this process so far."""

    began: tuple[float, int] | None = None
    """When training began here, and at which step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes when training begins."""
        self.began = monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Writes the line, of an evaluation after training too."""
        if state.is_world_process_zero and logs is not None:
            left, (time, step) = None, self.began or (0.0, state.global_step)
            if state.global_step > step:
                left = (monotonic() - time) / (state.global_step - step) * (state.max_steps - state.global_step)
            self.write(describe_log(logs, state.global_step, state.max_steps, left))

    def write(self, line: str) -> None:
        """Writes a line."""
        print(line, flush=True)


class PlainStepLines(_Lines, PrinterCallback):
    """One line for each log, where bars are off or would fill a file."""


class StepLines(_Lines, TransformersProgress):
    """The bar of a run, and one line for each log above it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens the bar, where a resumed run goes on."""
        super().on_train_begin(args, state, control)
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def write(self, line: str) -> None:
        """Writes a line above the bar."""
        tqdm.write(line)


def show_lines(trainer: Trainer) -> None:
    """Puts our lines in the place of what transformers prints; a notebook's own table stays."""
    bar = StepLines if sys.stderr.isatty() else PlainStepLines
    lines = {TransformersProgress: bar, PrinterCallback: PlainStepLines}
    for theirs in [found for found in trainer.callback_handler.callbacks if type(found) in lines]:
        trainer.remove_callback(theirs)
        trainer.add_callback(lines[type(theirs)])


class ProgressCallback(TrainerCallback):
    """Moves one bar of a `Progress` with the steps of a trainer, and shows its loss."""

    def __init__(self, progress: Progress, description: str) -> None:
        self.progress = progress
        self.task = progress.add_task(description, total=None, note="")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learns how many steps there are."""
        self.progress.update(self.task, total=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar."""
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Shows the loss."""
        if logs and "loss" in logs:
            self.progress.update(self.task, note=f"loss {float(logs['loss']):.3f}")
