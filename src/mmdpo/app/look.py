"""What the page "Does it look?" is asked and shows: answers token by token under two images. Knows no Gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL.Image import Image

from mmdpo.app.html import render
from mmdpo.app.models import LoadedModel
from mmdpo.app.pair_pictures import LONGEST_SIDE, Shown
from mmdpo.corruption import Corruption, load
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import name_dataset
from mmdpo.data.images import open_image
from mmdpo.data.items import Item
from mmdpo.data.messages import plain_text
from mmdpo.data.prepare import Preparer
from mmdpo.diagnosis.pair_scores import OTHER
from mmdpo.diagnosis.per_token import TokenScores, make_example, score_tokens
from mmdpo.files import clean_text, printable
from mmdpo.records import CHOSEN, CORRUPTED, NO_IMAGE, ORIGINAL, REJECTED, ImageSource, PreferenceExample, RowError
from mmdpo.report.layout import cut, make_thumbnail
from mmdpo.report.tokens import ColouredAnswer, list_colours, split_tokens
from mmdpo.tables import Table, show_number

AGAINST = {NO_IMAGE: "no image", CORRUPTED: "the corrupted image", OTHER: "another image"}
"""Image version → its name on the page."""
MOST_PIXELS = 50_000_000
"""Of a picture that is uploaded."""
MOST_CHARACTERS = 8_000
"""Of a prompt, or an answer, that is typed in."""
LONGEST_PROMPT = 600


@dataclass(frozen=True)
class Question:
    """What is asked: an example whose answers are scored, and what its images are compared with."""

    example: PreferenceExample
    where: str
    """What the example is called in alt texts."""
    against: str = NO_IMAGE
    corruption: Corruption | None = None
    """What makes the corrupted image; None for images that the row brings itself."""
    other_images: tuple[ImageSource, ...] = ()
    seed: int = 0

    def make_pictures(self) -> list[Shown]:
        """Returns the images, and those they are compared with; raises RowError for what cannot be opened or made."""
        corruptions = {OTHER: load(OTHER), **({CORRUPTED: self.corruption} if self.corruption else {})}
        no_text: Any = None
        preparer = Preparer(no_text, (), corruptions, self.seed)
        item, shown = Item(self.example, 0, other_images=self.other_images), list[Shown]()
        captions = {ORIGINAL: "image", CORRUPTED: "corrupted", OTHER: "another image"}
        if self.corruption is not None and preparer.find_images(self.example, CORRUPTED) is None:
            captions[CORRUPTED] = f"corrupted: {self.corruption.name}"
        for version in (ORIGINAL, self.against):
            for image in preparer.make_images(item, version):
                caption = f"{captions[version]}, {image.width} × {image.height}"
                alt = f"{captions[version].capitalize()} of {self.where}"
                shown.append(Shown(make_thumbnail(image, LONGEST_SIDE), caption, alt))
        return shown


@dataclass(frozen=True)
class Looked:
    """What one model says of the answers of a question."""

    label: str
    answers: Sequence[TokenScores]


def take_row(dataset: PreferenceDataset, number: int) -> tuple[PreferenceExample, str]:
    """Returns a row by its number, from 1, with what it is called.

    Raises ValueError for a number that no row has, RowError for a row that is faulty or has no image.
    """
    if not 1 <= number <= len(dataset):
        raise ValueError(f"there is no row {number}: {name_dataset(dataset)} has {len(dataset):,}")
    example = dataset[number - 1]
    if not example.images:
        raise RowError("it has no image, so that nothing can depend on one", source=example.source)
    responses = {name: example.responses[name] for name in (CHOSEN, REJECTED) if name in example.responses}
    return replace(example, responses=responses), f"row {number}"


def take_typed(picture: str | Path | None, prompt: str, answers: Sequence[str]) -> tuple[PreferenceExample, str]:
    """Returns an example of an uploaded picture, a question and answers; raises ValueError for what is missing."""
    if picture is None:
        raise ValueError("there is no picture: upload one")
    opened = open_upload(picture)
    if not prompt.strip():
        raise ValueError("there is no question: write what is asked about the picture")
    given = [answer for answer in answers if answer.strip()]
    if not given:
        raise ValueError("there is no answer: write one, whose words are then looked at")
    for text in (prompt, *given):
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"a text has {len(text):,} characters, and {MOST_CHARACTERS:,} are taken: shorten it")
    names = ["answer"] if len(given) == 1 else [f"answer {place}" for place in range(1, len(given) + 1)]
    example = make_example(prompt, dict(zip(names, given, strict=True)), [opened])
    return example, "the uploaded picture"


def open_upload(picture: str | Path) -> Image:
    """Returns an uploaded picture, decoded; raises RowError for a file that is none, is damaged or too large."""
    try:
        return open_image(Path(picture), max_pixels=MOST_PIXELS)
    except RowError as error:
        # The path is the server's own, and tells the reader nothing.
        problem = error.problem.replace(str(picture), Path(picture).name)
        raise RowError(f"the uploaded picture cannot be used: {problem}") from error


def take_other(
    example: PreferenceExample, dataset: PreferenceDataset | None, number: int | None, picture: str | None
) -> tuple[ImageSource, ...]:
    """Returns a picture for each of an example's images: the uploaded one, else the first of a row by its number."""
    if picture is not None:
        return (open_upload(picture),) * len(example.images)
    if dataset is None or number is None:
        raise ValueError("there is no other image: upload one, or name a row that has one")
    other, _ = take_row(dataset, number)
    return (other.images[0],) * len(example.images)


