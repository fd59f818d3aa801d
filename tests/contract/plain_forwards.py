"""The other side of the comparison with scoring: one conversation at a time, through processor and model as they are.

Knows nothing of `mmdpo.models.families`, and of the records of mmdpo only what an example says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from tiny_models import TinyModel

from mmdpo.data.prepare import PreparedExample
from mmdpo.records import NO_IMAGE, Cell, PreferenceExample


def ask(text: str, images: int) -> tuple[dict[str, Any], ...]:
    """Returns the one turn of a question about so many images."""
    return ({"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]},)


@dataclass(frozen=True)
class Whole:
    """One sequence as the processor reads it, and where its answer begins."""

    inputs: dict[str, torch.Tensor]
    prompt_length: int


def read_all_alone(tiny: TinyModel, prepared: list[PreparedExample], cells: tuple[Cell, ...]) -> list[list[Whole]]:
    return [[read_alone(tiny, p.item.example, cell, p.contexts[cell.image].images) for p in prepared] for cell in cells]


def read_alone(tiny: TinyModel, example: PreferenceExample, cell: Cell, images: tuple[Image, ...]) -> Whole:
    """Reads prompt and answer as one text, as anyone would who fine-tunes this model on a single conversation."""
    prompt, whole = write_text(tiny, example, cell)
    before, inputs = read(tiny, prompt, images), read(tiny, whole, images)
    length = before["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][:, :length], before["input_ids"])
    return Whole(inputs, length)


def write_text(tiny: TinyModel, example: PreferenceExample, cell: Cell) -> tuple[str, str]:
    """Returns the text of the prompt, and of prompt and answer."""
    answer = example.responses[cell.response]
    seen = 0 if cell.image == NO_IMAGE else len(example.images)
    if isinstance(example.prompt, str):
        marks = "<image>" * len(example.images) + "\n" * bool(example.images)
        prompt = example.prompt.replace(marks, tiny.placeholder * seen + "\n" * bool(seen)) if marks else example.prompt
        return prompt, prompt + answer + tiny.processor.tokenizer.eos_token
    question = ask(example.prompt[0]["content"][-1]["text"], seen)
    turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    prompt = tiny.processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    whole = tiny.processor.apply_chat_template([*question, turn], tokenize=False)
    return prompt, whole if whole.endswith(tiny.end_of_turn) else whole.rstrip() + tiny.end_of_turn


def read(tiny: TinyModel, text: str, images: tuple[Image, ...]) -> dict[str, torch.Tensor]:
    if type(tiny.processor).__name__ == "PaliGemmaProcessor":
        return read_paligemma(tiny, text, images)
    bos = tiny.processor.tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    seen = {"images": [list(images)]} if images else {}
    return dict(tiny.processor(text=[text], **seen, add_special_tokens=special, return_tensors="pt"))


def read_paligemma(tiny: TinyModel, text: str, images: tuple[Image, ...]) -> dict[str, torch.Tensor]:
    """PaliGemma's processor wants the answer apart, as `suffix`, to which it adds the end."""
    prompt, mark, answer = text.partition("ASSISTANT:")
    prompt, suffix = prompt + mark, answer.removesuffix("<eos>")
    if images:
        suffixes = [suffix] if answer else None
        inputs = dict(tiny.processor(text=[prompt], images=[list(images)], suffix=suffixes, return_tensors="pt"))
        inputs.pop("labels")
        return inputs
    # It refuses to work without images; this is what it would write.
    pair = {"text_pair": f"{suffix}<eos>"} if answer else {}
    return dict(tiny.processor.tokenizer(f"<bos>{prompt}\n", **pair, return_token_type_ids=True, return_tensors="pt"))


def logprobs_alone(tiny: TinyModel, wholes: list[list[Whole]]) -> list[torch.Tensor]:
    """Returns the log-probabilities of every answer's tokens, at c · B + b for cell c of example b."""
    return [logprob_alone(tiny, whole) for row in wholes for whole in row]


def logprob_alone(tiny: TinyModel, whole: Whole) -> torch.Tensor:
    ids = whole.inputs["input_ids"][0]
    logits = tiny.model(**whole.inputs, use_cache=False).logits[0]
    assert len(logits) == len(ids)
    predicted = logits.log_softmax(-1)[whole.prompt_length - 1 : -1]
    return predicted.gather(1, ids[whole.prompt_length :, None])[:, 0]


def gradients(tiny: TinyModel, logprobs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a sum in which every token has another weight."""
    tokens = torch.cat(logprobs)
    weights = torch.linspace(-1.0, 2.0, len(tokens))
    trained = {name: parameter for name, parameter in tiny.model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad((weights * tokens).sum(), list(trained.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(trained, found, strict=True) if gradient is not None}
