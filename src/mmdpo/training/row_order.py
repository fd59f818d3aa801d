"""RowOrderTrainer: which rows a process is given, in which order, and where in it a resumed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdpo.data.stream_items import StreamItems
from mmdpo.training.checkpointing import CrashSafeTrainer
from mmdpo.training.fillers import build_sampler_by_length, fill_last_batch
from mmdpo.training.streaming import SkippedRows, StreamLoader

SKIPPED_ROWS = "skipped_rows.jsonl"
"""File in the run folder that lists the rows which `on_bad_row: skip` left out."""
BY_LENGTH = ("group_by_length", "batch_rebalance")
"""Values of `train_sampling_strategy` that need the length of every example."""


class RowOrderTrainer(CrashSafeTrainer):
    """Trainer that draws rows by length, fills up last batches, and reads streams; `train_dataset` has the items."""

    def get_train_dataloader(self) -> Any:
        """Returns Trainer's dataloader; of a stream, one that reads this process's part alone."""
        if not isinstance(self.train_dataset, StreamItems):
            return super().get_train_dataloader()
        self._stream = StreamLoader(
            self.train_dataset,
            self.data_collator,
            self.args,
            self._train_batch_size,
            SkippedRows(Path(self.args.output_dir) / SKIPPED_ROWS),
        )
        self._stream.check_agreement()
        return self._stream

    def _save_rng_state(self, output_dir: str) -> None:
        """Saves what each process has of its own: its random state, and its position in a stream."""
        super()._save_rng_state(output_dir)
        if isinstance(self.train_dataset, StreamItems):
            self._stream.save(Path(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Loads what `_save_rng_state` has saved, before the first batch is asked for."""
        super()._load_rng_state(checkpoint)
        if isinstance(self.train_dataset, StreamItems) and checkpoint is not None:
            self._stream.load(Path(checkpoint))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Returns Trainer's sampler, or one of ours that goes by the lengths which the check of the data counted."""
        if self.args.train_sampling_strategy not in BY_LENGTH:
            return super()._get_train_sampler(train_dataset)
        return build_sampler_by_length(self.args, self.train_dataset.lengths)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Returns none: rows are evaluated in their order, whatever the strategy of training is."""
        return None

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Returns Trainer's dataloader, which on several processes ends with fillers instead of repeated rows."""
        dataloader = super()._get_dataloader(*args, **kwargs)
        fill_last_batch(dataloader)
        return dataloader
