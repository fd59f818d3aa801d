"""Votes in their file: each once, none lost, and only for the runs that it was made for."""

import multiprocessing
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mmdpo.votes.store import Vote, Votes, VoteStore
from mmdpo.votes.study import Task, VoteError
from tests.voted_runs import read_folders, write_runs


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path / "runs", "dpo", "mdpo")


@pytest.fixture
def store(tmp_path, runs):
    return VoteStore.open(tmp_path / "votes.sqlite", read_folders(runs).study)


def told(store):
    return [(vote.rater, vote.item, vote.choice, vote.reason) for vote in store.votes().counting]


def test_a_rater_goes_through_the_own_order_and_finds_the_place_again(store):
    order = store.order("anna")
    assert store.next_task("anna") == order[0]
    assert store.cast("anna", order[0], "left", " sees the cup ") == "counted"
    assert store.cast("anna", order[1], "both_bad") == "counted"
    again = VoteStore.read(store.path)
    assert again.next_task("anna") == order[2]
    assert again.next_task("ben") == again.order("ben")[0]
    assert [(vote.task, vote.choice, vote.reason) for vote in again.votes_of("anna")] == [
        (order[0], "left", "sees the cup"),
        (order[1], "both_bad", ""),
    ]
    for task in order[2:]:
        store.cast("anna", task, "tie")
    assert store.next_task("anna") is None


def test_a_second_tab_counts_nothing_twice(store):
    task = store.next_task("anna")
    assert store.cast("anna", task, "left", "clear") == "counted"
    assert store.cast("anna", task, "left", "clear") == "known"
    assert store.cast("anna", task, "left") == "known"
    assert store.cast("anna", task, "right") == "refused"
    assert store.cast("anna", task, "left", "another reason") == "refused"
    assert store.cast("ben", task, "right") == "counted"
    assert told(store) == [("anna", task.item, "left", "clear"), ("ben", task.item, "right", "")]


def test_a_rater_may_change_a_vote_and_the_old_one_is_kept(store):
    task = store.next_task("anna")
    store.cast("anna", task, "left")
    seen = store.votes_of("anna")[0]
    assert store.change(seen, "left") == "known"
    assert store.change(seen, "tie", "on second thoughts") == "counted"
    assert store.change(seen, "right") == "refused"  # from a tab that has not seen the change
    votes = store.votes()
    assert told(store) == [("anna", task.item, "tie", "on second thoughts")]
    assert votes.replaced == (seen,)
    assert votes.counting[0].time > seen.time


def test_a_change_is_later_though_the_clock_goes_back(store):
    task = store.next_task("anna")
    store.merge(Votes((Vote("anna", *task, "left", "", "2999-01-01T00:00:00.000000+00:00"),), ()))
    store.change(store.votes_of("anna")[0], "right")
    assert store.votes().counting[0].time == "2999-01-01T00:00:00.000001+00:00"


def test_a_file_is_for_the_runs_that_it_was_made_for(store, runs, tmp_path):
    other = write_runs(tmp_path / "other", "base", "mdpo")
    for given, said in (
        (
            [runs[0], other[0]],
            "made for votes on dpo, mdpo .6 items.: mdpo is not among the runs; base was not there",
        ),
        ([*runs, other[0]], "made for votes on dpo, mdpo .6 items.: base was not there"),
    ):
        with pytest.raises(VoteError, match=said):
            VoteStore.open(store.path, read_folders(given).study)
    lines = (runs[0] / "answers.jsonl").read_text()
    (runs[0] / "answers.jsonl").write_text(lines.replace("dpo says item-3", "dpo tells item-3"))
    with pytest.raises(VoteError, match=r"the answers of dpo are other ones.* Name those runs, or another file"):
        VoteStore.open(store.path, read_folders(runs).study)
    (runs[0] / "answers.jsonl").write_text(lines)
    assert VoteStore.open(store.path, read_folders(runs[::-1]).study).study.labels == ("dpo", "mdpo")


