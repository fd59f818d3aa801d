"""Page of preference pairs: a list that is searched, filtered and sorted, and one row in full, to flag or drop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.context import Context

from mmdpo import corruption as corruptions
from mmdpo.app.html import paragraph, render
from mmdpo.app.pair_index import FILTERS, IN_ORDER, Query, read_range
from mmdpo.app.pair_measures import read_measures
from mmdpo.app.pair_pictures import HowCorrupted, read_how, read_options
from mmdpo.app.pair_view import ROWS_SHOWN, PairsView, move
from mmdpo.app.sources import Sources
from mmdpo.data.decisions import DROP, FLAG, KEEP, DecisionFile
from mmdpo.pairs.prompts import read_vocabulary

TITLE = "Pairs"
_QUIETLY: dict[str, Any] = dict(show_progress="hidden", api_visibility="private")
DEFAULT_HOW = "a recipe's defaults"
_LIST_SCRIPT = """
let chosen = false;
element.addEventListener("click", (event) => {
  const row = event.target.closest("button[data-place]");
  if (row) { chosen = true; trigger("click", { place: Number(row.dataset.place) }); }
});
watch("value", () => {
  const current = element.querySelector("[aria-current]");
  if (!current) return;
  current.scrollIntoView({ block: "nearest" });
  if (chosen) current.focus({ preventScroll: true });
  chosen = false;
});
"""
"""Drawing the list anew takes the focus from the row that was clicked, which gets it back."""


def is_wanted(sources: Sources) -> bool:
    """Returns whether there is something to show."""
    return bool(sources.datasets)


def open_views(sources: Sources) -> dict[str, PairsView]:
    """Reads the datasets, and returns them by name.

    Raises ValueError for two of one name, which decisions could not tell apart, and what reading raises.
    """
    measures, decisions = read_measures(sources.found.diagnoses), DecisionFile(sources.decisions)
    decisions.read()  # a damaged file is told at once
    views: dict[str, PairsView] = {}
    for source in sources.datasets:
        vocabulary = read_vocabulary(sources.vocabulary, source.name)
        view = PairsView(source.read(), decisions, vocabulary, measures)
        if view.name in views:
            raise ValueError(f"two datasets are called {view.name}, which decisions cannot tell apart: open one alone")
        views[view.name] = view
    return views


def build(sources: Sources) -> Callable[[], None]:
    """Fills the tab; returns what begins to read all rows."""
    views = open_views(sources)
    hows = {DEFAULT_HOW: HowCorrupted(seed=sources.seed)}
    hows |= {place.label: how for place in sources.found.runs if (how := read_how(place.path)) is not None}
    _Page(views, hows).build()

    def begin() -> None:
        for view in views.values():
            view.index.start()

    return begin


class _Page:
    """The components of the tab, and what happens between them."""

    def __init__(self, views: dict[str, PairsView], hows: dict[str, HowCorrupted]) -> None:
        self.views, self.hows = views, hows

    def build(self) -> None:
        first = next(iter(self.views.values()))
        with gr.Row(elem_classes=["controls"]):
            self.dataset = gr.Dropdown(
                list(self.views), value=first.name, label="Dataset", visible=len(self.views) > 1, scale=2, min_width=160
            )
            self.search = gr.Textbox(
                label="Search (/)", placeholder="words as they stand in prompt, answers or id",
                elem_classes=["key-/"], scale=3, min_width=200, max_lines=1,
            )  # fmt: skip
            self.filters = gr.Dropdown(
                list(FILTERS), multiselect=True, label="Only rows that are, or where", scale=3, min_width=200
            )
            self.sort = gr.Dropdown(first.index.list_orders(), value=IN_ORDER, label="Sort", scale=3, min_width=200)
            self.words = gr.Textbox(
                label="Words of the longer answer", placeholder="10-80", max_lines=1, scale=2, min_width=150
            )
        self.place = gr.Number(0, precision=0, visible="hidden", label="row")
        self.of = gr.Textbox(first.name, visible="hidden", label="its dataset")
        with gr.Row(elem_classes=["list-and-row"]):
            with gr.Column(scale=2, min_width=300, elem_classes=["list"]):
                self.rows = gr.HTML(js_on_load=_LIST_SCRIPT, elem_classes=["row-list"], label="Rows", min_height=200)
                with gr.Row(elem_classes=["pager"]):
                    back = gr.Button("‹ Page (p)", size="sm", elem_classes=["key-p"], min_width=80)
                    on = gr.Button("Page (n) ›", size="sm", elem_classes=["key-n"], min_width=80)
                self.status = gr.HTML(elem_classes=["status"])
            with gr.Column(scale=3, min_width=320, elem_classes=["one-row"]):
                with gr.Row(elem_classes=["decide"]):
                    previous = gr.Button("‹ Previous (k)", size="sm", elem_classes=["key-k"], min_width=100)
                    following = gr.Button("Next (j) ›", size="sm", elem_classes=["key-j"], min_width=100)
                    flag = gr.Button("Flag (f)", size="sm", elem_classes=["key-f"], min_width=80)
                    drop = gr.Button("Drop (d)", size="sm", variant="stop", elem_classes=["key-d"], min_width=80)
                    keep = gr.Button("Keep (u)", size="sm", elem_classes=["key-u"], min_width=80)
                self.reason = gr.Textbox(
                    label="Reason (r)", show_label=False, placeholder="Reason to flag or drop it, if you like (r)",
                    max_lines=1, elem_classes=["key-r"], container=False,
                )  # fmt: skip
                self.said = gr.HTML(elem_classes=["said-last"])
                self.pictures = gr.HTML(elem_classes=["pair"])
                self.texts = gr.HTML(elem_classes=["pair"])
                with gr.Accordion("Corrupted image", open=False), gr.Row():
                    self.as_in = gr.Dropdown(
                        list(self.hows), value=DEFAULT_HOW, label="As in", min_width=160, visible=len(self.hows) > 1
                    )
                    self.corruption = gr.Dropdown(
                        list(corruptions.names()), value=HowCorrupted().corruption, label="corruption", min_width=140
                    )
                    self.options = gr.Textbox(
                        value=_show_options(HowCorrupted()), label="corruption_options", max_lines=3, min_width=200
                    )
                    self.seed = gr.Number(self.hows[DEFAULT_HOW].seed, precision=0, label="seed", min_width=80)
                    self.epoch = gr.Number(0, precision=0, minimum=0, label="epoch", min_width=80)
        self._query: list[Any] = [self.dataset, self.search, self.filters, self.sort, self.words]
        how = [self.as_in, self.corruption, self.options, self.seed, self.epoch]
        self._inputs = [self.place, *self._query, *how]
        self._outputs = [self.place, self.of, self.rows, self.pictures, self.texts]
        self._connect([(back, -ROWS_SHOWN), (on, ROWS_SHOWN), (previous, -1), (following, 1)])
        self._connect_corruption()
        for button, decision in ((flag, FLAG), (drop, DROP), (keep, KEEP)):
            outputs = [*self._outputs, self.reason, self.said]
            inputs = [self.reason, self.of, *self._inputs]
            button.click(partial(self.decide, decision), inputs, outputs, **_QUIETLY)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _connect(self, steps: Sequence[tuple[Any, int]]) -> None:
        """Lets what is chosen, and buttons that go so many rows on, change what is shown."""
        for button, count in steps:
            button.click(partial(self.show, steps=count), self._inputs, self._outputs, **_QUIETLY)

        def click(event: gr.EventData, *values: Any) -> Any:
            return self.show(int(event.place), *values[1:])

        self.rows.click(click, self._inputs, self._outputs, **_QUIETLY)

        def choose(*values: Any, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008 — Gradio looks for it
            return self.show(*values, tell=_told(progress, "reading rows"), to_first=True)

        loudly = _QUIETLY | dict(show_progress="full", show_progress_on=[self.rows], trigger_mode="always_last")
        gr.on([each.change for each in self._query], choose, self._inputs, self._outputs, **loudly)
        root = Context.root_block
        assert root is not None, "pages are built inside a gr.Blocks"
        root.load(self.show, self._inputs, self._outputs, **_QUIETLY)
        timer = gr.Timer(1.0)
        timer.tick(self._tell_progress, self.dataset, [self.status, timer], **_QUIETLY)

    def _connect_corruption(self) -> None:
        """Lets what is chosen of the corruption change the pictures; another one brings its own options."""

        def corrupt(*values: Any, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
            return self.show_pictures(values, _told(progress, "looking at all pictures"))

        def pick(*values: Any, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
            *others, _, seed, epoch = values
            options = _show_options(HowCorrupted(corruption=others[-1]))
            return options, corrupt(*others, options, seed, epoch, progress=progress)

        def follow(*values: Any, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
            how = self.hows[values[-5]]
            chosen = (how.corruption, _show_options(how), how.seed)
            return *chosen, corrupt(*values[:-4], *chosen, values[-1], progress=progress)

        how = _QUIETLY | dict(show_progress="minimal", show_progress_on=[self.pictures], trigger_mode="always_last")
        # Not `input`, which does not hear of what is pasted.
        typed = [each.change for each in (self.options, self.seed, self.epoch)]
        gr.on(typed, corrupt, self._inputs, self.pictures, **how)
        self.corruption.input(pick, self._inputs, [self.options, self.pictures], **how)
        self.as_in.input(follow, self._inputs, [self.corruption, self.options, self.seed, self.pictures], **how)

    def decide(self, decision: str, reason: str, of: str, *values: Any) -> tuple[Any, ...]:
        """Writes down what is decided about the row that is shown, of the dataset `of`; returns what is shown then."""
        index = shown = int(values[0])
        try:
            view, query = self._read(values)
            if of != view.name:  # it was chosen, and waits until its rows were read
                said = paragraph(f"Nothing is decided: the row was of {of}", "problem", role="alert")
                return (*self.show(*values, to_first=True), reason, said)
            before = view.select(query)
            if not len(before):
                raise ValueError("no row is shown, so there is nothing to decide about")
            view.decide(index, decision, "" if decision == KEEP else reason)
            if index in before and index not in view.select(query):
                shown = move(before, index, -1 if index == before[-1] else 1)
        except (ValueError, OSError) as error:
            return (*self.show(*values), reason, paragraph(str(error), "problem", role="alert"))
        return (*self.show(shown, *values[1:]), "", _tell_decision(view, index, decision, reason))

    # -- what is shown -------------------------------------------------------------------------------------------------

    def show(self, *values: Any, steps: int = 0, tell: Any = None, to_first: bool = False) -> tuple[Any, ...]:
        """Returns the place of the row that is now shown, its dataset, the list, its pictures and its texts.

        That is the row so many `steps` after the current one, or, with `to_first`, the first of the list.
        """
        try:
            view, query = self._read(values)
            selected = view.select(query, *filter(None, [tell]))
        except (ValueError, OSError) as error:
            problem = render("rows.html", count="", note="", problem=str(error), rows=[], digits=1)
            return int(values[0]), gr.skip(), problem, "", ""
        if not len(selected):
            return int(values[0]), view.name, view.render_rows(selected, 0), "", ""
        current = int(selected[0]) if to_first else int(values[0])
        current = move(selected, current, steps) if steps else current
        pictures = self.show_pictures((current, *values[1:]), tell)
        return current, view.name, view.render_rows(selected, current), pictures, view.render_texts(current)

    def show_pictures(self, values: Sequence[Any], tell: Any = None) -> Any:
        """Returns the head and the pictures of the current row."""
        view, _ = self._read(values)
        as_in, name, options, seed, epoch = values[-5:]
        try:
            own = dict(corruption=name, options=read_options(options or ""), seed=int(seed or 0), epoch=int(epoch or 0))
            how = replace(self.hows[as_in], **own)
            how.make_preparer()
        except ValueError as error:
            return paragraph(str(error), "problem", role="alert")
        return view.render_pictures(int(values[0]), how, *filter(None, [tell]))

    def _read(self, values: Sequence[Any]) -> tuple[PairsView, Query]:
        _, dataset, search, filters, sort, words = values[:6]
        least, most = read_range(words or "")
        query = Query(search or "", tuple(filters or ()), least, most, sort or IN_ORDER)
        return self.views[dataset], query

    def _tell_progress(self, dataset: str) -> tuple[Any, Any]:
        is_done = all(view.index.has_ended for view in self.views.values())
        return paragraph(self.views[dataset].index.describe_progress(), "soft"), gr.Timer(active=not is_done)


def _told(progress: gr.Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, rows: progress((done, rows), desc=what, unit="rows")


def _show_options(how: HowCorrupted) -> str:
    """Returns all options of a corruption as JSON, with the values that they have."""
    return json.dumps(corruptions.load(how.corruption).with_options(**how.options).options)


def _tell_decision(view: PairsView, index: int, decision: str, reason: str) -> Any:
    said = {DROP: "dropped", FLAG: "flagged", KEEP: "kept"}[decision]
    why = f": {reason.strip()}" if reason.strip() and decision != KEEP else ""
    return paragraph(
        f"Row {view.dataset.row_of(index):,} is {said}{why}. Written to {view.decisions.path}", role="status"
    )
