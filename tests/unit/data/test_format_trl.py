import datasets
import pytest
from PIL import Image

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.formats import trl
from mmdpo.records import RowError

IMAGE, CUP, CAR = {"type": "image"}, "A cup.", "A car."


def text(words):
    return {"type": "text", "text": words}


def turn(role, content):
    return {"role": role, "content": content}


def answer(words):
    return (turn("assistant", [text(words)]),)


def read(**row):
    return PreferenceDataset.from_rows([row], format="trl", name="pairs.json")[0]


def converse(prompt, **columns):
    row = {"chosen": [turn("assistant", CUP)], "rejected": [turn("assistant", CAR)], "images": ["a.jpg"]}
    return read(prompt=prompt, **row | columns)


def test_plain_text_is_left_alone():
    example = read(prompt="<image>\nWhat?", chosen=" cup", rejected="car", image="a.jpg")
    assert (example.prompt, example.responses) == ("<image>\nWhat?", {"chosen": " cup", "rejected": "car"})
    assert [str(image) for image in example.images] == ["a.jpg"]


def test_images_go_in_front_of_the_first_user_turn_that_is_text():
    example = converse([turn("system", "Be brief."), turn("user", "What?")], images=["a.jpg", "b.jpg"])
    assert example.prompt == (turn("system", [text("Be brief.")]), turn("user", [IMAGE, IMAGE, text("What?")]))
    assert example.responses == {"chosen": answer(CUP), "rejected": answer(CAR)}


def test_agrees_with_trl_itself():
    from trl.data_utils import prepare_multimodal_messages

    for prompt in (
        [turn("user", "What?")],
        [turn("system", "Be brief."), turn("user", "What?"), turn("assistant", "Eh?"), turn("user", "This.")],
        [turn("user", [text("Look: "), IMAGE, text("What?")])],
    ):
        theirs = prepare_multimodal_messages(prompt, images=["a.jpg"])
        parts = [[{k: v for k, v in p.items() if k != "image"} for p in message["content"]] for message in theirs]
        assert [message["content"] for message in converse(prompt).prompt] == parts


def test_placeholders_in_text_mark_the_places():
    example = converse([turn("user", "First <image>, then <image>.")], images=["a.jpg", "b.jpg"])
    assert example.prompt == (turn("user", [text("First "), IMAGE, text(", then "), IMAGE, text(".")]),)


def test_a_part_may_carry_its_image():
    carried = Image.new("RGB", (2, 2))
    content = [IMAGE, {"type": "image", "image": carried}, IMAGE, text("Compare.")]
    example = converse([turn("user", content)], images=["a.jpg", "c.jpg"])
    assert example.prompt == (turn("user", [IMAGE, IMAGE, IMAGE, text("Compare.")]),)
    assert [str(example.images[0]), example.images[1], str(example.images[2])] == ["a.jpg", carried, "c.jpg"]


def test_the_prompt_may_be_implicit():
    shared = [turn("user", "What?"), turn("assistant", "Which one?"), turn("user", "The left one.")]
    example = read(
        chosen=[*shared, turn("assistant", CUP)], rejected=[*shared, turn("assistant", CAR)], images=["a.jpg"]
    )
    assert example.prompt[0] == turn("user", [IMAGE, text("What?")])
    assert len(example.prompt) == 3
    assert example.responses == {"chosen": answer(CUP), "rejected": answer(CAR)}


def test_equal_conversations_keep_an_answer_to_compare():
    whole = [turn("user", "What?"), turn("assistant", CUP)]
    example = read(chosen=whole, rejected=whole, images=["a.jpg"])
    assert example.responses == {"chosen": answer(CUP), "rejected": answer(CUP)}


def test_arrows_padding_is_dropped_and_images_stay_encoded():
    rows = datasets.Dataset.from_dict(
        {
            "prompt": [[turn("user", [{"type": "image", "text": None}, {"type": "text", "text": "What?"}])]],
            "chosen": [[turn("assistant", [{"type": "text", "text": CUP}])]],
            "rejected": [[turn("assistant", [{"type": "text", "text": CAR}])]],
            "images": [[{"bytes": b"no picture", "path": None}]],
        },
        features=datasets.Features(
            {
                **{
                    name: datasets.List({"role": datasets.Value("string"), "content": datasets.List(PART)})
                    for name in ("prompt", "chosen", "rejected")
                },
                "images": datasets.List(datasets.Image()),
            }
        ),
    )
    example = PreferenceDataset.from_rows(rows)[0]
    assert example.prompt == (turn("user", [IMAGE, text("What?")]),)
    assert example.images == (b"no picture",)


