"""Training on a stream: its batches, its faulty rows, and the exact position in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import fsspec  # type: ignore[import-untyped]
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mmdpo.data.check import as_it_is
from mmdpo.data.collate import Batch, Collator
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.faults import Fault
from mmdpo.data.items import Item
from mmdpo.data.stream import PreferenceStream
from mmdpo.data.stream_items import Position, StreamItems
from mmdpo.records import RowError
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed import SAME_DATA, DisagreementError, find_difference
from mmdpo.training.rows import FullCheck, check_rows
from mmdpo.training.stopping import outlive_sigterm

_MOST_FAULTS = 1000
"""Faulty rows in a single batch at which even `on_bad_row: skip` gives up."""


class ReadBatch(NamedTuple):
    """What a worker hands over: a tuple, in which pinning of memory finds the batch."""

    batch: Batch | None
    position: Position
    """Of the reader, after the rows of the batch."""
    faults: Sequence[Fault] = ()
    failure: RowError | None = None
    """Ends the run: handed over as it is, since PyTorch would wrap its message in a traceback."""


@dataclass
class Reader(IterableDataset[ReadBatch]):
    """What the workers of a process read; batches are taken from them in turn."""

    items: StreamItems
    collate: Callable[[Sequence[Item]], Batch]
    batch_size: int
    skips: bool
    first_reader: int
    readers: int
    positions: Sequence[Position]
    """Of each of this process's readers."""
    done: int
    """Batches given so far."""

    def __iter__(self) -> Iterator[ReadBatch]:
        worker = get_worker_info()
        if worker is not None:
            # A fork of a process that has read from the network would wait for that process's lock without end.
            fsspec.asyn.reset_lock()
        # PyTorch takes the next batch from the first worker, and it is the turn of another reader after resuming.
        turn = (self.done + (0 if worker is None else worker.id)) % len(self.positions)
        try:
            yield from self._make_batches(turn)
        except RowError as error:
            yield ReadBatch(None, self.positions[turn], failure=error)

    def _make_batches(self, turn: int) -> Iterator[ReadBatch]:
        items: list[Item] = []
        faults: list[Fault] = []
        for item, position in self.items.read(self.first_reader + turn, self.readers, self.positions[turn]):
            if isinstance(item, Item):
                items.append(item)
            else:
                faults.append(item)
            batch = None
            if len(items) == self.batch_size:
                batch, bad = self._collate_good(items)
                faults += bad
                items = [item for item in items if item.example.source not in {fault.source for fault in bad}]
            if faults and not self.skips:
                raise RowError(faults[0].problem, source=faults[0].source)
            if len(faults) >= _MOST_FAULTS:
                raise RowError(
                    f"{len(faults)} faulty rows were read while one batch was made. The last one: {faults[-1].problem}",
                    source=faults[-1].source,
                )
            if batch is not None:
                yield ReadBatch(batch, position, tuple(faults))
                items, faults = [], []

    def _collate_good(self, items: Sequence[Item]) -> tuple[Batch | None, list[Fault]]:
        """Returns the batch of the items, or those among them that cannot be trained on."""
        try:
            return self.collate(items), []
        # Odd rows raise nearly anything, and must not end a run that skips them.
        except Exception as error:
            found = []
            for item in items:
                try:
                    self.collate([item])
                except Exception as own:
                    problem = own.problem if isinstance(own, RowError) else f"{type(own).__name__}: {own}"
                    found.append(self.items.blame(item, problem))
            if not found:
                raise error
            return None, found


logger = logging.getLogger(__name__)

BLOCK_SIZE = 1000
"""Rows that a reader shuffles among each other unless `shuffle_buffer_size` says how many."""


class StreamPositionError(ValueError):
    """A checkpoint that does not hold the position of this run's stream."""


def is_stream(dataset: Any) -> bool:
    """Returns whether a dataset is read while it is trained on."""
    return isinstance(dataset, PreferenceStream | datasets.IterableDataset)


def make_stream_items(dataset: Any, name: str, collator: Collator, args: MDPOConfig) -> StreamItems:
    """Returns the items of a stream whose first rows have been tried as training would.

    Raises ValueError for options that a stream cannot follow,
    and RowError for a faulty row among the first.
    """
    draw_others = any(found.needs_other_image for found in collator.prepare.corruptions.values())
    _check_options(args, draw_others)
    stream = dataset
    if not isinstance(dataset, PreferenceStream):
        stream = PreferenceStream.from_rows(dataset, name=name, format=args.dataset_format, image_root=args.image_root)
    check = FullCheck(collator) if args.check_data == "full" else collator.prepare.validate
    check_rows(stream.head, f"the first {len(stream.head)} rows of {name}", check, args)
    logger.info("%s: the first %d rows were checked, the others are checked as they are read", name, len(stream.head))
    return StreamItems(
        stream,
        seed=args.seed,
        order_seed=args.seed if args.data_seed is None else args.data_seed,
        block_size=args.shuffle_buffer_size or BLOCK_SIZE,
        draw_others=draw_others,
        per_epoch=args.corruption_per_epoch,
    )


def read_first_rows(dataset: datasets.IterableDataset, name: str, args: MDPOConfig) -> PreferenceDataset:
    """Returns the first `eval_stream_rows` rows of a stream, images encoded: every evaluation is on the same."""
    rows, limit = dataset.with_format(None), args.eval_stream_rows
    if rows.features:
        rows = rows.decode(False)
    first = list(islice(rows, limit + 1))
    if len(first) > limit:
        logger.info("%s is evaluated on its first %d rows (eval_stream_rows)", name, limit)
    return PreferenceDataset.from_rows(first[:limit], name=name, format=args.dataset_format, image_root=args.image_root)


