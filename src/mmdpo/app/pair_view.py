"""The rows of a dataset as the page of pairs shows them: a list, and one row in full. Knows no Gradio."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from markupsafe import Markup

from mmdpo.app.html import render
from mmdpo.app.pair_index import DROPPED, FLAGGED, UNDECIDED, PairFacts, PairIndex, Query, Tell, look_at
from mmdpo.app.pair_measures import Measure
from mmdpo.app.pair_pictures import HowCorrupted, OtherPictures, make_pictures
from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.decisions import DROP, FLAG, KEEP, Decision, DecisionFile, digest_row, name_dataset
from mmdpo.data.messages import IMAGE_PLACEHOLDER, plain_text
from mmdpo.files import clean_text, printable
from mmdpo.records import CHOSEN, REJECTED, Message, PreferenceExample, Text
from mmdpo.report.layout import cut
from mmdpo.tables import show_number
from mmdpo.texts import differing_words, split_pieces

ROWS_SHOWN = 25
LONGEST_LINE, LONGEST_TEXT = 160, 20_000
"""Characters of a text in the list, and of one in full."""
_KEPT = 8
"""Selections that are kept for turning pages."""


class Badge(NamedTuple):
    """A mark of a row; `kind` is a class of the style sheet."""

    kind: str
    text: str


@dataclass
class PairsView:
    """One dataset that was opened, and what is decided about it."""

    dataset: PreferenceDataset
    decisions: DecisionFile
    vocabulary: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Measure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = name_dataset(self.dataset)
        self.index = PairIndex(self.dataset, vocabulary=self.vocabulary, measures=self.measures)
        self._others: OtherPictures | None = None
        self._selections: OrderedDict[Any, Int[np.ndarray, "K"]] = OrderedDict()

    # -- which rows ----------------------------------------------------------------------------------------------------

    def select(self, query: Query, tell: Tell = lambda done, rows: None) -> Int[np.ndarray, "K"]:
        """Returns the places of the rows that are shown, in their order; raises what reading the decisions raises."""
        decisions = self.decisions.read()
        depends = {FLAGGED, DROPPED, UNDECIDED} & set(query.filters)
        key = (query, max((each.line for each in decisions.values()), default=0) if depends else 0)
        if key not in self._selections:
            self._selections[key] = self.index.select(query, decisions, tell)
            while len(self._selections) > _KEPT:
                self._selections.popitem(last=False)
        return self._selections[key]

    def find_decision(self, index: int) -> Decision | None:
        """Returns what was decided about a row, None where nothing was or it was withdrawn."""
        found = self.decisions.read().get((self.name, self.dataset.row_of(index)))
        return None if found is None or found.decision == KEEP else found

    def decide(self, index: int, decision: str, reason: str) -> None:
        """Writes down what is decided about a row; raises UnusableFileError where the file cannot be written."""
        self.decisions.decide(self.dataset, index, decision, printable(reason.strip()))

    # -- the list ------------------------------------------------------------------------------------------------------

    def render_rows(self, selected: Int[np.ndarray, "K"], current: int, total_note: str = "") -> Markup:
        """Returns the page of the list that the current row stands on."""
        place = find_place(selected, current)
        first = place // ROWS_SHOWN * ROWS_SHOWN
        shown = selected[first : first + ROWS_SHOWN].tolist()
        rows = f"{len(selected):,} rows" if len(selected) != 1 else "1 row"
        of = f" of {len(self.dataset):,}" if len(selected) != len(self.dataset) else ""
        count = f"{first + 1:,}–{first + len(shown):,} of {rows}" if shown else f"no row{of}"
        if shown and of:
            count += f" (all: {len(self.dataset):,})"
        return render(
            "rows.html",
            count=count,
            note=total_note,
            problem="",
            digits=len(str(len(self.dataset))),
            rows=[self._describe_row(index, is_current=index == current) for index in shown],
        )

    def _describe_row(self, index: int, *, is_current: bool) -> dict[str, Any]:
        example, facts = look_at(self.dataset, index)
        texts = ("", "") if example is None else (example.prompt, example.responses.get(CHOSEN, ""))
        # Where an image stands is seen in the row itself.
        words = (plain_text(text).replace(IMAGE_PLACEHOLDER, " ").split() for text in texts)
        prompt, chosen = (clean_text(cut(" ".join(of), LONGEST_LINE)) for of in words)
        return {
            "place": index,
            "number": self.dataset.row_of(index),
            "is_current": is_current,
            "prompt": prompt or "(cannot be read)",
            "chosen": chosen,
            "lengths": "" if example is None else f"{facts.chosen_words} / {facts.rejected_words}",
            "badges": self._list_badges(index, facts),
        }

    def _list_badges(self, index: int, facts: PairFacts) -> list[Badge]:
        decision = self.find_decision(index)
        badges = [Badge("wrong", "faulty")] if facts.fault else []
        if decision is not None:
            badges.append(Badge(decision.decision, {DROP: "dropped", FLAG: "flagged"}[decision.decision]))
        return badges

    # -- one row -------------------------------------------------------------------------------------------------------

    def render_pictures(self, index: int, how: HowCorrupted, tell: Tell = lambda done, rows: None) -> Markup:
        """Returns the head of a row with what is wrong with it, and its pictures."""
        example, facts = look_at(self.dataset, index)
        pictures = [] if example is None else make_pictures(example, index, how, self._find_others, tell)
        number, decision = self.dataset.row_of(index), self.find_decision(index)
        problems = [facts.fault] if facts.fault else []
        if decision is not None and decision.content != digest_row(self.dataset, index):
            problems.append(
                f"The row has changed since {self.decisions.path}, line {decision.line}, was written: decide again, or "
                "training refuses it."
            )
        if how.is_cropped_late:
            problems.append("The run crops what its image processor returns; the crop of the picture itself is shown.")
        return render(
            "pair.html",
            part="pictures",
            title=f"Row {number:,}",
            id="" if example is None or example.id == str(number) else clean_text(example.id),
            badges=self._list_badges(index, facts),
            problems=[clean_text(problem) for problem in problems],
            pictures=pictures,
        )

    def render_texts(self, index: int) -> Markup:
        """Returns prompt and answers with the words marked that the other answer does not have, and the facts."""
        example, facts = look_at(self.dataset, index)
        if example is None:
            raw = self.dataset.raw(index)
            shown = {clean_text(str(key)): clean_text(cut(repr(value), 500)) for key, value in dict(raw).items()}
            return render("pair.html", part="texts", title="row", turns=[], sides=[], remark="", facts=shown)
        sides, remark = describe_answers(example, facts)
        return render(
            "pair.html",
            part="texts",
            title="row",
            turns=list_turns(example.prompt),
            sides=sides,
            remark=remark,
            facts=self._list_facts(index, example),
        )

    def _list_facts(self, index: int, example: PreferenceExample) -> dict[str, str]:
        decision = self.find_decision(index)
        facts = {name: show_number(value) for name, value in example.weights.items()}
        facts |= {
            name: show_number(value) for name, measure in self.measures.items() if (value := measure(example)) == value
        }
        if example.is_corrupted is not None:
            facts["corrupted image"] = "yes" if example.is_corrupted else "no, the image itself"
        if decision is not None:
            said = {DROP: "dropped", FLAG: "flagged"}[decision.decision]
            facts["decision"] = said + (f": {decision.reason}" if decision.reason else "")
        facts["source"] = example.source
        return {clean_text(name): clean_text(value) for name, value in facts.items()}

    def _find_others(self) -> OtherPictures:
        """Returns what draws other rows' pictures among those that a run would train on."""
        self.index.wait()
        decisions = self.decisions.read().items()
        dropped = {row - 1 for (name, row), each in decisions if name == self.name and each.decision == DROP}
        left_out = dropped | set(self.index.faults)
        if self._others is None or self._others.left_out != left_out:
            self._others = OtherPictures(self.dataset, left_out)
        return self._others


