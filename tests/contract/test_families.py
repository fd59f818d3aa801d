"""What scoring promises for every model family: the same numbers as one plain forward per sequence, at less work.

The other side of every comparison reads a whole conversation with the model's own processor, unpadded and one at a
time, and takes a softmax over the full logits; it knows nothing of `mmdpo.families`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tiny_models import MODELS, TinyModel

from mmdpo.corruption import load
from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Item
from mmdpo.data.prepare import PreparedExample, Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.examples import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, PreferenceExample
from mmdpo.families import find_family
from mmdpo.scoring.forward import Scorer
from mmdpo.training.build import PARTS, freeze_parts

MDPO = (Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED), Cell(CORRUPTED, CHOSEN))
TEXT_ALONE = (Cell(NO_IMAGE, CHOSEN), Cell(NO_IMAGE, REJECTED))


@pytest.fixture(params=list(MODELS))
def tiny(request):
    return MODELS[request.param]()


# -- the data ---------------------------------------------------------------------------------------------------------


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A picture with coarse shapes in it, so that crops and sizes differ in what the vision tower sees."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.NEAREST)


def turns(text: str, images: int) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]},)


def conversation(tiny: TinyModel, text: str, chosen: str, rejected: str, images: tuple, **fields: Any):
    """An example as chat turns where the processor has a template, and as plain text where it has none."""
    if tiny.processor.chat_template:
        return PreferenceExample(
            id=text, prompt=turns(text, len(images)), responses={CHOSEN: chosen, REJECTED: rejected}, images=images
        )
    return plain(text, chosen, rejected, images, **fields)


def plain(text: str, chosen: str, rejected: str, images: tuple, **fields: Any) -> PreferenceExample:
    prompt = f"USER: {'<image>' * len(images)}\n{text} ASSISTANT:" if images else f"USER: {text} ASSISTANT:"
    answers = {CHOSEN: f" {chosen}", REJECTED: f" {rejected}"}
    return PreferenceExample(id=text, prompt=prompt, responses=answers, images=images, **fields)


def two_pairs(tiny: TinyModel) -> list[PreferenceExample]:
    """Prompts, answers and pictures of different lengths and shapes; one row brings its own corrupted picture."""
    return [
        conversation(tiny, "What is in the picture?", "There is a red cup.", "A dog.", (picture(1, 40, 20),)),
        plain(
            "Describe the scene.",
            "The sky is blue.",
            "Two people walk along the street, under a blue sky.",
            (picture(2, 18, 33),),
            rejected_images=(picture(3, 30, 18),),
        ),
    ]


def cells_of(tiny: TinyModel) -> tuple[Cell, ...]:
    return MDPO + TEXT_ALONE if tiny.reads_text_alone else MDPO


def prepare(tiny: TinyModel, examples: list[PreferenceExample], cells: tuple[Cell, ...]):
    renderer = Renderer(tiny.processor, find_family(tiny.model.config))
    preparer = Preparer(renderer, cells, {CORRUPTED: load("crop_0_20")}, seed=0)
    prepared = [preparer(Item(example, place)) for place, example in enumerate(examples)]
    return prepared, Collator(preparer).collate(prepared)


def score(tiny: TinyModel, batch: Batch, cells: tuple[Cell, ...], **options: Any):
    return Scorer(tiny.model, find_family(tiny.model.config), cells)(batch, cells, **options)


# -- the other side of the comparison ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """One sequence as the processor reads it, and where its answer begins."""

    inputs: dict[str, torch.Tensor]
    prompt_length: int


def read_alone(tiny: TinyModel, example: PreferenceExample, cell: Cell, images: tuple) -> Whole:
    """Reads prompt and answer as one text, as anyone would who fine-tunes this model on a single conversation."""
    prompt, whole = write_text(tiny, example, cell)
    before, inputs = read(tiny, prompt, images), read(tiny, whole, images)
    length = before["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][:, :length], before["input_ids"])
    return Whole(inputs, length)


def write_text(tiny: TinyModel, example: PreferenceExample, cell: Cell) -> tuple[str, str]:
    """Returns the text of the prompt, and of prompt and answer."""
    answer, eos = example.responses[cell.response], tiny.processor.tokenizer.eos_token
    seen = 0 if cell.image == NO_IMAGE else len(example.images)
    if isinstance(example.prompt, str):
        marks = example.prompt.count("<image>")
        prompt = example.prompt.replace("<image>" * marks + "\n", tiny.placeholder * seen + "\n" * bool(seen))
        return prompt, prompt + answer + eos
    question = turns(example.prompt[0]["content"][-1]["text"], seen)
    turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    prompt = tiny.processor.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    whole = tiny.processor.apply_chat_template([*question, turn], tokenize=False)
    assert whole.startswith(prompt)
    return prompt, whole if whole.endswith(tiny.end_of_turn) else whole.rstrip() + tiny.end_of_turn


def read(tiny: TinyModel, text: str, images: tuple) -> dict[str, torch.Tensor]:
    if type(tiny.processor).__name__ == "PaliGemmaProcessor":
        return read_paligemma(tiny, text, images)
    bos = tiny.processor.tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    seen = {"images": [list(images)]} if images else {}
    return dict(tiny.processor(text=[text], **seen, add_special_tokens=special, return_tensors="pt"))


def read_paligemma(tiny: TinyModel, text: str, images: tuple) -> dict[str, torch.Tensor]:
    """PaliGemma's processor wants the answer apart, as `suffix`, to which it adds the end."""
    prompt, mark, answer = text.partition("ASSISTANT:")
    prompt, suffix = prompt + mark, answer.removesuffix("<eos>")
    if images:
        inputs = dict(
            tiny.processor(
                text=[prompt], images=[list(images)], suffix=[suffix] if answer else None, return_tensors="pt"
            )
        )
        inputs.pop("labels")
        return inputs
    # Without images it refuses to work: this is what it would have written.
    pair = {"text_pair": f"{suffix}<eos>"} if answer else {}
    tokens = tiny.processor.tokenizer(f"<bos>{prompt}\n", **pair, return_token_type_ids=True, return_tensors="pt")
    return dict(tokens)


