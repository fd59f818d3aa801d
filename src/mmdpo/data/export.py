"""Preference examples as other trainers read them: JSON rows beside a folder of their images, each image once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmdpo.data.images import digest_image
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.files import write_json, write_rows
from mmdpo.folders import make_folder
from mmdpo.records import CHOSEN, REJECTED, ImageSource, Message, PreferenceExample, RowError

IMAGES = "images"
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tiff"}
_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system"}
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


def export_examples(examples: Iterable[PreferenceExample], folder: Path, format: str) -> int:
    """Writes examples into a folder and returns how many: FORMAT.jsonl (mdpo_json: a .json array), and images.

    `format` is `ms_swift`, `llama_factory` or `mdpo_json`, each as `mmdpo.data.formats` reads it. Raises RowError for a
    row that the format cannot hold, ValueError for another format.
    """
    if format not in WRITERS:
        raise ValueError(f"there is no format {format!r} to write; there are {', '.join(WRITERS)}")
    make_folder(folder / IMAGES)
    rows = [
        {"id": example.id, **WRITERS[format](example, [_save(image, folder) for image in example.images])}
        for example in examples
    ]
    if format == "mdpo_json":
        write_json(folder / "mdpo_json.json", rows)
    else:
        write_rows(folder / f"{format}.jsonl", rows)
    return len(rows)


def _ms_swift(example: PreferenceExample, images: list[str]) -> dict[str, Any]:
    turns = [
        {"role": turn["role"], "content": plain_text((turn,))} for turn in (*_turns(example), *_answer(example, CHOSEN))
    ]
    return {"messages": turns, "rejected_response": _text(example, REJECTED), "images": images}


def _llama_factory(example: PreferenceExample, images: list[str]) -> dict[str, Any]:
    def turn(role: str, text: str) -> dict[str, str]:
        return {"from": _SHAREGPT[role], "value": text}

    asked = [turn(said["role"], plain_text((said,))) for said in _turns(example)]
    chosen, rejected = (turn("assistant", _text(example, name)) for name in (CHOSEN, REJECTED))
    return {"conversations": asked, "chosen": chosen, "rejected": rejected, "images": images}


def _mdpo_json(example: PreferenceExample, images: list[str]) -> dict[str, Any]:
    """Returns the row with its prompt in Vicuna's template, which this format has inside the text."""
    turns = [turn for turn in _turns(example) if turn["role"] != "system"]
    if len(turns) != 1 or len(images) != 1:
        raise RowError(
            "mdpo_json holds one question about one image; write ms_swift or llama_factory", source=example.source
        )
    question = plain_text((turns[0],)).replace(IMAGE_PLACEHOLDER, "").strip()
    prompt = f"{_VICUNA} USER: {IMAGE_PLACEHOLDER}\n{question} ASSISTANT:"
    return {"img_path": images[0], "prompt": prompt, **{name: _text(example, name) for name in (CHOSEN, REJECTED)}}


WRITERS: Mapping[str, Callable[[PreferenceExample, list[str]], dict[str, Any]]] = {
    "ms_swift": _ms_swift,
    "llama_factory": _llama_factory,
    "mdpo_json": _mdpo_json,
}


def _turns(example: PreferenceExample) -> tuple[Message, ...]:
    if isinstance(example.prompt, str):
        raise RowError("its prompt is plain text: the format holds chat turns", source=example.source)
    return example.prompt


def _answer(example: PreferenceExample, name: str) -> tuple[Message, ...]:
    answer = example.responses[name]
    if isinstance(answer, str) or len(answer) != 1:
        raise RowError(f"`{name}` is not one turn, which the format holds", source=example.source)
    return answer


def _text(example: PreferenceExample, name: str) -> str:
    return plain_text(_answer(example, name))


def _save(image: ImageSource, folder: Path) -> str:
    """Writes an image as the bytes that it has, an open one as PNG, named by its digest; returns its relative path."""
    digest = digest_image(image)
    known = next((folder / IMAGES).glob(f"{digest}.*"), None)
    if known is None:
        if isinstance(image, Image.Image):
            buffer, ending = io.BytesIO(), ".png"
            image.save(buffer, "PNG")
            content = buffer.getvalue()
        else:
            content = image if isinstance(image, bytes) else Path(image).read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                ending = _ENDINGS.get(opened.format or "", ".img")
        known = folder / IMAGES / f"{digest}{ending}"
        known.write_bytes(content)
    return f"{IMAGES}/{known.name}"
