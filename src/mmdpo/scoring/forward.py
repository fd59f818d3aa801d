"""Scores cells with a model: one forward over the planned rows, each distinct image encoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdpo.data.collate import Batch
from mmdpo.data.pixels import look_up
from mmdpo.models.adapters import sum_in_products
from mmdpo.models.devices import send
from mmdpo.models.families import Family
from mmdpo.models.image_features import share_image_features
from mmdpo.records import Cell
from mmdpo.scoring import tree_attention
from mmdpo.scoring.logprobs import (
    answer_logprobs_only,
    answer_positions_only,
    find_suppressed,
    pick_logprobs,
    sum_by_cell,
)
from mmdpo.scoring.plan import Rows, plan_rows

Memo: TypeAlias = dict[str, Any]
"""What two models share of one batch: image features, where the second has the same frozen tower and projector."""


@dataclass(frozen=True)
class CellLogprobs:
    """Sums over answer tokens, in nats, with their token counts; cell c of example b stands at [c, b]."""

    cells: tuple[Cell, ...]
    logprobs: Float[Tensor, "C B"]
    tokens: Int[Tensor, "C B"]
    per_token: Float[Tensor, "N"]
    """Of every answer token, tree by tree."""
    cell_of: Int[Tensor, "N"]
    """c · B + b of the cell and example that each token belongs to."""


@dataclass(frozen=True)
class Scorer:
    """Scores cells of batches with one model."""

    model: nn.Module
    """The unwrapped model: a PreTrainedModel or a PeftModel."""
    family: Family
    collated: tuple[Cell, ...]
    """The cells that batches are made for."""
    shares_prefix: bool = False
    """Whether cells under the same images share one row; only where the family has nothing against it."""
    max_tokens_per_row: int | None = None

    def __post_init__(self) -> None:
        sum_in_products(self.model)
        if self.shares_prefix:
            tree_attention.install(self.model.get_decoder())  # type: ignore[operator]

    def __call__(
        self,
        batch: Batch,
        cells: tuple[Cell, ...],
        *,
        through: nn.Module | None = None,
        memo: Memo | None = None,
    ) -> CellLogprobs:
        """Returns the log-probabilities of the cells.

        `through` is the wrapper (DDP, FSDP, …) whose forward synchronises gradients; the model itself by default.
        """
        planned = self.plan(batch, cells)
        device = batch["index"].device
        rows = planned.to(device)
        arguments: dict[str, Any] = dict(
            input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False, **rows.token_types
        )
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        is_last = self.family.head_is_last(self.model)
        suppressed = find_suppressed(getattr(self.model, "generation_config", None))
        with ExitStack() as stack:
            if self.shares_prefix:
                arguments["position_ids"] = rows.positions
                stack.enter_context(tree_attention.attend_along(rows.trees))
            if batch["image_inputs"] and batch["image_counts"][_shown_by(batch, planned)].any():
                arguments |= stack.enter_context(self._share_images(batch, planned, {} if memo is None else memo))
            if is_last:
                stack.enter_context(answer_logprobs_only(head, rows.predicts, rows.targets, suppressed))
            else:
                stack.enter_context(answer_positions_only(head, rows.predicts))
            output = (through or self.model)(**arguments)
        per_token = output.logits[0, :, 0] if is_last else pick_logprobs(output.logits[0], rows.targets, suppressed)
        shape = (len(cells), len(batch["index"]))
        sums = sum_by_cell(per_token, rows.cell_of, math.prod(shape)).view(shape)
        tokens = torch.bincount(planned.cell_of, minlength=math.prod(shape)).view(shape)
        return CellLogprobs(cells, sums, send(tokens, device), per_token, rows.cell_of)

    def plan(self, batch: Batch, cells: tuple[Cell, ...]) -> Rows:
        """Returns the rows that a forward over the cells has, on the host."""
        options: dict[str, Any] = dict(collated=self.collated, answer_token_types=self.family.answer_token_types)
        if self.shares_prefix:
            uses_flex = tree_attention.uses_flex(self.model.get_decoder())  # type: ignore[operator]
            # Of every context what size its images have, also where it shows another's.
            sizes = repeat_sizes(batch["image_sizes"], batch["image_counts"], batch["images_of"])
            options |= dict(
                share=True,
                max_tokens=self.max_tokens_per_row,
                multiple_of=tree_attention.FLEX_BLOCK if uses_flex else 1,
                prompt_positions=self.family.prompt_positions(self.model, {**batch, "image_sizes": sizes}),
            )
        return plan_rows(batch, cells, **options)

    @contextmanager
    def _share_images(self, batch: Batch, rows: Rows, memo: Memo) -> Iterator[dict[str, Tensor]]:
        """Within it, each image is encoded once; gives the image arguments of the forward."""
        is_image = (batch["prompt_ids"] == self.model.config.image_token_id) & batch["prompt_mask"]  # type: ignore[union-attr]
        contexts, device = _shown_by(batch, rows), batch["index"].device
        inputs = image_arguments(batch, self.family, device)
        owns = np.array([k == owner for k, owner in enumerate(batch["images_of"])])
        tokens = is_image.sum(1) * owns
        sizes = repeat_sizes(batch["image_sizes"], batch["image_counts"], contexts)
        with share_image_features(self.family, self.model, inputs, tokens, contexts, rows.input_ids, memo):
            yield inputs | _place_sizes(sizes, self.family, device)


def _shown_by(batch: Batch, rows: Rows) -> list[int]:
    """Returns the contexts whose images the trees show, in the order of the trees."""
    return [batch["images_of"][context] for context in rows.contexts]


def image_arguments(batch: Batch, family: Family, device: Any) -> dict[str, Tensor]:
    """Returns what a model reads of the images of a batch: pixels on the device, sizes where its forward takes them."""
    return look_up(batch["image_inputs"]) | _place_sizes(batch["image_sizes"], family, device)


def _place_sizes(sizes: Mapping[str, np.ndarray], family: Family, device: Any) -> dict[str, Tensor]:
    place = "cpu" if family.sizes_stay_on_host else device
    return {name: send(torch.as_tensor(values), place) for name, values in sizes.items()}


def repeat_sizes(
    sizes: Mapping[str, np.ndarray], image_counts: Int[np.ndarray, "K"], contexts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns sizes of images as rows need them where the forward itself reads them, for positions for instance.

    Arrays with one entry per image or per context are repeated in row order; others pass as they are.
    """
    counts = image_counts.tolist()
    starts = [sum(counts[:k]) for k in range(len(counts))]
    images = [starts[k] + j for k in contexts for j in range(counts[k])]
    seeing = [k for k, count in enumerate(counts) if count]
    in_order = [seeing.index(k) for k in contexts if counts[k]]
    places = {len(seeing): in_order, sum(counts): images}
    return {name: array[places[len(array)]] if len(array) in places else array for name, array in sizes.items()}