def test_what_is_no_file_of_votes_is_refused_and_left_alone(tmp_path, store):
    with pytest.raises(VoteError, match=r"none.sqlite: no such file of votes"):
        VoteStore.read(tmp_path / "none.sqlite")
    text = tmp_path / "notes.txt"
    text.write_text("no database, but a text that is long enough to be taken for one at first sight" * 20)
    before = text.read_bytes()
    with pytest.raises(VoteError, match=r"not a database.*Name a file"):
        VoteStore.open(text, store.study)
    assert text.read_bytes() == before
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE study (key TEXT, value TEXT)")
    with pytest.raises(VoteError, match="no file of votes that this version of mmdpo reads"):
        VoteStore.open(other, store.study)


def test_what_is_not_voted_on_takes_no_vote(store):
    pair = next(iter(store.study.pairs))
    with pytest.raises(VoteError, match="'item-9' with pair"):
        store.cast("anna", Task("item-9", pair), "left")
    with pytest.raises(VoteError, match="one of left, right, tie, both_bad; got 'win'"):
        store.cast("anna", Task("item-1", pair), "win")
    with pytest.raises(VoteError, match="2,001 characters"):
        store.cast("anna", Task("item-1", pair), "left", "x" * 2001)
    assert store.votes() == Votes((), ())


def test_a_vote_is_on_the_disk_when_it_is_counted(store):
    assert sqlite3.connect(store.path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    tasks, process = store.order("anna"), multiprocessing.get_context("fork")

    def vote_and_die():
        store.cast("anna", tasks[0], "left")
        os.kill(os.getpid(), signal.SIGKILL)

    killed = process.Process(target=vote_and_die)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert told(store) == [("anna", tasks[0].item, "left", "")]


def test_raters_and_tabs_at_once_lose_nothing_and_count_nothing_twice(tmp_path, runs):
    study, path = read_folders(runs).study, tmp_path / "new" / "votes.sqlite"

    def vote(number):
        store, rater = VoteStore.open(path, study), f"rater {number % 4}"  # four raters with two tabs each
        return [
            store.cast(rater, task, "tie" if place % 2 else "left") for place, task in enumerate(store.order(rater))
        ]

    with ThreadPoolExecutor(8) as pool:
        outcomes = [outcome for found in pool.map(vote, range(8)) for outcome in found]
    assert sorted(outcomes) == ["counted"] * 24 + ["known"] * 24
    assert len(told(VoteStore.read(path))) == 24


def test_votes_from_elsewhere_are_taken_once_and_the_later_of_two_counts(store):
    first, second = store.order("anna")[:2]
    store.cast("anna", first, "left")
    mine = store.votes_of("anna")[0]
    earlier = replace(mine, choice="right", time="2020-01-01T00:00:00.000000+00:00")
    later = replace(mine, choice="tie", time="2999-01-01T00:00:00.000000+00:00")
    fresh = Vote("ben", *second, "both_bad", "", "2020-01-01T00:00:00.000000+00:00")
    merged = store.merge(Votes((earlier, fresh), ()))
    assert (merged.added, merged.known, merged.replaced, merged.outdated) == (1, 0, 0, 1)
    assert store.votes() == Votes((mine, fresh), (earlier,))
    merged = store.merge(Votes((later, fresh), (mine,)))
    assert (merged.added, merged.known, merged.replaced, merged.outdated) == (0, 2, 1, 0)
    after = store.votes()
    assert after == Votes((later, fresh), tuple(sorted([earlier, mine])))
    for votes in (Votes((earlier, fresh), ()), Votes((later, fresh), (mine,))):
        again = store.merge(votes)
        assert (again.added, again.replaced, again.outdated) == (0, 0, 0)
    assert store.votes() == after


def test_votes_from_elsewhere_are_taken_all_or_none(store):
    task = store.order("anna")[0]
    good = Vote("anna", *task, "left", "", "2020-01-01T00:00:00.000000+00:00")
    with pytest.raises(VoteError, match="what replaced it is missing"):
        store.merge(Votes((good,), (replace(good, rater="ben"),)))
    assert store.votes() == Votes((), ())
