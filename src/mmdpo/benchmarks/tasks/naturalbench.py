"""NaturalBench: two questions on two images, whose right answers are crossed: without the image no group is right.

Source: Li et al., NaturalBench: Evaluating Vision-Language Models on Natural Adversarial Samples, NeurIPS 2024; scoring
as the authors' `naturalbench_vqa.py`: the first whole word "yes" or "no" (or the letter A or B) in any case. A question
is right if it is on both images, an image if both questions are on it, a group if all four answers are right. A model
that ignores the image has accuracy 0.5 and 0 in all three; one that guesses has 0.5, 0.25, 0.25 and 0.0625.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, ItemScore, Tools, ratio_metric
from mmdpo.benchmarks.groups import Grouping, count_groups
from mmdpo.benchmarks.reading import EvaluationError, Row, find_by_order, read_data, read_data_text
from mmdpo.files import parse_json

LICENCE = "NaturalBench: see huggingface.co/datasets/BaiqiL/NaturalBench; its images are of Flickr30K and DOCCI"
SIZE = 7_600
GENERATION: Mapping[str, Any] = {"max_new_tokens": 128}
TRAPS = {
    "unanswered": 'answers without the word "yes" or "no", or the letter A or B, which count as wrong',
    "article_read_as_a": 'answers that are read as A for the English article "a"',
}
HEADLINE = tuple(
    f"naturalbench/{name}" for name in ("accuracy", "question_accuracy", "image_accuracy", "group_accuracy")
)

SPLITS: Final = ("train", "test")
"""Half of the groups each; published numbers are over both."""
_KINDS: Final = ("question", "image", "group")
_PLACES: Final = ("q0i0", "q0i1", "q1i0", "q1i1")
"""Of the four rows of a group, in their order."""
_WORDS: Final = {"Yes": ("yes", "no"), "A": ("A", "B")}
"""The first answer of a group → what its answers are read as; they are crossed."""


METRICS = tuple(
    ratio_metric(f"naturalbench/{scope}{name}", f"/{right}", f"/{whole}", scopes=splits, factor=1, unit="share")
    for scope, splits in {"": SPLITS, **{f"{split}/": (split,) for split in SPLITS}}.items()
    for name, right, whole in (
        ("accuracy", "right", "n"),
        *((f"{kind}_accuracy", f"{kind}/all_right", f"{kind}/n") for kind in _KINDS),
    )
)


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads `test_set.json` and `train_set.jsonl`, whichever are there, 950 groups of four questions each.

    Ids are `test/0/q0i1`: split, group, question and image. Raises EvaluationError for another file, a group that is
    not two questions on two images, or whose answers are not crossed.
    """
    files = {"train": data_dir / "train_set.jsonl", "test": data_dir / "test_set.json"}
    readers = {"train": _read_train, "test": _read_test}
    items = [
        item
        for split, file in files.items()
        if file.is_file()
        for item in _make_items(file, split, readers[split](file))
    ]
    if not items:
        raise EvaluationError(f"{data_dir}: holds neither test_set.json nor train_set.jsonl")
    return tuple(items)


def _read_test(file: Path) -> list[tuple[str, str, str]]:
    """Returns (question, image, answer) of each row of the test split."""
    try:
        return [(str(question), str(image), str(answer)) for question, image, answer, _ in read_data(file)]
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{file}: no questions of NaturalBench ({error!r})") from error


def _read_train(file: Path) -> list[tuple[str, str, str]]:
    """Returns the same of the other split, whose rows are conversations."""
    rows = []
    for number, line in enumerate(read_data_text(file).splitlines(), 1):
        try:
            asked, shown, answered = parse_json(line)["messages"]
            rows.append((asked["content"], shown["content"][0]["image_path"], answered["content"]))
        except (ValueError, LookupError, TypeError) as error:
            raise EvaluationError(f"{file}, line {number}: no question of NaturalBench ({error!r})") from error
    return rows