def look(loaded: LoadedModel, question: Question, *, without_adapter: bool = False) -> Looked:
    """Scores the answers of a question with one model, token by token.

    Raises ValueError for a model without the adapter that was to be taken off, and what scoring raises.
    """
    if without_adapter and not loaded.has_adapter:
        raise ValueError(f"{printable(loaded.name)} has no adapter to take off: choose another model beside it")
    with loaded.model.disable_adapter() if without_adapter else nullcontext():
        scored = score_tokens(
            loaded.model,
            loaded.processor,
            question.example,
            against=[question.against],
            corruption=question.corruption,
            other_images=question.other_images,
            seed=question.seed,
        )
    return Looked(f"{loaded.name} without its adapter" if without_adapter else loaded.name, scored)


def render_looked(question: Question, found: Sequence[Looked]) -> Markup:
    """Returns pictures, coloured answers, and sums."""
    answers: dict[str, list[ColouredAnswer]] = {}
    for looked in found:
        for scores in looked.answers:
            values = scores.reliance(question.against).tolist()
            raw = split_tokens(scores.text, scores.tokens, scores.spans, values)
            pieces = tuple(replace(piece, text=clean_text(piece.text)) for piece in raw)
            answers.setdefault(scores.name, []).append(ColouredAnswer(clean_text(looked.label), pieces))
    prompt = plain_text(question.example.prompt).replace("<image>", " ")
    return render(
        "look.html",
        pictures=question.make_pictures(),
        prompt=cut(clean_text(" ".join(prompt.split())), LONGEST_PROMPT),
        against=AGAINST[question.against],
        colours=list_colours(),
        answers=answers,
        sums=_sum_up(question.against, found),
    )


def _sum_up(against: str, found: Sequence[Looked]) -> Table:
    """Returns log π of every answer under both images, and the margins of a pair."""
    rows = []
    for looked in found:
        sums = {
            of.name: tuple(float(of.logprobs[image].sum()) for image in (ORIGINAL, against)) for of in looked.answers
        }
        tokens: Mapping[str, int | None] = {of.name: len(of.tokens) for of in looked.answers}
        if {CHOSEN, REJECTED} <= sums.keys():
            margin = tuple(one - other for one, other in zip(sums[CHOSEN], sums[REJECTED], strict=True))
            sums["chosen − rejected"], tokens = margin, {**tokens, "chosen − rejected": None}
        for name, (real, other) in sums.items():
            label = f"{clean_text(looked.label)}: {name}"
            numbers = (show_number(value, 2, signed=True) for value in (real, other, real - other))
            rows.append((label, show_number(tokens[name], ",.0f"), *numbers))
    headers = ("", "tokens", "log π with the image", f"with {AGAINST[against]}", "difference")
    return Table(headers, tuple(rows), title="Sums of log-probabilities")