def _check_options(args: MDPOConfig, draw_others: bool) -> None:
    if args.max_steps <= 0:
        raise ValueError("a stream has no length: give max_steps, the number of optimizer steps of the run")
    if args.asked_for_reference_pass:
        raise ValueError(
            "precompute_ref_log_probs: true scores all rows before training, and a stream is read during training: "
            "leave it out, and references are scored live"
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"train_sampling_strategy: {args.train_sampling_strategy} needs to know all rows, and a stream is shuffled "
            "by shards and in blocks of shuffle_buffer_size rows: leave it at random"
        )
    if draw_others and args.shuffle_buffer_size == 1:
        raise ValueError(
            "random_image takes another example's image from the shuffle buffer: shuffle_buffer_size must be at least 2"
        )
    loading = args.accelerator_config
    for key, is_set in (
        ("dataloader_in_order: false", not args.dataloader_in_order),
        ("split_batches", bool(loading.split_batches)),
    ):
        if is_set:
            raise ValueError(
                f"{key} does not go with a stream, of which every process reads its own part: leave it out"
            )


class SkippedRows:
    """The file that lists faulty rows as they are met, each once, also over resumed runs and several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed: set[str] | None = None

    def add(self, faults: Sequence[Fault]) -> None:
        """Adds the rows that are not listed yet."""
        if not faults:
            return
        if self._listed is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            self._listed = {json.loads(line)["source"] for line in lines}
        for fault in faults:
            if fault.source not in self._listed:
                self._listed.add(fault.source)
                logger.warning("%s is skipped: %s", fault.source, fault.problem)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")


class StreamLoader:
    """The batches of this process, without end, from the position that was loaded or from the start.

    accelerate does not prepare it: its dataloaders let the main process read for all, or every process everything.
    Trainer moves the batches to the device, as it does with all.
    """

    def __init__(
        self,
        items: StreamItems,
        collate: Callable[..., Any],
        args: MDPOConfig,
        batch_size: int,
        skipped: SkippedRows,
    ) -> None:
        self._items, self._collate, self._args, self._skipped = items, collate, args, skipped
        self._batch_size = batch_size
        self._workers = max(1, args.dataloader_num_workers)
        self._done = 0
        """Batches given since the run began."""
        self._positions = [Position()] * self._workers
        readers = self._workers * args.world_size
        if items.stream.num_shards < readers and args.process_index == 0:
            logger.warning(
                "%s has %d shards for %d readers (processes × dataloader workers): several readers read each shard and "
                "share its rows; with more files, or fewer workers, less is read",
                items.stream.name, items.stream.num_shards, readers,
            )  # fmt: skip

    def __iter__(self) -> Iterator[Batch]:
        args = self._args
        reader = Reader(
            self._items,
            self._collate,
            self._batch_size,
            skips=args.on_bad_row == "skip",
            first_reader=args.process_index * self._workers,
            readers=args.world_size * self._workers,
            positions=tuple(self._positions),
            done=self._done,
        )
        loader = DataLoader(
            reader,
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            worker_init_fn=outlive_sigterm(None),
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
        )
        for read in loader:
            if read.failure is not None:
                raise read.failure
            self._skipped.add(read.faults)
            self._positions[self._done % self._workers] = read.position
            self._done += 1
            yield read.batch

    def save(self, folder: Path) -> None:
        """Writes the position of this process into a checkpoint."""
        state = {
            **self._identify(),
            "batches": self._done,
            "positions": [asdict(position) for position in self._positions],
        }
        self._file(folder).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Goes to the position that a checkpoint holds for this process.

        Raises StreamPositionError where there is none, or where it is of other data or other readers.
        """
        file = self._file(folder)
        if not file.is_file():
            raise StreamPositionError(
                f"{folder} holds no {file.name}, the position of the stream for this process: it was saved by a run on "
                "fewer processes, or on another kind of dataset; resume as that run was started, or start a new run"
            )
        state = json.loads(file.read_text(encoding="utf-8"))
        for key, value in self._identify().items():
            if state[key] != value:
                raise StreamPositionError(
                    f"{file} was saved with {key}: {state[key]} and this run has {value}: a stream resumes exactly "
                    "only with the same value; set it back, or start a new run"
                )
        self._done = state["batches"]
        self._positions = [Position(**position) for position in state["positions"]]

    def check_agreement(self) -> None:
        """Raises DisagreementError, on every process, unless all see the same stream and have as many workers."""
        if found := find_difference(self._identify()):
            raise DisagreementError(
                f"the processes were given different streams: {found}. {SAME_DATA}; leave dividing and shuffling the "
                "stream to the trainer"
            )

    def _identify(self) -> dict[str, Any]:
        """Returns what the positions depend on, by the names that a user knows."""
        return {
            "number of processes": self._args.world_size,
            "dataloader_num_workers": self._args.dataloader_num_workers,
            "shuffle_buffer_size": self._items.block_size,
            "seed": self._items.order_seed,
            "shards and first rows": self._items.stream.fingerprint,
        }

    def _file(self, folder: Path) -> Path:
        return Path(folder) / f"stream_position_{self._args.process_index}.json"
