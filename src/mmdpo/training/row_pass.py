"""The pass over all rows before training: each is opened, corrupted, rendered and tokenised once, in worker processes.

Out of it come the faulty rows, the length of every good one, and its reference log-probabilities: read from disk, or
scored on the batch at hand. A row that an earlier run tried, with the same content and options, is not tried again: its
texts are rendered and its images read, and the digest of both finds its length and its scores on disk. The processes of
a run share the rows; each scores and stores its own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device
from huggingface_hub import constants
from torch import nn
from xxhash import xxh3_128

from mmdpo.data.check import run_over_rows
from mmdpo.data.collate import Batch, Collator, require_batch
from mmdpo.data.faults import Fault, as_fault, refuse_faults
from mmdpo.data.items import FileStamp, Item, Items
from mmdpo.data.prepare import Opened, PreparedExample
from mmdpo.records import CHOSEN, REJECTED, Cell
from mmdpo.scoring.digests import CellKeys, fingerprint_preparation, fingerprint_reference
from mmdpo.scoring.reference import LiveReference
from mmdpo.scoring.value_cache import ShardWriter, ValueCache, ValueCacheError
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed import on_main_process

logger = logging.getLogger(__name__)

WORTH_TELLING = 1000
"""So many rows that are scored, and not trained on, are worth a warning."""


@dataclass(frozen=True)
class GoodRow:
    """A row that can be trained on."""

    place: int
    length: int | None = None
    """Tokens of prompt and answers; None where only its text was looked at."""
    keys: tuple[bytes, ...] = ()
    """Of its reference log-probabilities, one per cell that is scored before training."""
    record: bytes = b""
    """Key of its length: digest of all that decides whether it can be trained on."""


@dataclass(frozen=True)
class Part:
    """Rows of a group that lack scores of the same cells."""

    rows: tuple[GoodRow, ...]
    columns: tuple[int, ...]
    batch: Batch


@dataclass(frozen=True)
class TriedGroup:
    """What a worker found in the rows that it was given, and the batches to score."""

    good: list[GoodRow] = field(default_factory=list)
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    stamps: dict[str, FileStamp] = field(default_factory=dict)
    """Of the image files that were read for the first time, by path."""

    def add(self, other: TriedGroup) -> None:
        """Takes what was found of other rows, without their batches."""
        self.good.extend(other.good)
        self.faults.extend(other.faults)
        self.stamps.update(other.stamps)


@dataclass(frozen=True)
class TryRows:
    """What a worker does with a group of rows; pickles, so that it can be spawned."""

    items: Items
    collator: Collator
    own: Callable[..., Any] | None
    """Makes the batches that are scored, where it is not the collator."""
    cells: tuple[Cell, ...]
    """Those that are scored before training."""
    scores: Mapping[bytes, float]
    """Known ones, by key."""
    lengths: Mapping[bytes, float]
    """Of rows that were tried before, by record."""
    keys: CellKeys
    draws: bool = True
    """False where another example's image is replaced by the row's own, so that a fault is the row's own, too."""

    def __call__(self, places: Sequence[int]) -> TriedGroup:
        """Returns what became of these rows."""
        group, known_files = TriedGroup(), set(self.keys.stamps)
        waiting: dict[tuple[int, ...], list[tuple[GoodRow, PreparedExample]]] = defaultdict(list)
        promised: set[bytes] = set()
        opened = Opened()
        for place in places:
            try:
                row, prepared = self._try(place, promised, opened)
            except Exception as error:
                group.faults.append((place, as_fault(self.items.examples, place, error)))
                continue
            if prepared is None:
                group.good.append(row)
            else:
                missing = self._find_missing(row, promised)
                promised.update(row.keys)
                waiting[missing].append((row, prepared))
        for columns, rows in waiting.items():
            self._collate(columns, rows, group)
        group.stamps.update({path: stamp for path, stamp in self.keys.stamps.items() if path not in known_files})
        return group

    def _find_missing(self, row: GoodRow, promised: set[bytes]) -> tuple[int, ...]:
        return tuple(c for c, key in enumerate(row.keys) if key not in self.scores and key not in promised)

    def _try(self, place: int, promised: set[bytes], opened: Opened) -> tuple[GoodRow, PreparedExample | None]:
        """Returns a row, and what it was prepared to unless its length and scores are known."""
        if self.draws:
            item = self.items[place]
        else:
            example = self.items.examples[place]
            item = Item(example, place, other_images=example.images)
        prepare = self.collator.prepare
        rendered = prepare.render(item)
        all_keys = dict(zip(prepare.cells, self.keys(item, prepare.cells, rendered), strict=True))
        weights = [item.example.weights.get(name) for name in self.collator.weight_columns]
        record = xxh3_128(b"".join(all_keys.values()) + repr([item.example.id, weights]).encode()).digest()
        keys = tuple(all_keys[cell] for cell in self.cells)
        if self.own is not None:  # what it makes of a row is unknown
            keys = tuple(f"{place}/{c}".encode() for c in range(len(self.cells)))
        row = GoodRow(place, None, keys, record)
        if record in self.lengths and not self._find_missing(row, promised):
            return replace(row, length=int(self.lengths[record])), None
        return row, prepare.open(item, rendered, opened)

    def _collate(
        self, columns: tuple[int, ...], rows: list[tuple[GoodRow, PreparedExample]], group: TriedGroup
    ) -> None:
        """Adds rows that lack the same scores to a group: as one batch, without those of which none can be made."""
        try:
            batch = self.collator.collate([prepared for _, prepared in rows])
            made = batch if self.own is None or not columns else self.own([prepared.item for _, prepared in rows])
        except Exception as error:
            if len(rows) == 1:
                place = rows[0][0].place
                group.faults.append((place, as_fault(self.items.examples, place, error)))
                return
            alone = [TriedGroup() for _ in rows]
            for one, tried in zip(rows, alone, strict=True):
                self._collate(columns, [one], tried)
            group.faults.extend(fault for tried in alone for fault in tried.faults)
            if not any(tried.faults for tried in alone):
                raise
            if left := [one for one, tried in zip(rows, alone, strict=True) if tried.good]:
                self._collate(columns, left, group)
            return
        if made is not batch:
            require_batch(made)
        prompts = batch["prompt_mask"].sum(1)
        good = []
        for b, (row, prepared) in enumerate(rows):
            answers = sum(len(prepared.answers.get(name, ())) for name in (CHOSEN, REJECTED))
            good.append(replace(row, length=int(prompts[b :: len(rows)].max()) + answers))
        group.good.extend(good)
        if columns:
            group.parts.append(Part(tuple(good), columns, made))


