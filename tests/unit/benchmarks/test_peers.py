"""`--rule peers`: what lmms-eval and VLMEvalKit would print for the same answers."""

import json

import pytest

from benchmark_data import HAND_MADE, official_data, official_tools, plain_tools
from eval_verb import run
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.peers import read_lmms_eval, read_vlmevalkit
from mmdpo.benchmarks.tasks import load, names
from mmdpo.evaluation.compare import compare_runs


def score(name, answers, data=HAND_MADE, tools=None, **options):
    found = evaluate_answers(name, answers, data, tools or plain_tools(), rule="peers", resamples=100, **options)
    return {metric: value.value for metric, value in found.metrics.items()}, found


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("No, there is none.", "no"),
        ("Not visible.", "unknown"),  # "not" is no word of theirs
        ("**Yes**", "unknown"),  # asterisks stay
        ("Answer: yes", "yes"),
        ("Yes: a dog", "unknown"),  # so do colons
        ("It is there, no doubt", "no"),
        ("yes and no", "unknown"),
        ("know", "unknown"),
        ("yes,it is", "yes"),  # a comma away from spaces becomes one
        ("yes,it is, though", "unknown"),  # and beside one elsewhere it goes: "yesit"
        ("1,000 (yes)", "yes"),  # with a number every mark goes
        ("no-one 1,000", "unknown"),
        ("no-one", "no"),
        ("no.5", "unknown"),  # a full stop before a digit stays
        ("." * 33 + "yes", "unknown"),  # 32 full stops go
        ("." * 32 + "yes", "yes"),
        ("", "unknown"),
    ],
)
def test_an_answer_is_read_as_vlmevalkit_does(answer, read):
    assert read_vlmevalkit(answer) == read


def test_lmms_eval_takes_the_whole_answer():
    assert [read_lmms_eval(text) for text in (" YES\n", "yes.", "No")] == ["yes", "yes.", "no"]


def test_pope_by_hand():
    values, evaluation = score("pope", HAND_MADE / "pope" / "answers.jsonl")
    expected = json.loads((HAND_MADE / "pope" / "expected.json").read_text())["metrics"]
    assert {metric: values[metric] for metric in expected} == expected  # the official numbers are not touched
    by_hand = {
        # Yes ✓; "No, there is none." and "There is not. Yes" are neither; NO ✓
        "lmms_eval/random": (0.5, 1.0, 1.0, 1.0, 0.5),
        "lmms_eval/pop": (0.25, 0.5, 1.0, 2 / 3, 0.5),
        "lmms_eval/adv": (0.5, 0.0, 0.0, 0.0, 0.5),  # all no: what divides by zero is 0
        "lmms_eval/all": (5 / 12, 2 / 3, 0.5, 4 / 7, 0.5),
    }
    rules = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    for split, numbers in by_hand.items():
        assert [values[f"pope/{split}/pope_{rule}"] for rule in rules] == pytest.approx(numbers), split
    of_vlmevalkit = {
        "random": (100, 100, 100, 100),  # "no there is none" is no, "there is not yes" is yes
        "popular": (80, 50, 200 / 3, 100),  # "yes and no" is unknown, and the truth is no
        "adversarial": (0, 50, 0, 0),
        "overall": (8 / 11 * 100, 200 / 3, 80, 200 / 3),
    }
    for split, numbers in of_vlmevalkit.items():
        found = [values[f"pope/vlmevalkit/{split}/{rule}"] for rule in ("overall", "acc", "precision", "recall")]
        assert found == pytest.approx(numbers), split
    assert {"lmms_eval", "vlmevalkit"} <= set(evaluation.made_by)


