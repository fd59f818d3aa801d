"""`mmdpo pairs sample`: K answers of the policy to every prompt, each by a seed of its own, on disk as they come.

samples.jsonl    a line for each answer: prompt, number, text, why it ended, tokens, log π
prompts.jsonl    a line for each prompt: digest of what was asked, and of its pictures
sampler.json     what the answers depend on besides: model, settings
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mmdpo.corruption import corrupt_image
from mmdpo.corruption import load as load_corruption
from mmdpo.data.images import open_image
from mmdpo.files import digest_of, read_json, replace_surrogates, write_json
from mmdpo.generation.endpoint import RefusedError
from mmdpo.generation.questions import Answerer, GenerationSettings, LazyImage, Question, describe_source
from mmdpo.line_file import LineFile, read_lines
from mmdpo.pairs.prompts import Prompt, digest_prompt
from mmdpo.records import ImageSource, Message, RowError, derive_seed, named_source
from mmdpo.texts import find_words

logger = logging.getLogger(__name__)

SAMPLES, PROMPTS, SAMPLER = "samples.jsonl", "prompts.jsonl", "sampler.json"
DRAW, GREEDY, NO_IMAGE, CORRUPTED = "draw", "greedy", "no_image", "corrupted"
LOT = 64
"""Prompts that are asked together: their pictures are opened, and their answers written, one lot after the other."""
_SAID = ("finish_reason", "tokens", "prompt_tokens", "logprob")


class Sample(NamedTuple):
    """One answer to a prompt."""

    id: str
    """Of the prompt."""
    k: int
    """0 is the greedy answer, where there is one; the draws are 1 to K, and answers made to be rejected follow."""
    text: str
    kind: str = DRAW
    """`draw` or `greedy`; else how an answer was made to be rejected: `no_image`, `corrupted:NAME`."""
    finish_reason: str = "stop"
    tokens: int | None = None
    prompt_tokens: int | None = None
    logprob: float | None = None
    """log π of the answer under the sampler, temperature included, in nats, to a thousandth: beyond that it is other
    answers' lengths in the batch that speak. None where the sampler does not say it, and of one made to be rejected."""

    @property
    def is_draw(self) -> bool:
        """Whether it is a draw from the policy: those alone say what the policy believes."""
        return self.kind == DRAW

    @property
    def is_own(self) -> bool:
        """Whether the policy gave it having seen the picture, so that it may be chosen."""
        return self.kind in (DRAW, GREEDY)


class SamplesError(ValueError):
    """What is on disk was made by another model, or of other settings, prompts or words, than what is to be added."""


@dataclass(frozen=True)
class SamplingPlan:
    """How many answers each prompt gets, and of which kinds. Raises ValueError for a plan that gives no pair."""

    count: int = 8
    has_greedy: bool = True
    negatives: tuple[str, ...] = ()
    """Further answers, made to be rejected, one of each kind: the second part of the greedy answer (the first draw
    without one) is written again without the picture (`no_image`) or under a corrupted one (`corrupted:NAME`)."""
    start_share: float = 0.5
    """Share of the words of such an answer that is kept."""

    def __post_init__(self) -> None:
        if self.count + self.has_greedy + len(self.negatives) < 2 or self.count < 1:
            raise ValueError(f"num_samples is {self.count}: a pair takes two answers to a prompt, so give 2 or more")
        if not 0 <= self.start_share < 1:
            raise ValueError(f"start_share is {self.start_share}: give a share from 0 to below 1")
        for kind in self.negatives:
            name, _, corruption = kind.partition(":")
            if name == CORRUPTED and corruption:
                found = load_corruption(corruption)
                if found.needs_other_image or found.needs_region:
                    raise ValueError(f"negatives: {kind}: it needs more than the picture itself; give another one")
            elif kind != NO_IMAGE:
                raise ValueError(f"negatives: {kind!r} is none; give {NO_IMAGE} or {CORRUPTED}:NAME")

    def describe(self) -> dict[str, Any]:
        """Returns what the answers of a number depend on: where some are made to be rejected, all of the plan."""
        all_of_it = {
            "negatives": list(self.negatives),
            "start_share": self.start_share,
            "num_samples": self.count,
            "has_greedy": self.has_greedy,
        }
        return all_of_it if self.negatives else dict.fromkeys(all_of_it)


