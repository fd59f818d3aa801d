"""Reads the folders of `mmdpo eval`: metrics, and the answers of a few items with what was flagged in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo.files import clean_text
from mmdpo.report.folders import ANSWERS, RESULT, SCORES, Place
from mmdpo.report.shape import fit
from mmdpo.report.trained import read_lines, read_object

LEAST_FAULTLESS = 3
"""The ratings of MMHal-Bench that stand for an answer without hallucination begin here."""
LOOKED_AT = 2000
"""Items that examples are chosen from, and that tell whether runs are of the same data: the first of each run."""


_NUMBER = (float, None)
RESULT_SHAPE = {
    "benchmark": str,
    "metrics": ({str: {"value": _NUMBER, "low": _NUMBER, "high": _NUMBER, "unit": str, "better": str}}, None),
    "made_by": ({str: str}, None),
    "partial_because": [str],
    "notes": ({str: {"count": float, "meaning": str}}, None),
}
"""What is read of result.json, and the next two of the lines beside it."""
SCORE_SHAPE = {"image": str, "reason": (dict, None), "unscored": str}
ANSWER_SHAPE = {"benchmark": str, "generation": ({"versions": ({str: str}, None)}, None)}


@dataclass(frozen=True)
class ScoredItem:
    """What one answer was found to be."""

    image: str
    flagged: tuple[str, ...]
    """Words for what is not there."""
    is_wrong: bool
    """Whether something is flagged, a question of yes or no was answered wrongly, or a judge found a hallucination."""
    flags_words: bool = False
    """Whether the benchmark looks for words to flag; only then does no flagged word say anything."""
    remark: str = ""
    """How an answer was read and what it should have been, how a judge rated it, or why it was not scored."""
    reference: str = ""
    """The answer that a judge compares with."""
    reasons: str = ""
    """What a judge wrote."""


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
    missing: tuple[str, ...]


def read_evaluated(place: Place) -> EvaluatedRun:
    """Reads a result. Raises nothing: what cannot be read stands in `missing`."""
    missing: list[str] = []
    name = clean_text(place.path.name)
    label = f"{place.label}, {name}" if name != place.label else place.label
    result = read_object(place.path / RESULT, label, missing, what="it has no metrics")
    result = fit(result, RESULT_SHAPE, f"{label}: {RESULT}", missing)
    lines = list(read_lines(place.path / SCORES, label, missing, most=LOOKED_AT))
    rows = fit(lines, [SCORE_SHAPE], f"{label}: {SCORES}", missing)
    items = {str(row["id"]): _score(row) for row in rows if "id" in row}
    if not items:
        missing.append(f"{label}: there is no {SCORES}, so it has no examples and no paired differences")
    partial = [f"{place.label}: partial: {reason}" for reason in result.get("partial_because", ())]
    notes = []
    for note in (result.get("notes") or {}).values():
        notes.append(f"{place.label}: {note.get('count', 0):,} × {note.get('meaning', '')}")
    first = fit(next(iter(read_lines(place.path / ANSWERS, label, [], most=1)), {}), ANSWER_SHAPE, "", [])
    versions = (first.get("generation") or {}).get("versions") or {}
    return EvaluatedRun(
        place.label,
        place.path,
        result.get("benchmark") or first.get("benchmark") or name,
        result.get("metrics") or {},
        result.get("made_by") or {},
        versions,
        tuple(partial),
        tuple(notes),
        items,
        tuple(missing),
    )


def read_answers(folder: Path, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Returns the answers of these items; one that is not there is left out."""
    wanted, found = set(ids), dict[str, Mapping[str, Any]]()
    for row in read_lines(folder / ANSWERS, "", []):
        if str(row.get("id")) in wanted:
            found[str(row["id"])] = row
            if len(found) == len(wanted):
                break
    return found


def why_incomparable(first: EvaluatedRun, other: EvaluatedRun) -> str:
    """Returns why two results of one benchmark stand on other data, "" if they do not."""
    truths = [run.made_by.get("ground_truth", "") for run in (first, other)]
    if truths[0] != truths[1] and all(run.metrics for run in (first, other)):
        named = [truth or "not named" for truth in truths]
        return f"the ground truth is {named[0]} in {first.label} and {named[1]} in {other.label}"
    if not first.items or not other.items:
        return ""
    common = [item_id for item_id in other.items if item_id in first.items]
    if not common:
        return f"{first.label} and {other.label} share no item"
    moved = [item_id for item_id in common if first.items[item_id].image != other.items[item_id].image]
    if moved:
        return f"item {moved[0]} has another image in {first.label} than in {other.label}"
    return ""


def choose_items(runs: Sequence[EvaluatedRun], count: int) -> list[str]:
    """Returns the first items in which any run is wrong; the first ones where too few are."""
    items = runs[0].items
    wrong = [item_id for item_id in items if any(r.items[item_id].is_wrong for r in runs if item_id in r.items)]
    return list(dict.fromkeys((*wrong, *items)))[:count]


def _score(row: Mapping[str, Any]) -> ScoredItem:
    reason = row.get("reason") or {}
    words = _find(reason, "flagged")
    flagged = tuple(dict.fromkeys(str(word) for word in words)) if isinstance(words, list) else ()
    read, label = _find(reason, "read_as"), _find(reason, "label")
    rating, tolerant = _find(reason, "official"), _find(reason, "tolerant")
    is_question = isinstance(read, str) and isinstance(label, str)
    is_rated = isinstance(rating, int | float)
    said = []
    if is_question:
        said.append(f"read as {read}; right is {label}")
    if is_rated:
        said.append(f"rated {rating:g} of 6 by the judge" + _say_tolerant(rating, tolerant))
    if row.get("unscored"):
        said.append(f"not scored: {row['unscored']}")
    return ScoredItem(
        image=row.get("image", ""),
        flagged=flagged,
        is_wrong=bool(flagged)
        or (is_question and read.casefold() != label.casefold())
        or (is_rated and rating < LEAST_FAULTLESS),
        flags_words=isinstance(words, list),
        remark=" · ".join(said),
        reference=_text(_find(reason, "reference")),
        reasons=_text(_find(reason, "reply")) if is_rated else "",
    )


def _say_tolerant(rating: float, tolerant: Any) -> str:
    """Says where the other reading of a judge's reply finds something else than the official one."""
    if tolerant is None:
        return ", as the official rule counts a reply in which no rating can be read"
    if isinstance(tolerant, int | float) and tolerant != rating:
        return f" as the official rule reads it, {tolerant:g} as it is meant"
    return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _find(reason: Any, key: str) -> Any:
    """Returns the first value under a key, at whatever depth a benchmark keeps it."""
    if not isinstance(reason, dict):
        return None
    if key in reason:
        return reason[key]
    return next((found for value in reason.values() if (found := _find(value, key)) is not None), None)