def logprob_alone(tiny: TinyModel, whole: Whole) -> torch.Tensor:
    logits = tiny.model(**whole.inputs, use_cache=False).logits[0]
    assert len(logits) == whole.inputs["input_ids"].shape[1]
    targets = whole.inputs["input_ids"][0, whole.prompt_length :]
    predicted = logits.log_softmax(-1)[whole.prompt_length - 1 : -1]
    return predicted.gather(1, targets[:, None]).sum()


def all_alone(tiny: TinyModel, prepared: list[PreparedExample], cells: tuple[Cell, ...]) -> list[list[Whole]]:
    return [[read_alone(tiny, p.item.example, cell, p.contexts[cell.image].images) for p in prepared] for cell in cells]


def logprobs_alone(tiny: TinyModel, wholes: list[list[Whole]]) -> torch.Tensor:
    return torch.stack([torch.stack([logprob_alone(tiny, whole) for whole in row]) for row in wholes])


def gradients(tiny: TinyModel, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a sum in which every cell has another weight."""
    weights = torch.linspace(-1.0, 2.0, logprobs.numel()).view_as(logprobs)
    names, parameters = zip(*tiny.model.named_parameters(), strict=True)
    found = torch.autograd.grad((weights * logprobs).sum(), parameters, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


# -- the contract -----------------------------------------------------------------------------------------------------


def test_logprobs_and_gradients_are_those_of_plain_forwards(tiny):
    cells = cells_of(tiny)
    prepared, batch = prepare(tiny, two_pairs(tiny), cells)
    alone = logprobs_alone(tiny, all_alone(tiny, prepared, cells))
    together = score(tiny, batch, cells).logprobs
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    expected, found = gradients(tiny, alone), gradients(tiny, together)
    assert found.keys() == expected.keys()
    assert {find_family(tiny.model.config).locate_parts(tiny.model).part_of(name) for name in found} == set(PARTS)
    for name, gradient in expected.items():
        near = 1e-5 + 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=near, msg=lambda m, n=name: f"{n}: {m}")


def test_prompts_have_several_images_one_or_none(tiny):
    """Features go to the right rows where prompts of one batch differ in their number of images."""
    cells = (Cell(ORIGINAL, CHOSEN), Cell(CORRUPTED, REJECTED))
    more = (picture(4, 26, 26), picture(5, 40, 14)) if tiny.reads_several_images else (picture(4, 26, 26),)
    examples = [
        conversation(tiny, "Describe the pictures.", "A cup.", "Two dogs.", more),
        conversation(tiny, "What is in the picture?", "The sky.", "There is a red cup.", (picture(6, 16, 40),)),
    ]
    if tiny.reads_text_alone:
        cells = (Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED))
        examples.insert(1, conversation(tiny, "Describe the street.", "It is blue.", "People walk.", ()))
    prepared, batch = prepare(tiny, examples, cells)
    with torch.no_grad():
        alone = logprobs_alone(tiny, all_alone(tiny, prepared, cells))
        torch.testing.assert_close(score(tiny, batch, cells).logprobs, alone, rtol=1e-4, atol=1e-5)


def test_prompts_without_images_need_no_image(tiny):
    if not tiny.reads_text_alone:
        pytest.skip(f"{type(tiny.processor).__name__} reads no text without images")
    prepared, batch = prepare(tiny, two_pairs(tiny), TEXT_ALONE)
    assert batch["image_inputs"] == {}
    with torch.no_grad(), counted(tiny) as calls:
        alone = logprobs_alone(tiny, all_alone(tiny, prepared, TEXT_ALONE))
        torch.testing.assert_close(score(tiny, batch, TEXT_ALONE).logprobs, alone, rtol=1e-4, atol=1e-5)
    assert calls.encoder == []


def test_prompt_tokens_are_those_of_generation(tiny):
    prepared, batch = prepare(tiny, two_pairs(tiny), cells_of(tiny))
    versions = [ORIGINAL, CORRUPTED, NO_IMAGE][: len(batch["prompt_ids"]) // 2]
    for row, version in enumerate(version for version in versions for _ in prepared):
        ids = batch["prompt_ids"][row][batch["prompt_mask"][row]]
        example, images = prepared[row % 2].item.example, prepared[row % 2].contexts[version].images
        if isinstance(example.prompt, str):
            text, _ = write_text(tiny, example, Cell(version, CHOSEN))
            expected = read(tiny, text, images)["input_ids"]
        else:
            question = turns(example.prompt[0]["content"][-1]["text"], 0)[0]
            shown = [{"type": "image", "image": image} for image in images]
            expected = tiny.processor.apply_chat_template(
                [{**question, "content": shown + question["content"]}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )["input_ids"]
        assert ids.tolist() == expected[0].tolist()
        if tiny.bos:
            assert ids.tolist().count(tiny.processor.tokenizer.convert_tokens_to_ids(tiny.bos)) == 1


def test_answer_tokens_are_the_words_and_the_end(tiny):
    prepared, batch = prepare(tiny, two_pairs(tiny), MDPO)
    written = [
        tiny.processor.tokenizer.decode(ids[mask])
        for ids, mask in zip(batch["answer_ids"], batch["answer_mask"], strict=True)
    ]
    eos = tiny.processor.tokenizer.eos_token
    ends = [tiny.end_of_turn if tiny.processor.chat_template else eos, eos] * 2
    answers = [p.item.example.responses[name].strip() for name in (CHOSEN, REJECTED) for p in prepared]
    assert [text.lstrip() for text in written] == [answer + end for answer, end in zip(answers, ends, strict=True)]


@dataclass
class Counted:
    """What went through the image encoder and the output head."""

    encoder: list[int]
    """Values in the pixels of each call of the vision tower."""
    head: list[int]
    """Positions in each call of the output head."""


@contextmanager
def counted(tiny: TinyModel) -> Iterator[Counted]:
    calls = Counted([], [])
    names = ("vision_tower", "vision_model", "visual")
    tower = next(module for name, module in tiny.model.named_modules() if name.split(".")[-1] in names)

    def look(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.encoder.append((args[0] if args else kwargs["pixel_values"]).numel())

    hooks = [
        tower.register_forward_pre_hook(look, with_kwargs=True),
        # Behind the scorer's own hook, which selects positions: it is registered later and runs later.
        tiny.model.get_output_embeddings().register_forward_hook(
            lambda _, args, output: calls.head.append(output.shape[:-1].numel())
        ),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def test_each_image_is_encoded_once_and_the_head_sees_answers_alone(tiny):
    cells = cells_of(tiny)
    prepared, batch = prepare(tiny, two_pairs(tiny), cells)
    pictures = [p.contexts[version].images for version in (ORIGINAL, CORRUPTED) for p in prepared]
    assert int(batch["image_counts"].sum()) == sum(map(len, pictures)) == 4
    memo: dict[str, Any] = {}
    with torch.no_grad():
        with counted(tiny) as alone:
            for whole in (w for row in all_alone(tiny, prepared, (MDPO[0], MDPO[2])) for w in row):
                tiny.model(**whole.inputs)
        with counted(tiny) as first:
            scored = score(tiny, batch, cells, memo=memo)
        with counted(tiny) as second:
            again = score(tiny, batch, cells, memo=memo)
    assert len(first.encoder) == 1
    padding = int(batch["image_inputs"]["pixel_values"].numel()) - sum(alone.encoder)
    assert sum(alone.encoder) <= first.encoder[0] <= sum(alone.encoder) + max(padding, 0)
    assert second.encoder == []
    assert torch.equal(scored.logprobs, again.logprobs)
    assert first.head == second.head == [int(scored.tokens.sum())]
    lengths = [[len(p.answers[cell.response]) for p in prepared] for cell in cells]
    assert scored.tokens.tolist() == lengths


def test_a_cell_depends_on_its_own_answer_and_image(tiny):
    cells = cells_of(tiny)
    examples = two_pairs(tiny)
    longer = {**examples[0].responses, REJECTED: "Two small dogs walk on the table, under the cup."}
    answered = [replace(examples[0], responses=longer), examples[1]]
    seen = [replace(examples[0], images=(picture(7, 40, 20),)), examples[1]]
    with torch.no_grad():
        before, other_answer, other_image = (
            score(tiny, prepare(tiny, changed, cells)[1], cells).logprobs for changed in (examples, answered, seen)
        )
    first = torch.tensor([True, False])
    is_answer = torch.tensor([cell.response == REJECTED for cell in cells])[:, None] & first
    is_image = torch.tensor([cell.image != NO_IMAGE for cell in cells])[:, None] & first
    for after, changed in ((other_answer, is_answer), (other_image, is_image)):
        torch.testing.assert_close(after[~changed], before[~changed], rtol=1e-5, atol=1e-5)
        assert bool(((after - before)[changed].abs() > 1e-3).all())


def test_lora_adapts_the_language_model_alone(tiny):
    family = find_family(tiny.model.config)
    model = copy.deepcopy(tiny.model)
    located = family.locate_parts(model)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    expected = {name for name in linear if located.part_of(name) == "language_model"} - {located.head}

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=family.lora_targets(model)))
    found = {
        name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")
    }
    assert found == expected
    # Seven layers in a decoder block of Llama's kind, six in one of Phi's.
    assert len(found) == 2 * (6 if tiny.model.config.text_config.model_type == "phi" else 7)

    _, batch = prepare(tiny, two_pairs(tiny), MDPO)
    with torch.no_grad():
        torch.testing.assert_close(
            score(replace(tiny, model=adapted), batch, MDPO).logprobs, score(tiny, batch, MDPO).logprobs
        )


def test_every_parameter_has_its_part(tiny):
    family, model = find_family(tiny.model.config), copy.deepcopy(tiny.model)
    in_parts = {part: 0 for part in PARTS}
    for name, parameter in model.named_parameters():
        in_parts[family.locate_parts(model).part_of(name)] += parameter.numel()
    assert all(in_parts.values())

    freeze_parts(model, family, SimpleNamespace(freeze_projector=True, freeze_vision_tower=True))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    text = {
        id(parameter)
        for module in (model.get_decoder(), model.get_output_embeddings())
        for parameter in module.parameters()
    }
    assert {id(parameter) for parameter in trained} == text
