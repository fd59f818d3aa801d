"""Page of answers: what two or more evaluated runs say about one image, beside each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context
from markupsafe import Markup

from mmdpo.app.html import render
from mmdpo.app.item_picture import item_picture
from mmdpo.app.sources import Sources
from mmdpo.report.evaluated import EvaluatedRun, ScoredItem, mark_answer, name_benchmark, read_evaluated
from mmdpo.report.reading import ANSWERS, Place, name_results, read_lines

TITLE = "Answers"
ALL, DIFFERENT = "all items", "runs score differently"
SOME_WRONG, EVERY_WRONG = "some run is wrong", "every run is wrong"
_ONLY = "only {} is wrong"
LONGEST_TEXT = 20_000
"""Characters of an answer, and of a judge's reply, that are shown."""


@dataclass(frozen=True)
class BoardItem:
    """An item, and what each run says about it, by the run's label."""

    id: str
    prompt: str
    image: str
    rows: Mapping[str, Mapping[str, Any]]
    """Rows of answers.jsonl."""
    scores: Mapping[str, ScoredItem]
    gap: float
    """The most faults of a run, less the fewest: words flagged, a wrong yes or no, or what a rating lacks to 6.

    Answers that were not scored are left out.
    """
    unlike: float
    """Share of the answers' words that not all of them have."""


@dataclass(frozen=True)
class Board:
    """The items of a benchmark that runs have answered, those first where the runs differ most."""

    benchmark: str
    runs: tuple[str, ...]
    items: tuple[BoardItem, ...]
    problems: tuple[str, ...]


def find_benchmarks(places: Sequence[Place]) -> dict[str, list[Place]]:
    """Returns the results by benchmark: those benchmarks that two runs or more have results on."""
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(name_benchmark(place.path), []).append(place)
    return {benchmark: of for benchmark, of in found.items() if len(of) > 1}


def read_board(benchmark: str, places: Sequence[Place]) -> Board:
    """Reads the results of runs on one benchmark; what cannot be read is said in the board's problems."""
    problems: list[str] = []
    runs: dict[str, EvaluatedRun] = {}
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for label, place in zip(name_results(places), places, strict=True):
        runs[label] = read_evaluated(place, problems, most=None)
        for row in read_lines(place.path / ANSWERS, problems):
            if "id" in row:
                rows.setdefault(str(row["id"]), {})[label] = row
    items = [_make_item(item, of, runs) for item, of in rows.items()]
    items.sort(key=lambda item: (-item.gap, -item.unlike))  # a stable sort: else as in the file
    return Board(benchmark, tuple(runs), tuple(items), tuple(problems))


def _make_item(item: str, rows: Mapping[str, Mapping[str, Any]], runs: Mapping[str, EvaluatedRun]) -> BoardItem:
    scores = {label: run.items[item] for label, run in runs.items() if item in run.items}
    first = next(iter(rows.values()))
    image = next((score.image for score in scores.values() if score.image), str(first.get("image") or ""))
    faults = [count_faults(score) for score in scores.values() if score.is_scored]
    words = [frozenset(re.findall(r"\w+", str(row.get("answer", "")).casefold())) for row in rows.values()]
    every, some = frozenset.intersection(*words), frozenset.union(*words)
    return BoardItem(
        id=item,
        prompt=str(first.get("prompt", "")),
        image=image,
        rows=rows,
        scores=scores,
        gap=max(faults) - min(faults) if faults else 0.0,
        unlike=1 - len(every) / len(some) if some else 0.0,
    )


def count_faults(score: ScoredItem) -> float:
    """Returns how bad an answer is: words flagged, 1 for a wrong yes or no, or what a judge's rating lacks to 6."""
    if score.rating is not None:
        return 6 - score.rating
    return float(len(score.flagged)) if score.flags_words else float(score.is_wrong)


def list_filters(board: Board) -> list[str]:
    """Returns what may be chosen of a board's items."""
    return [ALL, DIFFERENT, SOME_WRONG, EVERY_WRONG, *(_ONLY.format(run) for run in board.runs)]


def choose_items(board: Board, wanted: str, search: str) -> list[int]:
    """Returns the places of the items that pass a filter, and hold all words of a search in their texts or id."""
    words = search.casefold().split()
    return [
        place for place, item in enumerate(board.items) if _passes(item, wanted, board.runs) and _holds(item, words)
    ]


