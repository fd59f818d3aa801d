"""What votes come to, against values worked out by hand."""

import io
import json
import math
import random
from collections import defaultdict

import pytest

pytest.importorskip("choix", reason="Bradley–Terry needs choix: pip install mmdpo[app]")
from rich.console import Console

from mmdpo.cli import main
from mmdpo.votes.report import make_report, markdown_report, print_report
from mmdpo.votes.store import VoteStore
from mmdpo.votes.study import Task
from tests.voted_runs import choose, read_folders, write_run, write_runs


def make_store(folder, *labels, **how):
    return VoteStore.open(folder / "votes.sqlite", read_folders(write_runs(folder, *labels, **how)).study)


def vote(store, rater, outcomes, pair=None):
    """Casts a rater's votes on the first items, in the study's order."""
    pair = pair or next(iter(store.study.pairs))
    for item, outcome in zip(store.study.items, outcomes, strict=False):
        choose(store, rater, Task(item.id, pair), outcome)


def whole(content):
    return next(row for row in content["results"] if row["type"] is None)


def shown(content):
    out = io.StringIO()
    print_report(content, Console(file=out, width=80))
    return out.getvalue()


def values(row):
    return {name: round(row[name]["value"], 6) for name in ("win", "tie", "lose", "both_bad", "better_or_same")}


def test_shares_intervals_and_sign_test_of_one_rater(tmp_path):
    store = make_store(tmp_path, "dpo", "mdpo", items=10)
    vote(store, "anna", ["mdpo"] * 6 + ["tie"] * 2 + ["dpo", "both_bad"])
    row = whole(content := make_report(store))
    assert (row["first"], row["second"], row["votes"], row["items_voted"]) == ("dpo", "mdpo", 10, 10)
    assert row["counts"] == {"win": 6, "tie": 2, "lose": 1, "both_bad": 1}
    assert values(row) == {"win": 60, "tie": 20, "lose": 10, "both_bad": 10, "better_or_same": 90}
    assert row["win_minus_lose"]["value"] == pytest.approx(50)
    # Resamples of ten items are binomial: quantiles of Bin(10, 0.6), as P(X ≤ 2) = 0.012 and P(X ≤ 9) = 0.994.
    assert [row["win"][end] for end in ("low", "high")] == pytest.approx([30, 90])
    # Six of seven: P(X ≤ 1) = (1 + 7) / 128 on either side.
    assert row["sign_test"] == {"wins": 6, "losses": 1, "undecided": 3, "p": 0.125}
    text = shown(content)
    assert "mdpo against dpo" in text
    assert "90.0" in text
    assert "89" in text
    assert "p = 0.125" in text
    assert "no α: no item has the votes of two raters" in text


def test_question_types_are_told_apart(tmp_path):
    store = make_store(tmp_path, "dpo", "mdpo", items=8)  # attribute and counting in turn
    vote(store, "anna", ["mdpo", "dpo"] * 3 + ["mdpo", "tie"])
    content = make_report(store)
    by_type = {row["type"]: row for row in content["results"]}
    assert values(by_type["attribute"])["win"] == 100
    assert values(by_type["counting"]) == {"win": 0, "tie": 25, "lose": 75, "both_bad": 0, "better_or_same": 25}
    assert by_type["attribute"]["sign_test"]["p"] == 0.125  # four of four: 2 / 16
    assert by_type["counting"]["items"] == 4
    assert "| counting | 4 | 0 [0 … 0] | 25 [0 … 75] | 75 [25 … 100] | 0 | 0.250 |" in markdown_report(content)


def test_the_items_of_an_image_are_one_in_the_sign_test_and_drawn_together(tmp_path):
    images = {"a": "1.png", "b": "1.png", "c": "1.png", "d": "2.png"}
    runs = [write_run(tmp_path / of, dict.fromkeys("abcd", of), images=images) for of in ("dpo", "mdpo")]
    store = VoteStore.open(tmp_path / "votes.sqlite", read_folders(runs).study)
    vote(store, "anna", ["mdpo", "mdpo", "dpo", "dpo"])
    row = whole(make_report(store))
    assert row["sign_test"] == {"wins": 1, "losses": 1, "undecided": 0, "p": 1.0}
    # Either image twice, or both: win is 0 of 2, 4 of 6, or 2 of 4.
    assert [row["win"][end] for end in ("low", "high")] == pytest.approx([0, 200 / 3])