def find_place(selected: Int[np.ndarray, "K"], current: int) -> int:
    """Returns where a row stands among the selected ones, 0 where it does not."""
    found = np.flatnonzero(selected == current)
    return int(found[0]) if len(found) else 0


def move(selected: Int[np.ndarray, "K"], current: int, steps: int) -> int:
    """Returns the row so many steps after the current one, or at the end; the first where the current is not shown."""
    if not len(selected):
        return current
    if current not in selected:
        return int(selected[0])
    return int(selected[min(max(find_place(selected, current) + steps, 0), len(selected) - 1)])


def list_turns(prompt: Text) -> list[dict[str, str]]:
    """Returns the turns of a prompt with who speaks; of plain text one, called the prompt."""
    if isinstance(prompt, str):
        return [{"role": "prompt", "text": _shorten(prompt)}]
    turns: Sequence[Message] = prompt
    roles = ["prompt"] if len(turns) == 1 else [str(turn["role"]) for turn in turns]
    return [{"role": role, "text": _shorten(plain_text((turn,)))} for role, turn in zip(roles, turns, strict=True)]


def describe_answers(example: PreferenceExample, facts: PairFacts) -> tuple[list[dict[str, Any]], str]:
    """Returns chosen and rejected in pieces, and what is to be said of them."""
    texts = [_shorten(plain_text(example.responses.get(name, ""))) for name in (CHOSEN, REJECTED)]
    marks = differing_words(*texts) if all(texts) else None
    remark = ""
    if all(texts) and texts[0] == texts[1]:
        remark = "The answers are equal."
    elif all(texts) and marks is None:
        remark = "The answers share too few words to mark those that differ."
    words = (facts.chosen_words, facts.rejected_words)
    sides = [
        {
            "name": name,
            "words": f"{count} {'word' if count == 1 else 'words'}",
            "pieces": split_pieces(text, (), marks[side] if marks else ()),
        }
        for side, (name, text, count) in enumerate(zip((CHOSEN, REJECTED), texts, words, strict=True))
    ]
    return sides, remark


def _shorten(text: str) -> str:
    return clean_text(cut(text, LONGEST_TEXT))
