"""The folder of `mmdpo pairs`: what became of prompts and answers, what the pairs are like, and many of them to see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mmdpo.files import clean_text, write_text
from mmdpo.records import derive_generator
from mmdpo.report.layout import Section, Thumbnail, cut, make_thumbnail, render_page, render_parts, table_files
from mmdpo.report.pair_figures import draw_all, make_figures
from mmdpo.report.pair_files import (
    SIDES,
    PairFiles,
    choose_unpaired,
    find_pictures,
    fit_pair,
    read_answers,
    read_reasons,
    read_unpaired,
    read_verdicts,
)
from mmdpo.report.pair_tables import RESULT_SHAPE, cost_tables, funnel_tables, key_table, like_tables
from mmdpo.report.reading import PAIRS, Place, read_result
from mmdpo.tables import MISSING, Table, show_number
from mmdpo.texts import Mark, Piece, differing_words, find_claims, split_pieces

VERB, PAGE = "mmdpo pairs build", "report.html"
SECTIONS = {
    "pairs": "Pairs",
    "funnel": "From prompts to pairs",
    "figures": "Margins and lengths",
    "tables": "The pairs in numbers",
    "random": "Pairs drawn at random",
    "narrow": "Narrowest margins",
    "wide": "Widest margins",
    "unpaired": "Prompts without a pair",
}
SHOWN_RANDOM, SHOWN_ENDS, SHOWN_UNPAIRED = 20, 10, 10
LONGEST_QUESTION, LONGEST_TITLE, LONGEST_NAME = 600, 110, 80
"""Characters of a question, of one in a heading, and of a claim or an id."""
MOST_NOTES, LONGEST_NOTE, MOST_JUDGES, MOST_NAMED = 40, 600, 4, 12
"""Notes of a run, characters of one, judges of a run, and claims that are named under an answer."""
MOST_TABLE_ROWS, LONGEST_CELL = 60, 200
Answers: TypeAlias = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""What is known of answers, by prompt and number."""


@dataclass(frozen=True)
class Asked:
    """What is known of prompts besides their pairs."""

    answers: Answers
    verdicts: Mapping[str, Answers]
    """By judge."""
    reasons: Mapping[tuple[str, int | None], str]
    """Why a prompt (number None) or an answer is in no pair."""
    taken: Mapping[str, Collection[tuple[Any, Any]]]
    """Numbers of the chosen and the rejected answer of the pairs of a prompt that are shown."""


def write_pairs(folder: str | Path) -> Path:
    """Writes report.html into the folder of a run and returns its path.

    Raises ReportError for a folder whose pairs were not built; what else cannot be used is said on the page.
    """
    folder, problems = Path(folder), list[str]()
    sections = _make_sections(folder, "", problems)
    summary = "pairs of preferences from a model's own answers"
    write_text(
        folder / PAGE, render_page(f"mmdpo pairs: {clean_text(folder.resolve().name)}", summary, sections, problems)
    )
    return folder / PAGE


def pairs_sections(place: Place, problems: list[str]) -> list[Section]:
    """Returns the sections on a page of several folders; raises, and names problems, as `write_pairs` does."""
    return _make_sections(place.path, place.label, problems)


def _make_sections(folder: Path, label: str, problems: list[str]) -> list[Section]:
    """Returns the sections; `label` is the folder's among others, empty on a page of its own."""
    result = read_result(folder / PAIRS, ("rule", "funnel"), RESULT_SHAPE, problems, VERB)
    seed = result["plan"]["seed"] if isinstance(result["plan"]["seed"], int) else 0
    files = PairFiles(folder, problems)
    chosen = choose_places(files.margins, files.count, seed)
    pairs = _read_pairs(files, {place for of in chosen.values() for place in of})
    put_aside = read_unpaired(folder, problems)
    unpaired = (list(put_aside) or choose_unpaired(folder, SHOWN_UNPAIRED, seed, problems))[:SHOWN_UNPAIRED]
    taken: dict[str, set[tuple[Any, Any]]] = {own: set() for own in unpaired}
    for pair, _ in pairs.values():
        if pair["prompt_id"]:
            taken.setdefault(pair["prompt_id"], set()).add((pair["k_chosen"], pair["k_rejected"]))
    judges = list(result["judges"])[:MOST_JUDGES]
    asked = Asked(
        read_answers(folder, taken, problems),
        {judge: read_verdicts(folder, judge, taken, problems) for judge in judges},
        read_reasons(folder, taken, problems),
        taken,
    )
    shown = {at: _show_pair(pair, pictures, asked) for at, (pair, pictures) in pairs.items()}
    drawn, written = draw_all(make_figures(result, files.count_words()), label, problems)
    made, *funnel = funnel_tables(result)
    tables = {"funnel": funnel, "tables": [*like_tables(result), *cost_tables(folder, result, problems)]}
    for part, of in tables.items():
        for number, table in enumerate(of):
            written.setdefault(part, {}).update(table_files(f"{part}-{number}", table, label))
    return render_parts(
        "pairs.html",
        {part: title for part, title in SECTIONS.items() if part == "random" or chosen.get(part, True)},
        label,
        written,
        sentence=describe(result),
        key=bound_table(key_table(result)),
        notes=_list_notes(result),
        drawn=drawn,
        made={row[0]: row[1] for row in bound_table(made).rows},
        tables={part: [bound_table(table) for table in of] for part, of in tables.items()},
        pairs={part: [shown[at] for at in of if at in shown] for part, of in chosen.items()},
        about=explain_ends(files.margins, chosen),
        count=files.count,
        unpaired=[_show_unpaired(own, put_aside.get(own, {}), asked) for own in unpaired],
        has_pictures=bool(put_aside),
    )


