"""Results of `mmdpo eval`: read, and the answers in which a run is wrong, with what is wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mmdpo.files import Unshown, clean_text
from mmdpo.report.layout import MarkedAnswer, Picture, cut
from mmdpo.report.reading import ANSWERS, RESULT, SCORES, Place, fit, read_lines, read_object
from mmdpo.tables import MISSING

LEAST_FAULTLESS = 3
"""The ratings of MMHal-Bench that stand for an answer without hallucination begin here."""
_RIGHT = {True: "right", False: "wrong"}
LOOKED_AT = 2000
"""Items that examples are chosen from, and that tell whether runs are of the same data: the first of each run."""
SHOWN_ITEMS = 6
LONGEST_ANSWER = 1200
"""Characters of an answer on the page."""
RESULT_SHAPE = {
    "benchmark": str,
    "metrics": {str: {"value": float, "low": float, "high": float, "unit": str, "better": str}},
    "made_by": {str: str},
    "partial_because": [str],
    "notes": {str: {"count": float, "meaning": str}},
    "statistics": {"remarks": [str]},
}
"""What is read of result.json, and the next two of the lines beside it."""
SCORE_SHAPE = {"image": str, "reason": dict, "unscored": str}
ANSWER_SHAPE = {"benchmark": str, "generation": {"versions": {str: str}}}


@dataclass(frozen=True)
class ItemPictures:
    """Where the pictures of items come from: what knows the benchmarks fills this in.

    `find` takes a benchmark, an item and the file name of its image, and `corrupt` a picture and its item, which it
    returns as training would corrupt it; both return None where there is none to be had. `notes` say why corrupted
    images cannot be shown, where a run names them.
    """

    find: Callable[[str, str, str], Picture | None] = lambda benchmark, item_id, image: None
    corrupt: Callable[[Path | Image.Image, str], Picture | None] = lambda picture, item_id: None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredItem:
    """What one answer was found to be.

    It is wrong if words in it are flagged for what is not there, a question of yes or no was answered wrongly, or a
    judge found a hallucination. That no word is flagged says something only of a benchmark that flags words.
    """

    image: str
    flagged: tuple[str, ...]
    is_scored: bool
    """Whether anything was found of it: False where a judge gave no reply, or nothing could be read."""
    is_wrong: bool
    flags_words: bool
    remark: str
    """How an answer was read and what it should have been, how a judge rated it, or why it was not scored."""
    reference: str
    """The answer that a judge compares with."""
    reasons: str
    """What a judge wrote."""
    rating: float | None = None
    """What a judge gave, from 0 to 6."""

    @property
    def is_rated(self) -> bool:
        """Whether a judge wrote a rating."""
        return self.rating is not None


@dataclass(frozen=True)
class EvaluatedRun:
    """One run's result on one benchmark."""

    label: str
    folder: Path
    benchmark: str
    metrics: Mapping[str, Mapping[str, Any]]
    made_by: Mapping[str, str]
    versions: Mapping[str, str]
    """Of what generated the answers, where that is known."""
    partial: tuple[str, ...]
    """Why the result stands on less than the whole benchmark."""
    notes: tuple[str, ...]
    """What the official rule could not see."""
    items: Mapping[str, ScoredItem]


def name_benchmark(folder: Path) -> str:
    """Returns which benchmark a folder of results is about, as far as its files say; else its own name."""
    result = fit(read_object(folder / RESULT, [], costs=""), {"benchmark": str}, RESULT, [])
    return str(result["benchmark"] or _first_answer(folder)["benchmark"] or clean_text(folder.name))


def _first_answer(folder: Path) -> dict[str, Any]:
    return dict(fit(next(read_lines(folder / ANSWERS, [], most=1), {}), ANSWER_SHAPE, "", []))


def read_evaluated(place: Place, missing: list[str], *, most: int | None = LOOKED_AT) -> EvaluatedRun:
    """Reads a result, of its items the first `most`. Raises nothing: what cannot be read is added to `missing`."""
    problems: list[str] = []
    name = clean_text(place.path.name)
    result = read_object(place.path / RESULT, problems, costs="it has no metrics")
    result = fit(result, RESULT_SHAPE, RESULT, problems)
    rows = fit(list(read_lines(place.path / SCORES, problems, most=most)), [SCORE_SHAPE], SCORES, problems)
    items = {str(row["id"]): _score(row) for row in rows if "id" in row}
    if not items:
        problems.append(f"there is no {SCORES}, so it has no examples and no paired differences")
    label = f"{place.label}, {name}" if name != place.label else place.label
    missing += [f"{label}: {problem}" for problem in problems]
    first = _first_answer(place.path)
    noted = [f"{of['count'] or 0:,} × {of['meaning']}" for of in result["notes"].values()]
    return EvaluatedRun(
        label=place.label,
        folder=place.path,
        benchmark=result["benchmark"] or first["benchmark"] or name,
        metrics=result["metrics"],
        made_by=result["made_by"],
        versions=first["generation"]["versions"],
        partial=tuple(f"{place.label}: partial: {reason}" for reason in result["partial_because"]),
        notes=tuple(f"{place.label}: {note}" for note in [*noted, *result["statistics"]["remarks"]]),
        items=items,
    )


