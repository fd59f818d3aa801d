"""Which runs can be voted on, and in which order and on which side a rater sees their answers."""

import json
from collections import Counter

import pytest

from mmdpo.report.reading import ReportError
from mmdpo.votes.study import Task, VoteError, read_rater
from tests.voted_runs import read_folders, write_run, write_runs


def test_items_that_a_run_has_not_answered_are_left_out_and_counted(tmp_path):
    one = write_run(tmp_path / "dpo", {"a": "x", "b": "x", "c": "x"})
    other = write_run(tmp_path / "mdpo", {"b": "y", "c": "x", "d": "y", "e": "y"})
    study = read_folders([one, other]).study
    assert [item.id for item in study.items] == ["b", "c"]
    assert study.notes == (
        "2 items have no answer in dpo: d, e",
        "1 items have no answer in mdpo: a",
        "2 of 5 items have an answer in all runs, and are voted on",
    )
    assert study.tasks == {Task("b", *study.pairs)}  # to c both give the same answer


def test_a_run_that_answers_as_an_earlier_one_is_left_out_and_named(tmp_path):
    words = {"dpo": "x", "again": "x", "mdpo": "y"}
    study = read_folders([write_run(tmp_path / name, {"a": word}) for name, word in words.items()]).study
    assert study.labels == ("dpo", "mdpo")
    assert study.notes == ("again gives the same answers as dpo to all items, and is left out",)


def test_types_are_the_benchmark_s_own_else_its_parts(tmp_path):
    runs = write_runs(tmp_path, "dpo", "mdpo", items=3)
    assert [item.type for item in read_folders(runs).study.items] == ["attribute", "counting", "attribute"]
    for run in runs:
        rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
        lines = [json.dumps(row | {"part": "relation", "counts": {"relation/n": 1}}) for row in rows]
        (run / "scores.jsonl").write_text("\n".join(lines))
        (run / "result.json").write_text(json.dumps({"benchmark": "amber"}))
    assert {item.type for item in read_folders(runs).study.items} == {"relation"}
    (runs[0] / "scores.jsonl").unlink()
    assert {item.type for item in read_folders(runs).study.items} == {"amber"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(benchmark="amber"), "votes are about one benchmark.*mmhal: .*dpo; amber: .*mdpo"),
        (dict(prompts={"b": "Another?"}), "mdpo has another prompt than dpo for 1 items, the first is b: 'Another"),
        (
            dict(images={"a": "z.png"}),
            "mdpo has another image than dpo for 1 items, the first is a: 'z.png', not 'a.png'",
        ),
    ],
)
def test_runs_on_other_questions_are_refused(tmp_path, change, said):
    one = write_run(tmp_path / "dpo", {"a": "x", "b": "x"})
    other = write_run(tmp_path / "mdpo", {"a": "y", "b": "y"}, **change)
    with pytest.raises(VoteError, match=said):
        read_folders([one, other])


def test_runs_that_cannot_be_voted_on_are_refused(tmp_path):
    one, same = (write_run(tmp_path / name, {"a": "x"}) for name in ("dpo", "same"))
    with pytest.raises(VoteError, match=r"two runs or more.*found: .*dpo"):
        read_folders([one])
    with pytest.raises(VoteError, match="dpo, same give the same answers to all items"):
        read_folders([one, same])
    with pytest.raises(VoteError, match="no item has an answer in all of dpo, third"):
        read_folders([one, write_run(tmp_path / "third", {"b": "x"})])
    with pytest.raises(ReportError, match="no such folder"):
        read_folders([one, tmp_path / "none"])
    (same / "answers.jsonl").write_text('{"id": "a", "prompt": "?", "image": "a.png", "answer": "y"}\n' * 2)
    with pytest.raises(VoteError, match=r"answers.jsonl, line 2: a second answer to item a"):
        read_folders([one, same])
    (same / "answers.jsonl").write_text('{"id": "a", "prompt": "?", "image": "a.png"}\n')
    with pytest.raises(VoteError, match="line 1: answer should be text, and is None"):
        read_folders([one, same])
    (same / "answers.jsonl").unlink()
    with pytest.raises(VoteError, match=r"same/answers.jsonl: cannot be read"):
        read_folders([one, same])


def test_the_study_is_told_by_its_answers_whatever_runs_are_called_and_however_ordered(tmp_path):
    runs = write_runs(tmp_path, "dpo", "mdpo", "base")
    study = read_folders(runs).study
    turned = read_folders([runs[2], runs[0], runs[1]]).study
    assert turned.digest == study.digest
    assert set(turned.pairs) == set(study.pairs)
    assert turned.labels == ("base", "dpo", "mdpo")
    task = study.order("anna")[0]
    assert turned.order("anna")[0] == task
    assert [turned.labels[side] for side in turned.sides("anna", task)] == [
        study.labels[side] for side in study.sides("anna", task)
    ]
    renamed = runs[0].rename(tmp_path / "elsewhere")
    assert read_folders([renamed, *runs[1:]]).study.digest == study.digest
    lines = (renamed / "answers.jsonl").read_text()
    (renamed / "answers.jsonl").write_text(lines.replace("says item-3", "tells item-3"))
    assert read_folders([renamed, *runs[1:]]).study.digest != study.digest


def test_raters_have_their_own_orders_and_sides_and_every_time_the_same(tmp_path):
    study = read_folders(write_runs(tmp_path, "dpo", "mdpo", items=200)).study
    raters = [f"rater {number}" for number in range(10)]
    orders = {rater: study.order(rater) for rater in raters}
    assert all(set(order) == study.tasks and len(order) == 200 for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 10
    assert study.order("rater 3") == orders["rater 3"]
    left = Counter(study.labels[study.sides(rater, task)[0]] for rater in raters for task in study.tasks)
    assert 0.45 < left["mdpo"] / 2000 < 0.55  # 4.5 standard errors
    for rater in raters[:3]:
        share = sum(study.sides(rater, task)[0] for task in study.tasks) / 200
        assert 0.35 < share < 0.65
    places = [[order.index(task) for order in orders.values()] for task in sorted(study.tasks)]
    assert 90 < sum(map(sum, places[:20])) / 200 < 110  # an item is as likely to be early as late


def test_order_and_sides_are_those_of_every_version(tmp_path):
    """Votes that are stored depend on them: a change of the draw has to change the version of the file."""
    study = read_folders(write_runs(tmp_path, "dpo", "mdpo", items=4)).study
    assert study.digest.startswith("46ae646e4dfd")
    assert [task.item for task in study.order("anna")] == ["item-0", "item-2", "item-3", "item-1"]
    assert [study.labels[study.sides("anna", task)[0]] for task in study.order("anna")] == ["dpo", "mdpo", "dpo", "dpo"]


def test_what_a_vote_prefers_is_the_answer_on_that_side(tmp_path):
    study = read_folders(write_runs(tmp_path, "dpo", "mdpo")).study
    for task in study.tasks:
        left, right = study.sides("anna", task)
        assert (study.preferred("anna", task, "left"), study.preferred("anna", task, "right")) == (left, right)
        assert study.preferred("anna", task, "tie") is study.preferred("anna", task, "both_bad") is None


def test_a_rater_is_known_by_a_name_without_case_and_blanks():
    assert read_rater("  Anna\tMÜLLER ") == read_rater("anna mu\u0308ller") == "anna müller"
    with pytest.raises(VoteError, match="enter your name"):
        read_rater(" \n")
    with pytest.raises(VoteError, match="61 characters"):
        read_rater("x" * 61)
