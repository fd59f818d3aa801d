"""Votes as CSV: out and in again exactly, once however often, and with file and line where it does not fit."""

import csv

import pytest

from mmdpo.cli import main
from mmdpo.votes.exchange import export_votes, import_votes
from mmdpo.votes.store import Votes, VoteStore
from mmdpo.votes.study import VoteError
from tests.voted_runs import read_folders, write_runs

REASONS = (
    "",
    "=1+1",
    "'quoted'",
    "'=1",
    "-5",
    "two\nlines",
    'a "word", and a comma',
    "+a",
    "\x1b[31m",
    "a\u2028b\x85c",
    "💡",
)


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path / "runs", "dpo", "mdpo", "base")


@pytest.fixture
def store(tmp_path, runs):
    """A store with votes of two raters, one of whom has a name like a formula, and a vote that was changed."""
    store = VoteStore.open(tmp_path / "votes.sqlite", read_folders(runs).study)
    for place, (task, reason) in enumerate(zip(store.order("anna"), REASONS, strict=False)):
        store.cast("anna", task, ("left", "right", "tie", "both_bad")[place % 4], reason)
    store.cast("=ben", store.order("=ben")[0], "tie")
    store.change(store.votes_of("anna")[3], "left", "changed")
    return store


def test_a_round_trip_is_exact_and_twice_is_once(store, runs, tmp_path):
    path = tmp_path / "votes.csv"
    written = export_votes(store, path)
    assert (len(written.counting), len(written.replaced)) == (12, 1)
    other = VoteStore.open(tmp_path / "other.sqlite", read_folders(runs).study)
    merged = import_votes(other, path)
    assert (merged.added, merged.known, merged.outdated) == (12, 0, 1)
    assert other.votes() == store.votes() == written
    export_votes(other, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    for again in (store, other):
        merged = import_votes(again, path)
        assert (merged.added, merged.known, merged.replaced, merged.outdated) == (0, 13, 0, 0)
        assert again.votes() == written


def test_a_reader_of_the_file_sees_names_and_no_formula(store, tmp_path):
    export_votes(store, path := tmp_path / "votes.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    for row in rows:
        assert {row["left"], row["right"]} < {"dpo", "mdpo", "base"}
        assert row["preferred"] == {"left": row["left"], "right": row["right"]}.get(row["vote"], "")
    assert {row["type"] for row in rows} == {"attribute", "counting"}
    assert [row["status"] for row in rows].count("replaced") == 1


def test_a_file_from_before_a_change_brings_nothing_back(store, tmp_path):
    export_votes(store, path := tmp_path / "before.csv")
    seen = store.votes_of("=ben")[0]
    store.change(seen, "right")
    merged = import_votes(store, path)
    assert (merged.added, merged.replaced, merged.outdated) == (0, 0, 0)
    assert store.votes_of("=ben")[0].choice == "right"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",left,", ",centre,", r"line \d: vote is 'centre', and not one of left, right, tie, both_bad"),
        (",anna,item-", ",Anna,item-", r"line \d: rater is 'Anna'; as a name it is 'anna'"),
        (",anna,item-", ",anna,thing-", r"line \d: item 'thing-.' with pair .* is not voted on in this study"),
        (",counts", ",maybe", "line 2: status is 'maybe', and not counts or replaced"),
        ("+00:00,", ",", "line 2: time is .*, and not like 2026-01-31"),
        ("rater,", "name,", "line 1: no column rater"),
        (",counts\n", "\n", "line 2: 12 cells, and the header has 13"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(store, tmp_path, old, new, said):
    export_votes(store, path := tmp_path / "votes.csv")
    path.write_text(path.read_text().replace("'=ben", "zoe").replace(old, new))
    empty = VoteStore.open(tmp_path / "empty.sqlite", store.study)
    with pytest.raises(VoteError, match=said):
        import_votes(empty, path)
    assert empty.votes() == Votes((), ())


def test_votes_of_another_study_and_two_votes_in_one_are_refused(store, runs, tmp_path):
    export_votes(store, path := tmp_path / "votes.csv")
    other = VoteStore.open(tmp_path / "other.sqlite", read_folders(runs[:2]).study)
    with pytest.raises(VoteError, match="line 2: a vote of another study"):
        import_votes(other, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1]]))
    with pytest.raises(VoteError, match=r"a second vote of =ben on this item and pair; the first: .*line 2"):
        import_votes(store, path)
    path.write_text("")
    with pytest.raises(VoteError, match="empty"):
        import_votes(store, path)


def test_the_verbs_carry_votes_to_another_machine(store, runs, tmp_path, capsys):
    path, other = tmp_path / "votes.csv", tmp_path / "elsewhere.sqlite"
    assert main(["votes", "export", str(store.path), str(path)]) == 0
    assert "12 votes written, and 1 that their raters have changed" in capsys.readouterr().out
    assert main(["votes", "import", str(other), str(path)]) == 2
    assert "no such file of votes" in capsys.readouterr().err
    assert main(["votes", "import", str(other), str(path), "--runs", *map(str, runs)]) == 0
    assert "12 votes added; 0 were known; 0 replaced earlier votes" in capsys.readouterr().out
    assert main(["votes", "import", str(other), str(path)]) == 0
    assert "0 votes added; 13 were known" in capsys.readouterr().out
    assert VoteStore.read(other).votes() == store.votes()
    path.write_bytes(b"\xff\xfe")
    assert main(["votes", "import", str(other), str(path)]) == 2
