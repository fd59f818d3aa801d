"""Page of blind votes: two answers to a question about an image, and a key for which is better.

The browser holds what it shows (a `Shown`, as JSON), and every vote names it. So a key that is pressed twice, a second
tab or a server that was started again cannot make a vote count for an item that the rater has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from mmdpo.app.html import paragraph, render
from mmdpo.app.item_picture import item_picture
from mmdpo.app.sources import Sources
from mmdpo.files import clean_text
from mmdpo.votes.store import LONGEST_REASON, Vote, VoteStore
from mmdpo.votes.study import LONGEST_NAME, Choice, Task, VotedRuns, VoteError, read_rater, read_voted_runs

TITLE = "Votes"
SAID: dict[Choice, str] = {
    "left": "answer 1 is better",
    "right": "answer 2 is better",
    "tie": "tie",
    "both_bad": "both bad",
}
REFUSED = (
    "Not counted: you have voted otherwise on that item since, perhaps in another tab, and that vote stands. "
    "Back lets you change it."
)
DONE = "You have voted on all items. Thank you! Back lets you look at your votes again."


class Shown(NamedTuple):
    """What a browser shows: a rater's task, and the vote that is looked at again, if one is."""

    rater: str
    task: Task | None
    before: Vote | None = None

    def write(self) -> str:
        """Returns it as text that the browser keeps."""
        return json.dumps([self.rater, self.task, None if self.before is None else asdict(self.before)])

    @classmethod
    def read(cls, text: str) -> Shown:
        """Returns what `write` wrote; raises VoteError for anything else."""
        try:
            rater, task, before = json.loads(text)
            return cls(
                read_rater(rater), None if task is None else Task(*task), None if before is None else Vote(**before)
            )
        except (TypeError, ValueError) as error:
            raise VoteError("this page is not as it was served; load it again, and enter your name") from error


class View(NamedTuple):
    """What a rater's window shows next."""

    shown: Shown
    message: str = ""


@dataclass(frozen=True)
class VotingBooth:
    """Where raters vote on runs: which item a window shows, after what its rater has said of the last one."""

    runs: VotedRuns
    store: VoteStore
    image_dir: Path | None = None

    @classmethod
    def open(cls, sources: Sources) -> VotingBooth:
        """Opens the file of votes, and makes it unless it is there; raises VoteError as it and the runs do."""
        assert sources.votes is not None
        runs = read_voted_runs(sources.found.evaluations)
        return cls(runs, VoteStore.open(sources.votes, runs.study), sources.image_dir)

    def enter(self, name: str) -> View:
        """Returns the first item that a rater has not voted on; raises VoteError for no name."""
        rater = read_rater(name)
        return View(Shown(rater, self.store.next_task(rater)))

    def vote(self, shown: Shown, reason: str, *, choice: Choice) -> View:
        """Commits a vote, then returns the next item; raises VoteError where it was not committed."""
        if shown.task is None:
            return View(shown)
        if shown.before is None:
            outcome = self.store.cast(shown.rater, shown.task, choice, reason)
        else:
            outcome = self.store.change(shown.before, choice, reason)
        return self.go_on(shown, REFUSED if outcome == "refused" else "")

    def go_on(self, shown: Shown, message: str = "") -> View:
        """Returns the first item without a vote."""
        return View(Shown(shown.rater, self.store.next_task(shown.rater)), message)

    def go_back(self, shown: Shown) -> View:
        """Returns the rater's vote before the one that is shown; the last, where an item without a vote is."""
        votes = self.store.votes_of(shown.rater)
        if shown.before is not None:
            votes = [vote for vote in votes if (vote.time, vote.task) < (shown.before.time, shown.before.task)]
        if not votes:
            return View(shown, "There is no earlier vote of yours.")
        return View(Shown(shown.rater, votes[-1].task, votes[-1]))

    def count(self, rater: str) -> tuple[int, int]:
        """Returns how many votes a rater has given, and of how many."""
        return len(self.store.votes_of(rater)), len(self.store.study.tasks)

    def show(self, shown: Shown) -> Markup:
        """Returns the HTML of what a window shows; no run's name is in it."""
        done, whole = self.count(shown.rater)
        values: dict[str, Any] = dict(rater=shown.rater, done=done, whole=whole)
        if shown.task is None:
            return render("votes.html", task=None, said=DONE, **values)
        texts, study = self.runs.texts[shown.task.item], self.store.study
        answers = [
            clean_text(texts.answers[study.runs[place].digest]) for place in study.sides(shown.rater, shown.task)
        ]
        return render(
            "votes.html",
            task=shown.task,
            said="" if shown.before is None else f"Your vote: {SAID[shown.before.choice]}. Vote again to change it.",
            picture=item_picture(self.image_dir, study.benchmark, shown.task.item, texts.image),
            prompt=clean_text(texts.prompt),
            answers=answers,
            **values,
        )


