"""What scoring promises for every model family: the same numbers as one plain forward per sequence, at less work.

The other side of every comparison, `plain_forwards`, reads a whole conversation with the model's own processor,
unpadded and one at a time, and takes a softmax over the full logits.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    CELLS,
    MDPO,
    TEXT_ALONE,
    Case,
    Plain,
    assert_same_gradients,
    assert_same_logprobs,
    conversation,
    make_case,
    picture,
    plain_logprobs,
    plain_pairs,
    plain_pairs_of_one_picture,
    prepare,
    prepare_pairs,
    prepare_pairs_of_one_picture,
    score_plainly,
    split_cells,
    two_pairs,
)
from families_table import read_table, render_table, run_all
from peft import LoraConfig, get_peft_model
from plain_forwards import gradients, read, read_all_alone, write_text
from tiny_models import EVERY, MODELS, TinyModel, say_what_is_missing
from torch.overrides import TorchFunctionMode

from mmdpo.corruption import load
from mmdpo.data.collate import Batch, Collator
from mmdpo.data.items import Item
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import PARTS, Family, find_family
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import add_adapter, describe_unreached, disable_dropout, freeze_parts
from mmdpo.objective import build_objective
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, response_names
from mmdpo.training.config import MDPOConfig


@pytest.fixture(params=list(MODELS))
def tiny(request):
    return MODELS[request.param]()


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    return make_case(*request.param)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_logprobs_and_gradients_are_those_of_plain_forwards(case):
    _, batch = prepare_pairs(case.tiny, CELLS)
    alone = plain_pairs(case.tiny, CELLS)
    scored = case.score(batch, CELLS)
    assert_same_logprobs(split_cells(scored), alone.logprobs)
    sums = torch.stack([tokens.sum() for tokens in alone.logprobs])
    torch.testing.assert_close(scored.logprobs.flatten(), sums, rtol=1e-5, atol=1e-5)
    assert scored.tokens.flatten().tolist() == [len(tokens) for tokens in alone.logprobs]

    part_of = find_family(case.model.config).locate_parts(case.model).part_of
    assert {part_of(name) for name in alone.gradients} == set(PARTS)
    assert_same_gradients(gradients(case.scored, split_cells(scored)), alone.gradients)


def test_pairs_that_share_a_picture_have_the_logprobs_and_gradients_of_plain_forwards(case):
    _, batch = prepare_pairs_of_one_picture(case.tiny)
    alone = plain_pairs_of_one_picture(case.tiny)
    found = split_cells(case.score(batch, CELLS))
    assert_same_logprobs(found, alone.logprobs)
    # One gate of Gemma 4 is 1.3e-5 away, in separate rows too; with LLaVA and Gemma 3 all are below 1e-6.
    within = 3e-5 if case.model.config.model_type == "gemma4" else 1e-5
    assert_same_gradients(gradients(case.scored, found), alone.gradients, within)


def test_a_picture_is_encoded_once_and_what_prompts_have_in_common_is_read_once(case):
    prepared, batch = prepare_pairs_of_one_picture(case.tiny)
    with images_given(case.model) as given, torch.no_grad():
        case.score(batch, CELLS)
    if case.model.config.model_type == "lfm2_vl":
        pytest.skip("its processor does not say which of its tiles belong to which picture: nothing is left out")
    assert batch["images_of"] == [0, 0, 0, 0, 4, 5, 5, 5, 5, 9, *range(10, 15)]
    contexts = [prepared[place].contexts[version] for version in (ORIGINAL, CORRUPTED) for place in (0, 4)]
    own = [read(case.tiny, context.text, context.images)["pixel_values"] for context in contexts]
    assert given[0] == sum(map(len, own))
    trees = case.scorer(batch, CELLS).plan(batch, CELLS).trees
    if case.way == "separate":
        assert len(trees) == 25
        return
    roots = {tree.context for tree in trees}
    tokens = sum(tree.length for tree in trees)
    apart = {**batch, "begins_as": [(k, 0) for k in range(15)], "answers_as": list(range(10))}
    before = sum(tree.length for tree in case.scorer(apart, CELLS).plan(apart, CELLS).trees)
    family = find_family(case.model.config)
    forks = not family.both_directions and family.image_token_id(case.tiny.processor) is not None
    if case.way == "shared" and forks:
        # The tree of a picture has its three questions, and that of the corrupted one; texts are too short to join.
        assert {0, 4, 5, 9} <= roots
        assert not roots & {1, 2, 3, 6, 7, 8}
    elif case.way == "shared":
        assert {0, 1, 3, 4} <= roots
        assert 2 not in roots
    assert tokens < before


@contextmanager
def images_given(model: Any) -> Iterator[list[int]]:
    """Counts the entries of what the encoder is given, at each call: pictures, tiles or patches."""
    owners = {type(module) for module in model.modules() if hasattr(type(module), "get_image_features")}
    calls = list[int]()
    with pytest.MonkeyPatch.context() as patch:
        for owner in owners:
            patch.setattr(owner, "get_image_features", _listen(owner.get_image_features, calls))
        yield calls


def _listen(read_images: Any, calls: list[int]) -> Any:
    @functools.wraps(read_images)
    def listen(self: Any, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(pixel_values))
        return read_images(self, pixel_values, *args, **kwargs)

    return listen


def test_rows_are_what_the_name_of_the_way_says(case):
    """The other tests would hold as well if nothing was shared or packed."""
    _, batch = prepare_pairs(case.tiny, CELLS)
    scorer = case.scorer(batch, CELLS)
    rows = scorer.plan(batch, CELLS)
    trees = [sum(tree.row == row for tree in rows.trees) for row in range(len(rows.input_ids))]
    branches = sorted(len(tree.branches) - 1 for tree in rows.trees)
    if case.way == "separate":
        assert trees == [1] * 10
    elif case.way == "shared":
        assert (trees, branches) == ([6], [1, 1, 2, 2, 2, 2])
        assert rows.attention_mask.all()
    else:
        assert branches == [1, 1, 2, 2, 2, 2]
        assert len(trees) > 1
        assert max(trees) > 1, [(tree.length, scorer.max_tokens_per_row) for tree in rows.trees]
        assert not rows.attention_mask.all()
        assert rows.trees[0].length == rows.input_ids.shape[1] > scorer.max_tokens_per_row


@pytest.mark.parametrize("objective", ["dpo", "mdpo", "svco"])
def test_two_three_and_six_cells_have_the_logprobs_of_plain_forwards(case, objective):
    cells = build_objective(objective).cells
    assert len(cells) == {"dpo": 2, "mdpo": 3, "svco": 6}[objective]
    _, batch = prepare_pairs(case.tiny, cells)
    with torch.no_grad():
        assert_same_logprobs(split_cells(case.score(batch, cells)), plain_logprobs(case.tiny, cells))


def test_training_with_recomputed_activations_changes_nothing(case):
    _, batch = prepare_pairs(case.tiny, CELLS)
    logprobs = split_cells(case.score(batch, CELLS))
    training = replace(case, model=copy.deepcopy(case.model).train())
    disable_dropout(training.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers renames it, from 5.23 on
        training.model.gradient_checkpointing_enable({"use_reentrant": False})
        trained = split_cells(training.score(batch, CELLS))
        found = gradients(training.scored, trained)
    assert_same_logprobs(trained, logprobs)
    assert_same_gradients(found, gradients(case.scored, logprobs))


@functools.cache
def several_images_one_or_none(tiny: TinyModel) -> tuple[Batch, Plain]:
    pictures, cells = (picture(4, 26, 26), picture(5, 40, 14)), MDPO[:2]
    examples = [
        conversation(tiny, "Describe the pictures.", "A cup.", "Two dogs.", *pictures),
        conversation(tiny, "Describe the street.", "It is blue.", "People walk."),
        conversation(tiny, "What is in the picture?", "The sky.", "There is a red cup.", picture(6, 16, 40)),
    ]
    prepared, batch = prepare(tiny, examples, cells)
    return batch, score_plainly(tiny, prepared, cells)


def test_prompts_of_a_batch_have_several_images_one_or_none(case):
    batch, alone = several_images_one_or_none(case.tiny)
    found = split_cells(case.score(batch, MDPO[:2]))
    assert_same_logprobs(found, alone.logprobs)
    assert_same_gradients(gradients(case.scored, found), alone.gradients)


def test_a_cell_depends_on_its_own_answer_and_image(case):
    """An answer of another length stands elsewhere in the row, and so does what follows it."""
    examples = two_pairs(case.tiny)
    longer = {**examples[0].responses, REJECTED: "Two small dogs walk on the table, under the cup."}
    answered = [replace(examples[0], responses=longer), examples[1]]
    seen = [replace(examples[0], images=(picture(7, 40, 20),)), examples[1]]
    with torch.no_grad():
        before, other_answer, other_image = (
            case.score(prepare(case.tiny, changed, CELLS)[1], CELLS).logprobs for changed in (examples, answered, seen)
        )
    first = torch.tensor([True, False])
    is_answer = torch.tensor([cell.response == REJECTED for cell in CELLS])[:, None] & first
    is_image = torch.tensor([cell.image != NO_IMAGE for cell in CELLS])[:, None] & first
    for after, changed in ((other_answer, is_answer), (other_image, is_image)):
        torch.testing.assert_close(after[~changed], before[~changed], rtol=1e-5, atol=1e-5)
        assert bool(((after - before)[changed].abs() > 1e-3).all())


def test_other_words_change_not_one_bit_of_any_other_cell(case):
    """Words are exchanged for as many others, so that every matrix keeps its shape and rounding is the same."""
    _, batch = prepare_pairs(case.tiny, CELLS)
    with torch.no_grad():
        before = split_cells(case.score(batch, CELLS))
        for answer, (response, example) in enumerate((r, b) for r in response_names(CELLS) for b in range(2)):
            ids = batch["answer_ids"].copy()
            length = int(batch["answer_mask"][answer].sum())
            ids[answer, :length] = ids[answer, :length][::-1]
            after = split_cells(case.score({**batch, "answer_ids": ids}, CELLS))
            for place, (ours, theirs) in enumerate(zip(after, before, strict=True)):
                is_its_own = CELLS[place // 2].response == response and place % 2 == example
                assert torch.equal(ours, theirs) != is_its_own, (CELLS[place // 2], place % 2)


def test_its_checkpoint_is_found_whole(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    options = MDPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none").load_options()
    assert type(load_model(resolve_start(str(tmp_path), options))) is type(tiny.model)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_prompt_tokens_are_those_of_generation(tiny):
    prepared, batch = prepare_pairs(tiny, CELLS)
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
    prepared, batch = prepare_pairs(tiny, MDPO)
    rows = zip(batch["answer_ids"], batch["answer_mask"], strict=True)
    written = [tokenizer.decode(ids[mask]).lstrip() for ids, mask in rows]
    ends = [tiny.end_of_turn if tiny.processor.chat_template else tokenizer.eos_token, tokenizer.eos_token] * 2
    answers = [p.item.example.responses[name].strip() for name in (CHOSEN, REJECTED) for p in prepared]
    assert written == [answer + end for answer, end in zip(answers, ends, strict=True)]


@contextmanager
def texts_tokenised(tokenizer: Any) -> Iterator[list[str]]:
    """Lists every text that the tokenizer is given within it, whoever asks."""
    texts: list[str] = []
    kind, call = type(tokenizer), type(tokenizer).__call__

    def listen(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        texts.extend(text if isinstance(text, list) else [text])
        return call(self, text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__call__", listen)
        yield texts


def test_a_prompt_is_tokenised_once_for_all_answers_and_images(tiny):
    """What stands after its last special token is read again with each answer; tokens are those of the whole text."""
    long = " ".join(f"Is there a dog near house {number}, or a cat?" for number in range(40))
    tokenizer, family = tiny.processor.tokenizer, find_family(tiny.model.config)
    collator = Collator(Preparer(Renderer(tiny.processor, family), MDPO, {CORRUPTED: load("blur")}, seed=0))
    question, image = "What is in the picture?", picture(1, 24, 24)
    warm = conversation(tiny, f"Look. {question}", "Two dogs walk.", "The sky.", image)
    asked = conversation(tiny, f"{long} {question}", "There is a red cup.", "A dog.", image)
    collator([Item(warm, 0)])  # what is found out once for a processor is found out
    with texts_tokenised(tokenizer) as texts:
        prepared = collator.prepare(Item(asked, 0))
        batch = collator.collate([prepared])
    assert len(texts) == len(set(texts)), "a text is given twice"
    prompt = family.complete_prompt(tiny.processor, prepared.contexts[ORIGINAL].text)
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tail = prompt[max(prompt.rfind(token) for token in added) :]
    answers = collator.prepare.renderer.render(asked, (CHOSEN, REJECTED), with_images=True).answers
    with_answers = [text for text in texts if text.startswith(tail) and text != tail]
    (expanded,) = set(texts) - set(with_answers) - {tail}
    assert "house 0," in expanded, "the prompt with the places of its image, as the processor writes it"
    # Where no token ends a turn, an answer is seen before its end is added, and after.
    assert {tail + text.rstrip() for text in answers.values()} <= {text.rstrip() for text in with_answers}
    assert len(with_answers) <= 2 * len(answers)

    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for name, text in answers.items():
        whole = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        assert whole[: len(before)] == before
        assert prepared.answers[name] == whole[len(before) :]
    rows = [row[mask].tolist() for row, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
    for row, version in zip(rows, (ORIGINAL, CORRUPTED), strict=True):
        context = prepared.contexts[version]
        assert row == read(tiny, context.text, context.images)["input_ids"][0].tolist()


def test_the_generic_family_finds_the_mark_of_an_image(tiny):
    assert Family().image_placeholder(tiny.processor) == tiny.placeholder


# -- work -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calls:
    """What went through vision tower and output head."""

    tower: list[int]
    """Pixel values in each call of the vision tower."""
    head: list[int]
    """Positions that each product with the output head's weight was made for."""


