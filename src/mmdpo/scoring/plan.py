"""From cells to forward rows: pure index arithmetic, no model.

Every cell of every example is one row, `[prompt with images | answer]`, padded on the right, cell by cell:
row c · B + b is cell c of example b.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmdpo.data.collate import Batch
from mmdpo.examples import Cell, image_versions, response_names


@dataclass(frozen=True)
class Rows:
    """Forward rows. Each answer token is predicted by the position before it."""

    input_ids: Int[Tensor, "R S"]
    attention_mask: Int[Tensor, "R S"]
    token_types: dict[str, Int[Tensor, "R S"]]
    contexts: Int[Tensor, "R"]
    """The context of the batch that each row begins with."""
    predicts: Bool[Tensor, "R S"]
    """Positions whose output predicts an answer token."""
    targets: Int[Tensor, "N"]
    """The answer tokens, row by row: what the positions of `predicts` predict."""


def plan_rows(
    batch: Batch, cells: tuple[Cell, ...], *, collated: tuple[Cell, ...], answer_token_types: dict[str, int]
) -> Rows:
    """Returns the rows of the cells.

    `collated` are the cells that the batch was made for; those of them that are not asked for are not computed.
    """
    size = len(batch["index"])
    device = batch["prompt_ids"].device
    places = torch.arange(size, device=device)
    versions, responses = image_versions(collated), response_names(collated)
    contexts = torch.cat([versions.index(cell.image) * size + places for cell in cells])
    answers = torch.cat([responses.index(cell.response) * size + places for cell in cells])

    prompt_length = batch["prompt_mask"].sum(1)[contexts, None]
    answer_length = batch["answer_mask"].sum(1)[answers, None]
    length = prompt_length + answer_length
    position = torch.arange(int(length.max()), device=device).expand(len(contexts), -1)
    in_prompt, real = position < prompt_length, position < length
    # Padding repeats the last answer token: it is masked, and no id can be mistaken for an image's.
    in_answer = (position - prompt_length).clamp(min=0).minimum(answer_length - 1)

    def join(prompt: Int[Tensor, "R P"], answer: Int[Tensor, "R L"]) -> Int[Tensor, "R S"]:
        from_prompt = prompt.gather(1, position.clamp(max=prompt.shape[1] - 1))
        return torch.where(in_prompt, from_prompt, answer.gather(1, in_answer))

    answer_ids = batch["answer_ids"][answers]
    input_ids = join(batch["prompt_ids"][contexts], answer_ids)
    token_types = {
        name: join(types[contexts], torch.full_like(answer_ids, answer_token_types.get(name, 0)))
        for name, types in batch["token_types"].items()
    }
    return Rows(
        input_ids=input_ids,
        attention_mask=real.long(),
        token_types=token_types,
        contexts=contexts,
        predicts=(position >= prompt_length - 1) & (position < length - 1),
        targets=input_ids[real & ~in_prompt],
    )
