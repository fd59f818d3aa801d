"""How far each token of an answer rests on the image: log π(token | image, …) − log π(token | another or no image, …).

    picture = Image.open("street.jpg")
    said = mmdpo.score_tokens(model, processor, "What is in the picture?", ["A red cup on a table."], [picture])[0]
    for token, nats in zip(said.tokens, said.reliance("none").tolist()):
        print(f"{nats:+.2f} {token}")

Both log-probabilities follow the same prompt and the same tokens of the answer, so that their differences add up to
log π(answer | image) − log π(answer | other image). Above 0, the image makes the token likelier. The answers share
prompt and images in one forward, as pairs do in training, and each value is that of a plain forward.

Source: mDPO's conditional preference compares log π(y | m_w, q) with log π(y | m_l, q) (Wang et al., arXiv 2406.11839);
here the difference is taken apart into tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mmdpo.corruption import Corruption
from mmdpo.data.collate import Collator
from mmdpo.data.items import Item
from mmdpo.data.messages import plain_text, read_answer, read_prompt
from mmdpo.data.prepare import Preparer
from mmdpo.diagnosis.pair_scores import OTHER, make_pair_collator, make_scorer, round_tokens, score_items
from mmdpo.models.seams import attention_of
from mmdpo.models.trained import unwrap_adapter
from mmdpo.records import (
    CORRUPTED,
    NO_IMAGE,
    ORIGINAL,
    ImageSource,
    Message,
    PreferenceExample,
    Text,
    named_source,
)
from mmdpo.texts import Mark

AT_ONCE = 16
"""Answers that share a forward."""
_VERSIONS = (CORRUPTED, OTHER, NO_IMAGE)


@dataclass(frozen=True)
class TokenScores:
    """An answer of n tokens, the end of the turn among them, under several images; log-probabilities are in nats."""

    name: str
    """Its key among the answers, or its place from 0."""
    text: str
    """As it was given."""
    tokens: tuple[str, ...]
    """The n tokens: pieces of the text, and marks that the chat template adds."""
    spans: tuple[Mark, ...]
    """Start and end of each in the text, in characters; empty for marks. Tokens that are bytes of one character have
    the same."""
    logprobs: Mapping[str, Float[Tensor, "n"]]
    """log π(token | image, prompt, tokens before) by image: `original`, `corrupted`, `random_image`, `none`."""
    reference: Mapping[str, Float[Tensor, "n"]] = field(default_factory=dict)
    """The same of the reference, where one was given."""

    def reliance(self, against: str = NO_IMAGE) -> Float[Tensor, "n"]:
        """Returns log π(token | its own image) − log π(token | image `against`), in nats."""
        return self.logprobs[ORIGINAL] - self.logprobs[against]

    def reference_reliance(self, against: str = NO_IMAGE) -> Float[Tensor, "n"]:
        """Returns the same of the reference. Raises KeyError where there is none."""
        return self.reference[ORIGINAL] - self.reference[against]


def score_tokens(
    model: nn.Module,
    processor: Any,
    prompt: str | Sequence[Message] | PreferenceExample,
    answers: Sequence[str] | Mapping[str, Text] = (),
    images: Sequence[ImageSource] = (),
    *,
    against: Sequence[str] = (CORRUPTED, NO_IMAGE),
    corruption: Corruption | None = None,
    other_images: Sequence[ImageSource] = (),
    reference: nn.Module | None = None,
    seed: int = 0,
    max_length: int | None = None,
    try_first: bool = True,
) -> list[TokenScores]:
    """Scores answers token by token under their own images and under others, in the order of the answers.

    Args:
        model: A vision-language model as `mmdpo.models.load.load_model` or transformers loads it, adapters included;
            what an adapter changes is seen by a second call `with model.disable_adapter():`.
        processor: The model's own.
        prompt: A question, which is asked as a user's turn after the images; chat turns; or a whole example, such as a
            row of a `PreferenceDataset`, whose answers and images are scored unless some are given.
        answers: Texts, or texts by name such as `chosen` and `rejected`.
        images: Paths, encoded bytes or PIL images.
        against: What their own images are compared with: `corrupted`, `random_image`, `none`.
        corruption: What makes `corrupted` (`mmdpo.corruption.load(name)`); crop_0_20 unless given. An example that
            brings `rejected_images` has these.
        other_images: What `random_image` shows: one for each image.
        reference: A model that is scored on the same.
        seed: Of the corruption, as in training: the same row has the same corrupted image.
        max_length: Tokens of prompt and answer, at which answers are cut at their end; no limit unless given.
        try_first: Whether the models are first tried by plain forwards on this very input, as before training; without,
            rows are shared by the record of families.

    Raises:
        ValueError: there is no answer or no image, or `against` names no image that is known; ProbeError for a model
            that scores an answer differently beside others than alone.
        RowError: a picture cannot be read, or the chat template refuses the turns.
    """
    example = make_example(prompt, answers, images)
    check_asked(example, against, other_images)
    names = tuple(example.responses)
    how: dict[str, Any] = dict(seed=seed, corruption=corruption, max_length=max_length)
    item, found, of_reference = Item(example, 0, other_images=tuple(other_images)), dict[str, Any](), dict[str, Any]()
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        collator = make_pair_collator(
            processor, unwrap_adapter(model).config, (ORIGINAL, *against), responses=some, comparisons=(), **how
        )
        found |= score_example(model, collator, item, try_first=try_first)
        if reference is not None:
            of_reference |= score_example(reference, collator, item, try_first=try_first)
    prepare = collator.prepare
    return [place_tokens(prepare, example, name, found[name], of_reference.get(name, {})) for name in names]


def score_example(
    model: nn.Module, collator: Collator, item: Item, *, try_first: bool = True
) -> dict[str, dict[str, Float[Tensor, "n"]]]:
    """Returns response → image → log π of each token, in nats, of the responses and images of a collator's cells."""
    decoder: Any = unwrap_adapter(model).get_decoder()
    was_training, attention = model.training, attention_of(decoder)
    model.eval()
    try:
        scorer = make_scorer(model, collator, [item], try_first=try_first)
        (scored,) = score_items(scorer, collator, [item], with_tokens=True).tokens
    finally:
        model.train(was_training)
        decoder.set_attn_implementation(attention)  # the caller's model is as it was
    found: dict[str, dict[str, Any]] = {}
    for cell, tokens in zip(collator.prepare.cells, scored, strict=True):
        found.setdefault(cell.response, {})[cell.image] = tokens
    return found


