"""Image reliance by token is what plain forwards say of each token, for every family, and stands where the token is."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from cases import SEPARATE_ALONE, conversation, picture, plain
from plain_forwards import logprob_alone, read_alone
from tiny_models import MODELS

import mmdpo
from mmdpo.corruption import corrupt_image, load
from mmdpo.diagnosis.pair_scores import OTHER
from mmdpo.models.seams import attention_of
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, Cell, RowError

ANSWERS = {CHOSEN: "There is a red cup, and a café.", REJECTED: "A dog 🐕 under it."}
SEPARATE = next(name for name in SEPARATE_ALONE if name in MODELS)


def images_of(example: Any, seed: int = 0) -> dict[str, tuple[Any, ...]]:
    """Returns the pictures of every version, made without the package's preparing."""
    corrupted = (
        corrupt_image(load("crop_0_20"), image, run_seed=seed, example_id=example.id, image_index=place)
        for place, image in enumerate(example.images)
    )
    return {ORIGINAL: example.images, CORRUPTED: tuple(corrupted), OTHER: (picture(7, 22, 30),), NO_IMAGE: ()}


@pytest.mark.parametrize("name", MODELS)
def test_every_token_has_the_difference_of_two_plain_forwards(name):
    tiny = MODELS[name]()
    example = conversation(tiny, "What is in the picture?", *ANSWERS.values(), picture(1, 40, 20))
    images = images_of(example)
    against = (CORRUPTED, OTHER, NO_IMAGE)
    found = mmdpo.score_tokens(
        copy.deepcopy(tiny.model), tiny.processor, example, against=against, other_images=images[OTHER]
    )
    assert [answer.name for answer in found] == [CHOSEN, REJECTED]
    for answer in found:
        alone = {}
        with torch.no_grad():
            for version, shown in images.items():
                # `read_alone` knows images or none by the cell.
                cell = Cell(NO_IMAGE if version == NO_IMAGE else ORIGINAL, answer.name)
                alone[version] = logprob_alone(tiny, read_alone(tiny, example, cell, shown))
        for version, expected in alone.items():
            torch.testing.assert_close(answer.logprobs[version], expected, rtol=0, atol=1e-5)
        for version in against:
            expected = alone[ORIGINAL] - alone[version]
            torch.testing.assert_close(answer.reliance(version), expected, rtol=1e-5, atol=1e-5)
            assert float(expected.abs().max()) > 0.01, "the images differ to this model"


@pytest.mark.parametrize("name", MODELS)
def test_tokens_stand_where_they_are_in_the_answer(name):
    tiny = MODELS[name]()
    example = conversation(tiny, "What is in the picture?", *ANSWERS.values(), picture(1, 40, 20))
    for answer in mmdpo.score_tokens(tiny.model, tiny.processor, example, against=[NO_IMAGE], try_first=False):
        assert len(answer.tokens) == len(answer.spans) == len(answer.reliance(NO_IMAGE))
        assert answer.text.strip() == ANSWERS[answer.name]
        pieces = list(dict.fromkeys(span for span in answer.spans if span[1] > span[0]))
        assert "".join(answer.text[start:end] for start, end in pieces) == answer.text
        assert all(one[1] == other[0] for one, other in itertools.pairwise(pieces))
        assert answer.spans[-1] == (len(answer.text),) * 2, "the end of the turn is no text of the answer"
        for token, (start, end) in zip(answer.tokens, answer.spans, strict=True):
            assert token == answer.text[start:end] or start == end


@pytest.mark.parametrize("name", ["llava_1_5", "qwen2_5_vl", SEPARATE])
def test_a_question_and_texts_are_asked_as_a_user_asks_them(name):
    tiny, image = MODELS[name](), picture(1, 40, 20)
    example = conversation(tiny, "What is it?", "A red cup.", "A dog.", image)
    asked = mmdpo.score_tokens(tiny.model, tiny.processor, "What is it?", ["A red cup.", "A dog."], [image], seed=3)
    given = mmdpo.score_tokens(tiny.model, tiny.processor, example, against=[NO_IMAGE])
    assert [answer.name for answer in asked] == ["0", "1"]
    for one, other in zip(asked, given, strict=True):
        assert (one.text, one.tokens, one.spans) == (other.text, other.tokens, other.spans)
        torch.testing.assert_close(one.reliance(NO_IMAGE), other.reliance(NO_IMAGE), rtol=0, atol=1e-5)