# -- the page ---------------------------------------------------------------------------------------------------------


def is_wanted(sources: Sources) -> bool:
    """Returns whether votes are taken."""
    return sources.votes is not None


def build(sources: Sources) -> None:
    """Fills the tab. Raises VoteError for runs that cannot be voted on, and a file of votes on other runs."""
    booth = VotingBooth.open(sources)
    with gr.Column(elem_classes="enter") as door:
        gr.HTML(render("votes_intro.html", tasks=len(booth.store.study.tasks)))
        name = gr.Textbox(label="Your name", max_length=LONGEST_NAME, max_lines=1, autofocus=True)
        enter = gr.Button("Start", variant="primary")
        refused = gr.HTML(elem_classes=["said-last"])
    with gr.Column(visible=False, elem_classes="vote") as inside:
        message = gr.HTML(elem_classes=["said-last"])
        shown = gr.HTML(elem_id="vote")
        held = gr.Textbox(visible="hidden", elem_id="vote-held")
        with gr.Row(elem_classes="choices"):
            buttons: dict[Choice, gr.Button] = {
                "left": _make_button("← Answer 1 is better", "ArrowLeft"),
                "tie": _make_button("↓ Tie", "ArrowDown"),
                "both_bad": _make_button("B: both bad", "b"),
                "right": _make_button("Answer 2 is better →", "ArrowRight"),
            }
        reason = gr.Textbox(
            label="Reason, if you like (R; Esc leaves the field)",
            max_length=LONGEST_REASON,
            max_lines=1,
            elem_classes="key-r",
        )
        with gr.Row():
            back = gr.Button("Back (Backspace)", size="sm", elem_classes=["key-Backspace", "once"], min_width=120)
            on = gr.Button("Go on (G)", size="sm", elem_classes=["key-g", "once"], min_width=120)

    told = [message, shown, held, reason]

    def step(act: Callable[..., View], written: str, *values: Any) -> tuple[Any, ...]:
        """Returns what the window shows after an act; after one that failed, the same item and why."""
        try:
            return tell(act(Shown.read(written), *values))
        except VoteError as error:
            return _warn(str(error)), gr.skip(), gr.skip(), gr.skip()

    def tell(view: View) -> tuple[Any, ...]:
        reason = "" if view.shown.before is None else view.shown.before.reason
        return _warn(view.message), booth.show(view.shown), view.shown.write(), reason

    def begin(name: str) -> tuple[Any, ...]:
        try:
            return "", gr.Column(visible=False), gr.Column(visible=True), *tell(booth.enter(name))
        except VoteError as error:
            return _warn(str(error)), *[gr.skip()] * (2 + len(told))

    quiet: dict[str, Any] = dict(show_progress="hidden", api_visibility="private", concurrency_limit=None)
    gr.on([enter.click, name.submit], begin, name, [refused, door, inside, *told], **quiet)
    for choice, button in buttons.items():
        button.click(partial(step, partial(booth.vote, choice=choice)), [held, reason], told, **quiet)
    back.click(partial(step, booth.go_back), held, told, **quiet)
    on.click(partial(step, booth.go_on), held, told, **quiet)


def _warn(text: str) -> Markup:
    return paragraph(text, "problem", role="alert") if text else Markup()


def _make_button(text: str, key: str) -> gr.Button:
    return gr.Button(text, elem_classes=[f"key-{key}", "once"], min_width=150)