PART = {"type": datasets.Value("string"), "text": datasets.Value("string")}


def test_keys_that_another_row_brought_are_dropped():
    padded = turn("user", [{"type": "image", "image": None, "text": None}, text("What?")]) | {"tool_calls": None}
    assert converse([padded]).prompt == (turn("user", [IMAGE, text("What?")]),)


def test_further_columns_are_responses_and_weights():
    example = converse(
        [turn("user", "What?")],
        alternative="A mug.",
        retold=[turn("assistant", "A beaker.")],
        severity=2,
        doubt=float("nan"),
        flag=True,
        id=9,
    )
    assert example.responses.keys() == {"chosen", "rejected", "alternative", "retold"}
    assert example.responses["alternative"] == answer("A mug.")
    assert example.responses["retold"] == answer("A beaker.")
    assert (example.weights, example.id) == ({"severity": 2.0}, "9")


def test_corrupted_images_of_its_own():
    assert [str(image) for image in converse([turn("user", "?")], rejected_image="b.jpg").rejected_images] == ["b.jpg"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "What?", "chosen": [turn("assistant", CUP)]}, "`chosen` is of type list while the prompt is plain"),
        ({"prompt": [turn("judge", "What?")]}, "turn 1 of `prompt` has the role 'judge': write one of system, user"),
        ({"prompt": [turn("user", [{"type": "video"}])]}, "content part in `prompt` is .*video.* only .*are supported"),
        ({"prompt": [turn("user", 7)]}, "a content in `prompt` is a value of type int: write text, or a list of parts"),
        ({"image": "a.jpg", "images": ["b.jpg"]}, "both `images` and `image` are given: leave one of them out"),
        (
            {"prompt": None, "chosen": [turn("user", "a")], "rejected": [turn("user", "b")]},
            "share no leading turns .* give `prompt` as a list of turns",
        ),
    ],
)
def test_what_cannot_be_read_is_a_row_error(row, message):
    with pytest.raises(RowError, match=message) as caught:
        read(**{"prompt": "What?", "chosen": CUP, "rejected": CAR} | row)
    assert caught.value.source == "pairs.json, row 1"


@pytest.mark.parametrize("said", ["What is it?", "<image>\nWhat is  it?", None, ""])
def test_a_prompt_in_text_may_repeat_the_question_of_whole_conversations(said):
    asked = {"role": "user", "content": "What is it?"}
    row = {
        "prompt": said,
        "chosen": [asked, {"role": "assistant", "content": "A cup."}],
        "rejected": [asked, {"role": "assistant", "content": "A dog."}],
    }
    assert read(**row).prompt == ({"role": "user", "content": [{"type": "text", "text": "What is it?"}]},)
    with pytest.raises(RowError, match=r"`prompt` is 'Describe the dog.', and the turns .* do not say it"):
        read(**row | {"prompt": "Describe the dog."})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "a.jpg"}},
        {"type": "image_url", "image_url": "a.jpg"},
        {"type": "input_image", "image_url": "a.jpg"},
        {"type": "image", "image": {"url": "a.jpg"}},
        {"type": "image", "image": None, "url": "a.jpg"},
    ],
)
def test_parts_of_other_libraries_carry_their_image(part):
    example = converse([turn("user", [part, text("What?")])], images=[None])
    assert example.prompt == (turn("user", [IMAGE, text("What?")]),)
    assert [str(image) for image in example.images] == ["a.jpg"]


@pytest.mark.parametrize("part", [{"type": "video", "video": "A" * 5000}, {"image": b"\x89PNG" * 900}, 7])
def test_a_part_that_is_not_read_is_named_and_not_printed(part):
    with pytest.raises(RowError, match="a content part in `prompt` is") as caught:
        converse([turn("user", [part, text("What?")])])
    assert len(caught.value.problem) < 300


def test_images_of_a_plain_prompt_that_marks_no_place_go_in_front_and_this_is_said_once(caplog):
    trl._say_images_in_front.cache_clear()
    for _ in range(3):
        example = read(prompt="What?", chosen="cup", rejected="car", images=["a.jpg", "b.jpg"])
        assert example.prompt == "<image>\n<image>\nWhat?"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert read(prompt="What?", chosen="cup", rejected="car", images=[]).prompt == "What?"
    assert read(prompt="Here: <image>", chosen="cup", rejected="car", image="a.jpg").prompt == "Here: <image>"