def test_pope_of_lmms_eval_is_what_lmms_eval_printed(tmp_path):
    rows = []
    for split, case in json.loads((official_data() / "golden" / "pope.json").read_text())["splits"].items():
        items = case["items"]
        truth = [{key: item[key] for key in ("question_id", "image", "text", "label")} for item in items]
        (tmp_path / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in truth))
        rows += [{"id": f"{split}/{item['question_id']}", "answer": item["answer"]} for item in items]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values, _ = score("pope", tmp_path / "answers.jsonl", tmp_path)
    splits = json.loads((official_data() / "golden" / "pope.json").read_text())["splits"]
    for split, task in (("random", "random"), ("popular", "pop")):
        for name, number in splits[split]["lmms_eval"].items():
            theirs = "pope_f1_score" if name == "f1" else f"pope_{name}"
            assert values[f"pope/lmms_eval/{task}/{theirs}"] == number
    assert "pope/lmms_eval/all/pope_accuracy" not in values  # the third split was not asked


def test_amber_by_hand():
    values, _ = score("amber", HAND_MADE / "amber" / "answers.json")
    assert values["amber/chair"] == 12.5
    by_hand = {
        "lmms_eval/amber_chair": 100 * 1 / 8.004,  # four descriptions, 0.001 each
        "lmms_eval/amber_cover": 100 * 5 / 6.004,
        "lmms_eval/amber_hal": 100 - 100 * 3 / 4.004,
        "lmms_eval/amber_cog": 100 * 1 / 6.004,
        "vlmevalkit/existence": 50,
        "vlmevalkit/attribute": 500 / 6,  # "no" counts here
        "vlmevalkit/relation": 100,
        "vlmevalkit/avg_acc": (50 + 500 / 6 + 100) / 3,
    }
    assert {name: values[f"amber/{name}"] for name in by_hand} == pytest.approx(by_hand)


def test_amber_of_lmms_eval_on_official_descriptions(tmp_path):
    """The same decisions as the official rule's, which are recorded, and a denominator for each description."""
    case = json.loads((official_data() / "golden" / "amber_generative.json").read_text())["items"]
    (tmp_path / "a.json").write_text(json.dumps([{"response": item["response"], "id": item["id"]} for item in case]))
    values, _ = score("amber", tmp_path / "a.json", official_data(), official_tools(), allow_partial=True)
    flagged, kept = (sum(len(item[key]) for item in case) for key in ("hallucinated", "nouns"))
    assert values["amber/lmms_eval/amber_chair"] == pytest.approx(100 * flagged / (kept + 0.001 * len(case)))
    free = sum(not item["hallucinated"] for item in case)
    assert values["amber/lmms_eval/amber_hal"] == pytest.approx(100 - 100 * free / (1.001 * len(case)))


def test_without_the_rule_nothing_of_others_is_there_and_where_none_is_known_it_is_refused(tmp_path):
    plain = evaluate_answers("pope", HAND_MADE / "pope" / "answers.jsonl", HAND_MADE, plain_tools(), resamples=100)
    assert not any("lmms_eval" in name or "vlmevalkit" in name for name in (*plain.metrics, *plain.made_by))
    with pytest.raises(ValueError, match="--rule peers: no other harness's rule is known for world"):
        run("world", "--answers", "a.jsonl", "--out", tmp_path, "--rule", "peers")


def test_runs_are_compared_by_the_rules_of_others_where_both_have_them(tmp_path):
    answers = ["--answers", HAND_MADE / "pope" / "answers.jsonl", "--data_dir", HAND_MADE, "--resamples", "100"]
    for name, more in {"a": ["--rule", "peers"], "b": ["--rule", "peers"], "c": []}.items():
        run("pope", *answers, *more, "--out", tmp_path / name)
    comparison = compare_runs([tmp_path / name for name in "abc"], resamples=100)
    rows = {(row.run, row.metric): row for row in comparison.rows}
    assert rows["b", "pope/vlmevalkit/random/acc"].difference == 0
    assert rows["c", "pope/vlmevalkit/random/acc"].difference is None
    assert not any("lmms_eval" in note for note in comparison.notes)


@pytest.mark.parametrize("name", [name for name in names() if load(name).peers])
def test_their_metrics_have_names_of_their_own_and_say_where_they_are_from(name):
    benchmark = load(name)
    metrics = [metric.name for metric in benchmark.all_metrics]
    assert len(set(metrics)) == len(metrics)
    for peer, about in benchmark.peers.items():
        assert all(metric.name.startswith(f"{name}/{peer}/") for metric in about.metrics)
        assert " at " in about.source
