"""What the columns of a row mean, whatever its format: answers, ids, further responses, weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdpo.data.images import image_sources
from mmdpo.data.messages import as_list, is_messages, read_answer, read_prompt
from mmdpo.records import CHOSEN, REJECTED, ImageSource, PreferenceExample, Region, RowError, Text

ID_COLUMNS = ("id", "idx", "question_id")
"""Columns that may name a row, in order of preference."""


def read_answers(answers: Mapping[str, Any], *, conversational: bool) -> dict[str, Text]:
    """Reads the answers of a pair in the form of their prompt; a missing one is left out, for validation to report.

    Raises:
        RowError: an answer is neither text nor turns, or turns answer a plain prompt.
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


def read_conversation(
    row: Mapping[str, Any],
    turns: Any,
    answers: Mapping[str, Any],
    images: Sequence[ImageSource],
    rejected_images: Sequence[ImageSource] = (),
    *,
    used: Collection[str],
    column: str,
    source: str,
    image_root: Path | None,
    row_id: str,
    images_first: bool = True,
) -> PreferenceExample:
    """Returns the example of a row whose prompt is `turns`, which the model's chat template renders.

    `used` names the columns that the format reads itself; any other may be a response or a weight. `column` is named in
    messages about the turns, and `images_first` is `read_prompt`'s.

    Raises:
        RowError: a turn or an answer cannot be read.
    """
    conversation = read_prompt(turns, images, image_root=image_root, column=column, images_first=images_first)
    return PreferenceExample(
        id=row_id,
        prompt=conversation.turns,
        responses=read_answers(answers, conversational=True) | further_responses(row, used, conversational=True),
        images=conversation.images,
        rejected_images=tuple(rejected_images),
        weights=numeric_weights(row, used),
        source=source,
    )


def ask(question: Any, system: Any = None, history: Any = None) -> list[dict[str, Any]]:
    """Returns the turns of a question: before it a system prompt and earlier `[question, answer]` pairs, if given.

    Raises:
        RowError: an entry of the history is no pair.
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

    Raises:
        RowError: the turn is of a kind that is not supported (observation, function_call).
    """
    if not isinstance(turn, Mapping) or turn.get("from") is None:
        return turn
    if turn["from"] not in SHAREGPT_ROLES:
        raise RowError(f"a turn is from {turn['from']!r}, which is not supported: only {', '.join(SHAREGPT_ROLES)} are")
    return {"role": SHAREGPT_ROLES[turn["from"]], "content": turn.get("value")}


def is_pair_of_texts(row: Mapping[str, Any]) -> bool:
    """Returns whether `chosen` and `rejected` are texts."""
    return isinstance(row.get(CHOSEN), str) and isinstance(row.get(REJECTED), str)


def one_of(row: Mapping[str, Any], *columns: str) -> Any:
    """Returns the value of the one column that is filled, None where none is.

    Raises:
        RowError: two of them are filled, so that it is not clear which one is meant.
    """
    filled = [column for column in columns if row.get(column) is not None]
    if len(filled) > 1:
        raise RowError(f"both `{filled[0]}` and `{filled[1]}` are given: leave one of them out")
    return row[filled[0]] if filled else None


def refuse_columns(row: Mapping[str, Any], columns: Collection[str]) -> None:
    """Refuses a row that has something in a column which this package would drop.

    Raises:
        RowError: one of the columns is neither missing nor empty.
    """
    for column in columns:
        if row.get(column) not in (None, "", [], {}):
            raise RowError(f"`{column}` is not supported: remove the column if the row makes sense without it")


def further_responses(row: Mapping[str, Any], used: Collection[str], *, conversational: bool) -> dict[str, Text]:
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


def read_marks(row: Mapping[str, Any], example: PreferenceExample, image_root: Path | None) -> PreferenceExample:
    """Returns an example with what any row may say of its corrupted image, whatever its format: where, and whether.

    `mask` is an image of its picture's size, light where it is corrupted, and `masks` a list of them; `boxes` are
    `[left, top, right, bottom]` in pixels, in one list for a single image, in a list of lists for several.

    Raises:
        RowError: a value is none of these, or masks and boxes are given.
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


def numeric_weights(row: Mapping[str, Any], used: Collection[str]) -> dict[str, float]:
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
