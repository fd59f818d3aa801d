"""`mmdpo pairs judge`: what a judge holds of every answer, prompt by prompt, on disk as it comes.

verdicts-NAME.jsonl   a line for each prompt: verdicts by the answers' numbers, and the digest of what they were held
                      against, where a judge reads a column
replies-NAME.jsonl    what the judge's model replied, see `asking`
judge-NAME.json       what the verdicts depend on besides the answers: judge, version of its words, model, options
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from mmdpo.files import digest_of, read_json, read_mapping
from mmdpo.generation.questions import Answerer, describe_source
from mmdpo.line_file import LineFile, read_lines
from mmdpo.options import REQUIRED, Options, option, read_entry
from mmdpo.pairs.asking import Asker, JudgeError
from mmdpo.pairs.filters import why_useless
from mmdpo.pairs.judges import Context, Verdict, Verdicts, load
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import LOT, Sample, check_same

JUDGE = "judge-{}.json"
PROOF = "check-{}.json"
"""What `check-judge` found of a judge."""


@dataclass(frozen=True)
class JudgeChoice(Options):
    """One judge of a run, and its own options. Raises JudgeError for a judge that is none, ValueError for an option."""

    MARK: ClassVar[str] = ""

    judge: str = option(REQUIRED, "The judge.")
    name: str = option("", "Of its files; the judge's unless given.")
    model: str | None = option(None, "A hub name, a folder, or the model's name on a server.", unset="`judge_model`")
    base_url: str | None = option(None, "Address of an endpoint that has the model.")
    votes: int = option(1, "In how many ways a claim is asked about.", choices=(1, 2, 3))
    splits: Literal["model", "sentences"] = option("model", "What splits an answer into claims.")
    agreement: float = option(0.75, "Share of answers that have a claim which is believed.", within="(0, 1]")
    threshold: float = option(0.5, "P(yes) from which a claim is held to be true.", within="(0, 1]")
    opponents: int = option(2, "With how many other answers each is compared; odd numbers are rounded up.", least=1)
    run: str | None = option(None, "Folder of `mmdpo train`, for judges that have rewards.")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            load(self.judge)
        except ValueError as error:
            raise JudgeError(str(error)) from error
        if not re.fullmatch(r"[\w.-]+", self.label):
            raise JudgeError(f"{self.label!r} is to be part of file names: letters, digits, - and _ do")

    @property
    def label(self) -> str:
        """What the judge is called in files and tables."""
        return self.name or self.judge.replace(":", "-")

    @classmethod
    def read(cls, text: str) -> JudgeChoice:
        """Returns what an entry of `judges` means: a judge's name, or a mapping in JSON with `judge` and options.

        Raises ValueError for what is none.
        """
        return read_entry(
            cls, read_mapping("judges", text) if text.lstrip().startswith("{") else {"judge": text}, "judges"
        )

    @property
    def asks_model(self) -> bool:
        """Whether the judge needs a model."""
        return bool(load(self.judge).WORDS)


class Unjudged(NamedTuple):
    """Requests that gave nothing; the answers that they were about have no verdict."""

    refused: int = 0
    """By the model; it is asked again next time."""
    unreadable: int = 0
    """Replied to, and not to be read however often it was asked."""


def judge_samples(
    prompts: Sequence[Prompt],
    samples: Mapping[str, Sequence[Sample]],
    choice: JudgeChoice,
    context: Context,
    folder: Path,
    answerer: Answerer | None = None,
    *,
    wanted: Callable[[Prompt], Collection[int]] | None = None,
    on_reply: Callable[[int, int], None] = lambda read, written: None,
    on_prompt: Callable[[], object] = lambda: None,
) -> Unjudged:
    """Writes the judge's verdicts of the answers that have none; those that cannot be used are not judged.

    `wanted` says which answers, by number, are worth it. Answers to a prompt are judged together, and again where what
    they are held against has changed. Returns what could not be judged.

    Raises:
        JudgeError: the judge needs a model, a column or labelled proof that is not there, or cannot be understood.
        SamplesError: the folder holds verdicts of another judge by that name.
        OSError: the judge's model cannot be reached. What was replied is kept.
    """
    judge = load(choice.judge)
    check_needs(prompts, choice, context, answerer, folder)
    own = {"judge": describe(choice, context, answerer)}
    path = folder / f"verdicts-{choice.label}.jsonl"
    check_same(folder / JUDGE.format(choice.label), own, f"verdicts of {choice.label}", [path])
    known: dict[str, tuple[str | None, set[str]]] = {}
    for row in read_lines(path) if path.is_file() else ():
        before = known.get(row["id"])
        same = before[1] if before is not None and before[0] == row.get("truth") else set()
        known[row["id"]] = row.get("truth"), same | set(row["verdicts"])
    replies = folder / f"replies-{choice.label}.jsonl"
    asker = None if answerer is None else Asker(answerer, replies, on_reply=on_reply)
    lines = LineFile(path)

    def find_open(prompt: Prompt) -> list[Sample]:
        useful = [each for each in samples.get(prompt.id, ()) if why_useless(each) is None]
        numbers = None if wanted is None else wanted(prompt)
        chosen = [each for each in useful if numbers is None or each.k in numbers]
        truth, judged = known.get(prompt.id, (None, set()))
        is_known = {str(each.k) for each in chosen} <= judged and truth == digest_truth(judge, prompt)
        return [] if is_known else chosen

    try:
        for start in range(0, len(prompts), LOT):
            lot = [(prompt, found) for prompt in prompts[start : start + LOT] if (found := find_open(prompt))]
            verdicts = judge_lot(judge, lot, context, asker)
            for (prompt, found), of in zip(lot, verdicts, strict=True):
                given = {str(s.k): verdict.row() for s, verdict in zip(found, of, strict=True) if verdict is not None}
                truth = digest_truth(judge, prompt)
                lines.append({"id": prompt.id} | ({"truth": truth} if truth else {}) | {"verdicts": given})
            for _ in prompts[start : start + LOT]:
                on_prompt()
    finally:
        lines.close()
        if asker is not None:
            asker.close()
    return Unjudged() if asker is None else Unjudged(asker.refused, asker.unreadable)


def digest_truth(judge: Any, prompt: Prompt) -> str | None:
    """Returns the digest of what a judge holds answers against; None for one that reads no column."""
    return digest_of(prompt.truth[judge.NEEDS])[:16] if judge.NEEDS else None


def judge_lot(
    judge: Any, lot: Sequence[tuple[Prompt, Sequence[Sample]]], context: Context, asker: Asker | None
) -> list[Verdicts]:
    """Returns the verdicts of several prompts' answers; what the judge asks of all of them is asked at once.

    Raises JudgeError where the judge returns anything but a verdict, or None, for each answer.
    """
    found: list[Verdicts | None] = []
    running: dict[int, tuple[Generator[Any, Any, Verdicts], list[Any]]] = {}
    for place, (prompt, samples) in enumerate(lot):
        result = judge.judge(prompt, samples, context)
        if isinstance(result, Generator):
            found.append(None)
            _advance(place, result, None, running, found)
        else:
            found.append(result)
    while running:
        assert asker is not None
        places = list(running)
        values = iter(asker.ask([each for place in places for each in running[place][1]]))
        for place in places:
            generator, asks = running.pop(place)
            _advance(place, generator, [next(values) for _ in asks], running, found)
    return [_check_verdicts(of, samples) for of, (_, samples) in zip(found, lot, strict=True)]


def _check_verdicts(returned: Any, samples: Sequence[Sample]) -> Verdicts:
    rule = "a judge returns a list with a Verdict for each answer, None where it has none"
    if not isinstance(returned, list | tuple):
        raise JudgeError(f"the judge returned a {type(returned).__name__}: {rule}")
    if len(returned) != len(samples):
        raise JudgeError(f"the judge returned {len(returned)} verdicts of {len(samples)} answers: {rule}")
    for verdict in returned:
        if verdict is not None and not isinstance(verdict, Verdict):
            raise JudgeError(f"the judge returned a {type(verdict).__name__} in its list: {rule}")
        if verdict is not None and not math.isfinite(verdict.score):
            raise JudgeError(f"the judge returned a Verdict with the score {verdict.score}: it has to be finite")
    return list(returned)


def _advance(
    place: int,
    generator: Generator[Any, Any, Verdicts],
    values: list[Any] | None,
    running: dict[int, tuple[Generator[Any, Any, Verdicts], list[Any]]],
    found: list[Verdicts | None],
) -> None:
    try:
        running[place] = generator, generator.send(values)
    except StopIteration as end:
        found[place] = end.value


def check_needs(
    prompts: Sequence[Prompt], choice: JudgeChoice, context: Context, answerer: Answerer | None, folder: Path | None
) -> None:
    """Raises JudgeError for what a judge needs and does not have; without a folder no proof that it is a judge."""
    judge = load(choice.judge)
    if judge.WORDS and answerer is None:
        raise JudgeError(
            f"the judge {choice.judge} asks a model: name one with --judge_model (and --judge_base_url for an endpoint)"
        )
    if judge.NEEDS:
        lacks = next((prompt for prompt in prompts if judge.NEEDS not in prompt.truth), None)
        if lacks is not None:
            raise JudgeError(
                f"{lacks.source}: the judge {choice.judge} reads the column `{judge.NEEDS}`, which is not there: write "
                "it beside the prompt, or take another judge"
            )
    if "vocabulary" in getattr(judge, "OPTIONS", ()) and not context.vocabulary:
        raise JudgeError(
            f"the judge {choice.judge} knows no objects: give --vocabulary, a JSON file of words and what each names, "
            'such as {"puppy": "dog", "dog": "dog"}'
        )
    if getattr(judge, "NEEDS_RUN", False) and context.rewards is None:
        raise JudgeError(f"the judge {choice.judge} needs a model: judges: [{{judge: {choice.judge}, run: FOLDER}}]")
    if folder is not None and getattr(judge, "NEEDS_PROOF", False):
        path = folder / PROOF.format(choice.label)
        proof = read_json(path) if path.is_file() else {}
        is_of_it = digest_of(proof.get("of")) == digest_of(describe(choice, context, answerer))
        low = proof["pairs"]["accuracy"]["low"] if is_of_it else None
        if low is None or low <= 50:
            missing = "that of it here was with other options" if proof else "there is no check of it here"
            found = missing if low is None else f"its accuracy may be {low:.1f} %, as chance's is 50"
            raise JudgeError(
                f"{choice.judge} is not taken for a judge of answers unless labelled ones show that it is one, and "
                f"{found}: mmdpo pairs check-judge --gold FILE"
            )


def describe(choice: JudgeChoice, context: Context, answerer: Answerer | None) -> dict[str, Any]:
    """Returns what verdicts depend on besides the answers: judge, version, options that it reads, model."""
    judge = load(choice.judge)
    describe_run = getattr(context.rewards, "describe", None)
    return {
        "judge": choice.judge,
        "words": digest_of(dict(judge.WORDS))[:12],
        "run": choice.run,
        **({} if describe_run is None else {"run_weights": describe_run()}),
        **{name: getattr(context, name) for name in getattr(judge, "OPTIONS", ())},
        "model": {} if answerer is None else describe_source(answerer),
    }


def read_verdicts(folder: Path, label: str) -> dict[str, dict[int, Verdict]]:
    """Returns a judge's verdicts by prompt and number of the answer; none where no answer could be judged."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    path = folder / f"verdicts-{label}.jsonl"
    for row in read_lines(path) if path.is_file() else ():
        rows.setdefault(row["id"], []).append(row)
    return {name: join_rows(of) for name, of in rows.items()}


def join_rows(rows: Sequence[Mapping[str, Any]], answers: Collection[int] | None = None) -> dict[int, Verdict]:
    """Returns what the lines of one prompt hold together, of later ones what both hold; of some answers where given.

    A line that was held against something else than the last one is none.
    """
    last = rows[-1].get("truth") if rows else None
    same = [row for row in rows if row.get("truth") == last]
    joined = {int(k): of for row in same for k, of in row["verdicts"].items()}
    return {k: Verdict(**of) for k, of in joined.items() if answers is None or k in answers}