def sample(
    prompts: Sequence[Prompt],
    answerer: Answerer,
    settings: GenerationSettings,
    folder: Path,
    plan: SamplingPlan,
    on_answer: Callable[[Sample], None] = lambda answer: None,
) -> int:
    """Writes the answers of a plan to every prompt; what is there is kept. Returns how many the model refused.

    An answer depends on the model, the settings, the run's seed, the prompt and its number alone, so that a run that
    was interrupted ends with the answers of one that was not. Each of several processes takes its share of the prompts.
    What is refused is asked again next time. A prompt whose picture cannot be read is not asked, and a warning names
    the first.

    Raises:
        SamplesError: the folder holds answers of another model, or of other settings or prompts.
        RowError: no picture can be read.
    """
    described = describe_source(answerer)
    own = asdict(settings) | plan.describe()
    processes = answerer.processes
    if processes.rank == 0:
        results = [*list_parts(folder, SAMPLES), *sorted(folder.glob("verdicts-*.jsonl"))]
        check_same(folder / SAMPLER, {"sampler": described, "settings": own}, "samples", results)
        if results and not list_parts(folder, SAMPLES):
            names = ", ".join(path.name for path in results)
            raise SamplesError(f"{folder} holds {names} of answers that are gone: remove them, or put the answers back")
    processes.wait()
    known: dict[str, dict[int, Sample]] = {}
    for each in read_samples(folder):
        known.setdefault(each.id, {})[each.k] = each
    asked_before, refused = read_prompt_digests(folder), 0
    processes.wait()  # until the others have read: a line that is being written looks like one that was cut
    part = "" if processes.rank == 0 else f".part-{processes.rank}"
    lines, asked_of = (LineFile((folder / name).with_suffix(f"{part}.jsonl")) for name in (SAMPLES, PROMPTS))
    own_prompts = prompts[processes.rank :: processes.count]
    asked, numbers, faults = 0, set(numbers_of(plan)), list[RowError]()
    try:
        for start in range(0, len(own_prompts), LOT):
            lot = []
            for prompt in own_prompts[start : start + LOT]:
                fault = None if numbers <= known.get(prompt.id, {}).keys() else _find_fault(prompt)
                if fault is None:
                    lot.append(prompt)
                else:
                    faults.append(fault)
            asked += len(lot)
            if faults and not asked:  # a wrong folder, and no damaged file
                raise faults[0]
            for prompt in lot:
                if prompt.id not in asked_before:
                    asked_of.append({"id": prompt.id, "digest": prompt.digest, "images": list(prompt.image_digests)})
                elif asked_before[prompt.id][0] != prompt.digest:
                    raise explain_changed(folder, prompt)
            for questions, how, kinds in _plan_lot(lot, known, settings, plan):
                left = len(questions)
                try:
                    for answer in answerer.answer(list(questions.values()), how):
                        prompt, k = kinds[answer.id]
                        said = {name: answer.details[name] for name in _SAID if name in answer.details}
                        if isinstance(said.get("logprob"), float):
                            said["logprob"] = round(said["logprob"], 3)
                        new = Sample(prompt.id, k, answer.text, kind_of(k, plan), **said)
                        if not new.is_own:  # half of it, or under another picture
                            new = new._replace(logprob=None)
                        lines.append({name: value for name, value in new._asdict().items() if value is not None})
                        known.setdefault(prompt.id, {})[k] = new
                        left -= 1
                        on_answer(new)
                except RefusedError as error:  # of some of them; the others are answered
                    if not refused:
                        logger.warning("%s", error)
                refused += left
    finally:
        lines.close()
        asked_of.close()
    if faults:
        told = "%d of %d prompts are left out, since their pictures cannot be read; the first: %s"
        logger.warning(told, len(faults), len(own_prompts), faults[0])
    processes.wait()
    return refused


def _find_fault(prompt: Prompt) -> RowError | None:
    """Returns what is wrong with a prompt's pictures, None where all can be opened."""
    try:
        with named_source(prompt.source):
            for image in prompt.images:
                open_image(image)
    except RowError as error:
        return error
    return None


def kind_of(k: int, plan: SamplingPlan) -> str:
    """Returns the kind of a prompt's answer number k."""
    return GREEDY if k == 0 else DRAW if k <= plan.count else plan.negatives[k - plan.count - 1]


def numbers_of(plan: SamplingPlan) -> range:
    """Returns the numbers of the answers that each prompt gets."""
    return range(not plan.has_greedy, plan.count + len(plan.negatives) + 1)


def _plan_lot(
    lot: Sequence[Prompt], known: Mapping[str, Mapping[int, Sample]], settings: GenerationSettings, plan: SamplingPlan
) -> Iterator[tuple[dict[str, Question], GenerationSettings, dict[str, tuple[Prompt, int]]]]:
    """Yields what is asked together, without what is known; the last of it follows from the answers to the first."""
    greedy = replace(settings, temperature=0.0, top_p=1.0)
    stages = [
        ([0] if plan.has_greedy else [], greedy),
        (range(1, plan.count + 1), settings),
        (range(plan.count + 1, plan.count + len(plan.negatives) + 1), settings),
    ]
    for numbers, how in stages:
        kinds = {
            f"{place}/{k}": (prompt, k)
            for place, prompt in enumerate(lot)
            for k in numbers
            if k not in known.get(prompt.id, {})
        }
        questions = {}
        for key, (prompt, k) in kinds.items():
            seed = derive_seed(settings.seed, prompt.id, f"answer {k}")
            kind = kind_of(k, plan)
            if kind in (DRAW, GREEDY):
                questions[key] = Question(key, prompt.turns, prompt.images, seed)
            else:
                first = known.get(prompt.id, {}).get(0 if plan.has_greedy else 1)
                if first is not None:  # else it was refused
                    begun = keep_start(first.text, plan.start_share)
                    questions[key] = _ask_again(key, prompt, kind, seed, begun, settings.seed)
        if questions:
            yield questions, how, kinds