class RowPass:
    """Tries datasets, and scores them with a reference as far as no run has yet. Every process must make one."""

    def __init__(
        self,
        collator: Collator,
        make_batch: Callable[..., Any],
        reference: LiveReference,
        cells: tuple[Cell, ...],
        policy: nn.Module,
        accelerator: Any,
        args: MDPOConfig,
    ) -> None:
        """Opens the caches. `cells` are those to score; scores are stored only if `make_batch` is the collator.

        Raises ValueCacheError, on every process, for a folder of scores that cannot be used.
        """
        self.collator = collator
        self.own = None if type(make_batch) is Collator else make_batch
        self.reference, self.cells, self.policy = reference, cells, policy
        self.accelerator, self.args = accelerator, args
        self.score_cache, self.length_cache = on_main_process(self._open_caches, is_main=accelerator.is_main_process)
        self._scores: dict[bytes, float] = {} if self.score_cache is None else self.score_cache.read()
        self._lengths: dict[bytes, float] = {} if self.length_cache is None else self.length_cache.read()

    def run(self, items: Items, name: str) -> tuple[Fault, ...]:
        """Leaves the faulty rows of a dataset out and returns them; gives the items their lengths and scores.

        Every process must call it, with the same rows. Raises on all of them: RowError with every faulty row unless
        `on_bad_row` is `skip`, ValueError where no row is left, ValueCacheError for a cache that cannot be written, and
        FloatingPointError, naming the row, for a score that is not finite.
        """
        faults: tuple[Fault, ...] = ()
        if name == "train":
            self._tell_of_unseen(len(items))
        while True:
            found = self._try_rows(items, self.cells)
            if found.faults and items.draw_others:
                # What is wrong may be the picture of another row: each is judged by its own pictures alone.
                alone = self._try_rows(items, (), draws=False)
                found = alone if alone.faults else found
            if not found.faults:
                break
            in_order = tuple(fault for _, fault in sorted(found.faults, key=lambda pair: pair[0]))
            refuse_faults(name, in_order, len(items), skip=self.args.on_bad_row == "skip")
            faults += in_order
            items.keep(items.examples.select(sorted(row.place for row in found.good)))
            if not items.draw_others:
                break  # of fewer pictures others are drawn
        items.is_tried = True
        rows = sorted(found.good, key=lambda row: row.place)
        lengths = tuple(row.length for row in rows if row.length is not None)
        items.lengths = lengths if len(lengths) == len(rows) else None
        if self.cells:
            items.stamps = found.stamps
            items.ref_logprobs = torch.tensor([[self._scores[key] for key in row.keys] for row in rows])
        return faults

    def _tell_of_unseen(self, rows: int) -> None:
        """Warns before many more rows are scored than a run of few steps trains on."""
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seen = args.max_steps * step if args.max_steps > 0 else int(args.num_train_epochs * rows)
        if self.cells and not self._scores and rows - seen >= WORTH_TELLING:
            logger.warning(
                "the run trains on %d of %d rows, and all are scored with the reference before: where that takes too "
                "long, set precompute_ref_log_probs: false, which scores those of a step with the step",
                *(seen, rows),
            )

    def _try_rows(self, items: Items, cells: tuple[Cell, ...], *, draws: bool = True) -> TriedGroup:
        """Returns what became of every row, each tried in one process of the run."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        own, places = TriedGroup(), range(rank, len(items), processes)
        error: Exception | None = None
        if self.own is not None:
            self._scores.clear()  # of other rows, with the same keys
        try:
            if self.args.check_data == "text" and not cells:
                _look_at_texts(items, places, self.collator, own)
            else:
                self._try_own_rows(items, places, cells, draws, own)
        except Exception as raised:
            if processes == 1:
                raise
            error = raised
        scores = {key: self._scores[key] for row in own.good for key in row.keys if key in self._scores}
        everyone = gather_object([(own, scores, error)]) if processes > 1 else [(own, scores, None)]
        tried = TriedGroup()
        for group, theirs, problem in everyone:
            if problem is not None:
                raise problem
            tried.add(group)
            self._scores |= theirs
        return tried

    def _try_own_rows(
        self, items: Items, places: Sequence[int], cells: tuple[Cell, ...], draws: bool, found: TriedGroup
    ) -> None:
        """Adds what becomes of this process's rows; leaves scores with the others, and writes them on the way."""
        args, known = self.args, set(self._scores)
        keys = CellKeys(self.collator.prepare)
        work = TryRows(items, self.collator, self.own, cells, self._scores, self._lengths, keys, draws)
        with (
            self._evaluating() if cells else nullcontext(),
            ShardWriter(self.score_cache) as score_writer,
            ShardWriter(self.length_cache, is_optional=True) as length_writer,
        ):
            left = places
            while left:
                tried = TriedGroup()
                for group in run_over_rows(
                    work,
                    left,
                    size=args.precompute_ref_batch_size or args.per_device_train_batch_size,
                    workers=args.dataset_num_proc or args.dataloader_num_workers,
                    progress=not args.disable_tqdm and self.accelerator.is_local_main_process,
                ):
                    for part in group.parts:
                        self._score(part, items, cells, score_writer)
                    length_writer.add(
                        {row.record: float(row.length or 0) for row in group.good if row.record not in self._lengths}
                    )
                    tried.add(group)
                # The score of a row may have been left to an equal one that turned out to be faulty.
                waiting = {row.place for row in tried.good if not all(key in self._scores for key in row.keys)}
                tried.good[:] = [row for row in tried.good if row.place not in waiting]
                found.add(tried)
                left = sorted(waiting)
        if self.score_cache is not None and cells and found.good:
            wanted = {key for row in found.good for key in row.keys}
            logger.info(
                "%d of %d reference log-probabilities are read from %s",
                *(len(wanted & known), len(wanted), self.score_cache.folder),
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        if getattr(self.policy, "hf_device_map", None) is None:  # whose layers lie where they belong
            self.policy.to(self.accelerator.device)
        was_training = self.policy.training
        self.policy.eval()
        try:
            yield
        finally:
            self.policy.train(was_training)

    def _score(self, part: Part, items: Items, cells: tuple[Cell, ...], writer: ShardWriter) -> None:
        """Scores the rows of a batch, unless equal rows were scored meanwhile."""
        rows = {row.place: row for row in part.rows}
        if all(row.keys[c] in self._scores for row in part.rows for c in part.columns):
            return
        writer.open()  # a folder that cannot be written is an error before the first forward
        batch = send_to_device(part.batch, self.accelerator.device)
        with self.accelerator.autocast():  # the precision that the policy will be scored in
            logprobs = self.reference(batch, tuple(cells[c] for c in part.columns), policy=self.policy, memo={})
        values = logprobs.T.float().cpu()
        places = batch["index"].tolist()
        for place, finite in zip(places, values.isfinite().all(1).tolist(), strict=True):
            if not finite:
                source = items.examples.source_of(place)
                raise FloatingPointError(f"the reference gives no finite log-probability for {source}")
        scored = {
            rows[place].keys[c]: value
            for place, of_row in zip(places, values.tolist(), strict=True)
            for c, value in zip(part.columns, of_row, strict=True)
        }
        self._scores |= scored
        writer.add(scored)

    def _open_caches(self) -> tuple[ValueCache | None, ValueCache | None]:
        """Returns what keeps scores and what keeps lengths, None for what is not kept; called on the main process."""
        root = Path(self.args.ref_cache_dir or Path(constants.HF_HOME) / "mmdpo" / "references").expanduser()
        scores = None
        if self.cells and self.own is None:
            scores = ValueCache(root, fingerprint_reference(self.reference, self.collator, self.accelerator))
            scores.open()
        elif self.cells:
            logger.info("references are not stored on disk: a data_collator of the caller makes the batches")
        if self.args.check_data == "text" and not self.cells:
            return scores, None
        lengths = ValueCache(root / "rows", fingerprint_preparation(self.collator))
        try:
            lengths.open()
        except ValueCacheError as error:
            logger.warning("every row is tried anew: %s", error)
            return scores, None
        return scores, lengths


def _look_at_texts(items: Items, places: Sequence[int], collator: Collator, found: TriedGroup) -> None:
    """Adds what becomes of rows whose text alone is checked."""
    for place in places:
        try:
            collator.prepare.validate(items.examples[place])
            found.good.append(GoodRow(place))
        except Exception as error:
            found.faults.append((place, as_fault(items.examples, place, error)))
