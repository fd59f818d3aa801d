"""Numbers of the authors' own code for questions of yes and no, and for items that count in groups."""

import json
import random
from collections import Counter

import pytest

from benchmark_data import HAND_MADE, chair_folder, official_data, plain_tools
from mmdpo.benchmarks.definitions import BenchmarkItem, BenchmarkItems
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.recorded_replies import RecordedReplies
from mmdpo.benchmarks.result_folder import read_table, write_evaluation
from mmdpo.benchmarks.tasks import chair, hallusionbench, haloquest, load, mmvp, naturalbench
from mmdpo.benchmarks.yes_no import find_yes_or_no
from mmdpo.evaluation.compare import compare_runs

WORDS = {"0": "incorrect", "1": "correct", "2": "unclear"}


def golden(name):
    return json.loads((official_data() / "golden" / f"{name}.json").read_text())


def evaluate(name, rows, tmp_path, *, data=None, judge=None, partial=False):
    answers = tmp_path / f"{name}_answers.json"
    answers.write_text(json.dumps(rows))
    data = data or official_data()
    return evaluate_answers(name, answers, data, plain_tools(judge), allow_partial=partial, resamples=100)


def values(evaluation):
    return {name.partition("/")[2]: metric.value for name, metric in evaluation.metrics.items()}


def hallusionbench_judge(verdicts, tmp_path):
    """Replies that say these verdicts, [correctness, same] by question."""
    replies = tmp_path / "replies.jsonl"
    rows = [{"id": name, "reply": f"{WORDS[correct].capitalize()}."} for name, (correct, _) in verdicts.items()]
    same = {"0": "different", "1": "same"}
    rows += [{"id": f"{name}/same", "reply": same[is_same]} for name, (_, is_same) in verdicts.items()]
    replies.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = hallusionbench.judged_ids(hallusionbench.read_items(official_data() / "hallusionbench", plain_tools()))
    return RecordedReplies.read(replies, ids, hallusionbench.reads)


def test_hallusionbench(tmp_path):
    case = golden("hallusionbench")
    judge = hallusionbench_judge(case["verdicts"], tmp_path)
    rows = [{"id": name, "answer": "Whatever it said."} for name in case["verdicts"]]
    evaluation = evaluate("hallusionbench", rows, tmp_path, judge=judge)
    found, printed = values(evaluation), case["numbers"]
    spelt = {"yes_diff": "yes_difference", "fig_score": "figure_score", "LH": "lh", "VI": "vi", "Mixed": "mixed"}
    expected = {
        spelt.get(name, name.lower()): number for name, number in printed.items() if not isinstance(number, dict)
    }
    for scope in ("VD", "VS", "consistency"):
        expected |= {f"{scope.lower()}/{name.lower()}": number for name, number in printed[scope].items()}
    assert found == expected
    assert not evaluation.partial
    assert [evaluation.metrics[f"hallusionbench/{name}"].n for name in ("aacc", "facc", "qacc", "easy_aacc")] == [
        1129,
        346,
        455,
        455,
    ]
    assert evaluation.metrics["hallusionbench/hard_aacc"].n == 430


def test_a_missing_verdict_of_hallusionbench_leaves_out_its_figure_its_question_and_what_depends_on_it(tmp_path):
    case = golden("hallusionbench")
    gone = "VD_illusion_0_0_0"
    verdicts = {name: verdict for name, verdict in case["verdicts"].items() if name != gone}
    rows = [{"id": name, "answer": "?"} for name in case["verdicts"]]
    evaluation = evaluate("hallusionbench", rows, tmp_path, judge=hallusionbench_judge(verdicts, tmp_path))
    sizes = {name.partition("/")[2]: metric.n for name, metric in evaluation.metrics.items()}
    assert (sizes["aacc"], sizes["facc"], sizes["qacc"]) == (1128, 345, 454)
    assert evaluation.scores[gone].unscored
    assert "could not be scored throughout" in evaluation.partial[0]
    dependent = [name for name, score in evaluation.scores.items() if "mistake comes from" in score.unscored]
    assert all(name.startswith("VD_illusion_0_") and name.endswith("_0") for name in dependent)