def _ask_again(key: str, prompt: Prompt, kind: str, seed: int, begun: str, run_seed: int) -> Question:
    """Returns the question whose answer is to be rejected."""
    if kind == NO_IMAGE:
        turns: tuple[Message, ...] = tuple(
            {**turn, "content": [part for part in turn["content"] if part["type"] != "image"]} for turn in prompt.turns
        )
        return Question(key, turns, None, seed, begun)
    name = kind.partition(":")[2]
    images: tuple[LazyImage, ...] = tuple(
        partial(_corrupt, name, image, run_seed, prompt.id, place) for place, image in enumerate(prompt.images)
    )
    return Question(key, prompt.turns, images, seed, begun)


def _corrupt(name: str, image: ImageSource, run_seed: int, prompt: str, place: int) -> Image.Image:
    corruption = load_corruption(name)
    return corrupt_image(corruption, open_image(image), run_seed=run_seed, example_id=prompt, image_index=place)


def keep_start(text: str, share: float) -> str:
    """Returns the first words of a text, that share of them, as they stand there.

    >>> keep_start("A cup on a table.", 0.5), keep_start("桌上有杯子。", 0.5)
    ('A cup', '桌上')
    """
    words = find_words(text)
    count = int(len(words) * share)
    return text[: words[count - 1][1]] if count else ""


def check_same(path: Path, content: Mapping[str, Any], of: str, results: Sequence[Path]) -> None:
    """Writes what results on disk depend on; raises SamplesError where they depend on something else, or on what."""
    names = ", ".join(result.name for result in results if result.is_file())
    if not path.is_file():
        if names:
            raise SamplesError(
                f"{path.parent} holds {names} and no {path.name}, which says what they depend on: remove them, or put "
                "it back"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        return
    before = read_json(path)
    for part, value in content.items():
        theirs = before.get(part, {})
        for key in {**value, **theirs}:
            if digest_of(value.get(key)) != digest_of(theirs.get(key)):
                raise SamplesError(
                    f"{path.parent} holds {of} of {key} {theirs.get(key)!r:.200}, and now it is "
                    f"{value.get(key)!r:.200}: "
                    f"choose another out, put it back, or remove {path.name}{names and ', '}{names}"
                )


def check_asked(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Raises SamplesError where the words of a prompt are not those that were asked; opens no picture."""
    asked = read_prompt_digests(folder)
    for prompt in prompts:
        digest, images = asked.get(prompt.id, ("", ()))
        if digest and digest != digest_prompt(prompt.turns, images):
            raise explain_changed(folder, prompt)


def explain_changed(folder: Path, prompt: Prompt) -> SamplesError:
    """Returns the error to raise for a prompt that is not the one that was asked."""
    return SamplesError(
        f"{folder} holds answers to another prompt {prompt.id!r}: its words or pictures have changed "
        f"({prompt.source}). Choose another out, or put them back"
    )


def read_samples(folder: Path) -> Iterator[Sample]:
    """Yields the answers on disk, of all processes; a last line that was cut is removed."""
    for path in list_parts(folder, SAMPLES):
        yield from map(to_sample, read_lines(path))


def to_sample(row: Mapping[str, Any]) -> Sample:
    """Returns the answer that a line holds, half characters replaced; what else is in it is left out."""
    known = row if row.keys() <= _FIELDS else {name: row[name] for name in Sample._fields if name in row}
    sample = Sample(**known)
    return sample if sample.text.isascii() else sample._replace(text=replace_surrogates(sample.text))


_FIELDS = frozenset(Sample._fields)


def read_prompt_digests(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Returns of each prompt that was asked its digest and those of its pictures."""
    rows = (row for path in list_parts(folder, PROMPTS) for row in read_lines(path))
    return {row["id"]: (row["digest"], tuple(row["images"])) for row in rows}


def list_parts(folder: Path, name: str) -> list[Path]:
    """Returns the files of all processes."""
    stem = name.removesuffix(".jsonl")
    return [path for path in (folder / name, *sorted(folder.glob(f"{stem}.part-*.jsonl"))) if path.is_file()]