def _passes(item: BoardItem, wanted: str, runs: Sequence[str]) -> bool:
    wrong = {label for label, score in item.scores.items() if score.is_wrong}
    if wanted == DIFFERENT:
        return item.gap > 0
    if wanted == SOME_WRONG:
        return bool(wrong)
    if wanted == EVERY_WRONG:
        return len(wrong) == len(runs)
    only = next((run for run in runs if wanted == _ONLY.format(run)), None)
    return wanted == ALL or wrong == {only}


def _holds(item: BoardItem, words: Sequence[str]) -> bool:
    texts = "\n".join([item.id, item.prompt, *(str(row.get("answer", "")) for row in item.rows.values())]).casefold()
    return all(word in texts for word in words)


def show_item(board: Board, chosen: Sequence[int], at: int, image_dir: Path | None = None) -> Markup:
    """Returns the HTML of one of the chosen items, the first for 0."""
    if not chosen:
        return render("answers.html", item=None, problems=board.problems, board=board)
    item = board.items[chosen[at]]
    return render(
        "answers.html",
        board=board,
        item=item,
        problems=board.problems,
        position=f"{at + 1:,} of {len(chosen):,}",
        picture=item_picture(image_dir, board.benchmark, item.id, item.image),
        answers={
            run: mark_answer(item.rows.get(run, {}), item.scores.get(run), item.prompt, LONGEST_TEXT)
            for run in board.runs
        },
        reference=next((score.reference for score in item.scores.values() if score.reference), ""),
    )


# -- the page ---------------------------------------------------------------------------------------------------------


def is_wanted(sources: Sources) -> bool:
    """Returns whether two runs have results on one benchmark."""
    return bool(find_benchmarks(sources.found.evaluations))


def build(sources: Sources) -> None:
    """Fills the tab; what the results hold is read when somebody looks."""
    places = find_benchmarks(sources.found.evaluations)
    names, get = list(places), cache(lambda benchmark: read_board(benchmark, places[benchmark]))
    with gr.Row(elem_classes="controls"):
        benchmark = gr.Dropdown(names, value=names[0], label="Benchmark", visible=len(names) > 1)
        wanted = gr.Dropdown([ALL], value=ALL, label="Show")
        search = gr.Textbox(
            label="Search (/)", placeholder="words of an answer, prompt or id", elem_classes="key-/", max_lines=1
        )
    with gr.Row(elem_classes="controls"):
        before = gr.Button("Previous (k)", elem_classes=["key-k", "key-p"], min_width=120)
        after = gr.Button("Next (j)", elem_classes=["key-j", "key-n"], variant="primary", min_width=120)
    place = gr.State(0)
    shown = gr.HTML(elem_id="answers")
    asked, told = [benchmark, wanted, search, place], [shown, place]

    def move(step: int | None, benchmark: str, wanted: str, search: str, at: int) -> tuple[str, int]:
        """Returns the HTML of an item and its place among those chosen, which stays within them."""
        board = get(benchmark)
        chosen = choose_items(board, wanted or ALL, search)
        at = 0 if step is None else max(0, min(at + step, len(chosen) - 1))
        return str(show_item(board, chosen, at, sources.image_dir)), at

    def open_board(benchmark: str) -> tuple[Any, str, int]:
        return gr.Dropdown(list_filters(get(benchmark)), value=ALL), *move(None, benchmark, ALL, "", 0)

    # One after the other, in the order in which they came: each begins at the place that the one before led to.
    in_order = dict(concurrency_id="answers", concurrency_limit=1)
    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private", **in_order)
    for button, step in ((before, -1), (after, 1)):
        button.click(partial(move, step), asked, told, trigger_mode="multiple", **quiet)
    for changed in (wanted.input, search.change):
        changed(partial(move, None), asked, told, trigger_mode="always_last", **quiet)
    benchmark.input(open_board, benchmark, [wanted, *told], **quiet)
    # Not before the tab is opened: until then the page holds no run's name, which somebody who votes must not see.
    tab = Context.block
    assert isinstance(tab, gr.Tab)
    tab.select(open_board, benchmark, [wanted, *told], **quiet)
