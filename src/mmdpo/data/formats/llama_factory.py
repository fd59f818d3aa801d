"""LLaMA-Factory's ShareGPT preference format: `conversations`, `chosen`, `rejected`, `images`.

Turns are `{"from": "human" | "gpt" | "system", "value": ...}`, or in its OpenAI spelling `messages` with `role` and
`content`. `chosen` and `rejected` are one turn each. An optional `system` column is the first turn. Every image needs
its `<image>` in a turn. `rejected_images`, which LLaMA-Factory does not have, are the corrupted images.

Any further column of text or turns is a response, and any further number a weight, that an objective may name.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (sharegpt, preference dataset).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdpo.data.columns import further_responses, numeric_weights, one_of, read_answers, refuse_columns
from mmdpo.data.images import image_sources
from mmdpo.data.messages import as_list, read_prompt
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError

EXAMPLES = (
    {
        "conversations": [{"from": "human", "value": "<image>What is this?"}],
        "chosen": {"from": "gpt", "value": "A cup."},
        "rejected": {"from": "gpt", "value": "A car."},
        "images": ["cup.jpg"],
    },
    {
        "messages": [{"role": "user", "content": "<image>What is this?"}],
        "chosen": {"role": "assistant", "content": "A cup."},
        "rejected": {"role": "assistant", "content": "A car."},
        "images": ["cup.jpg"],
    },
)

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
_UNSUPPORTED = ("videos", "audios", "tools")
_USED = ("conversations", "messages", "chosen", "rejected", "images", "rejected_images", "system", *_UNSUPPORTED)


def matches(row: Mapping[str, Any]) -> bool:
    """Returns whether there are `conversations` or `messages`, and both answers are one turn."""
    return ("conversations" in row or "messages" in row) and _is_turn(row.get(CHOSEN)) and _is_turn(row.get(REJECTED))


def parse(row: Mapping[str, Any], *, source: str, image_root: Path | None, row_id: str) -> PreferenceExample:
    """Reads one row.

    Raises:
        RowError: a turn is of a kind that is not supported (observation, function_call), or a column has something that
            is not.
    """
    refuse_columns(row, _UNSUPPORTED)
    turns = as_list(one_of(row, "conversations", "messages")) or []
    prompt = [_rename(turn) for turn in turns]
    if row.get("system"):
        prompt.insert(0, {"role": "system", "content": row["system"]})
    images = image_sources(row.get("images"), image_root)
    conversation = read_prompt(prompt, images, image_root=image_root, column="conversations", images_first=False)
    answers = {column: row.get(column) for column in (CHOSEN, REJECTED)}
    return PreferenceExample(
        id=row_id,
        prompt=conversation.turns,
        responses=read_answers({name: value and _rename(value) for name, value in answers.items()}, conversational=True)
        | further_responses(row, _USED, conversational=True),
        images=conversation.images,
        rejected_images=image_sources(row.get("rejected_images"), image_root),
        weights=numeric_weights(row, _USED),
        source=source,
    )


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and ({"from", "value"} <= value.keys() or {"role", "content"} <= value.keys())


def _rename(turn: Any) -> Any:
    """Brings a ShareGPT turn to `role` and `content`; leaves anything else for `read_prompt` to accept or refuse."""
    if not isinstance(turn, Mapping) or turn.get("from") is None:
        return turn
    if turn["from"] not in _ROLES:
        raise RowError(f"a turn is from {turn['from']!r}, which is not supported: only {', '.join(_ROLES)} are")
    return {"role": _ROLES[turn["from"]], "content": turn.get("value")}
