"""The folder of `mmdpo pairs`: what became of prompts and answers, what the pairs are like, and many of them to see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmdpo.files import clean_text, write_text
from mmdpo.records import derive_generator
from mmdpo.report.layout import (
    File,
    Headline,
    Section,
    Thumbnail,
    cut,
    identify,
    make_thumbnail,
    render,
    render_page,
    table_files,
)
from mmdpo.report.pair_figures import draw_all, make_figures
from mmdpo.report.pair_files import (
    PairFiles,
    choose_unpaired,
    find_pictures,
    fit_pair,
    read_answers,
    read_reasons,
    read_unpaired,
    read_verdicts,
)
from mmdpo.report.pair_tables import cost_tables, funnel_tables, key_table, like_tables
from mmdpo.report.reading import NUMBER, PAIRS, Place, read_result
from mmdpo.tables import MISSING, Table, show_number
from mmdpo.texts import Mark, Piece, differing_words, find_claims, split_pieces

VERB, PAGE = "mmdpo pairs build", "report.html"
RESULT_SHAPE = {
    **dict.fromkeys(("rule", "asked_rule", "about"), str),
    "notes": [str],
    "plan": {"mistakes": str, "balance": str, **dict.fromkeys(("margin", "seed", "per_prompt"), NUMBER)},
    "judges": {str: str},
    "sampler": {
        "sampler": {"model": str},
        "settings": dict.fromkeys(("temperature", "top_p", "seed"), NUMBER),
    },
    "funnel": {
        **dict.fromkeys(
            ("prompts", "prompts_judged", "answers", "answers_judged", "candidates", "prompts_without_mistakes"), float
        ),
        **dict.fromkeys(("pairs", "yield"), float),
        **{f"{kind}_lost": {str: float} for kind in ("prompts", "answers", "pairs")},
    },
    "pairs": {str: float},
    "images": float,
    "clean": NUMBER,
    "errors": ({str: NUMBER}, None),
    "by_judge": {str: NUMBER},
    "words": {str: NUMBER},
    "margins": {str: float},
    "style": {str: {str: NUMBER}},
    "struck": {str: float},
    "shortcut": {"rules": {str: {"label": str, "accuracy": NUMBER}}, "notes": [str]},
}
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
LONGEST_ANSWER, LONGEST_QUESTION, LONGEST_TITLE, LONGEST_NAME = 2_400, 600, 110, 80
"""Characters of an answer, of a question, of one in a heading, and of a claim or an id."""
MOST_LINES = 40
"""Lines of an answer."""
MOST_NOTES, MOST_JUDGES, MOST_NAMED = 40, 4, 12
"""Notes and judges of a run, and claims that are named under an answer."""
MOST_TABLE_ROWS, LONGEST_CELL = 60, 200


@dataclass(frozen=True)
class Side:
    """The chosen or the rejected answer of a pair, as it is shown."""

    name: str
    facts: str
    pieces: tuple[Piece, ...]
    wrong: str
    """In words what is struck through, for readers who do not see it; empty where nothing is."""


@dataclass(frozen=True)
class Answer:
    """One of all answers to a prompt."""

    facts: str
    pieces: tuple[Piece, ...]
    wrong: str


@dataclass(frozen=True)
class Shown:
    """A pair, or a prompt without one, with its pictures and all answers."""

    title: str
    question: str
    """Where the title has not all of it."""
    pictures: tuple[tuple[Thumbnail, str, str], ...]
    facts: str
    sides: tuple[Side, ...] = ()
    remark: str = ""
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What is known of prompts besides their pairs."""

    answers: Mapping[str, Mapping[int, Mapping[str, Any]]]
    verdicts: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]
    """By judge, prompt and number of the answer."""
    reasons: Mapping[tuple[str, int | None], str]
    """Why a prompt (number None) or an answer is in no pair."""


def write_pairs(folder: str | Path) -> Path:
    """Writes report.html into the folder of a run and returns its path.

    Raises ReportError for a folder whose pairs were not built; what else cannot be used is said on the page.
    """
    folder, problems = Path(folder), list[str]()
    name = clean_text(folder.resolve().name)
    sections = _make_sections(Place(folder, name), problems, "", "")
    page = folder / PAGE
    summary = "pairs of preferences from a model's own answers"
    write_text(page, render_page(f"mmdpo pairs: {name}", summary, sections, problems))
    return page


def pairs_sections(place: Place, problems: list[str]) -> list[Section]:
    """Returns the sections on a page of several folders; raises, and names problems, as `write_pairs` does."""
    return _make_sections(place, problems, f"{identify(place.label)}-", f"{place.label}: ")


