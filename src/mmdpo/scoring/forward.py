"""Scores cells with a model: one forward over the planned rows, each distinct image encoded once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdpo.data.collate import Batch
from mmdpo.examples import Cell
from mmdpo.families import Family
from mmdpo.scoring.logprobs import answer_positions_only, sum_logprobs
from mmdpo.scoring.plan import plan_rows


@dataclass(frozen=True)
class CellLogprobs:
    """Sums over answer tokens, in nats, with their token counts; cell c of example b stands at [c, b]."""

    cells: tuple[Cell, ...]
    logprobs: Float[Tensor, "C B"]
    tokens: Int[Tensor, "C B"]


@dataclass(frozen=True)
class Scorer:
    """Scores cells of batches with one model."""

    model: nn.Module
    """The unwrapped model: a PreTrainedModel or a PeftModel."""
    family: Family
    collated: tuple[Cell, ...]
    """The cells that batches are made for."""

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
        rows = plan_rows(batch, cells, collated=self.collated, answer_token_types=self.family.answer_token_types)
        arguments: dict[str, Any] = dict(
            input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False, **rows.token_types
        )
        with ExitStack() as stack:
            if batch["image_inputs"] and bool(batch["image_counts"][rows.contexts].any()):
                is_image = (batch["prompt_ids"] == self.model.config.image_token_id) & batch["prompt_mask"]  # type: ignore[union-attr]
                stack.enter_context(
                    self.family.share_image_features(
                        self.model,
                        batch["image_inputs"],
                        is_image.sum(1),
                        rows.contexts,
                        {} if memo is None else memo,
                    )
                )
                arguments |= repeat_image_inputs(batch["image_inputs"], batch["image_counts"], rows.contexts)
            stack.enter_context(answer_positions_only(self.model.get_output_embeddings(), rows.predicts))  # type: ignore[operator]
            output = (through or self.model)(**arguments)
        sums = sum_logprobs(output.logits[0], rows.targets, rows.predicts)
        shape = (len(cells), len(batch["index"]))
        return CellLogprobs(cells, sums.view(shape), rows.predicts.sum(1).view(shape))


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
