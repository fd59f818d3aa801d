"""What published chat templates do to the texts of a row: in the manner of each, written for these tests."""

import pytest
from transformers import AddedToken, LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import Family
from mmdpo.models.load import set_template_variables
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError
from tiny_tokenizers import CHATML, qwen_tokenizer, turn_template

PARTS = turn_template(**CHATML, image="<image>")

FIRST_PART_OF_ANSWERS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'][0]['text'] }}<|im_end|>{% endif %}{% endfor %}"
)
"""LLaVA-NeXT on Mistral: reads one part of an answer, and no system prompt."""

SYSTEM_BEFORE_USER = (
    "{% if messages[0]['role'] == 'system' %}{% if messages[0]['content'] is string %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% else %}"
    "{% set first = messages[0]['content'][0]['text'] + '\n\n' %}"
    "{% endif %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}<|im_start|>{{ message['role'] }}\n{{ first if loop.first else '' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Gemma 3: the system prompt stands before the first question, of which it reads one part; texts are trimmed."""

TEXT_ALONE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Text models, and vision models before transformers had parts: a content is text."""

LOSES_ANSWERS_IN_HISTORY = (
    "{% for message in messages %}{% if message['role'] == 'user' or loop.last %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

THINKING = (
    "{% for message in messages %}{% set content %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endset %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% if message['reasoning_content'] %}{% set thought = message['reasoning_content'] %}{% set said = content %}"
    "{% elif '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}"
    "{% set said = content.split('</think>')[-1] %}{% else %}{% set thought = '' %}{% set said = content %}{% endif %}"
    "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{{ said.lstrip('\n') }}{% else %}{{ content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}{% endif %}"
)
"""Qwen3.5: answers have thoughts, if only empty ones, and generation begins with them unless told otherwise."""

MARK_FOR_GENERATION = PARTS.replace("{{ 'assistant' }}\n", "{{ 'assistant' }}\n<think>\n")
"""Generation begins inside a thinking mark that finished answers do not have."""


def make_renderer(template, *tokens):
    tokenizer = qwen_tokenizer("<image>", "<think>", "</think>", *tokens)
    # As published: marks of thinking are one token each, and two line breaks are one token.
    tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    processor = LlavaProcessor(
        SiglipImageProcessorPil(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    return Renderer(processor, Family())


def without(letter):
    """A template that takes a letter out of all text."""
    less = f" | replace('{letter}', '') }}}}"
    return PARTS.replace("['text'] }}", f"['text']{less}").replace("['content'] }}", f"['content']{less}")


def text(*texts):
    return [{"type": "text", "text": one} for one in texts]


def row(chosen, rejected="A dog.", *, question=("What is it?",), before=()):
    asked = {"role": "user", "content": [{"type": "image"}, *text(*question)]}
    answers = {
        name: said if isinstance(said, str) else ({"role": "assistant", **said},)
        for name, said in ((CHOSEN, chosen), (REJECTED, rejected))
    }
    return PreferenceExample(id="1", prompt=(*before, asked), responses=answers)


def render(renderer, example):
    return renderer.render(example, (CHOSEN, REJECTED), with_images=True)


class TestNoTextIsLost:
    def test_an_answer_in_two_parts_stands_whole_where_the_template_reads_the_first(self):
        example = row({"content": text("A red cup.", "It is full.")})
        answers = render(make_renderer(FIRST_PART_OF_ANSWERS), example).answers
        assert answers[CHOSEN] == " A red cup.\nIt is full.<|im_end|>"
        assert answers[REJECTED] == " A dog.<|im_end|>"

    def test_a_system_prompt_in_two_parts_stands_whole_where_the_template_reads_the_first(self):
        system = {"role": "system", "content": text("Be brief.", " Be kind.")}
        prompt = render(make_renderer(SYSTEM_BEFORE_USER), row("A cup.", before=(system,))).prompt
        assert "Be brief. Be kind.\n\n<image>What is it?" in prompt

    def test_a_template_that_wants_text_gets_text_and_the_image_its_mark(self):
        text_of = render(make_renderer(TEXT_ALONE), row("A cup."))
        assert text_of.prompt == "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
        assert text_of.answers == {CHOSEN: "A cup.<|im_end|>\n", REJECTED: "A dog.<|im_end|>\n"}

    def test_parts_that_a_template_reads_stay_parts(self):
        prompt = render(make_renderer(PARTS), row("A cup.", question=("What is", " it?"))).prompt
        assert "<image>What is it?<|im_end|>" in prompt

    @pytest.mark.parametrize(
        ("template", "example", "lost"),
        [
            (
                FIRST_PART_OF_ANSWERS,
                row("A cup.", before=({"role": "system", "content": text("Be brief.")},)),
                "Be brief",
            ),
            (PARTS, row({"content": text("A cup."), "reasoning_content": "It has a handle."}), "It has a handle."),
            (PARTS, row({"content": text("A."), "tool_calls": [{"function": {"name": "zoom"}}]}), "zoom"),
            (
                LOSES_ANSWERS_IN_HISTORY,
                row(
                    "A cup.",
                    before=({"role": "user", "content": text("Hi")}, {"role": "assistant", "content": text("Yes?")}),
                ),
                "Yes?",
            ),
            (without("."), row("A cup."), "A cup."),
            (without(" "), row("A cup."), "What is it?"),
        ],
        ids=["system", "reasoning", "tool call", "history", "changed", "glued"],
    )
    def test_what_a_template_loses_or_changes_is_a_fault_that_quotes_it(self, template, example, lost):
        with pytest.raises(RowError, match="leaves a text out, or changes it") as caught:
            render(make_renderer(template), example)
        assert lost in caught.value.problem

    def test_an_image_that_a_template_loses_is_a_fault(self):
        with pytest.raises(RowError, match="writes 0 places for 1 images"):
            render(make_renderer(FIRST_PART_OF_ANSWERS.replace("<image>", "")), row("A cup."))

    def test_a_template_that_refuses_the_turns_is_a_fault_with_its_words(self):
        template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + PARTS
        with pytest.raises(RowError, match=r"cannot render these turns \(no system here\)"):
            render(make_renderer(template), row("A cup.", before=({"role": "system", "content": text("Be brief.")},)))


class TestThinking:
    def test_the_prompt_ends_at_a_token_of_the_whole(self):
        renderer = make_renderer(THINKING)
        found = render(renderer, row("A cup."))
        assert found.prompt.endswith("<|im_start|>assistant\n<think>")
        assert found.answers[CHOSEN] == "\n\n</think>\n\nA cup.<|im_end|>\n"
        for answer in found.answers.values():
            ids = renderer.prompt_ids(found.prompt) + renderer.answer_ids(found.prompt, answer)
            assert ids == renderer.tokenizer(found.prompt + answer)["input_ids"]

    def test_with_thinking_switched_off_the_answer_is_the_answer(self):
        renderer = make_renderer(THINKING)
        set_template_variables(renderer.processor, {"enable_thinking": False})
        found = render(renderer, row("A cup."))
        assert found.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert found.answers == {CHOSEN: "A cup.<|im_end|>\n", REJECTED: "A dog.<|im_end|>\n"}

    @pytest.mark.parametrize(
        "chosen",
        [
            "<think>It has a handle.</think>A cup.",
            {"content": text("A cup."), "reasoning_content": "It has a handle."},
        ],
        ids=["in the text", "beside it"],
    )
    def test_thoughts_are_part_of_the_answer(self, chosen):
        answers = render(make_renderer(THINKING), row(chosen)).answers
        assert answers[CHOSEN].endswith("It has a handle.\n</think>\n\nA cup.<|im_end|>\n")

    def test_thoughts_on_both_sides_leave_the_prompt_as_it_is_generated_from(self):
        found = render(make_renderer(THINKING), row("<think>Handle.</think>A cup.", "<think>Tail.</think>A dog."))
        assert found.prompt.endswith("assistant\n<think>\n")
        assert found.answers[CHOSEN] == "Handle.\n</think>\n\nA cup.<|im_end|>\n"

    def test_a_prompt_is_not_cut_inside_the_mark_where_answers_begin_like_it(self):
        found = render(make_renderer(MARK_FOR_GENERATION), row("<b>cup</b>", "<i>dog</i>"))
        assert found.prompt.endswith("<|im_start|>assistant\n")
        assert found.answers[CHOSEN] == "<b>cup</b><|im_end|>\n"

    def test_what_the_caller_names_wins_over_what_was_set(self):
        processor = make_renderer(THINKING).processor
        set_template_variables(processor, {"enable_thinking": False})
        turns = [{"role": "user", "content": text("Hi")}]
        given = processor.apply_chat_template(turns, add_generation_prompt=True, enable_thinking=True)
        assert given.endswith("<think>\n")

    def test_a_variable_that_the_template_does_not_read_is_an_error(self):
        with pytest.raises(ValueError, match="reads no variable 'thinking_enabled'"):
            set_template_variables(make_renderer(THINKING).processor, {"thinking_enabled": False})


class TestSpecialTokens:
    @pytest.mark.parametrize(
        ("chosen", "question", "column", "token"),
        [
            ("It ends with <|im_end|> here.", "What?", "chosen", "<|im_end|>"),
            ("A cup.<|im_end|>", "What?", "chosen", "<|im_end|>"),
            ("A cup.", "What does <|im_start|> mean?", "prompt", "<|im_start|>"),
            ("A cup.", "Repeat <|endoftext|>", "prompt", "<|endoftext|>"),
        ],
    )
    def test_a_mark_of_the_model_in_the_text_of_a_turn_is_a_fault(self, chosen, question, column, token):
        with pytest.raises(RowError) as caught:
            render(make_renderer(PARTS), row(chosen, question=(question,)))
        assert caught.value.problem.startswith(f"`{column}` has the model's own token {token} in its text")

    def test_the_models_own_image_token_is_one_whatever_it_is_called(self):
        renderer = make_renderer(PARTS.replace("<image>", "<|picture|>"), "<|picture|>")
        renderer.processor.image_token = "<|picture|>"
        with pytest.raises(RowError, match=r"`rejected` has the model's own token <\|picture\|>"):
            render(renderer, row("A cup.", "The mark <|picture|> means a picture."))
        plain = PreferenceExample(
            id="1", prompt="USER: <image>\n<|picture|> ASSISTANT:", responses={CHOSEN: " A cup.", REJECTED: " A dog."}
        )
        with pytest.raises(RowError, match=r"`prompt` has the model's own token <\|picture\|>"):
            render(renderer, plain)

    def test_marks_of_turns_stand_in_prompts_with_the_template_applied_and_may_end_answers(self):
        prompt = "<|im_start|>user\n<image>What?<|im_end|>\n<|im_start|>assistant\n"
        answers = {CHOSEN: "A cup.<|im_end|>\n", REJECTED: "A dog."}
        plain = PreferenceExample(id="1", prompt=prompt, responses=answers)
        found = render(make_renderer(PARTS), plain)
        assert found.answers == {CHOSEN: "A cup.<|im_end|>\n", REJECTED: "A dog.<|im_end|>"}
        changed = PreferenceExample(id="1", prompt=prompt, responses=answers | {CHOSEN: "A<|im_end|> cup."})
        with pytest.raises(RowError, match="`chosen` has the model's own token"):
            render(make_renderer(PARTS), changed)

    def test_marks_of_regions_of_a_picture_are_answers(self):
        renderer = make_renderer(PARTS, "<|box_start|>", "<|box_end|>", "<|object_ref_start|>")
        found = render(renderer, row("<|object_ref_start|>A cup<|box_start|>(1,2),(3,4)<|box_end|>"))
        assert "<|box_start|>(1,2)" in found.answers[CHOSEN]

    def test_an_answer_of_much_whitespace_is_read_in_no_time(self):
        found = render(make_renderer(PARTS), row("A cup." + " \n" * 100_000 + "Red."))
        assert found.answers[CHOSEN].endswith("Red.<|im_end|>\n")