def _make_sections(place: Place, problems: list[str], prefix: str, before: str) -> list[Section]:
    """Returns the sections, whose ids begin with `prefix`, and their titles with what stands `before` them."""
    folder = place.path
    result = {"funnel": {}, **read_result(folder / PAIRS, ("rule", "funnel"), RESULT_SHAPE, problems, VERB)}
    seed = _whole(result.get("plan", {}).get("seed")) or 0
    files = PairFiles(folder, problems)
    chosen = choose_places(files.margins, files.count, seed)
    pairs = _read_pairs(files, {place for of in chosen.values() for place in of})
    put_aside = read_unpaired(folder, problems)
    unpaired = list(put_aside) or choose_unpaired(folder, SHOWN_UNPAIRED, seed, problems)
    asked = _read_asked(
        folder,
        [*(pair["prompt_id"] for pair, _ in pairs.values() if pair["prompt_id"]), *unpaired],
        list(result.get("judges", {}))[:MOST_JUDGES],
        problems,
    )
    of_prompts: dict[str, set[tuple[int | None, int | None]]] = {}
    for pair, _ in pairs.values():
        numbers = _whole(pair["k_chosen"]), _whole(pair["k_rejected"])
        of_prompts.setdefault(pair["prompt_id"] or "", set()).add(numbers)
    shown = {at: _show_pair(pair, pictures, asked, of_prompts) for at, (pair, pictures) in pairs.items()}
    figures = make_figures(result, files.count_words())
    drawn, files_of = draw_all(figures, prefix, problems)
    tables = {
        "funnel": funnel_tables(result)[1:],
        "tables": [*like_tables(result), *cost_tables(folder, result, problems)],
    }
    made = bound_table(funnel_tables(result)[0])
    sentence, key = describe(result), bound_table(key_table(result))
    values = dict(
        sentence=sentence,
        key=key,
        is_page=not prefix,
        notes=[cut(note, 600) for note in _list_notes(result)],
        drawn=drawn,
        made={row[0]: row[1] for row in made.rows},
        tables={part: [bound_table(table) for table in of] for part, of in tables.items()},
        pairs={part: [shown[at] for at in of if at in shown] for part, of in chosen.items()},
        about=explain_ends(files.margins, chosen),
        count=files.count,
        unpaired=[_show_unpaired(own, put_aside.get(own), asked) for own in unpaired[:SHOWN_UNPAIRED]],
        has_pictures=bool(put_aside),
    )
    written: dict[str, dict[str, File]] = dict(files_of)
    for part, of in tables.items():
        for number, table in enumerate(of):
            written.setdefault(part, {}).update(table_files(f"{prefix}{part}-{number}", table))
    sections = [
        Section(
            f"{prefix}{part}",
            f"{before}{title}",
            render("pairs.html", part=part, **values),
            written.get(part, {}),
            in_menu=part == "pairs" or not prefix,
        )
        for part, title in SECTIONS.items()
        if part == "random" or chosen.get(part, True)
    ]
    if prefix:  # on a page about several folders, what it comes to stands on top
        sections[0] = replace(sections[0], headline=Headline(sections[0].title, sections[0].id, sentence, key))
    return sections


def describe(result: Mapping[str, Any]) -> str:
    """Returns what the pairs are, in a sentence."""
    model = result.get("sampler", {}).get("sampler", {}).get("model")
    judges = ", ".join(cut(label, LONGEST_NAME) for label in list(result.get("judges", {}))[:MOST_JUDGES])
    counts = {
        "pairs": sum(result.get("pairs", {}).values()),
        "images": result.get("images"),
        "prompts": result["funnel"].get("prompts"),
    }
    said = {name: show_number(count, ",.0f") for name, count in counts.items()}
    best, _, worst = result.get("about", "").partition("; ")
    rule = f"the chosen answer is {best}, the rejected one {worst}" if worst else best or "no rule is named"
    return (
        f"{said['pairs']} pairs about {said['images']} images, made of the answers that "
        f"{cut(model, LONGEST_NAME) if model else 'a model'} gave to {said['prompts']} prompts, judged by "
        f"{judges or 'nobody who is named'}: "
        f"{cut(rule, LONGEST_QUESTION)} (rule {cut(result.get('rule', MISSING), LONGEST_NAME)})."
    )


def _list_notes(result: Mapping[str, Any]) -> list[str]:
    notes = [*result.get("notes", ()), *result.get("shortcut", {}).get("notes", ())]
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


def _read_asked(folder: Path, ids: Sequence[str], labels: Sequence[str], problems: list[str]) -> Asked:
    own = dict.fromkeys(ids)
    return Asked(
        read_answers(folder, own, problems),
        {label: read_verdicts(folder, label, own, problems) for label in labels},
        read_reasons(folder, own, problems),
    )