@pytest.mark.parametrize(("figure", "label"), [("0", "unclear"), ("1", "correct")])
def test_an_unclear_answer_is_right_where_hallusionbench_shows_no_figure_and_nothing_says_otherwise(figure, label):
    item = BenchmarkItem("VS", "VS", "?", "", {"gt_answer": "1", "gt_answer_details": "Yes.", "figure_id": figure})
    reason = hallusionbench.score_reply(item, "Unclear.").reason
    assert (reason["right"], reason["read_as"], reason["label"]) == (figure == "0", "unclear", label)


def test_the_two_rules_of_hallusionbench_have_their_own_names_sizes_and_needs(tmp_path):
    items = load("hallusionbench_yes_no").read_items(official_data() / "hallusionbench", plain_tools())
    right = [{"id": item.id, "answer": "Yes." if item.truth["gt_answer"] == "1" else "No."} for item in items]
    evaluation = evaluate("hallusionbench_yes_no", right, tmp_path)
    assert set(values(evaluation).values()) == {100.0}
    sizes = [evaluation.metrics[f"hallusionbench_yes_no/{name}"].n for name in ("aacc", "facc", "qacc")]
    assert sizes == [951, 332, 429]
    whole = json.loads((official_data() / "hallusionbench" / "HallusionBench.json").read_text())
    official = [row | {"model_prediction": "Yes.", "benchmark": "hallusionbench"} for row in whole]
    evaluation = evaluate("hallusionbench_yes_no", official, tmp_path)
    assert len(evaluation.scores) == 951
    assert evaluation.made_by["answers"] == "178 answers to other questions of hallusionbench are left out"
    with pytest.raises(EvaluationError, match=r"needs a judge.*hallusionbench_yes_no reads yes and no"):
        evaluate("hallusionbench", [{"id": item.id, "answer": "Yes"} for item in items], tmp_path, partial=True)


def test_repope_alone_and_beside_pope(tmp_path):
    case = golden("repope")
    rows = [
        {"split": split, "question_id": number, "answer": answer}
        for split, answers in case["responses"].items()
        for number, answer in answers.items()
    ]
    alone = evaluate("repope", rows, tmp_path)
    spelt = {"ACC": "accuracy", "Precision": "precision", "Recall": "recall", "F1": "f1", "Yes Ratio": "yes_ratio"}
    for split, numbers in case["numbers"].items():
        for name, metric in spelt.items():
            assert alone.metrics[f"repope/{split}/{metric}"].value == numbers[name]
        counted = sum(numbers[outcome] for outcome in ("TP", "FP", "TN", "FN"))
        assert alone.metrics[f"repope/{split}/accuracy"].n == counted
    unanswered = sum(1 for row in rows if find_yes_or_no(row["answer"]) is None)
    assert alone.notes["repope_unanswered"].count == unanswered > 1000
    whole = [json.loads(line) for line in (official_data() / "pope" / "coco_pope_random.json").open()]
    answered = [{"split": "random", "question_id": row["question_id"], "answer": row["label"]} for row in whole]
    of_pope = evaluate("repope", answered, tmp_path)
    assert of_pope.metrics["repope/random/accuracy"].n == 2774
    assert of_pope.made_by["answers"] == "226 answers to other questions of pope are left out"
    changed = {"yes → no": 139, "no → yes": 5}
    assert of_pope.metrics["repope/random/accuracy"].value == (2774 - sum(changed.values())) / 2774
    with pytest.raises(EvaluationError, match=r"id 'random/3001' is none of the 8,185 items of repope"):
        evaluate("repope", [{"split": "random", "question_id": 3001, "answer": "no"}], tmp_path)
    beside = evaluate("pope", rows, tmp_path, partial=True)
    assert {name: beside.metrics[f"pope/repope/{name}"] for name in values(alone)} == {
        name.partition("/")[2]: metric for name, metric in alone.metrics.items()
    }


