"""What a row must have to be trained on: rules that need neither its images nor a model."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.messages import IMAGE_PLACEHOLDER, count_placeholders, plain_text
from mmdpo.data.turns import spoken_texts
from mmdpo.files import printable
from mmdpo.records import (
    CHOSEN,
    CORRUPTED,
    NO_IMAGE,
    ORIGINAL,
    REJECTED,
    Cell,
    Comparisons,
    PreferenceExample,
    RowError,
    Text,
    named_source,
)

_ROWS_SAMPLED = 32


PAIR: Comparisons = ((Cell(ORIGINAL, CHOSEN), Cell(ORIGINAL, REJECTED)),)
"""What DPO compares: the two answers under the example's own images."""


def validate_example(
    example: PreferenceExample, *, responses: Collection[str] = (CHOSEN, REJECTED), comparisons: Comparisons = PAIR
) -> None:
    """Checks everything about an example that needs neither its images nor a model.

    `responses` names the responses that the objective needs, and `comparisons` the cells that it prefers to others.

    Raises RowError where a response is missing, empty, or has an image in it; two cells that are compared are equal,
    image and response; the prompt is empty; the number of images differs from that of their places in the prompt, or of
    the corrupted images.
    """
    with named_source(example.source):
        _check_unicode(example.prompt, "prompt")
        if not plain_text(example.prompt).replace(IMAGE_PLACEHOLDER, "").strip():
            raise RowError("the prompt is empty: write the question, or remove the row")
        for name in responses:
            _check_response(example.responses.get(name), name)
        _check_image_counts(example)
        for preferred, other in comparisons:
            if {preferred.response, other.response} <= set(responses):
                _check_difference(example, preferred, other)


def require_images(dataset: PreferenceDataset) -> None:
    """Raises ValueError where of the images that a sample of the rows names as files not one is found.

    That is a wrong folder rather than a fault of every row.
    """
    rows = range(0, len(dataset), -(-len(dataset) // _ROWS_SAMPLED))
    paths = {path for row in rows for path in _image_files(dataset, row)}
    if len(paths) > 1 and not any(map(os.path.exists, paths)):
        first = printable(str(min(paths)))
        raise ValueError(
            f"{printable(dataset.name)}: no image was found under {printable(str(dataset.image_root or Path()))}; "
            f"the first of {len(paths)} that were looked for is {first:.200}: give the folder that image paths start "
            "from (image_root)"
        )


def _image_files(dataset: PreferenceDataset, row: int) -> list[Path]:
    try:
        return [Path(image) for image in dataset[row].images if isinstance(image, str | Path)]
    except Exception:
        return []  # whatever a row raises is named by the check of every row


def _check_response(response: Text | None, name: str) -> None:
    if response is None:
        raise RowError(f"there is no `{name}`: add the answer, or remove the row")
    _check_unicode(response, name)
    if not plain_text(response).strip():
        raise RowError(f"`{name}` is empty: write the answer, or remove the row")
    if count_placeholders(response):
        raise RowError(f"`{name}` has an {IMAGE_PLACEHOLDER} in it: images belong to the prompt; remove it")
    if not isinstance(response, str) and response[0]["role"] != "assistant":
        raise RowError(
            f"`{name}` begins with a turn of the {response[0]['role']}: keep only the answer, the rest is `prompt`"
        )
    if not isinstance(response, str) and len(response) > 1:
        raise RowError(
            f"`{name}` has {len(response)} turns, and every word of an answer is trained on: keep one turn of the "
            "assistant, and put what comes before it into `prompt`"
        )


def _check_unicode(text: Text, name: str) -> None:
    try:
        for part in [text] if isinstance(text, str) else spoken_texts(text):
            part.encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise RowError(
            f"`{name}` is not valid Unicode: half of a surrogate pair stands in {near!r}; write the whole character, "
            "or remove the row"
        ) from error


def _check_difference(example: PreferenceExample, preferred: Cell, other: Cell) -> None:
    """Raises RowError where two cells have one image and one response, as far as can be told without opening images."""
    names = preferred.response, other.response
    if {preferred.image, other.image} == {ORIGINAL, NO_IMAGE} and names[0] == names[1] and not example.images:
        raise RowError(
            "the objective compares the image with none, and the row has no image: add one, remove the row, or set "
            "image_terms: where_possible, which trains the other terms on it"
        )
    one, two = (plain_text(example.responses[name]).strip() for name in names)
    if one != two or not _shows_same_images(example, {preferred.image, other.image}):
        return
    if preferred.image == other.image:
        raise RowError(
            f"`{names[0]}` and `{names[1]}` are equal: there is nothing to prefer; correct one or remove the row"
        )
    answers = f", and `{names[0]}` equals `{names[1]}`" if names[0] != names[1] else ""
    raise RowError(
        f"the corrupted images (rejected_images) are the images themselves{answers}: there is nothing to prefer "
        "between them; remove the column, and the run's corruption makes them, or remove the row"
    )


def _shows_same_images(example: PreferenceExample, versions: set[str]) -> bool:
    if versions == {ORIGINAL, CORRUPTED}:
        if example.rejected_images:
            # PIL images are not compared: that would decode them.
            return all(
                one is other or (isinstance(one, str | Path | bytes) and one == other)
                for one, other in zip(example.images, example.rejected_images, strict=False)
            )
        return example.is_corrupted is False
    return len(versions) == 1


def _check_image_counts(example: PreferenceExample) -> None:
    places, images, corrupted = count_placeholders(example.prompt), len(example.images), len(example.rejected_images)
    if places < images:
        raise RowError(
            f"the prompt has {_count(places, 'place')} for {_count(images, 'image')}: write {IMAGE_PLACEHOLDER} where "
            "each image belongs, or remove the images that are too many"
        )
    if places > images:
        raise RowError(
            f"the prompt has {_count(places, 'place')} for {_count(images, 'image')}: add the missing images, or "
            f"remove {IMAGE_PLACEHOLDER} from the prompt"
        )
    if corrupted and corrupted != images:
        raise RowError(
            f"there are {_count(corrupted, 'corrupted image')} (rejected_images) for {_count(images, 'image')}: give "
            "one for each image, in the same order, or none"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
