"""What the page of votes does with a vote, without a browser."""

from dataclasses import replace

import pytest

pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")

from mmdpo.app.page import build_app
from mmdpo.app.sources import Sources
from mmdpo.app.votes_page import DONE, REFUSED, Shown, VotingBooth, is_wanted
from mmdpo.cli import main
from mmdpo.votes.study import VoteError
from tests.voted_runs import write_run, write_runs


@pytest.fixture
def sources(tmp_path):
    return Sources(runs=tuple(write_runs(tmp_path, "secret-dpo", "secret-mdpo")), votes=tmp_path / "votes.sqlite")


@pytest.fixture
def booth(sources):
    return VotingBooth.open(sources)


def test_a_window_shows_the_next_item_after_each_vote_until_all_are_done(booth):
    view, seen = booth.enter(" Anna "), []
    while view.shown.task is not None:
        seen.append(view.shown.task)
        view = booth.vote(Shown.read(view.shown.write()), "", choice="tie")
    assert seen == booth.store.order("anna")
    assert booth.count("anna") == (6, 6)
    assert DONE in booth.show(view.shown)
    assert booth.vote(view.shown, "", choice="left") == view  # a key pressed once more


def test_the_answer_on_a_side_is_that_of_the_run_there(booth):
    task = booth.store.order("anna")[0]
    html = str(booth.show(booth.enter("anna").shown))
    left, right = (booth.store.study.runs[side] for side in booth.store.study.sides("anna", task))
    texts = booth.runs.texts[task.item].answers
    assert 0 < html.index(texts[left.digest]) < html.index(texts[right.digest])


def test_a_stale_window_counts_nothing_twice(booth):
    first, second = booth.enter("anna"), booth.enter("anna")
    after = booth.vote(first.shown, "", choice="left")
    again = booth.vote(second.shown, "", choice="left")
    assert again == after
    refused = booth.vote(second.shown, "", choice="right")
    assert refused.message == REFUSED
    assert refused.shown == after.shown
    assert [vote.choice for vote in booth.store.votes_of("anna")] == ["left"]


def test_back_shows_votes_from_the_last_one_on_and_a_new_vote_takes_the_place(booth):
    view = booth.enter("anna")
    assert booth.go_back(view.shown).message == "There is no earlier vote of yours."
    for choice in ("left", "right"):
        view = booth.vote(view.shown, f"because {choice}", choice=choice)
    order = booth.store.order("anna")
    last = booth.go_back(view.shown)
    assert last.shown.task == order[1]
    assert "Your vote: answer 2 is better" in booth.show(last.shown)
    earlier = booth.go_back(Shown.read(last.shown.write()))
    assert (earlier.shown.task, earlier.shown.before.reason) == (order[0], "because left")
    assert booth.go_back(earlier.shown).message
    assert booth.go_on(earlier.shown).shown.task == order[2]
    changed = booth.vote(earlier.shown, "", choice="both_bad")
    assert (changed.shown.task, changed.message) == (order[2], "")
    assert booth.vote(earlier.shown, "", choice="tie").message == REFUSED  # the window had not seen the change
    votes = booth.store.votes()
    assert sorted(vote.choice for vote in votes.counting) == ["both_bad", "right"]
    assert [(vote.choice, vote.reason) for vote in votes.replaced] == [("left", "because left")]


def test_no_name_of_a_run_is_in_what_a_window_gets(booth, tmp_path):
    booth = VotingBooth.open(
        Sources(
            runs=(
                write_run(tmp_path / "a" / "hidden-one", {"i": "x"}),
                write_run(tmp_path / "a" / "hidden-two", {"i": "y"}),
            ),
            votes=tmp_path / "other.sqlite",
        )
    )
    view = booth.enter("anna")
    for _ in range(2):
        assert "hidden" not in booth.show(view.shown) + view.shown.write() + view.message
        view = booth.vote(view.shown, "", choice="left")
    view = booth.go_back(view.shown)
    assert "hidden" not in booth.show(view.shown) + view.shown.write()


def test_what_a_browser_holds_is_refused_unless_it_was_served(booth):
    for text in ("", "no JSON", "[]", '["anna", ["item-0"], null]', '["", null, null]', '["anna", null, {"rater": 1}]'):
        with pytest.raises(VoteError, match="load it again"):
            Shown.read(text)
    forged = Shown("anna", booth.store.order("anna")[0]._replace(item="none"))
    with pytest.raises(VoteError, match="is nothing that"):
        booth.vote(forged, "", choice="left")


def test_text_is_text_and_an_empty_answer_is_said(tmp_path):
    bad = "<script>alert(1)</script>"
    runs = (
        write_run(tmp_path / "a", {"i": bad}, prompts={"i": bad}),
        write_run(tmp_path / "b", {"i": " "}, prompts={"i": bad}),
    )
    booth = VotingBooth.open(Sources(runs=runs, votes=tmp_path / "votes.sqlite"))
    html = str(booth.show(booth.enter("<b>Anna</b>").shown))
    assert "<script" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;") == 2
    assert "(an empty answer)" in html


def test_votes_are_wanted_where_a_file_is_named(sources):
    assert is_wanted(sources)
    assert not is_wanted(Sources(runs=sources.runs))


def test_votes_alone_are_served_but_in_the_demo(sources, capsys):
    def tabs(of):
        return [each["props"]["label"] for each in build_app(of).config["components"] if each["type"] == "tabitem"]

    assert tabs(sources) == ["Votes"]
    assert tabs(replace(sources, is_demo=True)) == ["Answers", "Votes"]
    for option in ("--data", "--models"):
        words = ["app", "--runs", *map(str, sources.runs), "--votes", str(sources.votes), option, "world"]
        assert main(words) == 2
        assert "--votes serves the page of votes alone" in capsys.readouterr().err