def place_tokens(
    prepare: Preparer,
    example: PreferenceExample,
    name: str,
    logprobs: Mapping[str, Float[Tensor, "n"]],
    reference: Mapping[str, Float[Tensor, "n"]] | None = None,
) -> TokenScores:
    """Returns the scores of a response with the texts and places of its tokens; raises RowError as rendering does."""
    renderer, text, count = prepare.renderer, plain_text(example.responses[name]), len(next(iter(logprobs.values())))
    with named_source(example.source):
        rendered = renderer.render(example, [name], with_images=True)
    answer = rendered.answers[name]
    ids = renderer.answer_ids(rendered.prompt, answer)[:count]
    marks = renderer.answer_marks(rendered.prompt, answer)[:count]
    begins = answer.find(text.strip())
    if begins < 0:  # a template that writes the answer differently
        text, begins = answer, 0
    offset = text.index(text.strip()) - begins
    spans = _fill_gaps([_clip(start + offset, end + offset, len(text)) for start, end in marks], text)
    pieces = [
        text[start:end] if end > start else renderer.tokenizer.decode([token])
        for token, (start, end) in zip(ids, spans, strict=True)
    ]
    return TokenScores(name, text, tuple(pieces), tuple(spans), logprobs, reference or {})


def describe_tokens(scores: TokenScores, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the scores for JSON, rounded to a millionth; `names` are those of the images that are kept.

    `policy` and, where there is one, `reference` hold log-probabilities by image, one for each of `tokens`.
    """

    def write(logprobs: Mapping[str, Float[Tensor, "n"]]) -> dict[str, list[float]]:
        return {name: round_tokens(logprobs[image]) for image, name in names.items() if image in logprobs}

    reference = {"reference": write(scores.reference)} if scores.reference else {}
    placed = {"text": scores.text, "tokens": list(scores.tokens), "spans": [list(span) for span in scores.spans]}
    return {**placed, "policy": write(scores.logprobs), **reference}


def check_asked(example: PreferenceExample, against: Sequence[str], other_images: Sequence[ImageSource]) -> None:
    """Raises ValueError for what cannot be compared."""
    if not example.responses:
        raise ValueError("there is no answer to score: give one or more")
    if not example.images:
        raise ValueError("there is no image, so that nothing can depend on one: give the images of the prompt")
    unknown = [version for version in against if version not in _VERSIONS]
    if unknown or not against:
        raise ValueError(f"against names {', '.join(unknown) or 'nothing'}: give one or more of {', '.join(_VERSIONS)}")
    if OTHER in against and len(other_images) != len(example.images):
        raise ValueError(
            f"{OTHER} shows another image in the place of each: give {len(example.images)} as other_images; got "
            f"{len(other_images)}"
        )


def make_example(
    prompt: str | Sequence[Message] | PreferenceExample,
    answers: Sequence[str] | Mapping[str, Text],
    images: Sequence[ImageSource],
) -> PreferenceExample:
    """Returns the row that is scored: a question, or a row whose answers and images may be replaced, with its answers.

    Raises RowError for a prompt or an answer that is none.
    """
    named = answers if isinstance(answers, Mapping) else {str(place): text for place, text in enumerate(answers)}
    responses = {name: read_answer(answer, column=name) for name, answer in named.items()}
    if isinstance(prompt, PreferenceExample):
        return replace(prompt, responses=responses or prompt.responses, images=tuple(images) or prompt.images)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    read = read_prompt(turns, images, image_root=None, column="prompt")
    return PreferenceExample(id="0", prompt=read.turns, responses=responses, images=read.images)


def _clip(start: int, end: int, length: int) -> Mark:
    return min(max(0, start), length), min(max(0, end), length)


def _fill_gaps(marks: Sequence[Mark], text: str) -> list[Mark]:
    """Returns marks to which the blanks before them belong, which some tokenizers leave out of their places."""
    filled, last = list[Mark](), 0
    for start, end in marks:
        if last < start and end > start and not text[last:start].strip():
            start = last
        filled.append((start, end))
        last = max(last, end)
    return filled
