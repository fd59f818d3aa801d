"""Pairs that are written for other trainers are read back as they were."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from mmdpo.data.export import WRITERS, export_examples
from mmdpo.data.messages import plain_text
from mmdpo.data.read import read_dataset
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError


def answer(text: str) -> tuple[dict[str, object], ...]:
    return ({"role": "assistant", "content": [{"type": "text", "text": text}]},)


def example(name: str, images: tuple[object, ...], turns: int = 1) -> PreferenceExample:
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": "What is this?"}]
    more = (*answer("A cup."), {"role": "user", "content": [{"type": "text", "text": "And beside it?"}]})
    prompt = ({"role": "user", "content": parts}, *more * (turns - 1))
    return PreferenceExample(name, prompt, {CHOSEN: answer("A plate."), REJECTED: answer("A car.")}, images)


def encoded(colour: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_written_is_read_back_with_the_same_words_and_the_same_bytes_of_images(
    format: str, tmp_path: Path
) -> None:
    red, blue = encoded("red", "JPEG"), Image.new("RGB", (8, 6), "blue")
    rows = [example("a", (red,)), example("b", (blue,)), example("c", (red,))]

    assert export_examples(rows, tmp_path, format) == 3

    (file,) = tmp_path.glob(f"{format}.json*")
    found = read_dataset(file)
    assert [row.id for row in found] == ["a", "b", "c"]
    assert len(list((tmp_path / "images").iterdir())) == 2  # each image once
    for row, original in zip(found, rows, strict=True):
        assert "What is this?" in plain_text(row.prompt)
        assert plain_text(row.prompt).count("<image>") == 1
        assert plain_text(row.responses[CHOSEN]).strip() == "A plate."
        assert plain_text(row.responses[REJECTED]).strip() == "A car."
        if isinstance(original.images[0], bytes):
            assert Path(row.images[0]).read_bytes() == red


@pytest.mark.parametrize("format", ["ms_swift", "llama_factory"])
def test_several_turns_and_images_are_kept(format: str, tmp_path: Path) -> None:
    images = (encoded("red", "PNG"), encoded("blue", "PNG"))

    export_examples([example("a", images, turns=2)], tmp_path, format)

    (row,) = read_dataset(tmp_path / f"{format}.jsonl")
    assert plain_text(row.prompt) == "<image><image>What is this?\nA cup.\nAnd beside it?"
    assert [Path(image).read_bytes() for image in row.images] == list(images)


def test_the_papers_form_has_its_prompt_in_the_template_of_vicuna_and_refuses_several_turns(tmp_path: Path) -> None:
    export_examples([example("a", (encoded("red", "PNG"),))], tmp_path, "mdpo_json")

    (row,) = json.loads((tmp_path / "mdpo_json.json").read_text())
    assert row["prompt"].endswith("USER: <image>\nWhat is this? ASSISTANT:")
    with pytest.raises(RowError, match="one question about one image"):
        export_examples([example("b", (encoded("red", "PNG"),), turns=2)], tmp_path, "mdpo_json")


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no format 'verl' to write; there are ms_swift"):
        export_examples([], tmp_path, "verl")
