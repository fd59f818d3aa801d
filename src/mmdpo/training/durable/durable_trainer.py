"""DurableTrainer: its checkpoints are whole or refused, SIGTERM stops it after a checkpoint, and it resumes exactly.

A checkpoint is *sealed on save*. Trainer begins one with `save_model` and reports its end by the callback `on_save`;
between the two its folder has no seal (`sealing.py`) and counts as no checkpoint.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from mmdpo.models.seams import is_write_failure
from mmdpo.models.weights import CheckpointError
from mmdpo.registry import list_versions
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed import on_main_process
from mmdpo.training.durable import sealing
from mmdpo.training.durable.resume import check_same_run
from mmdpo.training.durable.sealing import SaveError
from mmdpo.training.metrics import MetricSums, RunningMean
from mmdpo.training.stopping import StopRequest, TrainingStopped

logger = logging.getLogger(__name__)

PACKAGES = ("mmdpo", "torch", "transformers", "peft", "accelerate")

UNLOGGED = "since_last_log_{rank}.pt"
"""File of a checkpoint: the sums of a process over the steps since the last log, and the loss of all steps before."""


class DurableTrainer(Trainer, ABC):
    """Trainer whose runs survive a kill at any moment, a full disk, and SIGTERM.

    A subclass keeps the sums of its metrics in `_metrics["train"]`, says in `describe_run` what decides its losses, and
    begins `train` with `open_run_folder`.
    """

    args: MDPOConfig
    _metrics: dict[str, MetricSums]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.resumed_from: Path | None = None
        """The checkpoint that this training resumes from."""
        self._stop = StopRequest()
        self._options = self.args
        """The options of the run, of which Trainer is given a changed copy at times."""
        self._unsealed: Path | None = None
        """The checkpoint that is being written."""
        self._loss = LossSums()
        self._reward_mean = RunningMean()
        """Of the rewards that an objective's threshold is the mean of."""
        self.add_callback(WhenToSave(self, self._stop))
        # Before the callbacks of loggers, which may upload the checkpoint.
        self.callback_handler.callbacks.insert(0, SealOnSave(self))

    @abstractmethod
    def describe_run(self) -> Mapping[str, Any]:
        """Returns what decides the losses, by name, while the model is at its start."""

    def remember(self) -> dict[str, Any]:
        """Returns what a checkpoint tells the run that resumes from it, as JSON holds it."""
        return {}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Takes over, on the main process, what `remember` returned when the checkpoint was written."""

    def save_position(self, checkpoint: Path) -> None:
        """Writes into a checkpoint what this process alone knows of its place in the data."""

    @cached_property
    def _run(self) -> Mapping[str, Any]:
        return self.describe_run()

    # -- training -----------------------------------------------------------------------------------------------------

    def open_run_folder(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Removes what a killed run left unfinished, and returns the checkpoint to resume from, if any.

        `True` means the last one that is whole. Raises CheckpointError for one that is not whole, or of another run.
        """
        _ = self._run  # asked for now: the first step moves the model
        checkpoint = on_main_process(
            lambda: self._open_run_folder(resume_from_checkpoint), is_main=self.is_world_process_zero()
        )
        self.resumed_from = None if checkpoint is None else Path(checkpoint)
        return checkpoint

    def restore_sums(self) -> None:
        """Begins the sums of training with those of the checkpoint that it resumes from, if any, else with none."""
        self._loss = LossSums()
        self._reward_mean = RunningMean()
        self._metrics["train"].restore({})
        if self.resumed_from is not None:
            content = torch.load(self._unlogged_file(self.resumed_from), map_location="cpu", weights_only=True)
            self._loss.restore(content, self.args.device)
            self._metrics["train"].restore(content["metrics"])
            self._reward_mean.restore(content.get("reward_mean", [0.0, 0.0]))

    def _open_run_folder(self, wanted: str | bool | None) -> str | None:
        folder = Path(self.args.output_dir)
        sealing.clear_unfinished(folder)
        needed = self._estimate_bytes()
        if str(self.args.save_strategy.value) != "no" and sealing.find_free_bytes(folder) < needed:
            space = sealing.describe_space(folder, needed)
            logger.warning("a checkpoint may not fit into %s: %s", folder, space)
        if not wanted:
            return None
        checkpoint = sealing.find_last_whole(folder) if wanted is True else Path(wanted)
        if checkpoint is None:
            raise CheckpointError(f"{folder} holds no checkpoint to resume from")
        record = sealing.read_record(checkpoint)
        check_same_run(record["run"], self._run, str(checkpoint))
        if record["save_only_model"]:
            raise CheckpointError(
                f"{checkpoint} holds the model alone (save_only_model: true), and a run cannot be resumed without the "
                "state of its optimizer: start a new run from that model"
            )
        now = list_versions(*PACKAGES)
        others = [f"{name} {was}" for name, was in record["versions"].items() if now.get(name) != was]
        if others:
            logger.warning(
                "%s was written by %s; losses may differ in their last digits", checkpoint, ", ".join(others)
            )
        self.recall(record.get("remembered", {}))
        logger.info("resuming from %s", checkpoint)
        return str(checkpoint)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `transformers.Trainer` does. Raises TrainingStopped after SIGTERM, once a checkpoint is saved."""
        options = self._options = self.args
        if self.resumed_from is not None:
            self.args = options.with_changes(eval_on_start=False)  # the start was evaluated before
        try:
            with self._stop.listening(), self._reporting_save_errors():
                output = super().train(*args, **kwargs)
        finally:
            self.args = options
        step, best = self.state.global_step, self.state.best_model_checkpoint
        if self._stop.is_agreed:
            raise TrainingStopped(Path(options.output_dir) / f"checkpoint-{step}", step)
        if not step:
            raise ValueError("training ended without a single step: the data gave no batches")
        if options.should_save and options.save_total_limit == 1 and best is not None:
            sealing.rotate(Path(options.output_dir), 1, [Path(best)])
        return output._replace(training_loss=output.metrics.get("train_loss", math.nan))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Runs an epoch, unless all steps are taken: Trainer takes one too many when it resumes such a run."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Takes a micro-batch as Trainer does, and adds its loss to the sum since the last log."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._loss.since_log = self._loss.since_log + loss
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as Trainer does; losses are means over all steps, also those before the run was resumed."""
        step = self.state.global_step
        if "loss" in logs:
            logs["loss"] = self._loss.flush(self.accelerator, step)
        if "train_loss" in logs:
            if self._stop.is_agreed:
                return  # training has no result yet
            self._loss.flush(self.accelerator, step)
            logs["train_loss"] = self._loss.total / max(step, 1)
            if math.isnan(logs["train_loss"]):
                logger.warning("train_loss is left out: the checkpoint, of an older mmdpo, does not say earlier losses")
                del logs["train_loss"]
        super().log(logs, start_time)

    # -- saving -------------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model: into a checkpoint that Trainer begins with this call, or whole or not at all elsewhere."""
        self._check_weights()
        if _internal_call and output_dir is not None:
            self._unsealed = Path(output_dir)
            if self.args.should_save:
                sealing.begin(self._unsealed)
            self.accelerator.wait_for_everyone()
            self.args = self._options
            super().save_model(output_dir, _internal_call=True)
            # Trainer would remove whole checkpoints before this one is sealed; `seal_checkpoint` does it after that.
            self.args = self.args.with_changes(save_total_limit=None)
            return
        target = Path(output_dir or self.args.output_dir)
        aside = target / sealing.UNFINISHED / "model"
        with self._reporting_save_errors(target):
            super().save_model(str(aside), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                sealing.publish_model(aside, target)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def seal_checkpoint(self) -> None:
        """Seals the checkpoint that Trainer has written, removes old ones beyond the limit, and pushes it."""
        checkpoint, args = self._unsealed, self._options
        assert checkpoint is not None, "Trainer begins every checkpoint with save_model"
        if not args.save_only_model:
            sums = {"metrics": self._metrics["train"].state(), "reward_mean": self._reward_mean.state()}
            torch.save({**self._loss.state(), **sums}, self._unlogged_file(checkpoint))
            self.save_position(checkpoint)
        self.accelerator.wait_for_everyone()
        if args.should_save:
            content = {"run": self._run, "versions": list_versions(*PACKAGES), "save_only_model": args.save_only_model}
            sealing.seal(checkpoint, {**content, "remembered": self.remember()})
        self.accelerator.wait_for_everyone()
        self._unsealed = None
        if args.should_save:
            best = self.state.best_model_checkpoint
            sealing.rotate(checkpoint.parent, args.save_total_limit, [checkpoint, *([Path(best)] if best else [])])
        if args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes a checkpoint once it is sealed: Trainer calls this before `on_save`."""
        if self._unsealed is None:
            super()._push_from_checkpoint(checkpoint_folder)

    @contextmanager
    def _reporting_save_errors(self, target: Path | None = None) -> Iterator[None]:
        """Removes what an error leaves unfinished of `target`, or of the checkpoint that is being written.

        Raises SaveError where the disk is to blame. Other processes are not waited for: they may be waiting for this
        one, and the launcher ends them.
        """
        try:
            yield
        except BaseException as error:
            unsealed, self._unsealed = self._unsealed, None
            folder = target or (unsealed and unsealed.parent)
            if folder is not None and self.args.should_save:
                sealing.clear_unfinished(folder)
            if folder is None or not is_write_failure(error):
                raise
            left = sealing.list_checkpoints(Path(self.args.output_dir))
            needed = sealing.measure(left[-1]) if left else self._estimate_bytes()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            space = sealing.describe_space(folder, needed)
            raise SaveError(
                f"{target or unsealed} could not be written ({reason}): {space}. Its unfinished files are removed, "
                f"and {self._describe_last()}. Make room, then resume with --resume_from_checkpoint true"
            ) from error

    def _check_weights(self) -> None:
        """Raises FloatingPointError, on every process, for a weight that is not finite: it could not be trained on."""
        fault = next(filter(None, gather_object([find_not_finite(self.model)])), None)
        if fault is not None:
            raise FloatingPointError(
                f"after step {self.state.global_step} the weight {fault} is not finite, so the model is not saved; "
                f"{self._describe_last()}. Lower the learning rate, clip gradients (max_grad_norm), or use bf16 or "
                "float32 instead of fp16"
            )

    def _describe_last(self) -> str:
        left = sealing.list_checkpoints(Path(self.args.output_dir))
        return f"the last checkpoint is {left[-1]}" if left else "there is no checkpoint yet"

    def _estimate_bytes(self) -> int:
        """Returns about how large a checkpoint is: what is saved of the model, and AdamW's two values per weight."""
        trained = sum(value.nbytes for value in self.model.parameters() if value.requires_grad)
        is_whole = isinstance(self.model, PreTrainedModel)
        saved = sum(value.nbytes for value in self.model.parameters()) if is_whole else trained
        return int(saved if self.args.save_only_model else saved + 2 * trained)

    def _unlogged_file(self, checkpoint: Path) -> Path:
        return checkpoint / UNLOGGED.format(rank=self.args.process_index)

    # -- loading ------------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads whole models by `from_pretrained`. Raises CheckpointError for weights that are not finite.

        Trainer loads the state dict as it lies on disk, where `save_pretrained` writes vision-language models under
        their older key names, and not strictly: nothing would match, and the run would silently resume from its first
        weights.
        """
        policy = self.model if model is None else model
        if not isinstance(policy, PreTrainedModel) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
            policy.load_state_dict(saved.state_dict())
        fault = find_not_finite(policy)
        if fault is not None:
            raise CheckpointError(
                f"{resume_from_checkpoint} holds a weight that is not finite ({fault}) and cannot be trained on: use "
                "an earlier checkpoint, and a lower learning rate in a new run"
            )

    def _load_best_model(self) -> None:
        """Loads the best checkpoint, whole models as `_load_from_checkpoint` does; not at the end of a stopped run."""
        if self._stop.is_agreed:
            return
        if isinstance(self.model, PreTrainedModel) and self.state.best_model_checkpoint:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()


class LossSums:
    """The loss of each step, summed since the last log and over the run, so that a resumed run logs the same means."""

    def __init__(self) -> None:
        self.since_log: Any = 0.0
        """Of this process: a tensor on its device after the first step."""
        self.logged_at = 0
        """The step of the last log."""
        self.total = 0.0
        """Of all steps that were logged, as a mean over processes; NaN where a checkpoint does not say it."""

    def flush(self, accelerator: Any, step: int) -> float:
        """Returns the mean over processes and over the steps since the last log, and starts from zero."""
        loss = float(accelerator.gather(torch.as_tensor(self.since_log, device=accelerator.device)).mean())
        mean = loss / max(step - self.logged_at, 1)
        self.since_log, self.logged_at, self.total = 0.0, step, self.total + loss
        return mean

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds of it."""
        return {"loss": torch.as_tensor(self.since_log), "step": self.logged_at, "total": self.total}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Takes over what a checkpoint holds."""
        self.since_log, self.logged_at = state["loss"].to(device), state["step"]
        self.total = state.get("total", math.nan)


class SealOnSave(TrainerCallback):
    """Seals a checkpoint as soon as Trainer has written it."""

    def __init__(self, trainer: DurableTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seals it."""
        self.trainer.seal_checkpoint()


class WhenToSave(TrainerCallback):
    """Saves after all that a step or an epoch still does, and as soon as the processes are asked to stop.

    Trainer saves the last step of an epoch before it logs and evaluates the epoch. A run that was killed in between
    would resume with the next epoch, and that log and evaluation would be missing.
    """

    def __init__(self, trainer: DurableTrainer, stop: StopRequest) -> None:
        self.trainer, self.stop = trainer, stop
        self._is_postponed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the intervals from the options; Trainer would take those of the checkpoint.

        So it is with the place of the best checkpoint: the run folder may have been moved. With `auto_find_batch_size`
        training begins once more after steps that count for nothing.
        """
        state.compute_steps(args, state.max_steps)
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)
        self.trainer.restore_sums()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks whether to stop, and leaves the checkpoint of an epoch's last step to the end of the epoch."""
        if self.stop.agree(self.trainer.accelerator):
            control.should_save = control.should_training_stop = True
            # With `best`, Trainer would not save a step whose evaluation is worse.
            self.trainer.args = self.trainer.args.with_changes(save_strategy=SaveStrategy.STEPS)
        if _ends_epoch(state):
            self._is_postponed, control.should_save = control.should_save, False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves what was postponed; does nothing where the epoch was broken off: a resumed run will finish it."""
        if not _ends_epoch(state) and self.stop.is_agreed:
            control.should_log = control.should_evaluate = control.should_save = False
        elif self._is_postponed:
            control.should_save = True
        self._is_postponed = False


def _ends_epoch(state: Any) -> bool:
    return bool(state.global_step >= state.max_steps or state.epoch == int(state.epoch))


def find_not_finite(model: nn.Module) -> str | None:
    """Returns the name of a trained weight with a value that is not finite, or None.

    Of weights that are spread over processes it sees this process's share; it never waits for another one.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        value: Any = parameter.detach()
        local = value.to_local() if hasattr(value, "to_local") else value
        if not local.is_meta and not bool(torch.isfinite(local).all()):
            return name
    return None
