"""CrashSafeTrainer: what it saves is whole or not there, and a resumed run is the run that was never interrupted."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from mmdpo.models.families._seams import WRITE_FAILURES
from mmdpo.models.weights import CheckpointError
from mmdpo.training import checkpoint_folder
from mmdpo.training.callbacks import WhenToSave
from mmdpo.training.checkpoint_folder import UNFINISHED, SaveError
from mmdpo.training.main_process import on_main_process
from mmdpo.training.metrics import MetricSums
from mmdpo.training.run_identity import check_same_run
from mmdpo.training.stopping import StopRequest, TrainingStopped, outlive_sigterm

logger = logging.getLogger(__name__)

PACKAGES = ("mmdpo", "torch", "transformers", "peft", "accelerate")

UNLOGGED = "since_last_log_{rank}.pt"
"""File of a checkpoint: what a process has summed up of the steps since the last log."""


class CrashSafeTrainer(Trainer, ABC):
    """Trainer whose checkpoints survive a kill at any moment, a full disk, and SIGTERM.

    A subclass keeps the sums of its metrics in `_metrics["train"]`, says in `describe_run` what decides its losses, and
    begins `train` with `open_run_folder`.
    """

    _metrics: dict[str, MetricSums]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop = StopRequest()
        self._is_checkpointing = False
        self._unlogged: dict[str, Any] | None = None
        """What the resumed checkpoint says, see `UNLOGGED`."""
        self.add_callback(WhenToSave(self._stop, self.accelerator))

    @abstractmethod
    def describe_run(self) -> Mapping[str, Any]:
        """Returns what decides the losses, by name, while the model is at its start."""

    @cached_property
    def _run(self) -> Mapping[str, Any]:
        return self.describe_run()

    # -- the beginning and the end ------------------------------------------------------------------------------------

    def open_run_folder(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Removes what a killed run left half written, and returns the checkpoint to resume from, if any.

        `True` means the last one that is whole. Raises CheckpointError for one that is not whole, or of another run.
        """
        _ = self._run  # asked for now: the first step moves the model
        checkpoint = on_main_process(
            lambda: self._open_run_folder(resume_from_checkpoint), is_main=self.is_world_process_zero()
        )
        self._unlogged = None
        if checkpoint is not None:
            self.args.eval_on_start = False  # the start was evaluated by the run that is gone on with
            path = Path(checkpoint) / UNLOGGED.format(rank=self.args.process_index)
            self._unlogged = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as `transformers.Trainer` does. Raises TrainingStopped where SIGTERM ends it, checkpoint saved."""
        with self._stop.listening():
            return super().train(*args, **kwargs)

    def _open_run_folder(self, wanted: str | bool | None) -> str | None:
        folder = Path(self.args.output_dir)
        checkpoint_folder.clear_unfinished(folder)
        if str(self.args.save_strategy.value) != "no":
            self._check_space(folder)
        if not wanted:
            return None
        checkpoint = checkpoint_folder.find_last_whole(folder) if wanted is True else Path(wanted)
        if checkpoint is None:
            raise CheckpointError(f"{folder} holds no checkpoint to resume from")
        record = checkpoint_folder.read_record(checkpoint)
        check_same_run(record["run"], self._run, str(checkpoint))
        if record["save_only_model"]:
            raise CheckpointError(
                f"{checkpoint} holds the model alone (save_only_model: true), and nothing can go on without the state "
                "of the optimizer: begin a new run that starts from that model"
            )
        others = [f"{name} {was}" for name, was in record["versions"].items() if _versions().get(name) != was]
        if others:
            logger.warning(
                "%s was written by %s; losses may differ in their last digits", checkpoint, ", ".join(others)
            )
        self.recall(record.get("remembered", {}))
        return str(checkpoint)

    def remember(self) -> dict[str, Any]:
        """Returns what a checkpoint tells the run that goes on from it, as JSON holds it."""
        return {}

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Takes over, on the main process, what `remember` has returned when the checkpoint was written."""

    def _check_space(self, folder: Path) -> None:
        needed = self._estimate_bytes()
        if checkpoint_folder.find_free_bytes(folder) < needed:
            space = checkpoint_folder.describe_space(folder, needed)
            logger.warning("a checkpoint may not fit into %s: %s", folder, space)

    def _estimate_bytes(self) -> int:
        """Returns about how long a checkpoint is: what is saved of the model, and AdamW's two values per weight."""
        trained = sum(value.nbytes for value in self.model.parameters() if value.requires_grad)
        is_whole = isinstance(self.model, PreTrainedModel)
        saved = sum(value.nbytes for value in self.model.parameters()) if is_whole else trained
        return int(saved if self.args.save_only_model else saved + 2 * trained)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Ends training; a run that was asked to stop has no result yet, and no best model to load."""
        if not self._stop.is_agreed:
            if not self.state.global_step:
                raise ValueError("training came to its end without a single step: there are no batches of the data")
            output = super()._finalize_training(*args, **kwargs)
            return output._replace(training_loss=output.metrics.get("train_loss", math.nan))
        self.callback_handler.on_train_end(self.args, self.state, self.control)
        self._finish_current_push()
        self.is_in_train = False
        step = self.state.global_step
        raise TrainingStopped(Path(self.args.output_dir) / f"checkpoint-{step}", step)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Returns Trainer's dataloader, whose workers survive a SIGTERM to all processes of a job."""
        dataloader = super()._get_dataloader(*args, **kwargs)
        iterated = getattr(dataloader, "base_dataloader", dataloader)  # what accelerate has wrapped
        iterated.worker_init_fn = outlive_sigterm(iterated.worker_init_fn)
        return dataloader

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as Trainer does; the mean loss of training is that of the whole run, resumed or not."""
        if "train_loss" in logs:
            earlier = {"total": 0.0, "loss": 0.0} if self._unlogged is None else self._unlogged
            if "total" in earlier:
                total = earlier["total"] + float(earlier["loss"]) + self._total_loss_scalar
                logs["train_loss"] = total / self.state.global_step
            else:
                logger.warning(
                    "the checkpoint, of an older mmdpo, does not say the losses so far: train_loss is left out"
                )
                del logs["train_loss"]
        super().log(logs, start_time)

    # -- saving -------------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        """Returns the folder that checkpoints are written into: while one is being written, that aside."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._is_checkpointing else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves what Trainer saves, and gives it its name when all processes have written their part."""
        folder = Path(self._get_output_dir(trial))
        target = folder / f"checkpoint-{self.state.global_step}"
        aside = folder / UNFINISHED / target.name
        self._check_weights()
        with self._written_aside(aside, target):
            self._is_checkpointing = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._is_checkpointing = False
            if not self.args.save_only_model:
                self._save_unlogged(aside)
            self.accelerator.wait_for_everyone()
            if self.state.best_model_checkpoint == str(aside):
                self.state.best_model_checkpoint = str(target)
            if self.args.should_save:
                self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
                whose = {"run": self._run, "versions": _versions(), "save_only_model": self.args.save_only_model}
                whose["remembered"] = self.remember()
                checkpoint_folder.seal(aside, whose)
                checkpoint_folder.publish(aside, target)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            checkpoint_folder.rotate(folder, self.args.save_total_limit, [target, *([Path(best)] if best else [])])
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def _push_from_checkpoint(self, folder: str) -> None:
        """Pushes a checkpoint under its own name, not while it lies aside."""
        if not self._is_checkpointing:
            super()._push_from_checkpoint(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model; outside of checkpoints, so that no tool takes half of it for a model."""
        if self._is_checkpointing:
            super().save_model(output_dir, _internal_call=True)
            return
        target = Path(output_dir or self.args.output_dir)
        aside = target / UNFINISHED / "model"
        self._check_weights()
        with self._written_aside(aside, target):
            super().save_model(str(aside), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoint_folder.publish_model(aside, target)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _check_weights(self) -> None:
        """Raises FloatingPointError, on every process, for a weight that is not finite: nothing could go on from it."""
        fault = next(filter(None, gather_object([find_not_finite(self.model)])), None)
        if fault is not None:
            whole = checkpoint_folder.list_checkpoints(Path(self.args.output_dir))
            left = f"the last checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
            raise FloatingPointError(
                f"after step {self.state.global_step} the weight {fault} is not finite, and nothing is saved of it; "
                f"{left}. Lower the learning rate, clip gradients (max_grad_norm), or use bf16 or float32 instead of "
                "fp16"
            )

    @contextmanager
    def _written_aside(self, aside: Path, target: Path) -> Iterator[None]:
        """Removes what lies aside if it cannot be finished. Raises SaveError where the disk is to blame.

        Other processes are not waited for: some may wait for this one already, and the launcher ends them.
        """
        try:
            yield
        except BaseException as error:
            if self.args.should_save:
                checkpoint_folder.discard(aside)
            if not _is_write_failure(error):
                raise
            whole = checkpoint_folder.list_checkpoints(Path(self.args.output_dir))
            needed = checkpoint_folder.measure(whole[-1]) if whole else self._estimate_bytes()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            left = f"the last checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
            space = checkpoint_folder.describe_space(target, needed)
            raise SaveError(
                f"{target} could not be written ({reason}): {space}. What was written of it is removed, and {left}. "
                "Make room, and go on with --resume_from_checkpoint true"
            ) from error

    def _save_unlogged(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)  # another process may not have made it yet
        content = {
            "loss": self._tr_loss,
            "step": self._globalstep_last_logged,
            "metrics": self._metrics["train"].state(),
        }
        if self._unlogged is None or "total" in self._unlogged:
            content["total"] = self._total_loss_scalar + (self._unlogged["total"] if self._unlogged else 0.0)
        torch.save(content, folder / UNLOGGED.format(rank=self.args.process_index))

    # -- resuming -----------------------------------------------------------------------------------------------------

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Runs an epoch; the first one of a resumed run goes on amid what was not logged yet."""
        content = self._unlogged
        if content is not None and kwargs["epoch"] == kwargs["epochs_trained"]:
            self._tr_loss, self._globalstep_last_logged = content["loss"].to(self.args.device), content["step"]
            content["loss"] = 0.0  # counted from here on by Trainer
            self._metrics["train"].restore(content["metrics"])
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # Trainer would take a step too many
            return
        super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads whole models by `from_pretrained`.

        Raises CheckpointError for weights that are not finite.
        Trainer would load the state dict as it lies on disk, where `save_pretrained` writes the older names of
        vision-language models: nothing would match, and the run would silently go on from the start's weights.
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
                f"{resume_from_checkpoint} holds a weight that is not finite ({fault}), and nothing can go on from it: "
                "take an earlier checkpoint, and a lower learning rate in a new run"
            )

    def _load_best_model(self) -> None:
        """Loads the best checkpoint, whole models as `_load_from_checkpoint` does."""
        if isinstance(self.model, PreTrainedModel) and self.state.best_model_checkpoint:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()


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


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _is_write_failure(error: BaseException) -> bool:
    """Says whether an error is about writing files; those of safetensors and torch are no OSErrors."""
    if isinstance(error, OSError | SafetensorError | CheckpointException):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in WRITE_FAILURES)
