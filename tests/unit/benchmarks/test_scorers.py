"""Rules of single benchmarks that their golden answers do not reach."""

import json
import math

import numpy as np
import pytest

from benchmark_data import HAND_MADE, official_data, official_tools, plain_tools
from mmdpo.benchmarks import tasks
from mmdpo.benchmarks.definitions import BenchmarkItem
from mmdpo.benchmarks.evaluate import evaluate_answers, tabulate_counts
from mmdpo.benchmarks.linguistics import TableLinguistics
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.recorded_replies import RecordedReplies
from mmdpo.benchmarks.similarity import PairTable
from mmdpo.benchmarks.tasks import load, mmhal, object_halbench, pope
from mmdpo.benchmarks.tasks._world import WorldBenchmark
from mmdpo.benchmarks.tasks.amber import AmberWords, score_description
from mmdpo.benchmarks.tasks.object_halbench import CocoObjects
from mmdpo.world import SMALL
from mmdpo.world.scenes import SUPERVISED_CAPTIONER, write_caption


@pytest.mark.parametrize(
    ("reply", "official", "tolerant"),
    [
        ("**Rating:** 5", [], 5),
        ("Rating: **3**", [], 3),
        ("Rating : 5", [], 5),
        ("RATING: 2", [2], 2),
        ("Rating: 10", [1], None),
        ("Rating: 3.5", [3], None),
        ("rating: 6 is too high, so I give Rating: 4", [4, 6], 4),
        ("The score is 6.", [], 6),
        ("Rated from 0 to 6, the overall rating is 4/6.", [], 4),
        ("On a rating scale of 0-6, I give a rating: 2", [2], 2),
        ("", [], None),
        ("It has 4 boats and 2 dogs.", [], None),
    ],
)
def test_ratings_are_read_as_officially_and_as_meant(reply, official, tolerant):
    assert mmhal.official_ratings(reply) == official
    assert mmhal.tolerant_rating(reply) == tolerant


def test_an_answer_without_a_reply_is_unscored_by_both_parsers():
    items = mmhal.read_items(HAND_MADE / "mmhal", plain_tools())
    score = mmhal.score_reply(items[0], None)
    assert (score.counts, bool(score.unscored)) == ({}, True)
    with pytest.raises(EvaluationError, match="needs a judge"):
        mmhal.make_scorer(HAND_MADE / "mmhal", plain_tools())


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("NO", "yes"),
        ("", "yes"),
        ("There isn't one.", "yes"),
        ("no\n", "yes"),
        ("Yes. No.", "yes"),
        ("Nope", "yes"),
        ("no,", "no"),
        ("It is not there", "no"),
        ("No. Yes.", "no"),
    ],
)
def test_pope_reads_answers_as_officially(answer, read):
    assert pope.read_answer(answer) == read


def test_the_judge_is_not_believed_about_another_answer(tmp_path):
    file = tmp_path / "replies.jsonl"
    items = mmhal.read_items(HAND_MADE / "mmhal", plain_tools())
    ids = [item.id for item in items]
    file.write_text(json.dumps({"id": ids[0], "answer": "A", "reply": "Rating: 3", "model": "judge-1"}))
    judge = RecordedReplies.read(file, ids)
    assert (judge.reply(items[0], "A"), judge.reply(items[1], "A")) == ("Rating: 3", None)
    assert "judge-1" in judge.name
    with pytest.raises(EvaluationError, match=r"replies\.jsonl, line 1: this reply is about another answer"):
        judge.reply(items[0], "B")
    for content, message in (
        (json.dumps({"id": "zz", "reply": "x"}), "none of the 4 items"),
        (json.dumps({"id": ids[0], "reply": "x"}) * 2, "a second reply"),
        (json.dumps({"id": ids[0]}), "no reply"),
        (json.dumps({"choices": []}), "without choices"),
        (json.dumps({"id": ids[0], "reply": "x", "attempt": "first"}), "a whole number"),
    ):
        file.write_text(content)
        with pytest.raises(EvaluationError, match=message):
            RecordedReplies.read(file, ids)


