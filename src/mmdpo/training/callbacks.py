"""What happens beside the steps: the epoch of the corruptions, a progress bar of a larger job."""

from __future__ import annotations

from typing import Any

from rich.progress import Progress
from transformers import TrainerCallback

from mmdpo.data.items import Items


class SetEpoch(TrainerCallback):
    """Tells the items which epoch's corruptions to make.

    accelerate's dataloaders pass the epoch on to the dataset only where no wrapper hides its sampler, which one does
    after resuming and with several processes.
    """

    def __init__(self, items: Items) -> None:
        self.items = items

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves on, before the first batch of the epoch is fetched."""
        self.items.set_epoch(int((state.epoch or 0) + 1e-6))


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