def test_many_answers_of_several_forwards_are_those_of_each_alone():
    tiny, image = MODELS["qwen2_vl"](), picture(1, 40, 20)
    texts = [f"There is cup {number} of {number % 3}." for number in range(18)]
    together = mmdpo.score_tokens(tiny.model, tiny.processor, "Describe the scene.", texts, [image])
    for text, answer in zip(texts, together, strict=True):
        (alone,) = mmdpo.score_tokens(tiny.model, tiny.processor, "Describe the scene.", [text], [image])
        assert alone.text == answer.text == text
        for version in (ORIGINAL, CORRUPTED, NO_IMAGE):
            torch.testing.assert_close(answer.logprobs[version], alone.logprobs[version], rtol=0, atol=1e-5)


def test_a_reference_is_scored_on_the_same_tokens_and_models_stay_in_their_mode():
    tiny = MODELS["llava_1_5"]()
    other = copy.deepcopy(tiny.model).train()
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(0.5)
    image = picture(1, 40, 20)
    (found,) = mmdpo.score_tokens(tiny.model, tiny.processor, "Describe it.", ["A cup."], [image], reference=other)
    (alone,) = mmdpo.score_tokens(other, tiny.processor, "Describe it.", ["A cup."], [image])
    assert other.training
    assert not tiny.model.training
    assert attention_of(tiny.model.get_decoder()) == attention_of(other.get_decoder()) == "sdpa"
    for against in (CORRUPTED, NO_IMAGE):
        torch.testing.assert_close(found.reference_reliance(against), alone.reliance(against))
    assert not torch.allclose(found.reliance(), found.reference_reliance())


def test_two_images_are_corrupted_and_left_out_together():
    tiny = MODELS["qwen2_vl"]()
    pictures = [picture(1, 40, 20), picture(2, 18, 33)]
    example = conversation(tiny, "What is on the table?", "A cup.", "A dog.", *pictures)
    (chosen, _) = mmdpo.score_tokens(tiny.model, tiny.processor, example)
    for version, shown in ((CORRUPTED, images_of(example)[CORRUPTED]), (NO_IMAGE, ())):
        cell = Cell(NO_IMAGE if version == NO_IMAGE else ORIGINAL, CHOSEN)
        with torch.no_grad():
            alone = logprob_alone(tiny, read_alone(tiny, example, cell, shown))
        torch.testing.assert_close(chosen.logprobs[version], alone, rtol=0, atol=1e-5)


def test_a_longer_answer_is_cut_where_training_cuts_it():
    tiny, image = MODELS["llava_1_5"](), picture(1, 40, 20)
    (whole,) = mmdpo.score_tokens(tiny.model, tiny.processor, "Describe it.", ["A red cup and a dog."], [image])
    for room in range(200):
        try:
            (cut,) = mmdpo.score_tokens(
                tiny.model, tiny.processor, "Describe it.", ["A red cup and a dog."], [image], max_length=room
            )
            break
        except RowError:
            continue
    assert len(cut.tokens) == 1
    assert (cut.tokens[0], cut.spans[0]) == (whole.tokens[0], whole.spans[0])
    torch.testing.assert_close(cut.reliance(), whole.reliance()[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(answers=[]), "there is no answer"),
        (dict(images=[]), "there is no image"),
        (dict(against=["blur"]), "against names blur: give one or more of corrupted, random_image, none"),
        (dict(against=[]), "against names nothing"),
        (dict(against=[OTHER]), "give 1 as other_images; got 0"),
        (dict(answers=[" "]), "`0` is empty"),
        (dict(images=["nowhere.png"]), "nowhere.png"),
    ],
)
def test_what_cannot_be_scored_is_said(changes, said):
    tiny = MODELS["llava_1_5"]()
    given = dict(answers=["A cup."], images=[picture(1, 40, 20)]) | changes
    with pytest.raises(ValueError, match=said):
        mmdpo.score_tokens(tiny.model, tiny.processor, "What is it?", **given)


def test_a_prompt_whose_template_is_applied_is_scored_as_it_stands():
    tiny = MODELS["bunny"]()
    example = plain("What is it?", "A cup.", "A dog.", picture(1, 40, 20))
    (chosen, _) = mmdpo.score_tokens(tiny.model, tiny.processor, example)
    with torch.no_grad():
        alone = logprob_alone(tiny, read_alone(tiny, example, Cell(ORIGINAL, CHOSEN), example.images))
    torch.testing.assert_close(chosen.logprobs[ORIGINAL], alone, rtol=0, atol=1e-5)
    assert chosen.text == " A cup."
