"""What the columns of a row mean, whatever its format: answers, ids, further responses, weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.images import image_sources
from mmdpo.data.messages import as_list, is_messages, read_answer, read_prompt
from mmdpo.records import CHOSEN, REJECTED, ImageSource, PreferenceExample, Region, RowError, Text

ID_COLUMNS = ("id", "idx", "question_id")
"""Columns that may name a row, in order of preference."""


def read_conversation(
    row: Row,
    turns: Any,
    images: Any,
    rejected_images: Any,
    answers: Row | None = None,
    *,
    used: Collection[str],
    column: str,
    images_first: bool = True,
    **place: Unpack[RowPlace],
) -> PreferenceExample:
    """Returns the example of a row whose prompt is `turns`, which the model's chat template renders.

    Images are the values of their columns; `answers` are the columns `chosen` and `rejected` unless they are given.
    `used` names the columns that the format reads itself; any other may be a response or a weight. `column` is named in
    messages about the turns, and `images_first` is `read_prompt`'s. Raises RowError for what cannot be read.
    """
    root = place["image_root"]
    read = read_prompt(turns, image_sources(images, root), image_root=root, column=column, images_first=images_first)
    return read_example(row, read.turns, read.images, rejected_images, answers, used=used, **place)


def read_example(
    row: Row,
    prompt: Text,
    images: tuple[ImageSource, ...],
    rejected_images: Any = None,
    answers: Row | None = None,
    *,
    used: Collection[str],
    **place: Unpack[RowPlace],
) -> PreferenceExample:
    """Returns the example of a row whose prompt and images are read; the other arguments are `read_conversation`'s."""
    pair = {name: row.get(name) for name in (CHOSEN, REJECTED)} if answers is None else answers
    conversational = not isinstance(prompt, str)
    return PreferenceExample(
        id=place["row_id"],
        prompt=prompt,
        responses=_read_answers(pair, conversational) | _further_responses(row, used, conversational),
        images=images,
        rejected_images=image_sources(rejected_images, place["image_root"]),
        weights=_numeric_weights(row, used),
        source=place["source"],
    )


def _read_answers(answers: Row, conversational: bool) -> dict[str, Text]:
    """Reads the answers of a pair in the form of their prompt; a missing one is left out, for validation to report.

    Raises RowError where an answer is neither text nor turns, or turns answer a plain prompt.
    """
    found: dict[str, Text] = {}
    for column, value in answers.items():
        if value is None or (isinstance(value, Mapping) and all(entry is None for entry in value.values())):
            continue
        if conversational:
            found[column] = read_answer(value, column=column)
        elif isinstance(value, str):
            found[column] = value
        else:
            raise RowError(
                f"`{column}` is of type {type(value).__name__} while the prompt is plain text: write the prompt and "
                "both answers as text, or all three as lists of turns"
            )
    return found


def ask(question: Any, system: Any = None, history: Any = None) -> list[dict[str, Any]]:
    """Returns the turns of a question: before it a system prompt and earlier `[question, answer]` pairs, if given.

    Raises RowError for an entry of the history that is no pair.
    """
    turns = [{"role": "system", "content": system}] if system else []
    for pair in as_list(history) or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(f"an entry of `history` is {pair!r:.60}: write [question, answer]")
        turns += [{"role": role, "content": said} for role, said in zip(("user", "assistant"), pair, strict=True)]
    return [*turns, {"role": "user", "content": question}]


SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""ShareGPT's names of those who speak, which LLaVA's data have."""


def read_sharegpt_turn(turn: Any) -> Any:
    """Returns a turn `{"from", "value"}` as `role` and `content`; leaves anything else for `read_prompt` to judge.

    Raises RowError for a turn of a kind that is not supported (observation, function_call).
    """
    if not isinstance(turn, Mapping) or turn.get("from") is None:
        return turn
    if turn["from"] not in SHAREGPT_ROLES:
        raise RowError(f"a turn is from {turn['from']!r}, which is not supported: only {', '.join(SHAREGPT_ROLES)} are")
    return {"role": SHAREGPT_ROLES[turn["from"]], "content": turn.get("value")}


def is_pair_of_texts(row: Row) -> bool:
    """Returns whether `chosen` and `rejected` are texts."""
    return isinstance(row.get(CHOSEN), str) and isinstance(row.get(REJECTED), str)


def one_of(row: Row, *columns: str) -> Any:
    """Returns the value of the one column that is filled, None where none is; raises RowError where two are."""
    filled = [column for column in columns if row.get(column) is not None]
    if len(filled) > 1:
        raise RowError(f"both `{filled[0]}` and `{filled[1]}` are given: leave one of them out")
    return row[filled[0]] if filled else None


def refuse_columns(row: Row, columns: Collection[str]) -> None:
    """Raises RowError for a row that has something in one of these columns, which this package would drop."""
    for column in columns:
        if row.get(column) not in (None, "", [], {}):
            raise RowError(f"`{column}` is not supported: remove the column if the row makes sense without it")


def _further_responses(row: Row, used: Collection[str], conversational: bool) -> dict[str, Text]:
    """Returns every column that an objective could name as a response.

    That is every column which is neither one of `used` nor an id and whose value is text or a list of chat turns.
    There is no list of names that mean something else: a column is only looked at when an objective names it. Text
    becomes an assistant turn where the prompt is conversational; turns do not answer a plain prompt and are left out.
    """
    found: dict[str, Text] = {}
    for column, value in row.items():
        if column in used or column in ID_COLUMNS:
            continue
        if conversational and (is_messages(value) or isinstance(value, str)):
            try:
                found[column] = read_answer(value, column=column)
            except RowError:
                # Nobody asked for this column; where an objective does, it finds the response missing.
                continue
        elif isinstance(value, str):
            found[column] = value
    return found


FLAG = "rejected_noised"
"""MMedPO's column: whether the rejected side is seen under a corrupted image (1) or under the image itself (0)."""
MASKS, BOXES = ("mask", "masks"), "boxes"
"""Columns that say where an image is corrupted."""


def read_marks(row: Row, example: PreferenceExample, image_root: Path | None) -> PreferenceExample:
    """Returns an example with what any row may say of its corrupted image, whatever its format: where, and whether.

    `mask` is an image of its picture's size, light where it is corrupted, and `masks` a list of them; `boxes` are
    `[left, top, right, bottom]` in pixels, in one list for a single image, in a list of lists for several.

    Raises RowError where a value is none of these, and where masks and boxes are given.
    """
    flag = row.get(FLAG)
    if flag is not None and flag not in (0, 1):
        raise RowError(f"`{FLAG}` is {flag!r:.40}: write 1 for a corrupted image, 0 for the image itself")
    masks, boxes = one_of(row, *MASKS), row.get(BOXES)
    if masks is not None and boxes is not None:
        raise RowError("both a mask and `boxes` are given: leave one of them out")
    regions: tuple[Region, ...] = image_sources(masks, image_root)
    if boxes is not None:
        regions = _read_boxes(boxes)
    if not regions and flag is None:
        return example
    return replace(example, regions=regions, is_corrupted=None if flag is None else bool(flag))


def _read_boxes(value: Any) -> tuple[Region, ...]:
    """Returns the boxes of each image. Raises RowError for anything but lists of four finite numbers."""
    try:
        is_of_several = any(isinstance(entry[0], list | tuple) for entry in value if len(entry))
        images = tuple(
            tuple(tuple(map(float, box)) for box in boxes) for boxes in (value if is_of_several else [value])
        )
        if all(len(box) == 4 and all(map(math.isfinite, box)) for boxes in images for box in boxes):
            return images  # type: ignore[return-value]
    except (TypeError, ValueError, LookupError, OverflowError):
        pass
    raise RowError(f"`{BOXES}` is {value!r:.80}: write a list of [left, top, right, bottom] in pixels")


def _numeric_weights(row: Row, used: Collection[str]) -> dict[str, float]:
    """Returns every column that a term could name as its per-example weight: finite numbers, ids excepted."""
    weights = {}
    for column, value in row.items():
        if column in used or column in ID_COLUMNS or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every float: no weight
            continue
        if math.isfinite(number):
            weights[column] = number
    return weights
