"""What scoring promises for every model family: the same numbers as one plain forward per sequence, at less work.

The other side of every comparison, `plain_forwards`, reads a whole conversation with the model's own processor,
unpadded and one at a time, and takes a softmax over the full logits.
"""

from __future__ import annotations

import copy
import warnings
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
from plain_forwards import ask, gradients, logprobs_alone, read, read_all_alone, write_text
from tiny_models import MODELS, TinyModel

from mmdpo.corruption import load
from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Item
from mmdpo.data.prepare import PreparedExample, Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.examples import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, PreferenceExample
from mmdpo.families import Family, find_family
from mmdpo.scoring.forward import CellLogprobs, Scorer
from mmdpo.training.build import PARTS, disable_dropout, freeze_parts

MDPO = (Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED), Cell(CORRUPTED, CHOSEN))
TEXT_ALONE = (Cell(NO_IMAGE, CHOSEN), Cell(NO_IMAGE, REJECTED))
CELLS = MDPO + TEXT_ALONE


@pytest.fixture(params=list(MODELS))
def tiny(request):
    return MODELS[request.param]()


# -- the data ---------------------------------------------------------------------------------------------------------


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A picture with coarse shapes in it, so that crops and sizes differ in what the vision tower sees."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.NEAREST)


def conversation(tiny: TinyModel, text: str, chosen: str, rejected: str, *images: Image.Image) -> PreferenceExample:
    """An example as chat turns where the processor has a template, and as plain text where it has none."""
    if not tiny.processor.chat_template:
        return plain(text, chosen, rejected, *images)
    answers = {CHOSEN: chosen, REJECTED: rejected}
    return PreferenceExample(id=text, prompt=ask(text, len(images)), responses=answers, images=images)


def plain(text: str, chosen: str, rejected: str, *images: Image.Image) -> PreferenceExample:
    prompt = f"USER: {'<image>' * len(images)}\n{text} ASSISTANT:" if images else f"USER: {text} ASSISTANT:"
    answers = {CHOSEN: f" {chosen}", REJECTED: f" {rejected}"}
    return PreferenceExample(id=text, prompt=prompt, responses=answers, images=images)


def two_pairs(tiny: TinyModel) -> list[PreferenceExample]:
    """Prompts, answers and pictures of different lengths and shapes; one row brings its own corrupted picture."""
    longer = "Two people walk along the street, under a blue sky."
    second = plain("Describe the scene.", "The sky is blue.", longer, picture(2, 18, 33))
    return [
        conversation(tiny, "What is in the picture?", "There is a red cup.", "A dog.", picture(1, 40, 20)),
        replace(second, rejected_images=(picture(3, 30, 18),)),
    ]


def prepare(
    tiny: TinyModel, examples: list[PreferenceExample], cells: tuple[Cell, ...]
) -> tuple[list[PreparedExample], Batch]:
    renderer = Renderer(tiny.processor, find_family(tiny.model.config))
    preparer = Preparer(renderer, cells, {CORRUPTED: load("crop_0_20")}, seed=0)
    prepared = [preparer(Item(example, place)) for place, example in enumerate(examples)]
    return prepared, Collator(preparer).collate(prepared)


def score(
    tiny: TinyModel, batch: Batch, cells: tuple[Cell, ...], *, collated: tuple[Cell, ...] = (), **options: Any
) -> CellLogprobs:
    return Scorer(tiny.model, find_family(tiny.model.config), collated or cells)(batch, cells, **options)


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        near = 1e-5 + 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=near, msg=lambda m, n=name: f"{n}: {m}")


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_logprobs_and_gradients_are_those_of_plain_forwards(tiny):
    prepared, batch = prepare(tiny, two_pairs(tiny), CELLS)
    alone = logprobs_alone(tiny, read_all_alone(tiny, prepared, CELLS))
    together = score(tiny, batch, CELLS).logprobs
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    expected = gradients(tiny, alone)
    part_of = find_family(tiny.model.config).locate_parts(tiny.model).part_of
    assert {part_of(name) for name in expected} == set(PARTS)
    assert_same_gradients(gradients(tiny, together), expected)


