"""`mmdpo diagnose --conflict`: does a model answer from the picture as it does from a text that says the same?

Questions with options about a thing that the picture shows are asked three times: with the picture, with a line of text
that names the thing in its place, and with neither. A model that knows the answer by one way and not by the other has a
conflict between what it sees and what it knows.

Source: Zhu et al., Unraveling Cross-Modality Knowledge Conflicts in Large Vision-Language Models (arXiv 2410.03659),
whose two files of questions (ViQuAE, InfoSeek) are read as they are released.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdpo.benchmarks.definitions import Metric
from mmdpo.benchmarks.option_questions import CELLS, IMAGE, NEITHER, TEXT, OptionQuestion, read_letter
from mmdpo.benchmarks.stats import note_few
from mmdpo.diagnosis.estimates import estimate, ratio
from mmdpo.diagnosis.replies import ReplyLog
from mmdpo.generation.questions import GenerationSettings, Question
from mmdpo.generation.transformers import TransformersAnswerer

CONDITIONS = (IMAGE, TEXT, NEITHER)
SETTINGS = GenerationSettings(max_new_tokens=16)


def make_question(question: OptionQuestion, condition: str) -> Question:
    """Returns a question as a model is asked it under one of the conditions."""
    return Question(question.id, question.prompt(condition), question.image if condition == IMAGE else None)


def decode_contrastively(image: Float[Tensor, "n"], text: Float[Tensor, "n"]) -> int:
    """Returns the option that dynamic contrastive decoding chooses, from the scores of n options under both conditions.

    Where both prefer one option, this. Else, with c the confidence (the largest probability) of each, the option with
    the largest c₁ z₁ − c₂ z₂, the more confident condition first. Scores are logits or log-probabilities.

    >>> decode_contrastively(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 0.1, 3.0]))
    2
    """
    if int(image.argmax()) == int(text.argmax()):
        return int(image.argmax())
    confidence = [float(scores.softmax(-1).max()) for scores in (image, text)]
    first, second = confidence[0] * image, confidence[1] * text
    return int((second - first if confidence[1] > confidence[0] else first - second).argmax())


@dataclass(frozen=True)
class Replies:
    """What a model said to a question under one condition."""

    answer: str
    letter: str | None
    options: Float[Tensor, "n"]
    """log π of each letter as the first word of the answer, in nats."""


def ask_all(
    answerer: TransformersAnswerer, questions: Sequence[OptionQuestion], log: ReplyLog
) -> dict[str, dict[str, Replies]]:
    """Returns condition → id → reply. The text condition is asked of questions whose thing is named.

    Raises RowError for a picture that cannot be read.
    """
    by_id = {question.id: question for question in questions}
    found: dict[str, dict[str, Replies]] = {}

    def answer(some: Sequence[Question]) -> Iterator[tuple[str, str]]:
        return ((answer.id, answer.text) for answer in answerer.answer(some, SETTINGS))

    def score(some: Sequence[Question]) -> Iterator[tuple[str, list[float]]]:
        for options in sorted({tuple(by_id[question.id].options) for question in some}):
            same = [question for question in some if tuple(by_id[question.id].options) == options]
            yield from ((name, row.tolist()) for name, row in answerer.score_options(same, options, SETTINGS))

    for condition in CONDITIONS:
        known = [question for question in questions if condition != TEXT or question.entity]
        asked = [make_question(question, condition) for question in known]
        answers = log.complete(f"answers, {condition}", asked, answer)
        scores = log.complete(f"options, {condition}", asked, score)
        found[condition] = {
            name: Replies(text, read_letter(text, by_id[name].options, by_id[name].answer), torch.tensor(scores[name]))
            for name, text in answers.items()
        }
    return found


def describe_replies(
    questions: Sequence[OptionQuestion], replies: Mapping[str, Mapping[str, Replies]]
) -> Iterable[dict[str, Any]]:
    """Yields for each question what was said under each condition, whether it is right, and what decoding chooses."""
    for question in questions:
        said = {condition: found[question.id] for condition, found in replies.items() if question.id in found}
        letters = list(question.options)
        row: dict[str, Any] = {
            "id": question.id,
            "image": str(question.image),
            "entity": question.entity,
            "question": question.question,
            "options": dict(question.options),
            "right": question.answer,
            "answers": {condition: reply.answer for condition, reply in said.items()},
            "letters": {condition: reply.letter for condition, reply in said.items()},
            "preferred": {c: letters[int(reply.options.argmax())] for c, reply in said.items()},
        }
        if TEXT in said:
            row["contrastive"] = letters[decode_contrastively(said[IMAGE].options, said[TEXT].options)]
        yield row


def summarise(rows: Sequence[Mapping[str, Any]], *, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Returns the measures of what `describe_replies` yields, with 95 % bootstrap intervals over images, for JSON.

    Questions whose thing is not named count under the image and neither alone.
    """
    labels: dict[Metric, str] = {}

    def add(name: str, count: str, over: str, label: str) -> None:
        labels[ratio(name, count, over, over=over)] = label

    for condition, said in ((IMAGE, "the image"), (TEXT, "the text"), (NEITHER, "neither")):
        over = f"n_{condition}"
        add(f"accuracy_{condition}", f"right_{condition}", over, f"right with {said}")
        add(f"unreadable_{condition}", f"unread_{condition}", over, f"no letter with {said}")
        add(f"option_{condition}", f"preferred_{condition}", over, f"the right option is the likeliest with {said}")
    for cell, label in CELLS.values():
        add(cell, cell, "n_text", label)
    add("flip_rate", "flips", "n_text", "another letter with the text, or none with one of the two")
    add("accuracy_contrastive", "contrastive", "n_text", "right by dynamic contrastive decoding")
    counts = [(row["id"], row["image"], _count(row)) for row in rows]
    named = sum("contrastive" in row for row in rows)
    asked = {metric: label for metric, label in labels.items() if named or metric.over != ("n_text",)}
    measures = estimate(counts, asked, resamples, seed)
    without = f"{len(rows) - named} of {len(rows)} questions do not say what the picture shows (`entity`)"
    notes = note_few([row["image"] for row in rows], "distinct images")
    notes += [f"{without}: not asked with the text"] if named < len(rows) else []
    return {"measures": measures, "notes": notes, "verdict": {"text": _judge(measures)}}


def _judge(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what was found, in a sentence."""
    image = f"It is right on {measures['accuracy_image']['value']:.1f} % of the questions with the image"
    if "flip_rate" not in measures:
        return f"{image}, and on {measures['accuracy_neither']['value']:.1f} % with neither image nor text."
    text, flips, alone = (measures[name]["value"] for name in ("accuracy_text", "flip_rate", "text_only"))
    return (
        f"{image} and on {text:.1f} % with a text that says what it shows; {flips:.1f} % of its answers are others, "
        f"and {alone:.1f} % it knows by the text alone."
    )


def _count(row: Mapping[str, Any]) -> dict[str, float]:
    counts = {"n": 1.0}
    for condition, letter in row["letters"].items():
        counts[f"n_{condition}"] = 1.0
        counts[f"right_{condition}"] = float(letter == row["right"])
        counts[f"unread_{condition}"] = float(letter is None)
        counts[f"preferred_{condition}"] = float(row["preferred"][condition] == row["right"])
    if "contrastive" in row:
        image, text = row["letters"][IMAGE], row["letters"][TEXT]
        counts[CELLS[image == row["right"], text == row["right"]][0]] = 1.0
        counts["flips"] = float(image is None or text is None or image != text)
        counts["contrastive"] = float(row["contrastive"] == row["right"])
    return counts
