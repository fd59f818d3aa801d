"""Which reference a run has, and the pass that scores datasets with it before training, as far as no run has yet."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from accelerate.utils import gather_object
from huggingface_hub import constants
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from mmdpo.data.collate import Collator
from mmdpo.data.items import Items
from mmdpo.models.adapters import is_undone_by_switching_off, unwrap_adapter
from mmdpo.models.families import attention_of
from mmdpo.models.load import check_model
from mmdpo.models.parts import disable_dropout
from mmdpo.records import Cell
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.logprobs import find_suppressed
from mmdpo.scoring.reference import AdapterOff, FrozenModel, StartOfPolicy, copy_frozen
from mmdpo.scoring.reference_cache import ReferenceCache, ShardWriter
from mmdpo.scoring.reference_keys import CellKeys, Fingerprint, describe_model, digest_processor, digest_weights
from mmdpo.training.config import MDPOConfig
from mmdpo.training.distributed.agreement import Outcome, on_main_process

logger = logging.getLogger(__name__)

LiveReference: TypeAlias = AdapterOff | FrozenModel | StartOfPolicy

FORMAT = 1
"""Part of every fingerprint: raised when the same inputs would be scored differently."""


def choose_reference(policy: Scorer, ref_model: nn.Module | None, args: MDPOConfig, *, is_live: bool) -> LiveReference:
    """Returns the reference of a policy that has not been trained yet.

    It is `ref_model` where one is given; the policy with its adapter off, where the adapter is fresh; a frozen copy,
    where the reference `is_live` while the policy moves; else the policy itself, which is asked before that alone.
    """
    if ref_model is not None:
        check_model(ref_model)
        if args.disable_dropout:
            disable_dropout(ref_model)
        shares = policy.shares_prefix and policy.family.cannot_share(ref_model) is None
        frozen = replace(policy, model=ref_model.requires_grad_(False).eval(), shares_prefix=shares)
        return FrozenModel(frozen, share_images=False)
    base = unwrap_adapter(policy.model)
    located = policy.family.locate_parts(base)
    moving = {located.part_of(name) for name, parameter in base.named_parameters() if parameter.requires_grad}
    share_images = moving <= {"language_model"}
    if policy.model is not base and is_undone_by_switching_off(policy.model):
        return AdapterOff(policy, share_images)
    if is_live:
        return FrozenModel(replace(policy, model=copy_frozen(policy.model)), share_images)
    return StartOfPolicy(policy)


@dataclass(frozen=True)
class ReferencePass:
    """Scores datasets with a reference, one column per cell, and leaves the values with their items.

    What the cache on disk holds is read; the rest is scored, by all processes together, and stored by the main one.
    """

    reference: LiveReference
    cells: tuple[Cell, ...]
    policy: nn.Module
    accelerator: Any
    collate: Callable[..., Any]
    """What makes batches. Values are stored only if it is a `Collator`: what another one makes of a row is unknown."""
    args: MDPOConfig

    def score(self, datasets: Sequence[Items]) -> None:
        """Scores the datasets.

        Raises ReferenceCacheError for a cache folder that cannot be used, and FloatingPointError, naming the row, for a
        value that is not finite.
        """
        self.policy.to(self.accelerator.device)
        cache = self._on_main(self._open_cache)
        for items in datasets:
            keys = self._make_keys(items)
            wanted = {key for row in keys for key in row}
            known: dict[bytes, float] = {} if cache is None else self._on_main(partial(cache.read, wanted))
            missing = _group_missing(keys, known)
            if missing and cache is not None:
                self._on_main(cache.make_writable)
            if cache is not None and self.accelerator.is_main_process:
                stored = len(known)
                logger.info("%d of %d reference log-probabilities are read from %s", stored, len(wanted), cache.folder)
            self._score_missing(items, keys, known, missing, cache)
            items.ref_logprobs = torch.tensor([[known[key] for key in row] for row in keys])

    def _open_cache(self) -> ReferenceCache | None:
        if type(self.collate) is not Collator:
            logger.info("references are not stored on disk: a data_collator of the caller makes the batches")
            return None
        folder = Path(self.args.ref_cache_dir or Path(constants.HF_HOME) / "mmdpo" / "references").expanduser()
        cache = ReferenceCache(folder, fingerprint_reference(self.reference, self.collate, self.accelerator))
        cache.open()
        return cache

    def _make_keys(self, items: Items) -> list[tuple[bytes, ...]]:
        """Returns the key of every cell of every row; processes share the reading of the images."""
        if type(self.collate) is not Collator:
            return [tuple(f"{row}/{c}".encode() for c in range(len(self.cells))) for row in range(len(items))]
        make_keys = CellKeys(self.collate.prepare)
        own = range(self.accelerator.process_index, len(items), self.accelerator.num_processes)
        rows = tqdm(own, desc="looking for cached references", disable=self._hides_bars)
        keys = gather_object([(row, make_keys(items[row], self.cells)) for row in rows])
        items.stamps = dict(pair for stamps in gather_object([make_keys.stamps]) for pair in stamps.items())
        return [key for _, key in sorted(keys)]

    def _score_missing(
        self,
        items: Items,
        keys: list[tuple[bytes, ...]],
        known: dict[bytes, float],
        missing: dict[tuple[int, ...], list[int]],
        cache: ReferenceCache | None,
    ) -> None:
        """Scores what is missing and adds it to what is known, storing it on the way."""
        total = sum(map(len, missing.values()))
        bar = tqdm(total=total, desc="scoring with the reference", disable=self._hides_bars or not missing)
        is_main = self.accelerator.is_main_process
        with bar, ShardWriter(cache) if cache is not None and is_main else nullcontext() as writer:
            for columns, rows in missing.items():
                for index, values in self._score_rows(items, rows, tuple(self.cells[c] for c in columns)):
                    bad = (~values.isfinite()).any(1).nonzero()[:, 0].tolist()
                    if bad:
                        source = items.examples[index[bad[0]]].source
                        raise FloatingPointError(f"the reference gives no finite log-probability for {source}")
                    scored = {
                        keys[row][c]: value
                        for row, of_row in zip(index, values.tolist(), strict=True)
                        for c, value in zip(columns, of_row, strict=True)
                    }
                    known |= scored
                    bar.update(len(index))
                    if writer is not None:
                        writer.add(scored)

    def _score_rows(
        self, items: Items, rows: list[int], cells: tuple[Cell, ...]
    ) -> Iterator[tuple[list[int], Float[Tensor, "n C"]]]:
        """Yields places in the dataset and their values, batch by batch, gathered from all processes."""
        loader = self.accelerator.prepare(
            DataLoader(
                Subset(items, rows),
                batch_size=self.args.precompute_ref_batch_size or self.args.per_device_train_batch_size,
                collate_fn=self.collate,
                num_workers=self.args.dataloader_num_workers,
                generator=torch.Generator(),  # its own, so that a run goes on alike whether or not there was a pass
            )
        )
        was_training = self.policy.training
        self.policy.eval()
        try:
            for batch in loader:
                with self.accelerator.autocast():  # the precision that the policy will be scored in
                    logprobs = self.reference(batch, cells, policy=self.policy, memo={})
                index, values = self.accelerator.gather_for_metrics((batch["index"], logprobs.T.contiguous()))
                yield index.tolist(), values.float().cpu()
        finally:
            self.policy.train(was_training)

    def _on_main(self, function: Callable[[], Outcome]) -> Outcome:
        return on_main_process(function, is_main=self.accelerator.is_main_process)

    @property
    def _hides_bars(self) -> bool:
        return bool(self.args.disable_tqdm or not self.accelerator.is_local_main_process)


def fingerprint_reference(reference: LiveReference, collator: Collator, accelerator: Any) -> Fingerprint:
    """Returns what every value of a run depends on, beside its row."""
    model: Any = reference.scorer.model
    base = unwrap_adapter(model)
    if isinstance(reference, AdapterOff):
        adapters, weights = None, digest_weights(base, adapter_prefix=getattr(model.base_model, "prefix", None))
    else:
        adapters, weights = getattr(model, "peft_config", None), digest_weights(model)
    device = accelerator.device.type
    with accelerator.autocast():  # asked where it counts: accelerate's own setting is shared by all trainers
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    tf32 = device == "cuda" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    suppressed = find_suppressed(getattr(base, "generation_config", None))
    rows = "shared" if reference.scorer.shares_prefix else "separate"
    return Fingerprint(
        {
            "weights": weights,
            "model": describe_model(base, adapters),
            "processor": digest_processor(collator.prepare.renderer.processor),
            "precision": str(precision or base.dtype).removeprefix("torch."),
            "device": device,
            "tf32": "on" if tf32 else "off",
            "attention": f"{rows}, {attention_of(base.get_decoder())}",
            "max_length": str(collator.max_length),
            **({"suppressed": str(suppressed)} if suppressed else {}),
            "libraries": f"torch {torch.__version__}, transformers {transformers.__version__}",
            "format": str(FORMAT),
        }
    )


def _group_missing(keys: list[tuple[bytes, ...]], known: dict[bytes, float]) -> dict[tuple[int, ...], list[int]]:
    """Returns rows by the columns that they miss; of rows with equal contents the first alone."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    seen = set(known)
    for row, of_row in enumerate(keys):
        columns = tuple(c for c, key in enumerate(of_row) if key not in seen)
        seen.update(of_row)
        if columns:
            groups[columns].append(row)
    return dict(groups)
