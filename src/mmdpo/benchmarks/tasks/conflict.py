"""Cross-modality conflicts: questions with options, asked with the image and with a line of text.

Source: Zhu et al., Unraveling Cross-Modality Knowledge Conflicts in Large Vision-Language Models (arXiv 2410.03659),
with their two files of questions (ViQuAE, InfoSeek). An answer is read by the first letter that stands alone, else by
the right option's text; our own wording asks. The four cells are told apart, since their flip rate less the difference
of accuracies is no bound of anything; an answer that names no option is wrong, and a flip. `mmdpo diagnose --conflict`
asks a local model the same, and with neither image nor text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems, Better, ItemScore, Metric, Tools, ratio_metric
from mmdpo.benchmarks.groups import add_counts
from mmdpo.benchmarks.option_questions import CELLS, IMAGE, TEXT, OptionQuestion, read_letter, read_questions
from mmdpo.benchmarks.reading import EvaluationError, Row, read_data
from mmdpo.records import RowError

LICENCE = "Questions with options on ViQuAE and InfoSeek: no licence is named; their images are ViQuAE's and OVEN's"
DATA_NAME = "knowledge_conflict"
SIZE = 9_007
GENERATION: Mapping[str, Any] = {"max_new_tokens": 16}
TRAPS = {"no_letter": "answers that name no option, which count as wrong and as a flip"}
HEADLINE = tuple(f"conflict/infoseek/{name}" for name in ("accuracy_image", "accuracy_text", "flip_rate"))

FILES: Final = {"viquae": "data_viquae_multiple_choice_data.json", "infoseek": "data_infoseek_sampled_val_mc.json"}
_BETTER: Final[Mapping[str, Better]] = {"both_right": "higher", "both_wrong": "lower"}


def _make_metrics(name: str) -> Iterator[Metric]:
    percent, own = partial(ratio_metric, scopes=[f"{name}/"], digits=2), f"conflict/{name}"
    for condition in (IMAGE, TEXT):
        yield percent(f"{own}/accuracy_{condition}", f"{condition}/right", f"{condition}/n")
        yield percent(f"{own}/no_letter_{condition}", f"{condition}/unread", f"{condition}/n", better="lower")
    for cell, _ in CELLS.values():
        yield percent(f"{own}/{cell}", cell, "pairs", better=_BETTER.get(cell, "neither"))
    yield percent(f"{own}/flip_rate", "flips", "pairs", better="lower")


METRICS = tuple(metric for name in FILES for metric in _make_metrics(name))


def read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]:
    """Reads the files that are there, each question once with its image and, if its thing is named, once with text.

    Ids are `infoseek/ID/image` and `infoseek/ID/text`. ViQuAE's file names no things: its questions are asked with the
    image alone until somebody adds `entity` to its rows. Raises EvaluationError for another file, or none.
    """
    files = {name: data_dir / file for name, file in FILES.items() if (data_dir / file).is_file()}
    if not files:
        raise EvaluationError(f"{data_dir}: holds none of {', '.join(FILES.values())}")
    items = []
    for name, file in files.items():
        try:
            questions = read_questions(read_data(file), Path(), str(file))
        except RowError as error:
            raise EvaluationError(str(error)) from error
        unnamed = sum(question.entity is None for question in questions)
        if unnamed:
            tools.used[name] = f"{unnamed:,} of {len(questions):,} questions name nothing: asked with the image alone"
        items += [item for question in questions for item in _make_items(name, question)]
    return tuple(items)


def _make_items(name: str, question: OptionQuestion) -> list[BenchmarkItem]:
    conditions = (IMAGE,) if question.entity is None else (IMAGE, TEXT)
    return [
        BenchmarkItem(
            id=f"{name}/{question.id}/{condition}",
            part=f"{name}/{condition}",
            prompt=question.prompt(condition),
            image=str(question.image) if condition == IMAGE else "",
            truth={"label": question.answer, "options": dict(question.options), "condition": condition, "file": name},
            group=f"{name}/{question.image}",
        )
        for condition in conditions
    ]


def find_id(row: Row, items: BenchmarkItems) -> str:
    """Returns the item of a row's question `id` and `condition`, image or text; raises EvaluationError without them."""
    question, condition = row.values.get("id"), row.values.get("condition")
    ids = [f"{name}/{question}/{condition}" for name in FILES]
    found = next((item_id for item_id in ids if item_id in items), None)
    if found is None:
        raise EvaluationError(
            f"no question {question!r} asked with {condition!r}; give an id as infoseek/ID/image, or the question's id "
            f'and "condition": "{IMAGE}" or "{TEXT}"'
        )
    return found


def score(item: BenchmarkItem, answer: str) -> ItemScore:
    """Reads the letter of an answer."""
    label = item.truth["label"]
    letter = read_letter(answer, item.truth["options"], label)
    counts = {"n": 1.0, "right": float(letter == label), "unread": float(letter is None)}
    return ItemScore(
        counts={f"{item.part}/{name}": count for name, count in counts.items()},
        reason={"read_as": letter or "no option", "label": label, "letter": letter},
        traps={} if letter else {"no_letter": 1},
    )


def score_together(
    items: Sequence[BenchmarkItem], texts: Mapping[str, str], scores: Mapping[str, ItemScore], tools: Tools
) -> dict[str, ItemScore]:
    """Returns the scores with the cell of each question that was answered under both conditions, and its flips."""
    counted = dict(scores)
    for item in items:
        other = f"{item.id.removesuffix(IMAGE)}{TEXT}"
        if item.truth["condition"] != IMAGE or item.id not in scores or other not in scores:
            continue
        seen, told = (scores[item_id].reason["letter"] for item_id in (item.id, other))
        right, name = item.truth["label"], item.truth["file"]
        cell = CELLS[seen == right, told == right][0]
        flips = float(seen is None or told is None or seen != told)
        counts = {f"{name}/pairs": 1.0, f"{name}/{cell}": 1.0, f"{name}/flips": flips}
        counted[item.id] = add_counts(counted[item.id], counts)
    return counted