def test_raters_agree_as_krippendorff_counts_it(tmp_path):
    store = make_store(tmp_path, "dpo", "mdpo", items=6)
    vote(store, "anna", ["mdpo", "mdpo", "dpo", "tie"])
    vote(store, "ben", ["mdpo", "dpo", "dpo", "tie", "both_bad"])  # the last one alone has it
    content = make_report(store)
    # Coincidences of eight values, three w, three l, two t: D_o = 2/8, D_e = (64 − 9 − 9 − 4)/56, so α = 1 − 1/3.
    assert content["agreement"][0]["alpha"] == pytest.approx(2 / 3)
    assert {key: content["agreement"][0][key] for key in ("raters", "items", "equal")} == {
        "raters": 2, "items": 4, "equal": 75,
    }  # fmt: skip
    row = whole(content)
    assert (row["votes"], row["items_voted"]) == (9, 5)
    assert row["win"]["value"] == pytest.approx(100 * 3 / 9)
    # By image: one won, one level, one lost, one tied, one both bad.
    assert row["sign_test"] == {"wins": 1, "losses": 1, "undecided": 3, "p": 1.0}
    assert [(of["rater"], of["votes"], of["tie"], of["both_bad"]) for of in content["raters"]] == [
        ("anna", 4, 1, 0),
        ("ben", 5, 1, 1),
    ]


def test_the_interval_of_alpha_resamples_images(tmp_path):
    store = make_store(tmp_path, "dpo", "mdpo", items=2)
    vote(store, "anna", ["mdpo", "mdpo"])
    vote(store, "ben", ["mdpo", "dpo"])
    content = make_report(store)
    # Both images: D_o = 2/4, D_e = (16 − 9 − 1)/12, so α = 0. The second twice: 1 − 1 · 12/8 = −1/2. The first twice
    # has votes of one kind and no α. So −1/2 stands in a third of the resamples, and 0 in the others.
    found = content["agreement"][0]
    assert [found[key] for key in ("alpha", "alpha_low", "alpha_high")] == pytest.approx([0, -0.5, 0])
    assert "| -0.500 … 0.000 |" in markdown_report(content).replace("−", "-")


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_the_package(seed, tmp_path):
    krippendorff = pytest.importorskip("krippendorff", reason="α is compared with that of krippendorff: make setup")
    store, draw = make_store(tmp_path, "dpo", "mdpo", items=12), random.Random(seed)
    given = {rater: draw.choices(["mdpo", "dpo", "tie", "both_bad"], k=12) for rater in ("anna", "ben", "eve")}
    for rater, choices in given.items():
        vote(store, rater, choices[: draw.randint(6, 12)])
    by_rater = defaultdict(dict)
    for of in store.votes().counting:
        chosen = store.study.preferred(of.rater, of.task, of.choice)
        by_rater[of.rater][of.item] = of.choice if chosen is None else str(chosen)
    items = sorted({item for found in by_rater.values() for item in found})
    words = [[found.get(item, "") for item in items] for found in by_rater.values()]
    codes = {word: code for code, word in enumerate(sorted({word for row in words for word in row} - {""}))}
    data = [[codes.get(word, math.nan) for word in row] for row in words]
    expected = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    assert make_report(store, resamples=100)["agreement"][0]["alpha"] == pytest.approx(expected)


def test_strengths_are_those_of_bradley_and_terry(tmp_path):
    store = make_store(tmp_path, "base", "dpo", "mdpo", items=15)
    pairs = {tuple(sorted(store.study.labels[place] for place in of)): key for key, of in store.study.pairs.items()}
    # As strengths in the ratio 1 : 2 : 4 make it exactly: 10 of 15 for twice as strong, 12 of 15 for four times.
    vote(store, "anna", ["dpo"] * 10 + ["base"] * 5, pairs["base", "dpo"])
    vote(store, "anna", ["mdpo"] * 10 + ["dpo"] * 5, pairs["dpo", "mdpo"])
    vote(store, "anna", ["mdpo"] * 11 + ["tie", "both_bad"] + ["base"] * 2, pairs["base", "mdpo"])
    content = make_report(store, resamples=200)
    strengths = {row["run"]: row for row in content["bradley_terry"]["strengths"]}
    assert [strengths[run]["strength"] for run in ("base", "dpo", "mdpo")] == pytest.approx(
        [-math.log(2), 0, math.log(2)], abs=1e-6
    )
    for row in strengths.values():
        assert row["low"] < row["strength"] < row["high"]
    assert strengths["mdpo"]["low"] > strengths["base"]["strength"]
    assert "Bradley–Terry" in shown(content)
    assert [row["second"] for row in content["results"] if row["type"] is None] == ["dpo", "mdpo", "mdpo"]


