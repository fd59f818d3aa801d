"""A report shows what the judge of a benchmark wrote of single answers, and how yes/no answers were read."""

import json

import pytest

from benchmark_data import HAND_MADE, plain_tools
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.recorded_replies import RecordedReplies
from mmdpo.benchmarks.result_folder import write_evaluation
from mmdpo.benchmarks.tasks import load
from mmdpo.report.evaluated import ItemPictures, read_evaluated
from mmdpo.report.evaluation import Benchmarks, evaluation_section, score_benchmark
from mmdpo.report.labels import label_benchmark, label_metric
from mmdpo.report.reading import Place
from tests.voted_runs import write_run


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("hallusionbench", ["read as incorrect; right is correct", "The lines are not equal.", "checked each answer"]),
        (
            "haloquest",
            ["It names the cat.", "Its name is not visible.", "not scored: the judge", "checked each answer"],
        ),
        ("naturalbench", ["read as A; right is B", "read as neither; right is no"]),
        ("dash_b", ["read as neither; right is no", "Can you see a kite in this image?"]),
        ("conflict", ["read as no option; right is D", "What is its genus?"]),
        (
            "mmvp",
            [
                "read as a; right is a · right by the judge",
                "wrong by the judge as the official rule reads it, right as it is meant",
                "wrong by the judge · not scored: the judge&#39;s reply says neither yes nor no",
            ],
        ),
        ("repope", ["cannot be read, so it is not counted; right is no"]),
        ("chair", ["<mark>cat</mark>"]),
    ],
)
def test_answers_are_shown_with_what_is_wrong_in_them(name, shown, tmp_path):
    benchmark, replies = load(name), HAND_MADE / name / "replies.jsonl"
    data = HAND_MADE / benchmark.data_name
    judge = None
    if replies.exists():
        judge = RecordedReplies.read(replies, benchmark.judged_ids(benchmark.read_items(data, plain_tools())))
    answers = next((HAND_MADE / name).glob("answers.*"))
    evaluation = evaluate_answers(name, answers, HAND_MADE, plain_tools(judge), resamples=100)
    write_evaluation(evaluation, tmp_path / "run")
    missing = []
    run = read_evaluated(Place(tmp_path / "run", "run"), missing)
    section = evaluation_section(score_benchmark(name, [run], Benchmarks()), ItemPictures())
    assert not missing
    assert section.title == f"Evaluation: {label_benchmark(name)}"
    for text in (*shown, *(label_metric(metric, name) for metric in evaluation.metrics)):
        assert text in section.html, text
    assert "rated each answer" not in section.html
    assert json.loads((tmp_path / "run" / "result.json").read_text())["benchmark"] == name


def test_an_answer_is_wrong_where_the_judge_whose_verdict_counts_holds_it_to_be(tmp_path):
    """Which letter MMVP's answer was read as is another measure: the judge may know better."""
    reasons = {
        "by judge": {"read_as": "no option", "label": "a", "verdicts": {"letter": False, "official": True}},
        "by letter": {"read_as": "a", "label": "a", "verdicts": {"letter": True, "official": False}},
        "no reply": {"read_as": "b", "label": "a", "verdicts": {"letter": False}},
    }
    run = write_run(tmp_path / "run", dict.fromkeys(reasons, "Open."), benchmark="mmvp", reasons=reasons)
    items = read_evaluated(Place(run, "run"), []).items
    assert {name: item.is_wrong for name, item in items.items()} == {
        "by judge": False, "by letter": True, "no reply": True,
    }  # fmt: skip
