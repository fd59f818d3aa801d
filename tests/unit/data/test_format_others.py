"""The mDPO JSON, ms-swift and LLaMA-Factory."""

from pathlib import Path

import pytest

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.validate import validate_example
from mmdpo.records import RowError

IMAGE = {"type": "image"}
VICUNA = "A chat between a curious user and an artificial intelligence assistant. USER: <image>\nWhat is it? ASSISTANT:"


def text(words):
    return {"type": "text", "text": words}


def turn(role, content):
    return {"role": role, "content": content}


def answer(words):
    return (turn("assistant", [text(words)]),)


def read(image_root=None, **row):
    return PreferenceDataset.from_rows([row], name="pairs.json", image_root=image_root)[0]


@pytest.mark.parametrize(
    ("prompt", "chosen", "expected"),
    [
        (VICUNA, "A cup.", " A cup."),
        (VICUNA, " A cup.", " A cup."),
        (VICUNA + " ", "A cup.", "A cup."),
        (VICUNA + "\n", "A cup.", "A cup."),
        (VICUNA, "", ""),
    ],
)
def test_mdpo_json_has_one_space_between_prompt_and_answer(prompt, chosen, expected):
    example = read(img_path="1.jpg", prompt=prompt, chosen=chosen, rejected="A car.", image_root="merged_images")
    assert (example.prompt, example.responses["chosen"]) == (prompt, expected)
    assert example.images == (Path("merged_images/1.jpg"),)


SWIFT = {
    "messages": [turn("system", "Be brief."), turn("user", "<image>What is it?"), turn("assistant", "A cup.")],
    "images": ["a.jpg"],
}


def test_ms_swift_with_a_rejected_response():
    example = read(**SWIFT, rejected_response="A car.")
    assert example.prompt == (turn("system", [text("Be brief.")]), turn("user", [IMAGE, text("What is it?")]))
    assert example.responses == {"chosen": answer("A cup."), "rejected": answer("A car.")}


def test_ms_swift_with_rejected_messages_and_images():
    rejected = [*SWIFT["messages"][:2], turn("assistant", "A car.")]
    images = [{"path": "b.jpg", "bytes": None}]
    example = read(**SWIFT, rejected_messages=rejected, rejected_images=images, rejected_response=None)
    assert example.responses["rejected"] == answer("A car.")
    assert (example.images, example.rejected_images) == ((Path("a.jpg"),), (Path("b.jpg"),))


def test_ms_swift_same_rejected_images_are_no_corrupted_images():
    assert read(**SWIFT, rejected_response="A car.", rejected_images=["a.jpg"]).rejected_images == ()


def test_ms_swift_puts_images_first_where_no_tag_says_where():
    messages = [turn("user", "What is it?"), turn("assistant", "A cup.")]
    example = read(messages=messages, rejected_response="A car.", images=["a.jpg"])
    assert example.prompt == (turn("user", [IMAGE, text("What is it?")]),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rejected_messages": [turn("user", "Why?"), turn("assistant", "So.")]}, "differ before their last turn"),
        ({"rejected_messages": [turn("user", "Why?")]}, "`rejected_messages` ends with a turn of the user"),
        ({"rejected_response": "A car.", "videos": ["a.mp4"]}, "`videos` is not supported: remove the column"),
    ],
)
def test_ms_swift_errors(row, message):
    with pytest.raises(RowError, match=message):
        read(**SWIFT | row)


SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "<image>What is it?"},
        {"from": "gpt", "value": "Which one?"},
        {"from": "human", "value": "The left one."},
    ],
    "chosen": {"from": "gpt", "value": "A cup."},
    "rejected": {"from": "gpt", "value": "A car."},
    "images": ["a.jpg"],
}


def test_llama_factory_sharegpt_and_openai_spellings_agree():
    roles = {"human": "user", "gpt": "assistant"}

    def respell(entry):
        return turn(roles[entry["from"]], entry["value"])

    example = read(**SHAREGPT, system="Be brief.")
    assert [message["role"] for message in example.prompt] == ["system", "user", "assistant", "user"]
    assert example.prompt[1]["content"] == [IMAGE, text("What is it?")]
    assert example.responses == {"chosen": answer("A cup."), "rejected": answer("A car.")}
    openai = read(
        messages=[turn("system", "Be brief."), *map(respell, SHAREGPT["conversations"])],
        chosen=respell(SHAREGPT["chosen"]),
        rejected=respell(SHAREGPT["rejected"]),
        images=["a.jpg"],
    )
    assert openai == example


def test_llama_factory_list_of_structs_as_datasets_may_give_it():
    columns = {key: [entry[key] for entry in SHAREGPT["conversations"]] for key in ("from", "value")}
    assert read(**SHAREGPT | {"conversations": columns}) == read(**SHAREGPT)


def test_llama_factory_needs_its_placeholders():
    example = read(**SHAREGPT | {"conversations": [{"from": "human", "value": "What is it?"}]})
    with pytest.raises(RowError, match="0 places for 1 image: write <image> where each image belongs"):
        validate_example(example)


def test_llama_factory_refuses_what_it_would_drop():
    with pytest.raises(RowError, match="from 'function_call', which is not supported"):
        read(**SHAREGPT | {"conversations": [{"from": "function_call", "value": "{}"}]})
    with pytest.raises(RowError, match="`tools` is not supported"):
        read(**SHAREGPT, tools="[]!")


def test_a_missing_answer_is_left_to_validation():
    for row in (SHAREGPT | {"rejected": {"from": None, "value": None}}, SWIFT | {"rejected_response": None}):
        dataset = PreferenceDataset.from_rows([row, row], format="ms_swift" if row.get("messages") else "llama_factory")
        with pytest.raises(RowError, match="there is no `rejected`: add the answer, or remove the row"):
            validate_example(dataset[1])
