"""What the columns of a row mean, whatever its format: answers, ids, further responses, weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from mmdpo.data.messages import is_messages, read_answer
from mmdpo.records import RowError, Text

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
