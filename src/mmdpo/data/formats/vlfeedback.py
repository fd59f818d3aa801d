"""VLFeedback's rows: `prompt`, an image, and `completions` of several models with ratings. mDPO's own source (Silkie).

The rule: a completion's score is the mean of its ratings over all aspects; `chosen` is the one with the highest score,
`rejected` the one with the lowest, and of equal ones the first. A completion with a rating that is no number is left
out.
A row whose completions all have one score prefers nothing, and is an error (`on_bad_row: skip` leaves it out).
`mmdpo data convert --pairs all` writes every pair of different scores instead, as Silkie trained on.

`completions` is a list of mappings, or the mapping of lists that `datasets` makes of it. The prompt is a turn of the
user, with the image in front. `rejected_images`, which VLFeedback does not have, are the corrupted images.

Source: https://huggingface.co/datasets/MMInstruction/VLFeedback; the rule for all pairs: Li et al., Silkie
(arXiv 2312.10665).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any, Unpack

from mmdpo.data.columns import ask, one_of, read_conversation
from mmdpo.data.formats import Row, RowPlace
from mmdpo.data.messages import as_list
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, RowError

EXAMPLES = (
    {
        "id": "svit-0001",
        "prompt": "What is this?",
        "img_path": "merged_images/svit-0001.jpg",
        "models": ["llava-13b", "qwen-vl-chat"],
        "completions": [
            {
                "model": "llava-13b",
                "response": "A cup.",
                "annotations": {
                    "Helpfulness": {"Rating": "4", "Rationale": "Right, and short."},
                    "Visual Faithfulness": {"Rating": "5", "Rationale": "It is a cup."},
                },
            },
            {
                "model": "qwen-vl-chat",
                "response": "A car.",
                "annotations": {
                    "Helpfulness": {"Rating": "2", "Rationale": "Wrong."},
                    "Visual Faithfulness": {"Rating": "1", "Rationale": "There is no car."},
                },
            },
        ],
    },
    {
        "prompt": "What is this?",
        "image": "cup.jpg",
        "completions": {
            "model": ["llava-13b", "qwen-vl-chat"],
            "response": ["A car.", "A cup."],
            "annotations": [{"Helpfulness": {"Rating": "2"}}, {"Helpfulness": {"Rating": "5"}}],
        },
    },
)

_IMAGES = ("image", "images", "img_path")
_USED = ("prompt", "completions", "models", "rejected_images", *_IMAGES)


def matches(row: Row) -> bool:
    """Returns whether there are a prompt and completions, and no pair yet."""
    return "completions" in row and "prompt" in row and CHOSEN not in row and REJECTED not in row


def parse(row: Row, **place: Unpack[RowPlace]) -> PreferenceExample:
    """Reads one row, as the pair of the best and the worst completion.

    Raises RowError where the completions have no two different scores, or something cannot be read.
    """
    scored = _score(row)
    if len({score for score, _ in scored}) < 2:
        raise RowError(
            f"its {len(scored)} completions with ratings have no two different scores: there is nothing to prefer; "
            "leave the row out (on_bad_row: skip)"
        )
    best = max(scored, key=lambda completion: completion[0])
    worst = min(scored, key=lambda completion: completion[0])
    return _pair(row, best[1], worst[1], **place)


def parse_all(row: Row, **place: Unpack[RowPlace]) -> Iterator[PreferenceExample]:
    """Yields every pair of completions with different scores; their ids are the row's and a number.

    Raises RowError where something cannot be read.
    """
    unequal = [pair for pair in combinations(_score(row), 2) if pair[0][0] != pair[1][0]]
    for number, pair in enumerate(unequal, start=1):
        (_, worse), (_, better) = sorted(pair, key=lambda completion: completion[0])
        yield replace(_pair(row, better, worse, **place), id=f"{place['row_id']}-{number}")


def _pair(row: Row, chosen: Any, rejected: Any, **place: Unpack[RowPlace]) -> PreferenceExample:
    images, answers = (one_of(row, *_IMAGES), row.get("rejected_images")), {CHOSEN: chosen, REJECTED: rejected}
    return read_conversation(row, ask(row.get("prompt")), *images, answers, used=_USED, column="prompt", **place)


def _score(row: Row) -> list[tuple[float, Any]]:
    """Returns score and response of every completion whose ratings are all numbers."""
    completions = as_list(row.get("completions"))
    if completions is None or not all(isinstance(completion, Mapping) for completion in completions):
        raise RowError("`completions` is no list of completions: each has `response` and `annotations`")
    scored = []
    for completion in completions:
        annotations = completion.get("annotations")
        aspects = [aspect for aspect in annotations.values() if aspect] if isinstance(annotations, Mapping) else []
        try:
            ratings = [float(aspect["Rating"]) for aspect in aspects]
        except (KeyError, TypeError, ValueError):  # "N/A", or no rating at all
            continue
        if ratings and math.isfinite(sum(ratings)):
            scored.append((sum(ratings) / len(ratings), completion.get("response")))
    return scored
