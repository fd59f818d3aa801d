"""Where the prompt ends and the answer begins, with the kinds of tokenizers and templates that models have."""

import pytest
from transformers import AddedToken, LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmdpo.data.formats import mdpo_json
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import Family
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError
from tiny_tokenizers import (
    BRACKETS,
    CHATML,
    VICUNA,
    gemma_tokenizer,
    gpt2_tokenizer,
    llama_tokenizer,
    qwen_tokenizer,
    turn_template,
    unigram_tokenizer,
)

MAKE = {
    "gpt2": gpt2_tokenizer,
    "qwen": qwen_tokenizer,
    "llama": llama_tokenizer,
    "gemma": gemma_tokenizer,
    "unigram": unigram_tokenizer,
}
SPACE = {"gpt2": "Ġ", "qwen": "Ġ", "llama": "▁", "gemma": "▁", "unigram": "▁"}
"""What stands for a space at the beginning of a token."""
ADDS_BOS = ("llama", "gemma")
every_tokenizer = pytest.mark.parametrize("kind", MAKE)

PROMPT = "USER: What is in the picture? ASSISTANT:"
MARKED = "<|vision_start|><image><|vision_end|>"
CHATML_TEMPLATE = turn_template(**CHATML, image="<image>")


def make_renderer(kind, template=None):
    tokenizer = MAKE[kind]("<image>")
    processor = LlavaProcessor(
        SiglipImageProcessorPil(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    return Renderer(processor, Family())


def asked(text="What is in the picture?", chosen="There is a red cup.", rejected="A dog."):
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    turns = ({"role": "user", "content": parts},)
    return PreferenceExample(id="1", prompt=turns, responses={CHOSEN: chosen, REJECTED: rejected})


def render(renderer, example, with_images=True):
    return renderer.render(example, (CHOSEN, REJECTED), with_images=with_images)


# -- the boundary -----------------------------------------------------------------------------------------------------


@every_tokenizer
def test_prompt_and_answer_are_the_tokens_of_the_whole_text(kind):
    renderer = make_renderer(kind)
    answer = " There is a red cup on the table."
    answer_ids = renderer.answer_ids(PROMPT, answer)
    assert renderer.prompt_ids(PROMPT) + answer_ids == renderer.tokenizer(PROMPT + answer)["input_ids"]
    assert renderer.tokenizer.convert_ids_to_tokens(answer_ids)[0].startswith(f"{SPACE[kind]}The")


@pytest.mark.parametrize("kind", ["gpt2", "qwen", "llama", "gemma"])
@pytest.mark.parametrize("answer", ["There is a red cup.", "\nThere is a red cup."])
def test_no_merge_crosses_the_boundary_and_no_space_is_added(kind, answer):
    """A prompt that ends with a space or a line break keeps its tokens, and the answer its letters."""
    renderer = make_renderer(kind)
    for prompt in (f"{PROMPT} ", f"{PROMPT}\n"):
        ids = renderer.prompt_ids(prompt) + renderer.answer_ids(prompt, answer)
        assert ids[: len(renderer.prompt_ids(prompt))] == renderer.tokenizer(prompt)["input_ids"]
        assert renderer.tokenizer.decode(ids, skip_special_tokens=True) == prompt + answer


@every_tokenizer
def test_bos_stands_in_front_where_the_tokenizer_puts_it_and_once(kind):
    renderer = make_renderer(kind)
    tokenizer = renderer.tokenizer
    expected = [tokenizer.bos_token_id] if kind in ADDS_BOS else []
    assert renderer.opening_ids(PROMPT) == expected
    assert renderer.prompt_ids(PROMPT) == tokenizer(PROMPT)["input_ids"]
    if tokenizer.bos_token:
        written = f"{tokenizer.bos_token}{PROMPT}"
        assert renderer.opening_ids(written) == []
        assert renderer.prompt_ids(written).count(tokenizer.bos_token_id) == 1


def test_the_space_before_the_first_word_survives_bos():
    renderer = make_renderer("llama")
    assert renderer.tokenizer.convert_ids_to_tokens(renderer.prompt_ids("USER"))[:2] == ["<s>", "▁USER"]


# -- the end of an answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "template", "prompt", "answer"),
    [
        # A special token and a line break, EOS, or nothing at all, to which EOS is added in place of the space.
        (
            "qwen",
            CHATML_TEMPLATE,
            "<|im_start|>user\n<image>What is in the picture?<|im_end|>\n<|im_start|>assistant\n",
            "A dog.<|im_end|>\n",
        ),
        (
            "llama",
            turn_template(**BRACKETS, image="<image>\n"),
            "<s>[USER] <image>\nWhat is in the picture?</s>[ASSISTANT]",
            " A dog.</s>",
        ),
        ("llama", VICUNA, "USER: <image>\nWhat is in the picture? ASSISTANT:", " A dog.</s>"),
        ("gpt2", VICUNA, "USER: <image>\nWhat is in the picture? ASSISTANT:", " A dog.<|endoftext|>"),
    ],
)
def test_a_turn_ends_as_its_template_ends_it_or_with_eos(kind, template, prompt, answer):
    renderer = make_renderer(kind, template)
    text = render(renderer, asked())
    assert (text.prompt, text.answers[REJECTED]) == (prompt, answer)
    ids = renderer.answer_ids(text.prompt, text.answers[REJECTED])
    assert ids.count(renderer.tokenizer.eos_token_id) == 1
    assert renderer.tokenizer.decode(ids).lstrip() == answer.lstrip()


def test_text_that_happens_to_be_an_added_token_ends_no_turn():
    renderer = make_renderer("gemma", VICUNA)
    renderer.tokenizer.add_tokens([AddedToken("</b>", special=False)])
    text = render(renderer, asked(chosen="A <b>cup</b>"))
    assert text.answers[CHOSEN] == " A <b>cup</b><eos>"


def test_a_prompt_ends_where_generation_and_training_part():
    """A template that opens an answer with a mark for thinking, and writes none for a finished answer."""
    thinking = CHATML_TEMPLATE.replace("{{ 'assistant' }}\n", "{{ 'assistant' }}\n<think>\n")
    text = render(make_renderer("qwen", thinking), asked())
    assert text.prompt.endswith("<|im_start|>assistant\n")
    assert text.answers[CHOSEN] == "There is a red cup.<|im_end|>\n"


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rows_of_the_papers_data_continue_as_in_supervised_training(kind):
    row = mdpo_json.EXAMPLES[0]
    example = mdpo_json.parse(row, source="", image_root=None, row_id="1")
    renderer = make_renderer(kind)
    text = render(renderer, example)
    eos = renderer.tokenizer.eos_token
    assert (text.prompt, text.answers) == (row["prompt"], {CHOSEN: f" A cup.{eos}", REJECTED: f" A car.{eos}"})
    ids = renderer.answer_ids(text.prompt, text.answers[CHOSEN])
    assert renderer.tokenizer.convert_ids_to_tokens(ids)[0] == f"{SPACE[kind]}A"
    assert ids[-1] == renderer.tokenizer.eos_token_id


def test_without_images_the_mark_and_its_line_break_are_deleted():
    plain = PreferenceExample(
        id="1", prompt="USER: <image>\nWhat? <image> ASSISTANT:", responses={CHOSEN: " A cup.", REJECTED: " A dog."}
    )
    assert render(make_renderer("gpt2"), plain, with_images=False).prompt == "USER: What?  ASSISTANT:"
    renderer = make_renderer("llama", VICUNA)
    with_images, without = (render(renderer, asked(), with_images=seen) for seen in (True, False))
    assert without.prompt == "USER: What is in the picture? ASSISTANT:"
    assert without.answers == with_images.answers


@pytest.mark.parametrize(
    ("template", "placeholder"),
    [
        (
            turn_template(**CHATML, image="<|vision_start|><image><|vision_end|>\n"),
            "<|vision_start|><image><|vision_end|>",
        ),
        # Templates that gather the images in front of the text do not say what stands around one inside it.
        (
            "{% for message in messages %}{% for part in message['content'] if part['type'] == 'image' %}<img><image>"
            "{% endfor %}{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
            "{% endfor %}",
            "<image>",
        ),
        (None, "<image>"),
    ],
)
def test_the_marks_around_an_image_are_those_of_the_template(template, placeholder):
    renderer = make_renderer("qwen", template)
    plain = PreferenceExample(id="1", prompt="<image>What?", responses={CHOSEN: "A cup.", REJECTED: "A dog."})
    assert render(renderer, plain).prompt == f"{placeholder}What?"


# -- faults -----------------------------------------------------------------------------------------------------------


def test_turns_without_a_template_and_missing_responses_are_faults():
    with pytest.raises(RowError, match="no chat template"):
        render(make_renderer("qwen"), asked())
    with pytest.raises(RowError, match="needs the response column 'other'; the row has chosen, rejected"):
        make_renderer("qwen", CHATML_TEMPLATE).render(asked(), ("other",), with_images=True)


@every_tokenizer
def test_each_token_of_an_answer_has_its_place_in_the_text(kind):
    renderer = make_renderer(kind)
    answer = " There is a  red\ncafé, 🐕."
    ids, marks = renderer.answer_ids(PROMPT, answer), renderer.answer_marks(PROMPT, answer)
    assert len(ids) == len(marks)
    assert all(0 <= start <= end <= len(answer) for start, end in marks)
    starts = [start for start, _ in marks]
    assert starts == sorted(starts)
    said = [answer[start:end].strip() for start, end in dict.fromkeys(marks)]
    assert "".join(said) == "".join(answer.split())
    cup = renderer.answer_marks(PROMPT, "A red cup")
    assert cup[-1][1] == len("A red cup"), "counted from the answer's own beginning"


def test_a_tokenizer_in_python_has_its_tokens_looked_for(monkeypatch):
    renderer = make_renderer("qwen")
    expected = renderer.answer_marks(PROMPT, "There is a red cup.<|im_end|>")
    monkeypatch.setattr(type(renderer.tokenizer), "is_fast", False)
    found = renderer.answer_marks(PROMPT, "There is a red cup.<|im_end|>")
    text = "There is a red cup.<|im_end|>"
    assert [text[start:end].strip() for start, end in expected] == [text[start:end] for start, end in found]
