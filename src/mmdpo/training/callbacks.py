"""What the terminal shows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.progress import Progress
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback as TransformersProgress

SHOWN = {
    "loss": "loss {:.4f}",
    "rewards/margins": "margin {:.4f}",
    "rewards/image_margins": "image margin {:.4f}",
    "rewards/accuracies": "accuracy {:.0%}",
    "learning_rate": "lr {:.2e}",
    "epoch": "epoch {:.2f}",
}
"""What a line on the terminal says of a log, in this order; all of it is in trainer_state.json and the loggers."""


def describe_log(logs: Mapping[str, Any], step: int, steps: int) -> str:
    """Returns a log as one readable line; of a log that is neither of training nor of an evaluation, all of it."""
    if "train_runtime" in logs:
        loss = f", mean loss {logs['train_loss']:.4f}" if "train_loss" in logs else ""
        return f"trained to step {step} in {logs['train_runtime']:.0f} s{loss}"
    prefix = next((name.removesuffix("loss") for name in logs if name == "loss" or name.endswith("_loss")), None)
    if prefix is None:
        return str(dict(logs))
    known = {name: logs.get(f"{prefix}{name}", logs.get(name)) for name in SHOWN}
    if known["rewards/margins"] is not None and round(known["rewards/margins"], 6) == 0:
        known["rewards/accuracies"] = None  # policy and reference are equal, and neither answer is preferred
    said = [text.format(known[name]) for name, text in SHOWN.items() if isinstance(known[name], int | float)]
    head = f"step {step}/{steps}" + (f" {prefix.removesuffix('_')}" if prefix else "")
    return "  ".join([head, *said])


class StepLines(TransformersProgress):
    """The bar of a run, and one line for each log above it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Writes the line where there is a bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs is not None:
            self.training_bar.write(describe_log(logs, state.global_step, state.max_steps))


class PlainStepLines(PrinterCallback):
    """One line for each log, where bars are off."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Prints the line."""
        if state.is_world_process_zero and logs is not None:
            print(describe_log(logs, state.global_step, state.max_steps), flush=True)


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