def test_dash_b_by_the_authors_own_answers(tmp_path):
    """Their positive images are others than their lists name, so the lists are taken from the answers."""
    answers = official_data() / "dash_b" / "Paligemma-3b_answers.json"
    rows = json.loads(answers.read_text())
    for kind, label in (("neg", "no"), ("pos", "yes")):
        listed = {}
        for row in rows:
            if row["gt"] == label:
                listed.setdefault(row["object_name"], []).append(row["img_id"])
        (tmp_path / f"dash_benchmark_{kind}.json").write_text(json.dumps({"all": listed}))
    found = values(evaluate_answers("dash_b", answers, tmp_path, plain_tools(), resamples=100))
    printed = json.loads((official_data() / "dash_b" / "Paligemma-3b_dash_b_results.json").read_text())
    assert found == {name.lower().replace("acc", "accuracy").replace(" ", "_"): of for name, of in printed.items()}
    with pytest.raises(EvaluationError, match=r"line \d+: no image of DASH-B's lists: gt 'yes', object_name"):
        evaluate_answers("dash_b", answers, official_data(), plain_tools(), resamples=100)


def test_naturalbench(tmp_path):
    case = golden("naturalbench")
    items = naturalbench.read_items(official_data() / "naturalbench", plain_tools())
    asked = [item for item in items if item.part == "test"]
    rows = [{"id": item.id, "answer": text} for item, text in zip(asked, case["responses"], strict=True)]
    printed = case["numbers"]
    expected = {
        "test/accuracy": printed["Acc"],
        "test/question_accuracy": printed["Q_Acc"],
        "test/image_accuracy": printed["I_Acc"],
        "test/group_accuracy": printed["G_Acc"],
    }
    assert values(evaluate("naturalbench", rows, tmp_path)) == expected
    by_order = [{"question": item.prompt, "answer": text} for item, text in zip(asked, case["responses"], strict=True)]
    path = tmp_path / "test_answers.json"
    path.write_text(json.dumps(by_order))
    found = evaluate_answers("naturalbench", path, official_data(), plain_tools(), resamples=100)
    assert values(found) == expected


@pytest.mark.parametrize("word", ["Yes", "No"])
def test_a_model_that_ignores_the_image_gets_nothing_right_in_naturalbench(word, tmp_path):
    items = naturalbench.read_items(official_data() / "naturalbench", plain_tools())
    letter = {"Yes": "A", "No": "B"}[word]
    rows = [{"id": item.id, "answer": word if item.truth["words"][0] == "yes" else letter} for item in items]
    found = values(evaluate("naturalbench", rows, tmp_path))
    assert [found[name] for name in ("accuracy", "question_accuracy", "image_accuracy", "group_accuracy")] == [
        0.5,
        0.0,
        0.0,
        0.0,
    ]


def test_groups_of_naturalbench_that_are_answered_in_part_are_named_and_left_out(tmp_path):
    rows = [json.loads(line) for line in (HAND_MADE / "naturalbench" / "answers.jsonl").open()]
    kept = [row for row in rows if row["id"] != "test/0/q1i1"]
    with pytest.raises(EvaluationError, match=r"1 of the 8 items of part test have no answer .*, which leaves 1 of"):
        evaluate("naturalbench", kept, tmp_path, data=HAND_MADE)
    evaluation = evaluate("naturalbench", kept, tmp_path, data=HAND_MADE, partial=True)
    sizes = {name: evaluation.metrics[f"naturalbench/test/{name}"].n for name in ("accuracy", "group_accuracy")}
    assert sizes == {"accuracy": 7, "group_accuracy": 1}
    assert evaluation.metrics["naturalbench/test/question_accuracy"].n == 3
    assert "which leaves 1 of its groups incomplete (test/0)" in evaluation.partial[0]