def describe(result: Mapping[str, Any]) -> str:
    """Returns what the pairs are, in a sentence."""
    model = cut(result["sampler"]["sampler"]["model"], LONGEST_NAME) or "a model"
    judges = ", ".join(cut(label, LONGEST_NAME) for label in list(result["judges"])[:MOST_JUDGES])
    counts = (sum(result["pairs"].values()), result["images"], result["funnel"]["prompts"])
    pairs, images, prompts = (show_number(count, ",.0f") for count in counts)
    best, _, worst = result["about"].partition("; ")
    about = f"the chosen answer is {best}, the rejected one {worst}" if worst else best or "no rule is named"
    return (
        f"{pairs} pairs about {images} images, made of the answers that {model} gave to {prompts} prompts, judged by "
        f"{judges or 'nobody who is named'}: {cut(about, LONGEST_QUESTION)} "
        f"(rule {cut(result['rule'] or MISSING, LONGEST_NAME)})."
    )


def _list_notes(result: Mapping[str, Any]) -> list[str]:
    notes = [cut(note, LONGEST_NOTE) for note in (*result["notes"], *result["shortcut"]["notes"])]
    more = len(notes) - MOST_NOTES
    return notes[:MOST_NOTES] + ([f"{more:,} more notes are in {PAIRS}"] if more > 0 else [])


def bound_table(table: Table) -> Table:
    """Returns a table as a page shows it: no more rows, and no longer cells, than it has room for."""
    rows = [tuple(cut(cell, LONGEST_CELL) for cell in row) for row in table.rows[:MOST_TABLE_ROWS]]
    if (more := len(table.rows) - len(rows)) > 0:
        rows.append((f"and {more:,} more", *[""] * (len(table.headers) - 1)))
    return replace(table, title=cut(table.title, LONGEST_CELL), rows=tuple(rows))


# -- pairs and prompts -------------------------------------------------------------------------------------------------