def _score(row: Mapping[str, Any]) -> ScoredItem:
    words, read, right, rating, tolerant, reference, reply = (
        _find(row["reason"], key)
        for key in ("flagged", "read_as", "label", "official", "tolerant", "reference", "reply")
    )
    flags_words = isinstance(words, list)
    flagged = tuple(dict.fromkeys(map(str, words))) if flags_words else ()
    is_wrong, said = bool(flagged), []
    if flags_words and not flagged:
        said.append("nothing hallucinated")
    if isinstance(read, str) and isinstance(right, str):
        is_wrong |= read.casefold() != right.casefold()
        said.append(f"read as {read}; right is {right}")
    elif isinstance(right, str) and "read_as" in row["reason"]:
        said.append(f"cannot be read, so it is not counted; right is {right}")
    if isinstance(rating, bool):  # MMVP's judge decides, whatever letter the answer was read as
        is_wrong = not rating
        is_meant = isinstance(tolerant, bool) and tolerant != rating
        meant = f" as the official rule reads it, {_RIGHT[not rating]} as it is meant" if is_meant else ""
        said.append(f"{_RIGHT[rating]} by the judge{meant}")
    is_rated = isinstance(rating, int | float) and not isinstance(rating, bool)
    if is_rated:
        is_wrong |= rating < LEAST_FAULTLESS
        other = ""
        if tolerant is None:
            other = ", as the official rule counts a reply in which no rating can be read"
        elif isinstance(tolerant, int | float) and tolerant != rating:
            other = f" as the official rule reads it, {tolerant:g} as it is meant"
        said.append(f"rated {rating:g} of 6 by the judge{other}")
    if row["unscored"]:
        said.append(f"not scored: {row['unscored']}")
    return ScoredItem(
        image=row["image"],
        flagged=flagged,
        is_scored=flags_words or isinstance(rating, int | float) or (isinstance(read, str) and isinstance(right, str)),
        is_wrong=is_wrong,
        flags_words=flags_words,
        remark=" · ".join(said),
        reference=reference if isinstance(reference, str) else "",
        reasons=reply if isinstance(reply, str) else "",
        rating=rating if is_rated else None,
    )


def _find(reason: Any, key: str) -> Any:
    """Returns the first value under a key, at whatever depth a benchmark keeps it."""
    if not isinstance(reason, dict):
        return None
    if key in reason:
        return reason[key]
    return next((found for value in reason.values() if (found := _find(value, key)) is not None), None)


def choose_examples(benchmark: str, runs: Sequence[EvaluatedRun], pictures: ItemPictures) -> dict[str, Any]:
    """Returns for `examples` of macros.html the first items in which any run is wrong; the first where too few are."""
    runs = [run for run in runs if run.items]
    known = runs[0].items if runs else {}
    wrong = [item_id for item_id in known if any(r.items[item_id].is_wrong for r in runs if item_id in r.items)]
    ids = list(dict.fromkeys((*wrong, *known)))[:SHOWN_ITEMS]
    said = {run.label: _read_answers(run.folder, ids) for run in runs}
    articles = []
    for item_id in ids:
        items = {run.label: run.items[item_id] for run in runs if item_id in run.items}
        rows = {label: of.get(item_id, {}) for label, of in said.items()}
        picture = pictures.find(benchmark, item_id, next(iter(items.values())).image)
        shown = [(picture, "image", f"Image of item {item_id}")]
        corrupted = None if picture is None or isinstance(picture, Unshown) else pictures.corrupt(picture, item_id)
        if corrupted is not None:
            shown.append((corrupted, "corrupted", f"Corrupted image of item {item_id}"))
        prompt = next((str(row["prompt"]) for row in rows.values() if row.get("prompt")), "")
        title = f"{item_id}: {cut(prompt, LONGEST_ANSWER)}" if prompt else item_id
        answers = {label: mark_answer(row, items.get(label), prompt) for label, row in rows.items()}
        reference = next((item.reference for item in items.values() if item.reference), "")
        articles.append(
            dict(
                title=title,
                pictures=shown,
                answers=answers,
                reference=cut(reference, LONGEST_ANSWER),
                has_corrupted=corrupted is not None,
            )
        )
    scored = [item for run in runs for item in run.items.values()]
    return dict(
        articles=articles,
        have_flags=any(item.flags_words for item in scored),
        have_ratings=any(item.reasons and item.is_rated for item in scored),
        have_verdicts=any(item.reasons and not item.is_rated for item in scored),
    )


def mark_answer(
    row: Mapping[str, Any], item: ScoredItem | None, prompt: str, most: int = LONGEST_ANSWER
) -> MarkedAnswer:
    """Returns an answer, a row of answers.jsonl, with what it was found to be; either may be missing.

    An answer to another prompt than the one that is shown says so. Of texts with more than `most` characters the
    beginning is left.
    """
    if "answer" not in row:
        return MarkedAnswer(MISSING, remark="no answer")
    text, asked = cut(str(row["answer"]), most), str(row.get("prompt") or prompt)
    other = f"asked: {cut(asked, most)}" if asked != prompt else ""
    remark = " · ".join(filter(None, ("not scored" if item is None else item.remark, other)))
    if item is None:
        return MarkedAnswer(text, remark=remark)
    return MarkedAnswer(text, item.flagged, remark=remark, reasons=cut(item.reasons, most))


def _read_answers(folder: Path, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in read_lines(folder / ANSWERS, []):
        if str(row.get("id")) in ids:
            found[str(row["id"])] = row
            if len(found) == len(ids):
                break
    return found