def test_objects_are_read_from_replies():
    assert object_halbench.read_objects('["dog", "wine glass"]') == ["dog", "wine glass"]
    assert object_halbench.read_objects('Here they are:\n["dog"]\n') == ["dog"]
    assert object_halbench.read_objects('```json\n["dog"]\n```') == ["dog"]
    for reply in ("dog, cat", '{"dog": 1}', "[1, 2]", "()", ""):
        assert object_halbench.read_objects(reply) is None


def test_listed_objects_become_classes_as_officially():
    """Pairs first, then runs of nouns; each surface once; what the official lemmatiser spoils stays unmatched."""
    synonyms = CocoObjects.build((official_data() / "object_halbench" / "synonyms_refine.txt").read_text().splitlines())

    def classes(*phrases):
        mentions = synonyms.listed_mentions(phrases, official_tools().linguistics)
        return [(mention.word, mention.coco_class) for mention in mentions]

    assert classes("traffic lights", "red traffic light") == [("traffic light", "traffic light")]
    assert classes("man", "woman", "men") == [("man", "person"), ("woman", "person")] + (
        [("men", "person")] if "men" in synonyms.class_of else []
    )
    assert classes("sports ball", "scissors", "dining room table") == []
    assert classes("large table") == [("table", "dining table")]
    assert classes("toilet", "seat") == [("toilet", "toilet")]


def test_an_unreadable_list_is_unscored_in_llm_mode_alone(tmp_path):
    items = object_halbench.read_items(HAND_MADE / "object_halbench", plain_tools())
    file = tmp_path / "replies.jsonl"
    file.write_text("".join(json.dumps({"id": item.id, "reply": "dog, cat"}) + "\n" for item in items))
    tools = plain_tools(RecordedReplies.read(file, [item.id for item in items]))
    score = object_halbench.make_scorer(HAND_MADE / "object_halbench", tools)
    assert {key.partition("/")[0] for key in score(items[0], "A dog sits on a chair.").counts} == {"n", "words", "word"}
    assert score(items[0], "A dog sits on a chair.").unscored
    assert score(items[0], "A dog sits.").counts["llm/mentions"] == 0


def test_ground_truth_is_built_from_coco_where_it_lies_in_the_folder(tmp_path):
    for name in ("obj_halbench_300_questions.jsonl", "synonyms_refine.txt"):
        (tmp_path / name).write_text((HAND_MADE / "object_halbench" / name).read_text())
    instances = {
        "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "train"}],
        "annotations": [
            {"image_id": 11, "category_id": 7},
            {"image_id": 22, "category_id": 8},
            {"image_id": 5, "category_id": 8},
        ],
    }
    texts = {11: "Two women and a puppy.", 22: "A bow tie.", 33: "Nothing.", 44: "A street light near a seat."}
    captions = {"annotations": [{"image_id": number, "caption": text} for number, text in texts.items()]}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    (tmp_path / "captions_val2014.json").write_text(json.dumps(captions))
    tools = plain_tools()
    truth = {item.id: item.truth["objects"] for item in object_halbench.read_items(tmp_path, tools)}
    assert truth == {"11": ["dog", "person"], "22": ["tie", "train"], "33": [], "44": ["chair", "traffic light"]}
    assert tools.used["ground_truth"] == "instances_val2014.json, captions_val2014.json"


def test_the_world_scores_as_its_own_evaluation():
    from mmdpo.world.scenes import score_captions

    world = WorldBenchmark(SMALL)
    scenes = world.scenes
    generator = np.random.default_rng(0)
    captions = [
        write_caption(SMALL, SUPERVISED_CAPTIONER.name_objects(scene, generator), scene.setting, "polite")
        for scene in scenes
    ]
    captions[0], captions[1] = "", "cup cup bed"
    items = world.read_items(HAND_MADE, plain_tools())
    scores = {item.id: world.score(item, text) for item, text in zip(items, captions, strict=True)}
    sums = tabulate_counts(items, scores).sums()
    expected = score_captions(scenes, captions)
    for metric in load("world").metrics:
        assert float(metric.compute(sums)[0]) == pytest.approx(getattr(expected, metric.name[6:]), rel=1e-12)