def _make_items(file: Path, split: str, rows: Sequence[tuple[str, str, str]]) -> list[BenchmarkItem]:
    size = len(_PLACES)
    if len(rows) % size:
        raise EvaluationError(f"{file}: {len(rows):,} questions are no groups of {size}; fetch the file again")
    items = []
    for start in range(0, len(rows), size):
        group, number = rows[start : start + size], start // size
        yes, no = _check_group(f"{file}, group {number} (rows {start + 1} to {start + size})", group)
        for place, (question, image, answer) in zip(_PLACES, group, strict=True):
            truth = {"label": yes if answer == group[0][2] else no, "words": (yes, no)}
            items.append(
                BenchmarkItem(
                    id=f"{split}/{number}/{place}",
                    part=split,
                    prompt=question,
                    image=image.rpartition("/")[2],
                    truth=truth,
                    group=f"{split}/{number}",
                )
            )
    return items


def _check_group(place: str, group: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """Returns what the answers of a group are read as; raises EvaluationError for four rows that are no group."""
    (q00, i00, a00), (q01, i01, a01), (q10, i10, a10), (q11, i11, a11) = group
    is_group = (q00, q10) == (q01, q11) and (i00, i01) == (i10, i11) and q00 != q10 and i00 != i01
    if not is_group or a00 not in _WORDS or (a00, a01) != (a11, a10) or a00 == a01:
        raise EvaluationError(
            f"{place}: should be two questions on two images, with crossed answers Yes, No, No, Yes or A, B, B, A"
        )
    return _WORDS[a00]


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the item at a row's place among those of the split in the file's name, if its question is that item's.

    Raises EvaluationError if the name says none, or the questions differ.
    """
    splits = [split for split in SPLITS if split in row.file.name]
    if len(splits) != 1:
        raise EvaluationError(
            f"no id; ids look like test/0/q0i1. Rows without one are joined by order, if the name of their file says "
            f"whether they are of {' or '.join(SPLITS)}"
        )
    return find_by_order(row, items.parts.get(splits[0], ()))


def read_answer(answer: str, words: Sequence[str]) -> tuple[str | None, str]:
    """Returns the one of two words that stands first in an answer, and as it stands there; None and "" for neither."""
    matches = ((word, re.search(rf"\b{word}\b", answer, re.IGNORECASE)) for word in words)
    found = [(match.start(), word, match[0]) for word, match in matches if match]
    return min(found)[1:] if found else (None, "")


def score(item: BenchmarkItem, answer: str) -> ItemScore:
    """Reads an answer by the words of its group."""
    label = item.truth["label"]
    said, written = read_answer(answer, item.truth["words"])
    traps = {"unanswered": said is None, "article_read_as_a": written == "a" and len(answer.split()) > 1}
    return ItemScore(
        counts={f"{item.part}/n": 1.0, f"{item.part}/right": float(said == label)},
        reason={"read_as": said or "neither", "label": label},
        traps={name: 1 for name, hit in traps.items() if hit},
    )


def score_together(
    items: Sequence[BenchmarkItem], texts: Mapping[str, str], scores: Mapping[str, ItemScore], tools: Tools
) -> dict[str, ItemScore]:
    """Returns the scores with the counts of questions, images and groups; one that lacks an answer is left out."""
    kinds: dict[str, Callable[[BenchmarkItem], tuple[str, str]]] = {
        "question": lambda item: (item.group, item.id[-4:-2]),
        "image": lambda item: (item.group, item.id[-2:]),
        "group": lambda item: (item.group, ""),
    }

    def of(split: str, key: Callable[[BenchmarkItem], Any]) -> Callable[[BenchmarkItem], Any]:
        return lambda item: key(item) if item.part == split else None

    groupings = [Grouping(f"{split}/{kind}", of(split, key)) for split in SPLITS for kind, key in kinds.items()]
    return count_groups(items, scores, groupings, lambda score: score.reason["read_as"] == score.reason["label"])