def test_what_is_no_group_of_naturalbench_is_refused(tmp_path):
    whole = json.loads((HAND_MADE / "naturalbench" / "test_set.json").read_text())
    cases = {
        "are no groups of 4": whole[:-1],
        r"group 1 \(rows 5 to 8\): should be two questions on two images": [*whole[:6], *whole[5:7]],
        "with crossed answers": [*whole[:3], [*whole[3][:2], "No", "yes_no"], *whole[4:]],
        "no questions of NaturalBench": [["only a question"]],
    }
    for message, rows in cases.items():
        (tmp_path / "test_set.json").write_text(json.dumps(rows))
        with pytest.raises(EvaluationError, match=message):
            naturalbench.read_items(tmp_path, plain_tools())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, because it is not No.", "yes"),
        ("I know it: no, yes", "no"),
        ("YES", "yes"),
        ("yesterday, nothing", None),
        ("", None),
        ("not", None),
    ],
)
def test_naturalbench_reads_the_first_whole_word(answer, said):
    assert naturalbench.read_answer(answer, ("yes", "no"))[0] == said


def test_items_of_a_group_are_resampled_together(tmp_path):
    """An interval over 950 groups of four equal answers is that of 950 draws, not of 3,800."""
    items = [
        item for item in naturalbench.read_items(official_data() / "naturalbench", plain_tools()) if item.part == "test"
    ]
    draw = random.Random(0)
    is_right = {item.group: draw.random() < 0.5 for item in items}
    other = {"yes": "no", "no": "yes", "A": "B", "B": "A"}
    rows = [
        {"id": item.id, "answer": item.truth["label"] if is_right[item.group] else other[item.truth["label"]]}
        for item in items
    ]
    evaluation = evaluate("naturalbench", rows, tmp_path)
    assert evaluation.statistics["resampled"] == "group"
    assert evaluation.metrics["naturalbench/test/accuracy"].standard_error == pytest.approx(0.5 / 950**0.5, rel=0.2)
    write_evaluation(evaluation, tmp_path / "run")
    assert len(set(read_table(tmp_path / "run").groups)) == 950
    compared = compare_runs([tmp_path / "run", tmp_path / "run"], labels=["a", "b"], resamples=100)
    rows = {row.metric: row for row in compared.rows}
    assert rows["naturalbench/test/group_accuracy"].difference == 0
    assert rows["naturalbench/test/group_accuracy"].items == 950


def test_chair_takes_the_objects_of_a_table_for_the_images_of_a_list(tmp_path):
    captions = list({item["image_id"]: item for item in golden("object_halbench_word_mode")["items"]}.values())
    ids = sorted({item["image_id"] for item in captions})
    data = chair_folder(tmp_path / "chair", ids)
    rows = [{"image_id": item["image_id"], "answer": item["caption"]} for item in captions]
    evaluation = evaluate("chair", rows, tmp_path, data=data)
    truth = {str(item["image_id"]): sorted(item["gt_objects"]) for item in captions}
    assert {item.id: sorted(item.truth["objects"]) for item in evaluation.items} == truth
    assert evaluation.made_by["images"].startswith(f"{len(ids)} of val2014, listed in chair_ids.json")
    # The synonyms of CHAIR are fewer than those of Object HalBench, which found these.
    hallucinating = 100 * sum(bool(item["hallucinated"]) for item in captions) / len(captions)
    assert values(evaluation)["chair_s"] == pytest.approx(hallucinating, abs=2)


def test_the_images_of_chair_are_drawn_the_same_wherever_it_runs(tmp_path):
    drawn = chair.draw_images(range(1, 40_505))
    assert len(drawn) == 500 == len(set(drawn))
    assert drawn == sorted(drawn)
    assert drawn[:3] == chair.draw_images(reversed(range(1, 40_505)))[:3] == DRAWN
    assert chair.draw_images([3, 1, 2]) == [1, 2, 3]
    for name in ("instances_val2014.json", "captions_val2014.json", "synonyms.txt"):
        (tmp_path / name).write_text((HAND_MADE / "chair" / name).read_text())
    tools = plain_tools()
    assert [item.id for item in chair.read_items(tmp_path, tools)] == ["11", "22", "33"]
    assert "3 of val2014, drawn with seed 0" in tools.used["images"]
    refused = {
        "[11, 11]": "lists 1 images twice",
        '["11"]': "list of COCO image ids",
        "[7]": "no objects are known of 1 images, the first is 7",
    }
    for content, message in refused.items():
        (tmp_path / "chair_ids.json").write_text(content)
        with pytest.raises(EvaluationError, match=message):
            chair.read_items(tmp_path, tools)