def test_an_absent_object_counts_for_its_equal_and_for_the_first_that_is_similar():
    words = AmberWords.build({"cat": [], "dog": [], "wolf": [], "sheep": []}, [])
    item = BenchmarkItem("1", "generative", "", "", {"truth": ["cat"], "hallu": ["wolf", "sheep", "dog"]})
    similarity = PairTable([("dog", "wolf")], "")
    score = score_description(item, "A cat and a dog.", words, TableLinguistics(), similarity)
    assert score.reason == {
        "kept": ["cat", "dog"],
        "flagged": ["dog"],
        "covered": ["cat"],
        "cognitive": ["wolf", "dog"],
    }


def test_existence_has_a_guard_of_its_own_in_f1():
    """300 of 1,000 noes are said: 2PR / (P + R + 0.001) with P = 100.0 % and R = 30.0 % is 46.1 %, not 46.2 %."""
    counts = {"n": 1000.0, "is_no": 1000.0, "said_no": 300.0, "true_no": 300.0}
    sums = {f"existence/{name}": np.array([count]) for name, count in counts.items()}
    f1 = next(metric for metric in load("amber").metrics if metric.name == "amber/existence/f1")
    assert f1.official(sums) == 46.1


def test_naming_every_true_word_once_does_not_cover_everything(tmp_path):
    """AMBER's official trap: a true word that stands for an earlier one as well covers that one instead."""
    items = load("amber").read_items(official_data() / "amber", plain_tools())
    rows = [
        {"id": int(item.id), "response": ", ".join(f"a {word}" for word in item.truth["truth"])}
        for item in items
        if item.part == "generative"
    ]
    answers = tmp_path / "truth.json"
    answers.write_text(json.dumps(rows))
    tools = plain_tools()
    metrics = evaluate_answers("amber", answers, official_data(), tools, resamples=100).metrics
    assert metrics["amber/cover"].value == pytest.approx(93.3, abs=1.5)  # the table does not know every noun
    assert math.isclose(metrics["amber/chair"].value, 0, abs_tol=0.1)


OWN = '''"""Is it dark: yes or no."""
from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore, ratio_metric

LICENCE, GENERATION, TRAPS = "mine", {}, {"none": "neither yes nor no"}
METRICS = (ratio_metric("NAME/accuracy", "right", "n"),)


def read_items(data_dir, tools):
    return tuple(BenchmarkItem(name, "all", "Dark?", "") for name in ("a", "b"))


def find_id(row, items):
    return row.values["id"]


def score(item, answer):
    return ItemScore({"n": 1.0, "right": 1.0}, {}, {"none": 1})
'''


@pytest.mark.parametrize(
    ("name", "instead", "of", "said"),
    [
        ("own_without_metrics", "METRIKS", "METRICS", "own_without_metrics is no benchmark: it has no METRICS"),
        ("own_float", "1.0 #", 'ItemScore({"n"', "own_float: its scorer returned a float, not an ItemScore"),
        ("own_trap", '"nome": 1', '"none": 1', "own_trap: its TRAPS do not say what 'nome' means"),
        ("own_twice", '("a", "a")', '("a", "b")', "two items of own_twice have the id 'a'"),
    ],
)
def test_slips_of_a_benchmark_of_ones_own_are_named(tmp_path, monkeypatch, name, instead, of, said):
    assert of in OWN
    (tmp_path / f"{name}.py").write_text(OWN.replace("NAME", name).replace(of, instead))
    (tmp_path / "answers.jsonl").write_text('{"id": "a", "answer": "yes"}\n{"id": "b", "answer": "no"}\n')
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=said):
        evaluate_answers(name, tmp_path / "answers.jsonl", tmp_path, plain_tools())