class _CountHead(TorchFunctionMode):
    """Counts what is multiplied by a weight, whoever calls for it."""

    def __init__(self, weight: torch.Tensor, calls: list[int]) -> None:
        super().__init__()
        self.weight, self.calls = weight, calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(argument is self.weight for argument in args) and func is torch.nn.functional.linear:
            self.calls.append(args[0].shape[:-1].numel())
        return func(*args, **kwargs or {})


@contextmanager
def watch(model: Any) -> Iterator[Calls]:
    calls = Calls([], [])
    names = ("vision_tower", "vision_model", "vision_encoder", "visual")
    tower = next(module for name, module in model.named_modules() if name.split(".")[-1] in names)

    def look_at_tower(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.tower.append((args[0] if args else kwargs["pixel_values"]).numel())

    hook = tower.register_forward_pre_hook(look_at_tower, with_kwargs=True)
    try:
        with _CountHead(model.get_output_embeddings().weight, calls.head):
            yield calls
    finally:
        hook.remove()


def test_each_image_is_encoded_once_and_the_head_sees_answers_alone(case):
    # Pictures of one shape: those of different shapes are padded to each other, which is work of the model's own.
    pairs = enumerate(two_pairs(case.tiny))
    examples = [replace(pair, images=(picture(n, 32, 16),), rejected_images=()) for n, pair in pairs]
    prepared, batch = prepare(case.tiny, examples, CELLS)
    assert int(batch["image_counts"].sum()) == 4
    memo: dict[str, Any] = {}
    with torch.no_grad(), watch(case.tiny.model) as alone:
        for row in read_all_alone(case.tiny, prepared, (Cell(ORIGINAL, CHOSEN), Cell(CORRUPTED, CHOSEN))):
            for whole in row:
                case.tiny.model(**whole.inputs)
    with torch.no_grad(), watch(case.model) as first:
        scored = case.score(batch, CELLS, memo=memo)
    with torch.no_grad(), watch(case.model) as second:
        again = case.score(batch, CELLS, memo=memo)
    assert len(alone.tower) == len(alone.head) == 4
    assert first.tower == [sum(alone.tower)]
    assert second.tower == []
    assert torch.equal(scored.logprobs, again.logprobs)
    assert scored.tokens.tolist() == [[len(p.answers[cell.response]) for p in prepared] for cell in CELLS]
    assert first.head == second.head == [int(scored.tokens.sum())]


def test_prompts_without_images_need_no_image(case):
    _, batch = prepare_pairs(case.tiny, TEXT_ALONE)
    assert batch["image_inputs"] == {}
    alone = plain_logprobs(case.tiny, TEXT_ALONE)
    with torch.no_grad(), watch(case.model) as calls:
        assert_same_logprobs(split_cells(case.score(batch, TEXT_ALONE)), alone)
        _, with_images = prepare_pairs(case.tiny, CELLS)
        assert_same_logprobs(split_cells(case.score(with_images, TEXT_ALONE, collated=CELLS)), alone)
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

    freeze_parts(model, family, ["language_model"])
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == text


def is_adaptable(tiny: TinyModel, name: str, module: Any) -> bool:
    """Says whether LoRA changes what a layer does: not where nobody calls it, and not what returns no product."""
    around = tiny.model.get_submodule(name.rpartition(".")[0])
    is_called = not isinstance(around, torch.nn.MultiheadAttention)
    is_known = type(tiny.model).__name__ != "Glm4vMoeForConditionalGeneration" or name.split(".")[-1] not in GLM_MLP
    returns_product = "Router" not in type(module).__name__
    return isinstance(module, torch.nn.Linear) and is_called and returns_product and is_known


GLM_MLP = ("gate_proj", "up_proj", "down_proj")
"""What PEFT takes for names of experts, of which transformers 4 had a module each."""


def test_lora_adapts_every_linear_layer_of_the_language_model_alone(tiny):
    model = copy.deepcopy(tiny.model)
    in_decoder = {id(module) for module in model.get_decoder().modules()}
    linear = ((name, module) for name, module in model.named_modules() if is_adaptable(tiny, name, module))
    head = model.get_output_embeddings()  # which Llama 4 has inside its decoder
    expected = {name for name, module in linear if id(module) in in_decoder and module is not head}

    adapted = add_adapter(model, find_family(model.config), LoraConfig(r=2), ["language_model"])
    found = {name for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert {name.removeprefix("base_model.model.") for name in found} == expected

    _, batch = prepare_pairs(tiny, MDPO)
    with torch.no_grad():
        fresh, bare = (Case(tiny, "separate", of).score(batch, MDPO).logprobs for of in (adapted, tiny.model))
        torch.testing.assert_close(fresh, bare)


@pytest.mark.parametrize("parts", [PARTS, PARTS[:1], PARTS[:2], PARTS[::2]], ids="-".join)
def test_lora_patterns_match_the_linear_layers_of_their_parts_and_nothing_else(tiny, parts):
    family, model = find_family(tiny.model.config), tiny.model
    located = family.locate_parts(model)
    expected = {
        name
        for name, module in model.named_modules()
        if is_adaptable(tiny, name, module) and name != located.head and located.part_of(name) in parts
    }
    pattern = family.lora_targets(model, parts)
    assert {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)} == expected
    outside = located.pattern_of([part for part in PARTS if part not in parts])
    names = [name for name, _ in model.named_modules() if name]
    assert {name for name in names if re.fullmatch(outside, name)} == {
        name for name in names if located.part_of(name) not in parts
    }
    get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=pattern))