def _show_pair(
    pair: Mapping[str, Any],
    pictures: Sequence[Thumbnail],
    asked: Asked,
    taken: Mapping[str, Collection[tuple[int | None, int | None]]],
) -> Shown:
    texts = {side: bound_answer(pair[side]) for side in ("chosen", "rejected")}
    differing = differing_words(*(text for text, _ in texts.values()))
    is_edited = pair["k_chosen"] is not None and pair["k_chosen"] == pair["k_rejected"]
    sides = []
    for place, side in enumerate(texts):
        marks = () if differing is None else differing[place]
        made = "made from answer" if is_edited and not place else "answer"
        facts = {
            "score": show_number(pair[f"score_{side}"], "g"),
            "": _say_words(pair[side]["words"]),
            made: show_number(pair[f"k_{side}"], ".0f"),
            "log π": show_number(pair[f"logp_{side}"], 1),
        }
        pieces, wrong = _mark(*texts[side], pair[f"claims_{side}"], marks)
        sides.append(Side(side, _join(facts), pieces, wrong))
    own = pair["prompt_id"] or ""
    facts = {"margin": show_number(pair["margin"], "g"), "prompt": cut(clean_text(own), LONGEST_NAME) or MISSING}
    few = "The two share few words, so those that differ are not marked."
    return Shown(
        *_entitle(pair["question"], own),
        pictures=_caption(pictures, own),
        facts=_join(facts),
        sides=tuple(sides),
        remark=few if differing is None else "",
        answers=_list_answers(own, asked, taken.get(own, ()) if own else ()),
    )


def _show_unpaired(own: str, put_aside: Mapping[str, Any] | None, asked: Asked) -> Shown:
    pictures = [make_thumbnail(picture) for picture in (put_aside or {}).get("pictures", ())]
    facts = {"no pair:": asked.reasons.get((own, None), "the reason is not known")}
    return Shown(
        *_entitle((put_aside or {}).get("question", ""), own),
        pictures=_caption(pictures, own),
        facts=_join(facts | {"prompt": cut(clean_text(own), LONGEST_NAME)}),
        answers=_list_answers(own, asked, ()),
    )


def _entitle(question: str, own: str) -> tuple[str, str]:
    """Returns the title of a pair, its question, and all of the question where the title has not room for it."""
    asked = " ".join(question.replace("<image>", " ").split())
    title = cut(asked, LONGEST_TITLE) or f"prompt {cut(clean_text(own), LONGEST_NAME)}"
    return title, cut(asked, LONGEST_QUESTION) if len(asked) > LONGEST_TITLE else ""


def _caption(pictures: Sequence[Thumbnail], own: str) -> tuple[tuple[Thumbnail, str, str], ...]:
    name = cut(clean_text(own), LONGEST_NAME)
    return tuple(
        (picture, "image" if len(pictures) == 1 else f"image {place}", f"Image {place} of prompt {name}")
        for place, picture in enumerate(pictures, start=1)
    )


def _list_answers(own: str, asked: Asked, taken: Collection[tuple[int | None, int | None]]) -> tuple[Answer, ...]:
    """Returns all answers to a prompt with what the judges hold of them; claims are those of the first judge."""
    found = []
    for k, answer in asked.answers.get(own, {}).items():
        roles = [role for place, role in enumerate(("chosen", "rejected")) if any(pair[place] == k for pair in taken)]
        verdicts = {label: of[own][k] for label, of in asked.verdicts.items() if k in of.get(own, {})}
        first = next((of[own][k] for of in asked.verdicts.values() if k in of.get(own, {})), {})
        facts = [f"{k} {cut(answer.get('kind', ''), LONGEST_NAME)}".strip(), *roles]
        facts += [f"{cut(label, LONGEST_NAME)} {show_number(of.get('score'), 'g')}" for label, of in verdicts.items()]
        facts += [_say_words(answer["words"])]
        facts += [reason] if (reason := asked.reasons.get((own, k))) else []
        pieces, wrong = _mark(*bound_answer(answer), first.get("claims", ()), ())
        if first.get("is_right") is False and not wrong:
            wrong = "the answer as a whole is held to be wrong"
        found.append(Answer(" · ".join(facts), pieces, wrong))
    return tuple(found)


def _mark(
    text: str, is_cut: bool, claims: Sequence[Mapping[str, Any]], differing: Sequence[Mark]
) -> tuple[tuple[Piece, ...], str]:
    """Returns an answer in pieces, with wrong claims and words that differ, and in words which claims are wrong."""
    false = [claim for claim in claims if not claim["is_true"]]
    marks = find_claims(text, [(claim["text"], claim["sentence"]) for claim in false])
    pieces = split_pieces(text, marks, differing)
    if is_cut:
        pieces.append(Piece(" …"))
    if not false:
        return tuple(pieces), ""
    names = list(dict.fromkeys(cut(" ".join(claim["text"].split()), LONGEST_NAME) for claim in false))
    said = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    return tuple(pieces), f"{len(false)} of {len(claims)} claims held to be wrong: {said}"


def bound_answer(answer: Mapping[str, Any]) -> tuple[str, bool]:
    """Returns of an answer no more characters and lines than a page has room for, and whether that is not all."""
    lines = answer["text"].strip()[:LONGEST_ANSWER].split("\n")
    is_cut = answer["is_cut"] or len(answer["text"].strip()) > LONGEST_ANSWER or len(lines) > MOST_LINES
    return "\n".join(line.rstrip() for line in lines[:MOST_LINES]), is_cut


def _join(facts: Mapping[str, str]) -> str:
    """Returns facts in a line, without those that are not known."""
    return " · ".join(f"{name} {value}".strip() for name, value in facts.items() if value != MISSING)


def _say_words(count: int | None) -> str:
    return MISSING if count is None else f"{count:,} word{'' if count == 1 else 's'}"


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
