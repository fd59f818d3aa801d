"""One question, three ways to ask it: the same turns, the same picture."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import (
    GenerationSettings,
    Question,
    arrange,
    chat_request,
    chat_turns,
    load_image,
    render_prompt,
    sort_key,
    write_data_url,
)
from mmdpo.records import RowError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))
POLITE = GenerationSettings(system_prompt="Be brief.")


def decode(url):
    kind, _, content = url.removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(content)


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(decode(url)[1])).convert("RGB"))


def test_a_request_is_the_turns_with_the_picture_inside():
    question = Question("1", "What is it?", PICTURE)
    turns, request = chat_turns(question, POLITE), chat_request(question, POLITE)
    url = request[1]["content"][0].pop("image_url")["url"]
    assert request[1]["content"][0].pop("type") == "image_url"
    turns[1]["content"][0].pop("type")
    assert request == list(turns)
    assert (pixels(url) == np.asarray(PICTURE)).all()
    assert [turn["role"] for turn in chat_turns(question, GenerationSettings())] == ["user"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('no system turns') }}",
            r"cannot render these turns \(no system turns\).*; leave --system",
        ),
        ("{{ messages[0]['content'] + '!' }}", r"cannot render these turns \(can only concatenate"),
        ("{{ messages[1]['content'][1]['text'] }}", r"leaves a text out, or changes it: .*; leave --system_prompt out"),
        ("{% for turn in messages %}", r"cannot render these turns \(Unexpected end of template"),
    ],
    ids=["refuses", "wants text", "passes over", "broken"],
)
def test_a_template_that_cannot_show_the_turns_is_an_error(template, message):
    renderer = Checkpoint("world").load_renderer()
    renderer.processor.chat_template = template
    with pytest.raises(RowError, match=rf"^1: the model's chat template {message}"):
        render_prompt(Question("1", "describe", PICTURE), POLITE, renderer)


def test_a_plain_photograph_is_sent_as_it_is_and_any_other_as_it_is_seen(tmp_path):
    PICTURE.save(tmp_path / "plain.jpg")
    content = (tmp_path / "plain.jpg").read_bytes()
    for source in (tmp_path / "plain.jpg", content):  # as a dataset holds it
        assert decode(write_data_url(source)) == ("image/jpeg", content)
    lying = Image.Exif()
    lying[0x0112] = 6
    PICTURE.save(tmp_path / "lying.jpg", exif=lying)
    PICTURE.convert("RGBA").save(tmp_path / "clear.png")
    PICTURE.save(tmp_path / "old.bmp")
    PICTURE.convert("P").save(tmp_path / "palette.png")
    for name in ("lying.jpg", "clear.png", "old.bmp", "palette.png"):
        url = write_data_url(tmp_path / name)
        assert decode(url)[0] == "image/png"
        assert (pixels(url) == np.asarray(load_image(tmp_path / name))).all(), name
    assert (pixels(write_data_url(lambda: PICTURE)) == np.asarray(PICTURE)).all()  # one that is drawn when it is needed


def test_a_picture_that_is_cut_off_is_not_sent(tmp_path):
    PICTURE.resize((300, 200)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-200])
    with pytest.raises(RowError, match=r"cut\.jpg cannot be read"):
        write_data_url(tmp_path / "cut.jpg")


def test_questions_are_sorted_by_words_then_by_pixels(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    assert sort_key(Question("1", "four", tmp_path / "a.png")) == (4, 54)
    assert sort_key(Question("1", "four", lambda: PICTURE)) == (4, 0)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    assert sort_key(Question("1", "four", tmp_path / "damaged.png")) == (4, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(max_new_tokens=0), "max_new_tokens must be 1 or more"),
        (dict(temperature=-1.0), "0 .greedy. or above"),
        (dict(num_beams=3, temperature=0.5), "searched, not sampled"),
        (dict(top_p=0.5), "takes part in sampling alone"),
        (dict(top_p=0.0, temperature=1.0), "share of probability"),
        (dict(top_logprobs=-1), "count of tokens, 0 to 20; got -1"),
        (dict(top_logprobs=21), "count of tokens, 0 to 20; got 21"),
    ],
    ids=str,
)
def test_settings_that_are_none(wrong, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings(**wrong)


def test_settings_say_what_answers_depended_on_before_an_option_came():
    assert GenerationSettings(seed=3).describe() == {
        "max_new_tokens": 512, "num_beams": 1, "temperature": 0.0, "top_p": 1.0, "seed": 3, "system_prompt": None,
    }  # fmt: skip
    assert GenerationSettings(top_logprobs=5).describe()["top_logprobs"] == 5


def test_questions_that_are_read_alike_are_known_cheaply(tmp_path):
    opened = lambda: PICTURE  # noqa: E731
    alike = [
        (PICTURE, PICTURE),
        ("a.png", str("a" + ".png")),
        (tmp_path / "a.png", tmp_path / "a.png"),
        (b"bytes", bytes(bytearray(b"bytes"))),
        (opened, opened),
        (None, ()),
        ((PICTURE, "a.png"), (PICTURE, "a.png")),
    ]
    for one, other in alike:
        assert Question("1", "What?", one, seed=1).prompt_key == Question("2", "What?", other, seed=2).prompt_key
    turns = chat_turns(Question("1", "What?", PICTURE), POLITE)
    assert Question("1", turns, PICTURE).prompt_key == Question("2", tuple(map(dict, turns)), PICTURE).prompt_key
    different = [
        Question("1", "What?", PICTURE),
        Question("1", "What?", PICTURE.copy()),
        Question("1", "Who?", PICTURE),
        Question("1", "What?", (PICTURE, PICTURE)),
        Question("1", "What?", PICTURE, begun="A"),
        Question("1", turns, PICTURE),
    ]
    assert len({question.prompt_key for question in different}) == len(different)


def test_those_that_are_read_alike_stand_in_a_row_behind_longer_ones():
    asked = [Question(str(k), ("four", "five!", "also")[k % 3], seed=k) for k in range(9)]
    assert [question.id for question in arrange(asked)] == ["1", "4", "7", "0", "3", "6", "2", "5", "8"]