DRAWN = [5, 16, 75]


def test_chair_says_how_long_descriptions_might_be_and_a_comparison_says_where_that_differs(tmp_path):
    rows = [json.loads(line) for line in (HAND_MADE / "chair" / "answers.jsonl").open()]
    for limit in (64, 512):
        limited = [row | {"generation": {"max_new_tokens": limit}} for row in rows]
        evaluation = evaluate("chair", limited, tmp_path, data=HAND_MADE)
        assert evaluation.made_by["max_new_tokens"] == str(limit)
        write_evaluation(evaluation, tmp_path / str(limit))
    notes = compare_runs([tmp_path / "64", tmp_path / "512"], resamples=100).notes
    assert any("not the same max_new_tokens: 64 in 64, 512 in 512" in note for note in notes)
    assert evaluate("chair", rows, tmp_path, data=HAND_MADE).made_by["max_new_tokens"] == "not known"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(b) Closed", "b"),
        ("The answer is (A).", "a"),
        ("b", "b"),
        ("B.", "b"),
        ("A door is closed", "b"),
        ("It is open", "a"),
        ("open or closed", None),
        ("reopened", None),
        ("", None),
    ],
)
def test_mmvp_reads_the_option_that_an_answer_names(answer, letter):
    assert mmvp.read_letter(answer, {"a": "Open", "b": "Closed"}) == letter


def test_mmvp_without_a_judge_has_letters_alone_and_a_blind_model_no_pair(tmp_path):
    rows = [{"question_id": number, "response": "(a)", "answer": "(b)"} for number in range(1, 5)]
    found = values(evaluate("mmvp", rows, tmp_path, data=HAND_MADE))
    assert found == {"letter/pair_accuracy": 0.0, "letter/accuracy": 0.5}


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("It is incorrect to say so.\nVerdict: correct", True),
        ("**Verdict:** Incorrect.", False),
        ("Verdict: not correct", False),
        ("correct", True),
        ("It isn't correct.", False),
        ("It correctly names the dog, and incorrectly the", None),
        ("Verdict: incorrect\nIt was correctly read.", False),
        ("I cannot tell.", None),
    ],
)
def test_haloquest_takes_the_last_verdict(reply, verdict):
    assert haloquest.read_verdict(reply) is verdict


@pytest.mark.parametrize("name", ["hallusionbench", "mmvp", "haloquest"])
def test_verdicts_of_another_judge_are_refused(name, tmp_path):
    benchmark = load(name)
    ids = [item.id for item in benchmark.read_items(HAND_MADE / name, plain_tools())]
    file = tmp_path / "replies.jsonl"

    def read(rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return RecordedReplies.read(file, ids, benchmark.reads)

    with pytest.raises(EvaluationError, match="none of its 2 replies says what this benchmark's judge is asked for"):
        read({"id": name, "reply": "Rating: 4"} for name in ids[:2])
    with pytest.raises(EvaluationError, match=r"line 2: a reply of the judge 'b', where that of .*line 1 is of 'a'"):
        read({"id": name, "reply": "correct yes", "model": judge} for name, judge in zip(ids, "ab", strict=False))
    with pytest.raises(EvaluationError, match="line 1: id 'nobody' is none of"):
        read([{"id": "nobody", "reply": "correct"}])
    names = {"requested_model": "gpt-4", "model": "gpt-4-0314"}, {"requested_model": "gpt-4", "model": "gpt-4-0613"}
    read({"id": name, "reply": "correct yes", **said} for name, said in zip(ids, names, strict=False))


def test_ids_of_the_official_data_are_unique_and_in_groups():
    items = BenchmarkItems.build(load("hallusionbench").read_items(official_data() / "hallusionbench", plain_tools()))
    assert len(items) == 1129
    assert Counter(item.part for item in items.values()) == {"VD": 591, "VS": 538}
    assert sum(not item.image for item in items.values()) == 178
    assert len(items.groups) == 167
