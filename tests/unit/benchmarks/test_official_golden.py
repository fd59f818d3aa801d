"""The numbers are those that the official scorers print for the same answers, to the last digit."""

import json
from types import SimpleNamespace

import pytest

from benchmark_data import ROOT, official_data, official_tools, plain_tools
from mmdpo.benchmarks.definitions import BenchmarkItem, Tools
from mmdpo.benchmarks.evaluate import evaluate_answers, tabulate_counts
from mmdpo.benchmarks.linguistics import TableLinguistics
from mmdpo.benchmarks.recorded_replies import RecordedReplies
from mmdpo.benchmarks.tasks import load, object_halbench
from mmdpo.benchmarks.tasks.object_halbench import CocoObjects


def golden(name):
    return json.loads((official_data() / "golden" / f"{name}.json").read_text())


def evaluate(name, rows, tmp_path, tools=None):
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(rows))
    tools = tools or official_tools()
    return evaluate_answers(name, answers, official_data(), tools, allow_partial=True, resamples=100)


def test_amber_descriptions(tmp_path):
    case = golden("amber_generative")
    evaluation = evaluate("amber", [{"response": it["response"], "id": it["id"]} for it in case["items"]], tmp_path)
    values = {name.rpartition("/")[2]: metric.value for name, metric in evaluation.metrics.items()}
    assert values == {name.lower(): value for name, value in case["official_output"].items()}
    assert set(evaluation.made_by) == {"linguistics", "similarity"}
    items = {item.id: item for item in evaluation.items}
    for expected in case["items"]:
        item, score = items[str(expected["id"])], evaluation.scores[str(expected["id"])]
        assert score.reason["kept"] == expected["nouns"]
        assert score.reason["flagged"] == expected["hallucinated"]
        assert score.reason["covered"] == [item.truth["truth"][index] for index in expected["covered_truth_idx"]]
        assert score.reason["cognitive"] == [item.truth["hallu"][index] for index in expected["covered_hallu_idx"]]


def test_amber_descriptions_by_the_table_come_as_near_as_stated(tmp_path):
    case = golden("amber_generative")
    tools = Tools(TableLinguistics, official_tools().make_similarity)
    rows = [{"response": item["response"], "id": item["id"]} for item in case["items"]]
    value = {name: metric.value for name, metric in evaluate("amber", rows, tmp_path, tools).metrics.items()}
    stated = "CHAIR {amber/chair}, Cover {amber/cover}, Hal {amber/hal}, Cog {amber/cog}"
    for name, number in value.items():
        stated = stated.replace(f"{{{name}}}", str(number))
    assert f"On those 70 answers the table gives {stated}" in (ROOT / "docs" / "evaluation.md").read_text()


@pytest.mark.parametrize(("answer", "run"), [("Yes", "disc_allyes"), ("No", "disc_allno")])
def test_amber_questions(answer, run, tmp_path):
    case = golden("amber_discriminative")
    evaluation = evaluate(
        "amber", [{"response": answer, "id": number} for number in case["ids"]], tmp_path, plain_tools()
    )
    spelt = {"overall": "Descriminative Task", "existence": "Exsitence"}
    printed = case["official_output"][run]
    assert len(evaluation.metrics) == 2 * 28
    for name, metric in evaluation.metrics.items():
        *_, dimension, rule = name.split("/")  # plain answers are read alike by the tolerant rule
        assert metric.value == printed[spelt.get(dimension, dimension.capitalize())][rule.capitalize()], name


def test_pope(tmp_path):
    case = golden("pope")["splits"]
    rows = [
        {"split": split, "question_id": item["question_id"], "answer": item["answer"], "text": item["text"]}
        for split in case
        for item in reversed(case[split]["items"])
    ]
    metrics = evaluate("pope", rows, tmp_path, plain_tools()).metrics
    spelt = {
        "Accuracy": "accuracy",
        "Precision": "precision",
        "Recall": "recall",
        "F1 score": "f1",
        "Yes ratio": "yes_ratio",
    }
    for split in case:
        for name, value in case[split]["official"].items():
            assert metrics[f"pope/{split}/{spelt[name]}"].value == value


def test_pope_in_the_official_format_is_joined_by_order(tmp_path):
    case = golden("pope")["splits"]
    folder = tmp_path / "answers"
    folder.mkdir()
    for split in case:
        rows = [{"question": item["text"], "answer": item["answer"]} for item in case[split]["items"]]
        (folder / f"coco_pope_{split}_answers.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = evaluate_answers(
        "pope", folder, official_data(), plain_tools(), allow_partial=True, resamples=100
    ).metrics
    assert metrics["pope/random/f1"].value == case["random"]["official"]["F1 score"]
    assert metrics["pope/popular/f1"].n == 300


def test_mmhal(tmp_path):
    case = golden("mmhal")
    template = json.loads((official_data() / "mmhal" / "mmhal-bench_answer_template.json").read_text())
    completions = [{"choices": [{"message": {"content": item["judge_reply"]}}]} for item in case["items"]]
    replies = tmp_path / "replies.json"
    replies.write_text(json.dumps(completions))
    judge = RecordedReplies.read(replies, [record["image_id"] for record in template])
    evaluation = evaluate(
        "mmhal", [record | {"model_answer": "?"} for record in template], tmp_path, plain_tools(judge)
    )
    metrics = evaluation.metrics
    ratings = [evaluation.scores[record["image_id"]].reason["official"] for record in template]
    assert ratings == [item["score"] for item in case["items"]]
    per_type = ",".join(str(metrics[f"mmhal/{record['question_type']}/score"].value) for record in template[:8])
    assert case["official_stdout_rlhfv"] == [
        f"Informativeness: {metrics['mmhal/informativeness'].value:.2f}",
        f"Average score: {metrics['mmhal/score'].value:.2f}",
        f"Hallucination rate: {metrics['mmhal/hallucination_rate'].value:.2f}",
        f"Average score for each question type: {per_type}",
    ]
    assert metrics["mmhal/score"].exact == case["exact"]["average"]
    assert evaluation.partial, "what the tolerant parser could not read was passed over in silence"


def test_object_halbench_in_word_mode():
    case = golden("object_halbench_word_mode")
    synonyms = CocoObjects.build((official_data() / "object_halbench" / "synonyms_refine.txt").read_text().splitlines())
    tools = official_tools()
    items, scores = [], {}
    for number, expected in enumerate(case["items"]):
        item = BenchmarkItem(str(number), "all", "", str(expected["image_id"]), {"objects": expected["gt_objects"]})
        scores[item.id] = object_halbench.score_answer(item, expected["caption"], synonyms, tools)
        items.append(item)
        assert scores[item.id].reason["word"] == {"kept": expected["coco_words"], "flagged": expected["hallucinated"]}
    sums = tabulate_counts(items, scores).sums()
    overall = SimpleNamespace(**case["rlhfv_word_mode_overall"])
    exact = {
        metric.name: float(metric.compute(sums)[0])
        for metric in load("object_halbench").metrics
        if "llm" not in metric.name
    }
    assert exact == pytest.approx(
        {
            "object_halbench/word/chair_s": 100 * overall.CHAIRs,
            "object_halbench/word/chair_s_refine": 100 * overall.CHAIRs_refine,
            "object_halbench/word/chair_i": 100 * overall.CHAIRi,
            "object_halbench/word/recall": 100 * overall.obj_rec,
            "object_halbench/answer_words": overall.avg_word_len,
        },
        rel=1e-15,
    )
