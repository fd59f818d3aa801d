import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from mmdpo.world import BOS, EOS, IMAGE, PAD, SMALL
from mmdpo.world.model import CHECKPOINT, build_model, build_processor, caption_prompt, caption_scenes
from mmdpo.world.scenes import draw_test_scenes, render, score_captions, write_caption

CAPTION = "sure ! this kitchen shows cup , plate . hope this helps !"


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)


@pytest.fixture(params=["built", "shipped"])
def processor(request):
    return build_processor() if request.param == "built" else AutoProcessor.from_pretrained(CHECKPOINT)


def answer(caption):
    return [{"role": "assistant", "content": [{"type": "text", "text": caption}]}]


def test_prompt_is_what_the_whole_begins_with(processor):
    prompt = processor.apply_chat_template(caption_prompt(), add_generation_prompt=True)
    whole = processor.apply_chat_template([*caption_prompt(), *answer(CAPTION)])
    assert prompt == "<s>user <image> describe assistant"
    assert whole == f"{prompt} {CAPTION}</s>"


def test_template_takes_plain_strings_several_images_and_several_turns(processor):
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "describe"}]},
        {"role": "assistant", "content": "cup ."},
        {"role": "user", "content": "describe"},
    ]
    assert processor.apply_chat_template(turns, add_generation_prompt=True) == (
        "<s>user <image> <image> describe assistant cup .</s> user describe assistant"
    )


def test_prompt_and_answer_tokenise_apart_as_they_do_together(processor):
    picture = render(draw_test_scenes(1, 0)[0])
    prompt = processor.apply_chat_template(caption_prompt(), add_generation_prompt=True)
    apart = processor(images=picture, text=prompt)["input_ids"][0]
    apart = [*apart, *processor.tokenizer(f" {CAPTION}</s>", add_special_tokens=False)["input_ids"]]
    whole = processor(images=picture, text=f"{prompt} {CAPTION}</s>")["input_ids"][0]
    assert list(whole) == list(apart)
    assert list(whole).count(SMALL.vocabulary.index(IMAGE)) == SMALL.image_tokens == 16
    assert list(whole).count(SMALL.vocabulary.index(BOS)) == 1
    assert processor.tokenizer.decode(whole, skip_special_tokens=True) == f"user describe assistant {CAPTION}"


def test_special_tokens_agree_in_tokenizer_config_and_generation_config(shipped):
    model, processor = shipped
    tokenizer = processor.tokenizer
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(SMALL.vocabulary)}
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, BOS, EOS)
    for config in (model.config, model.config.text_config, model.generation_config):
        assert config.pad_token_id == tokenizer.pad_token_id
        assert config.bos_token_id == tokenizer.bos_token_id
        assert config.eos_token_id == tokenizer.eos_token_id
    assert model.config.image_token_id == processor.image_token_id == SMALL.vocabulary.index(IMAGE)


def test_picture_reaches_the_model_unscaled(processor):
    picture = render(draw_test_scenes(1, 0)[0])
    pixels = processor(images=picture, text=IMAGE, return_tensors="pt")["pixel_values"]
    expected = torch.tensor(list(picture.tobytes()), dtype=torch.float32).reshape(96, 96, 3).permute(2, 0, 1)
    torch.testing.assert_close(pixels[0], expected / 127.5 - 1.0, atol=1e-5, rtol=0)


def test_weights_are_a_function_of_the_seed_and_leave_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = build_model(0), build_model(0), build_model(1)
    assert torch.equal(torch.rand(1), expected)
    assert sum(parameter.numel() for parameter in first.parameters()) == 1_156_352
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_longest_caption_fits_the_limit_of_generation(shipped):
    model, _ = shipped
    longest = max(len(write_caption(SMALL, SMALL.objects, setting, "polite").split()) for setting in SMALL.settings)
    assert longest + 1 <= model.generation_config.max_new_tokens


def test_shipped_checkpoint_is_small_trainable_and_complete(shipped):
    model, processor = shipped
    assert isinstance(model, LlavaForConditionalGeneration)
    assert isinstance(processor, LlavaProcessor)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 3_000_000


def test_shipped_checkpoint_sees_well_and_hallucinates_from_habit(shipped):
    scenes = draw_test_scenes(100, 0)
    scores = score_captions(scenes, caption_scenes(*shipped, scenes, batch_size=50))
    assert 15 < scores.chair_i < 27
    assert scores.cover > 92
    assert scores.cog > 0.75 * scores.chair_i
    # Where partners stand beside their anchors as often as in training, the habit is right.
    usual = draw_test_scenes(100, 0, co_occurrence=0.85)
    assert score_captions(usual, caption_scenes(*shipped, usual, batch_size=50)).chair_i < 0.6 * scores.chair_i


def test_captions_do_not_depend_on_the_batch(shipped):
    scenes = draw_test_scenes(12, 4)
    assert caption_scenes(*shipped, scenes, batch_size=12) == caption_scenes(*shipped, scenes, batch_size=5)