def test_strengths_without_bounds_are_not_given(tmp_path):
    store = make_store(tmp_path, "base", "dpo", "mdpo", items=4)
    for key, (_, second) in store.study.pairs.items():
        vote(store, "anna", [store.study.labels[second]] * 4, key)
    content = make_report(store, resamples=100)
    assert content["bradley_terry"]["strengths"] == []
    assert "No Bradley–Terry: no finite strengths" in shown(content)


def test_no_votes(tmp_path):
    store = make_store(tmp_path, "base", "dpo", "mdpo")
    content = make_report(store, resamples=100)
    row = whole(content)
    assert (row["votes"], row["win"], row["sign_test"]["p"]) == (0, {"value": None, "low": None, "high": None}, None)
    assert content["bradley_terry"]["strengths"] == []
    assert "0 votes of 0 raters" in shown(content)
    assert "–" in markdown_report(content)


def test_all_ties(tmp_path):
    store = make_store(tmp_path, "base", "dpo", "mdpo")
    for key in store.study.pairs:
        for rater in ("anna", "ben"):
            vote(store, rater, ["tie"] * 6, key)
    content = make_report(store, resamples=100)
    row = whole(content)
    assert values(row) == {"win": 0, "tie": 100, "lose": 0, "both_bad": 0, "better_or_same": 100}
    assert row["sign_test"] == {"wins": 0, "losses": 0, "undecided": 6, "p": None}
    assert content["agreement"][0] | {"alpha": None, "equal": 100} == content["agreement"][0]
    assert "no α: all votes are the same" in shown(content)
    assert [row["strength"] for row in content["bradley_terry"]["strengths"]] == pytest.approx([0, 0, 0])


def test_votes_on_one_image_have_no_intervals_and_no_resample_is_missed(tmp_path):
    images = dict.fromkeys("ab", "one.png")
    runs = [write_run(tmp_path / of, dict.fromkeys("ab", of), images=images) for of in ("base", "dpo", "mdpo")]
    store = VoteStore.open(tmp_path / "votes.sqlite", read_folders(runs).study)
    for key in store.study.pairs:
        vote(store, "anna", ["tie", "tie"], key)
    content = make_report(store, resamples=100)
    assert [(row["strength"], row["low"]) for row in content["bradley_terry"]["strengths"]] == [(0, None)] * 3
    assert "resamples allow no finite strengths" not in shown(content)


def test_a_changed_vote_counts_once_and_equal_answers_not_at_all(tmp_path):
    runs = write_runs(tmp_path, "dpo", "mdpo", items=4)
    for run in runs:
        text = (run / "answers.jsonl").read_text()
        (run / "answers.jsonl").write_text(text.replace(f"{run.name} says item-2", "the same"))
    store = VoteStore.open(tmp_path / "votes.sqlite", read_folders(runs).study)
    task = store.order("anna")[0]
    choose(store, "anna", task, "dpo")
    seen = store.votes_of("anna")[0]
    store.change(seen, "right" if seen.choice == "left" else "left")
    content = make_report(store, resamples=100)
    assert whole(content)["counts"] == {"win": 1, "tie": 0, "lose": 0, "both_bad": 0}
    assert (whole(content)["items_equal"], whole(content)["items"]) == (1, 4)
    text = shown(content)
    assert "1 votes were changed by their raters" in text
    assert "1 items have the same answer in both" in text


def test_without_the_library_the_rest_is_reported(tmp_path, monkeypatch):
    store = make_store(tmp_path, "base", "dpo", "mdpo")
    for rater in ("anna", "ben"):
        vote(store, rater, ["tie", "base", "dpo"])
    monkeypatch.setitem(__import__("sys").modules, "choix", None)
    content = make_report(store, resamples=100)
    assert content["agreement"][0]["items"] == 3
    text = shown(content)
    assert 'No Bradley–Terry: choix is not installed: pip install "mmdpo[app]"' in text


def test_the_verb_prints_and_writes_it(tmp_path, capsys):
    store = make_store(tmp_path, "dpo", "mdpo")
    vote(store, "anna", ["mdpo", "tie"])
    out = tmp_path / "report"
    assert main(["votes", "report", str(store.path), "--out", str(out), "--resamples", "100"]) == 0
    assert "mdpo against dpo" in capsys.readouterr().out
    content = json.loads((out / "votes.json").read_text())
    assert whole(content)["counts"]["win"] == 1
    assert content["paper"]["better_or_same"] == 89
    assert (out / "votes.md").read_text() == markdown_report(content)
    lines = (out / "votes.csv").read_text().splitlines()
    assert lines[0].startswith("first,second,type,items,items_equal,items_voted,votes,counts.win")
    assert len(lines) == 4
    assert main(["votes", "report", str(tmp_path / "none.sqlite")]) == 2
    assert "no such file of votes" in capsys.readouterr().err
