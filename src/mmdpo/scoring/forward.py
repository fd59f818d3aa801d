"""Scores cells with a model: one forward over the planned rows, each distinct image encoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdpo.data.collate import Batch
from mmdpo.models.families import Family
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
        if self.shares_prefix:
            tree_attention.install(self.model.get_decoder())  # type: ignore[operator]

    def __call__(
        self,
        batch: Batch,
        cells: tuple[Cell, ...],
        *,
        through: nn.Module | None = None,
        memo: dict[str, Any] | None = None,
    ) -> CellLogprobs:
        """Returns the log-probabilities of the cells.

        `through` is the wrapper (DDP, FSDP, …) whose forward synchronises gradients; the model itself by default.
        `memo` carries image features to another model with the same frozen vision tower and projector.
        """
        rows = self.plan(batch, cells)
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
            if batch["image_inputs"] and bool(batch["image_counts"][_shown_by(batch, rows)].any()):
                arguments |= stack.enter_context(self._share_images(batch, rows, {} if memo is None else memo))
            if is_last:
                stack.enter_context(answer_logprobs_only(head, rows.predicts, rows.targets, suppressed))
            else:
                stack.enter_context(answer_positions_only(head, rows.predicts))
            output = (through or self.model)(**arguments)
        per_token = output.logits[0, :, 0] if is_last else pick_logprobs(output.logits[0], rows.targets, suppressed)
        shape = (len(cells), len(batch["index"]))
        sums = sum_by_cell(per_token, rows.cell_of, math.prod(shape)).view(shape)
        tokens = rows.cell_of.new_zeros(math.prod(shape)).index_add(0, rows.cell_of, torch.ones_like(rows.cell_of))
        return CellLogprobs(cells, sums, tokens.view(shape), per_token, rows.cell_of)

    def plan(self, batch: Batch, cells: tuple[Cell, ...]) -> Rows:
        """Returns the rows that a forward over the cells has."""
        options: dict[str, Any] = dict(collated=self.collated, answer_token_types=self.family.answer_token_types)
        if self.shares_prefix:
            uses_flex = tree_attention.uses_flex(self.model.get_decoder())  # type: ignore[operator]
            options |= dict(
                share=True,
                max_tokens=self.max_tokens_per_row,
                multiple_of=tree_attention.FLEX_BLOCK if uses_flex else 1,
                prompt_positions=self.family.prompt_positions(self.model, _give_back_repeats(batch)),
            )
        return plan_rows(batch, cells, **options)

    @contextmanager
    def _share_images(self, batch: Batch, rows: Rows, memo: dict[str, Any]) -> Iterator[dict[str, Tensor]]:
        """Within it, each image is encoded once; gives the image arguments of the forward."""
        is_image = (batch["prompt_ids"] == self.model.config.image_token_id) & batch["prompt_mask"]  # type: ignore[union-attr]
        image_inputs, contexts = batch["image_inputs"], _shown_by(batch, rows)
        owns = torch.tensor([k == owner for k, owner in enumerate(batch["images_of"])], device=is_image.device)
        with self.family.share_image_features(self.model, image_inputs, is_image.sum(1) * owns, contexts, memo):
            yield repeat_image_inputs(image_inputs, batch["image_counts"], contexts)


def _shown_by(batch: Batch, rows: Rows) -> Int[Tensor, "T"]:
    """Returns the contexts whose images the trees show, in the order of the trees."""
    return torch.tensor(batch["images_of"])[rows.contexts]


def _give_back_repeats(batch: Batch) -> Batch:
    """Returns a batch whose image inputs say of every context what its images are, also where it shows another's."""
    owners = torch.tensor(batch["images_of"])
    if torch.equal(owners, torch.arange(len(owners))):
        return batch
    repeated = repeat_image_inputs(batch["image_inputs"], batch["image_counts"], owners)
    return {**batch, "image_inputs": repeated}


def repeat_image_inputs(
    image_inputs: dict[str, Tensor], image_counts: Int[Tensor, "K"], contexts: Int[Tensor, "R"]
) -> dict[str, Tensor]:
    """Returns image inputs as rows need them where the forward itself reads them (grids for positions, sizes).

    Tensors with one entry per image or per context are repeated in row order; others, such as patches of all images
    in one dimension, are read by the shared encoder alone and pass as they are.
    """
    counts = image_counts.tolist()
    starts = [sum(counts[:k]) for k in range(len(counts))]
    images = [starts[k] + j for k in contexts.tolist() for j in range(counts[k])]
    seeing = [k for k, count in enumerate(counts) if count]
    in_order = [seeing.index(k) for k in contexts.tolist() if counts[k]]
    repeated = {}
    for name, tensor in image_inputs.items():
        index = images if len(tensor) == sum(counts) else in_order if len(tensor) == len(seeing) else None
        is_pixels = name.startswith("pixel_")  # pixel_values, and Idefics' pixel_attention_mask
        repeated[name] = tensor if index is None or is_pixels else tensor[torch.tensor(index, device=tensor.device)]
    return repeated