def test_training_with_recomputed_activations_changes_nothing(tiny):
    _, batch = prepare(tiny, two_pairs(tiny), CELLS)
    logprobs = score(tiny, batch, CELLS).logprobs
    training = replace(tiny, model=copy.deepcopy(tiny.model).train())
    disable_dropout(training.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers renames it, from 5.23 on
        training.model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = score(training, batch, CELLS).logprobs
    torch.testing.assert_close(trained, logprobs, rtol=1e-4, atol=1e-5)
    assert_same_gradients(gradients(training, trained), gradients(tiny, logprobs))


def test_prompts_of_a_batch_have_several_images_one_or_none(tiny):
    cells = (Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED))
    pictures = (picture(4, 26, 26), picture(5, 40, 14))
    examples = [
        conversation(tiny, "Describe the pictures.", "A cup.", "Two dogs.", *pictures),
        conversation(tiny, "Describe the street.", "It is blue.", "People walk."),
        conversation(tiny, "What is in the picture?", "The sky.", "There is a red cup.", picture(6, 16, 40)),
    ]
    prepared, batch = prepare(tiny, examples, cells)
    with torch.no_grad():
        alone = logprobs_alone(tiny, read_all_alone(tiny, prepared, cells))
        torch.testing.assert_close(score(tiny, batch, cells).logprobs, alone, rtol=1e-4, atol=1e-5)


def test_a_cell_depends_on_its_own_answer_and_image(tiny):
    examples = two_pairs(tiny)
    longer = {**examples[0].responses, REJECTED: "Two small dogs walk on the table, under the cup."}
    answered = [replace(examples[0], responses=longer), examples[1]]
    seen = [replace(examples[0], images=(picture(7, 40, 20),)), examples[1]]
    with torch.no_grad():
        before, other_answer, other_image = (
            score(tiny, prepare(tiny, changed, CELLS)[1], CELLS).logprobs for changed in (examples, answered, seen)
        )
    first = torch.tensor([True, False])
    is_answer = torch.tensor([cell.response == REJECTED for cell in CELLS])[:, None] & first
    is_image = torch.tensor([cell.image != NO_IMAGE for cell in CELLS])[:, None] & first
    for after, changed in ((other_answer, is_answer), (other_image, is_image)):
        torch.testing.assert_close(after[~changed], before[~changed], rtol=1e-5, atol=1e-5)
        assert bool(((after - before)[changed].abs() > 1e-3).all())


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_prompt_tokens_are_those_of_generation(tiny):
    prepared, batch = prepare(tiny, two_pairs(tiny), CELLS)
    contexts = [p.contexts[version] for version in (ORIGINAL, CORRUPTED, NO_IMAGE) for p in prepared]
    for row, context in enumerate(contexts):
        ids = batch["prompt_ids"][row][batch["prompt_mask"][row]].tolist()
        example = prepared[row % len(prepared)].item.example
        if isinstance(example.prompt, str):
            text, _ = write_text(tiny, example, Cell(context.version, CHOSEN))
            expected = read(tiny, text, context.images)
        else:
            content = [{"type": "image", "image": image} for image in context.images]
            question = [{"role": "user", "content": content + list(example.prompt[0]["content"][-1:])}]
            options = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
            expected = tiny.processor.apply_chat_template(question, **options)
        assert ids == expected["input_ids"][0].tolist()
        if tiny.bos:
            assert ids.count(tiny.processor.tokenizer.convert_tokens_to_ids(tiny.bos)) == 1


def test_answer_tokens_are_the_words_and_the_end(tiny):
    tokenizer = tiny.processor.tokenizer
    prepared, batch = prepare(tiny, two_pairs(tiny), MDPO)
    rows = zip(batch["answer_ids"], batch["answer_mask"], strict=True)
    written = [tokenizer.decode(ids[mask]).lstrip() for ids, mask in rows]
    ends = [tiny.end_of_turn if tiny.processor.chat_template else tokenizer.eos_token, tokenizer.eos_token] * 2
    answers = [p.item.example.responses[name].strip() for name in (CHOSEN, REJECTED) for p in prepared]
    assert written == [answer + end for answer, end in zip(answers, ends, strict=True)]


def test_the_generic_family_finds_the_mark_of_an_image(tiny):
    assert Family().image_placeholder(tiny.processor) == tiny.placeholder


