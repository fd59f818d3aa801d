"""The original algorithm of mDPO, written from the paper's description, to be measured against.

Chosen and rejected are one padded batch that carries the image twice; the corrupted image is a second forward; the
reference repeats both with the adapter off; logits are made at every position, in float32, over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmdpo.data.collate import Batch
from mmdpo.models.families import Family
from mmdpo.scoring.forward import image_arguments

IGNORED = -100


@dataclass(frozen=True)
class PaddedRows:
    """Whole sequences, padded on the right, as a model's forward takes them."""

    inputs: dict[str, Tensor]
    labels: Tensor
    """Answer tokens [R, S]; `IGNORED` elsewhere."""


@dataclass(frozen=True)
class OriginalBatch:
    """What a step reads: [chosen; rejected] under the image, and chosen under the corrupted image."""

    pairs: PaddedRows
    corrupted: PaddedRows


def build_batch(batch: Batch, family: Family) -> OriginalBatch:
    """Returns a batch of mmdpo for mDPO's cells as the original algorithm has it: same tokens, same corrupted image."""
    size = len(batch["index"])
    device = batch["index"].device
    inputs = {name: tensor.to(device) for name, tensor in image_arguments(batch, family, device).items()}
    whole = {name: tensor.chunk(2) for name, tensor in inputs.items()}
    original = {name: torch.cat([halves[0]] * 2) for name, halves in whole.items()}
    corrupted = {name: halves[1] for name, halves in whole.items()}
    first = list(range(size))
    return OriginalBatch(
        pairs=_join(batch, contexts=first * 2, answers=list(range(2 * size)), images=original),
        corrupted=_join(batch, contexts=list(range(size, 2 * size)), answers=first, images=corrupted),
    )


def _join(
    batch: Mapping[str, Any], *, contexts: list[int], answers: list[int], images: dict[str, Tensor]
) -> PaddedRows:
    device = batch["index"].device
    ids, labels, types = [], [], {name: list[Tensor]() for name in batch["token_types"]}
    for context, answer in zip(contexts, answers, strict=True):
        real = batch["prompt_mask"][context]
        prompt = torch.as_tensor(batch["prompt_ids"][context][real])
        text = torch.as_tensor(batch["answer_ids"][answer][batch["answer_mask"][answer]])
        ids.append(torch.cat([prompt, text]))
        labels.append(torch.cat([torch.full_like(prompt, IGNORED), text]))
        for name, rows in types.items():
            of_prompt = torch.as_tensor(batch["token_types"][name][context][real])
            rows.append(torch.cat([of_prompt, torch.zeros_like(text)]))
    mask = _pad([torch.ones_like(row) for row in ids], 0)
    inputs = {
        "input_ids": _pad(ids, 0),
        "attention_mask": mask,
        **{name: _pad(rows, 0) for name, rows in types.items()},
    }
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    return PaddedRows({**inputs, **images}, _pad(labels, IGNORED).to(device))


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def compute_loss(model: Any, batch: OriginalBatch, *, beta: float, answer_only_head: bool) -> Tensor:
    """Returns the mean of mDPO's loss over the pairs.

    With `answer_only_head` the output head is given answer positions alone, which is how TRL 1.16 computes its
    log-probabilities where it has Triton; everything else stays as it was.
    """
    score = _score_answers if answer_only_head else _score_everywhere

    def log_ratios(rows: PaddedRows) -> Tensor:
        policy = score(model, rows)
        with torch.no_grad(), model.disable_adapter():
            reference = score(model, rows)
        return policy - reference

    chosen, rejected = log_ratios(batch.pairs).chunk(2)
    corrupted = log_ratios(batch.corrupted)
    response = F.logsigmoid(beta * (chosen - rejected))
    image = F.logsigmoid(beta * (chosen - corrupted))
    anchor = F.logsigmoid(beta * chosen)
    return -(response + image + anchor).mean()


def _score_everywhere(model: Any, rows: PaddedRows) -> Tensor:
    """Returns the sum over answer tokens [R], from float32 logits of all positions."""
    logits = model(**rows.inputs, use_cache=False).logits[:, :-1].float()
    labels = rows.labels[:, 1:]
    is_answer = labels != IGNORED
    every = logits.log_softmax(-1).gather(2, labels.where(is_answer, 0)[..., None]).squeeze(2)
    sums: Tensor = (every * is_answer).sum(1)
    return sums


def _score_answers(model: Any, rows: PaddedRows) -> Tensor:
    """Returns the sum over answer tokens [R], from float32 logits of the positions before them."""
    inner = model.get_base_model()
    hidden = inner.model(**rows.inputs, use_cache=False).last_hidden_state[:, :-1]
    labels = rows.labels[:, 1:]
    is_answer = labels != IGNORED
    logits = inner.get_output_embeddings()(hidden[is_answer]).float()
    per_token = -F.cross_entropy(logits, labels[is_answer], reduction="none")
    return torch.zeros(is_answer.shape, device=per_token.device).masked_scatter(is_answer, per_token).sum(1)
