"""Options that make a processor read pictures and prompts as the original model's training did."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from mmdpo import MDPOTrainer
from mmdpo.models.families import VICUNA
from mmdpo.models.load import load_processor
from mmdpo.models.start import resolve_start
from mmdpo.training.config import MDPOConfig
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
from tiny_models import MODELS

TURNS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
OPENING = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    made = MODELS["llava_1_5"]()
    made.model.config.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    return str(folder)


def config(tmp_path, **options):
    return MDPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", **options)


def test_llava_pads_with_its_mean_colour_before_it_resizes(checkpoint, tmp_path):
    picture = Image.effect_noise((45, 20), 90).convert("RGB")
    cropped = load_processor(resolve_start(checkpoint, config(tmp_path).load_options()))
    padded = load_processor(resolve_start(checkpoint, config(tmp_path, pad_to_square=True).load_options()))
    square = Image.new("RGB", (45, 45), (122, 116, 104))
    square.paste(picture, (0, 12))
    expected = np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    images = cropped.image_processor
    expected = (expected - np.array(images.image_mean)) / np.array(images.image_std)
    found = np.asarray(padded.image_processor(picture)["pixel_values"][0])
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)
    assert np.abs(found - np.asarray(images(picture)["pixel_values"][0])).max() > 0.5

    padded.save_pretrained(tmp_path / "saved")
    again = AutoProcessor.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(np.asarray(again.image_processor(picture)["pixel_values"][0]), found, atol=1e-6)


def test_padding_is_refused_where_it_is_unknown(tmp_path):
    made = MODELS["idefics3"]()
    made.model.config.save_pretrained(tmp_path / "model")
    made.processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"pad_to_square works for LLaVA-1\.5 and its kin; Idefics3Processor"):
        load_processor(resolve_start(str(tmp_path / "model"), config(tmp_path, pad_to_square=True).load_options()))


def test_the_chat_template_can_be_llava_s_own_or_a_file(checkpoint, tmp_path):
    processor = load_processor(resolve_start(checkpoint, config(tmp_path, chat_template="vicuna").load_options()))
    prompt = processor.apply_chat_template(TURNS, add_generation_prompt=True)
    assert prompt == f"{OPENING}USER: <image>\nWhat is this? ASSISTANT:"
    answered = [*TURNS, {"role": "assistant", "content": "A cup."}]
    assert processor.apply_chat_template(answered) == f"{prompt} A cup.</s>"
    (tmp_path / "mine.jinja").write_text("mine")
    other = load_processor(
        resolve_start(checkpoint, config(tmp_path, chat_template=str(tmp_path / "mine.jinja")).load_options())
    )
    assert other.apply_chat_template(TURNS) == "mine"
    with pytest.raises(ValueError, match=r"there is no file nowhere\.jinja"):
        load_processor(resolve_start(checkpoint, config(tmp_path, chat_template="nowhere.jinja").load_options()))
    assert VICUNA.is_file()


@pytest.mark.parametrize("options", [{"chat_template": "vicuna"}, {"pad_to_square": True}])
def test_options_for_a_processor_that_is_given_are_not_ignored(tmp_path, options):
    made = MODELS["llava_1_5"]()
    args = MDPOConfig(output_dir=str(tmp_path), **options)
    with pytest.raises(ValueError, match="set them on that processor"):
        MDPOTrainer(made.model, args=args, train_dataset=[{}], processing_class=made.processor)


THINKING = "{% if add_generation_prompt and enable_thinking %}<think>{% endif %}"


def test_variables_of_the_template_are_those_of_the_run_and_of_what_it_saves(checkpoint, tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text(VICUNA.read_text(encoding="utf-8") + THINKING, encoding="utf-8")
    options = config(tmp_path, chat_template=str(file), chat_template_kwargs='{"enable_thinking": true}')
    processor = load_processor(resolve_start(checkpoint, options.load_options()))
    processor.save_pretrained(tmp_path / "saved")
    for made in (processor, AutoProcessor.from_pretrained(tmp_path / "saved")):
        assert made.apply_chat_template(TURNS, add_generation_prompt=True).endswith("ASSISTANT:<think>")
        plain = made.apply_chat_template(TURNS, add_generation_prompt=True, enable_thinking=False)
        assert plain.endswith("ASSISTANT:")


def test_variables_of_the_template_leave_a_processor_that_is_given_as_it_is(tmp_path):
    made = AutoProcessor.from_pretrained(CHECKPOINT)
    made.chat_template = before = made.chat_template + THINKING
    trainer = MDPOTrainer(
        model=str(CHECKPOINT),
        args=config(tmp_path, chat_template_kwargs={"enable_thinking": True}, precompute_ref_log_probs=False),
        train_dataset=make_pairs(2, seed=0),
        processing_class=made,
    )
    assert made.chat_template == before
    assert trainer.processing_class.apply_chat_template(TURNS, add_generation_prompt=True).endswith("<think>")