# -- work -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calls:
    """What went through vision tower and output head."""

    tower: list[int]
    """Pixel values in each call of the vision tower."""
    head: list[int]
    """Positions in each call of the output head."""


@contextmanager
def watch(model: Any) -> Iterator[Calls]:
    calls = Calls([], [])
    names = ("vision_tower", "vision_model", "visual")
    tower = next(module for name, module in model.named_modules() if name.split(".")[-1] in names)

    def look_at_tower(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.tower.append((args[0] if args else kwargs["pixel_values"]).numel())

    def look_at_head(_: Any, __: Any, logits: torch.Tensor) -> None:
        calls.head.append(logits.shape[:-1].numel())

    hooks = [
        tower.register_forward_pre_hook(look_at_tower, with_kwargs=True),
        model.get_output_embeddings().register_forward_hook(look_at_head),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def test_each_image_is_encoded_once_and_the_head_sees_answers_alone(tiny):
    # Pictures of one shape: those of different shapes are padded to each other, which is work of the model's own.
    examples = [replace(e, images=(picture(n, 32, 16),), rejected_images=()) for n, e in enumerate(two_pairs(tiny))]
    prepared, batch = prepare(tiny, examples, CELLS)
    assert int(batch["image_counts"].sum()) == 4
    memo: dict[str, Any] = {}
    with torch.no_grad(), watch(tiny.model) as alone:
        for row in read_all_alone(tiny, prepared, (Cell(ORIGINAL, CHOSEN), Cell(CORRUPTED, CHOSEN))):
            for whole in row:
                tiny.model(**whole.inputs)
    with torch.no_grad(), watch(tiny.model) as first:
        scored = score(tiny, batch, CELLS, memo=memo)
    with torch.no_grad(), watch(tiny.model) as second:
        again = score(tiny, batch, CELLS, memo=memo)
    assert len(alone.tower) == 4
    assert first.tower == [sum(alone.tower)]
    assert second.tower == []
    assert torch.equal(scored.logprobs, again.logprobs)
    assert scored.tokens.tolist() == [[len(p.answers[cell.response]) for p in prepared] for cell in CELLS]
    assert first.head == second.head == [int(scored.tokens.sum())]


def test_prompts_without_images_need_no_image(tiny):
    prepared, batch = prepare(tiny, two_pairs(tiny), TEXT_ALONE)
    assert batch["image_inputs"] == {}
    with torch.no_grad(), watch(tiny.model) as calls:
        alone = logprobs_alone(tiny, read_all_alone(tiny, prepared, TEXT_ALONE))
        torch.testing.assert_close(score(tiny, batch, TEXT_ALONE).logprobs, alone, rtol=1e-4, atol=1e-5)
        _, with_images = prepare(tiny, two_pairs(tiny), CELLS)
        among_others = score(tiny, with_images, TEXT_ALONE, collated=CELLS)
    torch.testing.assert_close(among_others.logprobs, alone, rtol=1e-4, atol=1e-5)
    assert calls.tower == []


# -- parts ------------------------------------------------------------------------------------------------------------


def test_every_parameter_has_its_part(tiny):
    model = copy.deepcopy(tiny.model)
    family = find_family(model.config)
    located = family.locate_parts(model)
    text = {id(p) for module in (model.get_decoder(), model.get_output_embeddings()) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        between = any(word in name for word in tiny.projector)
        outside = "projector" if between else "vision_tower"
        assert located.part_of(name) == ("language_model" if id(parameter) in text else outside), name

    freeze_parts(model, family, SimpleNamespace(freeze_projector=True, freeze_vision_tower=True))
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == text


def test_lora_adapts_every_linear_layer_of_the_language_model_alone(tiny):
    model = copy.deepcopy(tiny.model)
    in_decoder = {id(module) for module in model.get_decoder().modules()}
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    expected = {name for name, module in linear if id(module) in in_decoder}

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=find_family(model.config).lora_targets(model)))
    found = {name for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert {name.removeprefix("base_model.model.") for name in found} == expected

    _, batch = prepare(tiny, two_pairs(tiny), MDPO)
    with torch.no_grad():
        fresh = score(replace(tiny, model=adapted), batch, MDPO).logprobs
        torch.testing.assert_close(fresh, score(tiny, batch, MDPO).logprobs)
