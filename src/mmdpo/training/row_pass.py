"""The pass over all rows before training: each is opened, corrupted, rendered and tokenised once, in worker processes.

Out of it come the faulty rows, the length of every good one, and its reference log-probabilities: read from disk, or
scored on the batch at hand. A row that an earlier run tried, with the same content and options, is not tried again: its
texts are rendered and its images read, and the digest of both finds its length and its scores on disk. The processes of
a run share the rows; each scores and stores its own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object, send_to_device
from huggingface_hub import constants
from torch import nn
from xxhash import xxh3_128

from mmdpo.data.check import Fault, as_fault, refuse_faults, run_over_rows
from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Item, Items
from mmdpo.data.prepare import PreparedExample
from mmdpo.data.stamps import FileStamp
from mmdpo.data.validate import validate_example
from mmdpo.records import CHOSEN, REJECTED, Cell
from mmdpo.scoring.digests import CellKeys, fingerprint_preparation, fingerprint_reference
from mmdpo.scoring.reference import LiveReference
from mmdpo.scoring.value_cache import ShardWriter, ValueCache, ValueCacheError
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed.agreement import on_main_process

logger = logging.getLogger(__name__)


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
    batch: Batch | Any


@dataclass(frozen=True)
class TriedGroup:
    """What a worker found in the rows that it was given, and the batches to score."""

    good: list[GoodRow] = field(default_factory=list)
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    stamps: dict[str, FileStamp] = field(default_factory=dict)


class BatchMaker(Protocol):
    """Makes a batch of items: a `Collator`, or what the caller of the trainer gave instead."""

    def __call__(self, items: list[Item], /) -> Any:
        """Returns the batch."""
        ...


@dataclass(frozen=True)
class TryRows:
    """What a worker does with a group of rows; pickles, so that it can be spawned."""

    items: Items
    collator: Collator
    own: BatchMaker | None
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
        for place in places:
            try:
                row, prepared = self._try(place, promised)
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

    def _try(self, place: int, promised: set[bytes]) -> tuple[GoodRow, PreparedExample | None]:
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
        return row, prepare.open(item, rendered)

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
        prompts = batch["prompt_mask"].sum(1)
        good = []
        for b, (row, prepared) in enumerate(rows):
            answers = sum(len(prepared.answers.get(name, ())) for name in (CHOSEN, REJECTED))
            good.append(replace(row, length=int(prompts[b :: len(rows)].max()) + answers))
        group.good.extend(good)
        if columns:
            group.parts.append(Part(tuple(good), columns, made))


@dataclass
class RowPass:
    """Tries datasets, each once, and scores them with a reference as far as no run has yet."""

    collator: Collator
    make_batch: BatchMaker
    """What makes the run's batches. Scores are stored only if it is the collator: what another makes is unknown."""
    reference: LiveReference
    cells: tuple[Cell, ...]
    """Those that are scored before training."""
    policy: nn.Module
    accelerator: Any
    args: MDPOConfig
    _scores: dict[bytes, float] = field(default_factory=dict)
    """Of all datasets so far, by key."""

    def run(self, items: Items, name: str, *, scores: bool = True) -> tuple[Fault, ...]:
        """Leaves the faulty rows of a dataset out and returns them; gives the items lengths and, if asked for, scores.

        Every process must call it, with the same rows. Raises on all of them: RowError with every faulty row unless
        `on_bad_row` is `skip`, ValueError where no row is left, ValueCacheError for a cache folder that cannot be used,
        and FloatingPointError, naming the row, for a score that is not finite.
        """
        cells = self.cells if scores else ()
        faults: tuple[Fault, ...] = ()
        while True:
            found = self._try_rows(items, cells)
            if found.faults and items.draw_others:
                # What is wrong may be the picture of another row: each is judged by its own pictures alone.
                alone = self._try_rows(items, (), draws=False)
                found = alone if alone.faults else found
            if not found.faults:
                break
            in_order = [fault for _, fault in sorted(found.faults, key=lambda fault: fault[0])]
            refuse_faults(name, in_order, len(items), skip=self.args.on_bad_row == "skip")
            faults += tuple(in_order)
            items.keep(items.examples.select(sorted(row.place for row in found.good)))
            if not items.draw_others:
                break  # with other pictures to draw from, other pictures are drawn
        items.is_tried = True
        rows = sorted(found.good, key=lambda row: row.place)
        lengths = [row.length for row in rows if row.length is not None]
        items.lengths = tuple(lengths) if len(lengths) == len(rows) else None
        if cells:
            items.stamps = found.stamps
            items.ref_logprobs = torch.tensor([[self._scores[key] for key in row.keys] for row in rows])
        return faults

    def _try_rows(self, items: Items, cells: tuple[Cell, ...], *, draws: bool = True) -> TriedGroup:
        """Returns what became of every row, each tried in one process of the run."""
        stores = on_main_process(lambda: self._open_stores(cells), is_main=self.accelerator.is_main_process)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        own = TriedGroup()
        error: Exception | None = None
        try:
            self._try_own_rows(items, range(rank, len(items), processes), cells, draws, stores, own)
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
            tried.good.extend(group.good)
            tried.faults.extend(group.faults)
            tried.stamps.update(group.stamps)
            self._scores |= theirs
        return tried

    def _try_own_rows(
        self,
        items: Items,
        places: Sequence[int],
        cells: tuple[Cell, ...],
        draws: bool,
        stores: tuple[ValueCache | None, ValueCache | None],
        found: TriedGroup,
    ) -> None:
        score_cache, length_cache = stores
        if self.args.check_data == "text" and not cells:
            _look_at_texts(items, places, self.collator, found)
            return
        if score_cache is not None:
            self._scores |= score_cache.read()
        before = set(self._scores)
        lengths = {} if length_cache is None else length_cache.read()
        own = None if type(self.make_batch) is Collator else self.make_batch
        work = TryRows(items, self.collator, own, cells, self._scores, lengths, CellKeys(self.collator.prepare), draws)
        good: dict[int, GoodRow] = {}
        with self._scoring(cells), ExitStack() as stack:
            score_writer, length_writer = (
                None if cache is None else stack.enter_context(ShardWriter(cache, is_optional=cache is length_cache))
                for cache in stores
            )
            left = places
            while left:
                for group in self._run(work, left):
                    for part in group.parts:
                        self._score(part, items, cells, score_cache, score_writer)
                    new = {row.record: float(row.length or 0) for row in group.good if row.record not in lengths}
                    if length_writer is not None and new:
                        length_writer.add(new)
                    good |= {row.place: row for row in group.good}
                    found.faults.extend(group.faults)
                    found.stamps.update(group.stamps)
                # A score may have been left to an equal row that turned out to be faulty.
                left = [place for place, row in good.items() if not self._scores.keys() >= set(row.keys)]
        found.good.extend(good.values())
        wanted = {key for row in found.good for key in row.keys}
        if score_cache is not None:
            logger.info(
                "%d of %d reference log-probabilities are read from %s",
                *(len(wanted & before), len(wanted), score_cache.folder),
            )

    def _run(self, work: TryRows, places: Sequence[int]) -> Iterator[TriedGroup]:
        args = self.args
        return run_over_rows(
            work,
            places,
            size=args.precompute_ref_batch_size or args.per_device_train_batch_size,
            workers=args.dataset_num_proc or args.dataloader_num_workers,
            progress=not args.disable_tqdm and self.accelerator.is_local_main_process,
        )

    @contextmanager
    def _scoring(self, cells: tuple[Cell, ...]) -> Iterator[None]:
        if not cells:
            yield
            return
        self.policy.to(self.accelerator.device)
        was_training = self.policy.training
        self.policy.eval()
        try:
            yield
        finally:
            self.policy.train(was_training)

    def _score(
        self,
        part: Part,
        items: Items,
        cells: tuple[Cell, ...],
        cache: ValueCache | None,
        writer: ShardWriter | None,
    ) -> None:
        """Scores the rows of a batch, unless equal rows were scored meanwhile."""
        rows = {row.place: row for row in part.rows}
        if all(row.keys[c] in self._scores for row in part.rows for c in part.columns):
            return
        if cache is not None:
            cache.make_writable()
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
        if writer is not None:
            writer.add(scored)

    def _open_stores(self, cells: tuple[Cell, ...]) -> tuple[ValueCache | None, ValueCache | None]:
        """Returns where scores and where lengths are kept, None for what is not; called on the main process."""
        root = Path(self.args.ref_cache_dir or Path(constants.HF_HOME) / "mmdpo" / "references").expanduser()
        scores = None
        if cells and type(self.make_batch) is Collator:
            scores = ValueCache(root, fingerprint_reference(self.reference, self.collator, self.accelerator))
            scores.open()
        elif cells:
            logger.info("references are not stored on disk: a data_collator of the caller makes the batches")
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
            validate_example(items.examples[place])
            collator.prepare.check_images(items.examples[place])
            found.good.append(GoodRow(place))
        except Exception as error:
            found.faults.append((place, as_fault(items.examples, place, error)))