def choose_places(margins: np.ndarray, count: int, seed: int) -> dict[str, list[int]]:
    """Returns the places of the pairs that are shown, by section: drawn by the seed, and from both ends of the margins.

    Among equal margins those are taken that are drawn. Of so few pairs that all are drawn none is shown twice.
    """
    generator = derive_generator(seed, "", "pairs on a page")
    drawn = generator.permutation(min(count, len(margins)))
    random = sorted(int(place) for place in drawn[:SHOWN_RANDOM])
    known = drawn[np.isfinite(margins[drawn])] if len(random) < len(drawn) else drawn[:0]
    order = known[np.argsort(margins[known], kind="stable")]
    ends = min(SHOWN_ENDS, len(order) // 2)
    narrow, wide = order[:ends], order[::-1][:ends]
    return {"random": random, "narrow": [int(at) for at in narrow], "wide": [int(at) for at in wide]}


def explain_ends(margins: np.ndarray, chosen: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Says of both ends of the margins which they are, and how many pairs have the same."""
    said = {}
    for part, name in (("narrow", "narrowest"), ("wide", "widest")):
        if chosen[part]:
            own = [margins[at] for at in chosen[part]]
            last = own[-1]
            same = int((margins == last).sum())
            ends = f"from {show_number(own[0])} to {show_number(last)}" if own[0] != last else f"of {show_number(last)}"
            said[part] = f"The {len(own)} {name} margins, {ends}."
            if same > sum(value == last for value in own):
                said[part] += f" {same:,} pairs have one of {show_number(last)}, of which these are drawn by the seed."
    return said


def _read_pairs(files: PairFiles, places: Collection[int]) -> dict[int, tuple[dict[str, Any], list[Thumbnail]]]:
    """Returns pairs with small copies of their pictures: of large ones no more than one is in memory."""
    found = {}
    for place, row in files.read(places):
        pictures = [make_thumbnail(picture) for picture in find_pictures(files.folder, row.pop("images", None))]
        found[place] = fit_pair(row, files.problems), pictures
    return found


def _show_pair(pair: Mapping[str, Any], pictures: Sequence[Thumbnail], asked: Asked) -> dict[str, Any]:
    differing = differing_words(*(pair[side]["text"] for side in SIDES))
    is_edited = pair["k_chosen"] is not None and pair["k_chosen"] == pair["k_rejected"]
    sides = []
    for place, side in enumerate(SIDES):
        facts = {
            "score": show_number(pair[f"score_{side}"], "g"),
            "": _say_words(pair[side]["words"]),
            "made from answer" if is_edited and not place else "answer": show_number(pair[f"k_{side}"], ".0f"),
            "log π": show_number(pair[f"logp_{side}"], 1),
        }
        said = _mark(pair[side], pair[f"claims_{side}"], () if differing is None else differing[place])
        sides.append({"name": side, "facts": _join(facts), **said})
    few = "The two share few words, so those that differ are not marked."
    shown = _show_prompt(pair["prompt_id"], pair["question"], pictures, asked)
    facts = {"margin": show_number(pair["margin"], "g"), "prompt": shown["name"] or MISSING}
    return {**shown, "facts": _join(facts), "sides": sides, "remark": few if differing is None else ""}


def _show_unpaired(own: str, put_aside: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    pictures = [make_thumbnail(picture) for picture in put_aside.get("pictures", ())]
    shown = _show_prompt(own, put_aside.get("question", ""), pictures, asked)
    facts = {"no pair:": asked.reasons.get((own, None), "the reason is not known"), "prompt": shown["name"]}
    return {**shown, "facts": _join(facts), "sides": [], "remark": ""}


def _show_prompt(own: str, question: str, pictures: Sequence[Thumbnail], asked: Asked) -> dict[str, Any]:
    """Returns of a prompt its title, the question where that has not room for it, pictures, and all answers."""
    question, name = " ".join(question.replace("<image>", " ").split()), cut(clean_text(own), LONGEST_NAME)
    return {
        "name": name,
        "title": cut(question, LONGEST_TITLE) or f"prompt {name}",
        "question": cut(question, LONGEST_QUESTION) if len(question) > LONGEST_TITLE else "",
        "pictures": [
            (picture, "image" if len(pictures) == 1 else f"image {place}", f"Image {place} of prompt {name}")
            for place, picture in enumerate(pictures, start=1)
        ],
        "answers": _list_answers(own, asked),
    }


def _list_answers(own: str, asked: Asked) -> list[dict[str, Any]]:
    """Returns all answers to a prompt with what the judges hold of them; claims are those of the first judge."""
    found = []
    for k, answer in asked.answers.get(own, {}).items():
        roles = [role for place, role in enumerate(SIDES) if any(pair[place] == k for pair in asked.taken[own])]
        verdicts = {label: of[own][k] for label, of in asked.verdicts.items() if k in of.get(own, {})}
        facts = [f"{k} {cut(answer['kind'], LONGEST_NAME)}".strip(), *roles]
        facts += [f"{cut(label, LONGEST_NAME)} {show_number(of['score'], 'g')}" for label, of in verdicts.items()]
        facts += [_say_words(answer["words"]), *filter(None, [asked.reasons.get((own, k))])]
        first = next(iter(verdicts.values()), {})
        shown = _mark(answer, first.get("claims", ()), ())
        if first.get("is_right") is False and not shown["wrong"]:
            shown["wrong"] = "the answer as a whole is held to be wrong"
        found.append({"facts": " · ".join(facts), **shown})
    return found


def _mark(answer: Mapping[str, Any], claims: Sequence[Mapping[str, Any]], differing: Sequence[Mark]) -> dict[str, Any]:
    """Returns an answer in pieces, with wrong claims and words that differ, and in words which claims are wrong."""
    false = [claim for claim in claims if not claim["is_true"]]
    marks = find_claims(answer["text"], [(claim["text"], claim["sentence"]) for claim in false])
    pieces = split_pieces(answer["text"], marks, differing) + [Piece(" …")] * answer["is_cut"]
    names = list(dict.fromkeys(cut(" ".join(claim["text"].split()), LONGEST_NAME) for claim in false))
    said = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    wrong = f"{len(false)} of {len(claims)} claims held to be wrong: {said}" if false else ""
    return {"pieces": pieces, "wrong": wrong}


def _join(facts: Mapping[str, str]) -> str:
    """Returns facts in a line, without those that are not known."""
    return " · ".join(f"{name} {value}".strip() for name, value in facts.items() if value != MISSING)


def _say_words(count: int | None) -> str:
    return MISSING if count is None else f"{count:,} word{'' if count == 1 else 's'}"