# -- mixtures of experts ----------------------------------------------------------------------------------------------

MIXTURES = [
    name for name in ("qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "gemma4_moe", "llama4", "kimi_k25") if name in MODELS
]


@pytest.mark.parametrize("name", MODELS)
def test_every_mixture_is_tried_as_one(name):
    is_mixture = any("experts" in parameter for parameter, _ in MODELS[name]().model.named_parameters())
    assert is_mixture == (name in MIXTURES)


@pytest.mark.parametrize(("name", "way"), [case for case in CASES if case[0] in MIXTURES], ids="-".join)
def test_losses_that_balance_experts_are_in_no_score_and_no_gradient(name, way):
    case = make_case(name, way)
    balanced = copy.deepcopy(case.model)
    for config in (balanced.config, balanced.config.get_text_config()):
        config.output_router_logits, config.router_aux_loss_coef = True, 10.0
    _, batch = prepare_pairs(case.tiny, CELLS)
    expected, found = (split_cells(replace(case, model=of).score(batch, CELLS)) for of in (case.model, balanced))
    assert_same_logprobs(found, expected)
    tiny = replace(case.tiny, model=balanced)
    assert_same_gradients(gradients(tiny, found), gradients(case.scored, expected))


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_lora_does_not_reach_are_named(name):
    model = copy.deepcopy(MODELS[name]().model)
    family = find_family(model.config)
    told = describe_unreached(add_adapter(model, family, LoraConfig(r=2), ["language_model"]), family, PARTS[:1])
    assert re.search(r"does not reach \d+ matrices .*experts.*target_parameters", told)


def test_an_adapter_that_peft_puts_elsewhere_is_refused():
    tiny = MODELS["glm4v_moe"]()
    with pytest.raises(ValueError, match=r"PEFT adapts other layers of Glm4vMoeFor.* than were meant"):
        add_adapter(copy.deepcopy(tiny.model), Family(), LoraConfig(r=2), ["language_model"])


@pytest.mark.parametrize("name", [name for name in EVERY if name not in MODELS])
def test_a_model_is_left_out_for_want_of_a_package(name):
    pytest.skip(f"{name} {say_what_is_missing(name)}")


@pytest.mark.slow
@pytest.mark.skipif(not run_all(), reason="this transformers does not run all of the models")
def test_the_table_of_the_docs_is_that_of_these_tests():
    assert read_table() == render_table(), "python tests/contract/families_table.py writes it"
