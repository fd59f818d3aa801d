"""Whole benchmarks are scored: real items, made-up answers, bootstrap and writing included. perf/ has the times."""

import json
import random

import pytest

from benchmark_data import official_data, official_tools, plain_tools
from mmdpo.benchmarks.evaluate import evaluate_answers
from mmdpo.benchmarks.result_folder import write_evaluation


def write_rows(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(name, rows, tmp_path, tools):
    return score_file(name, write_rows(tmp_path / "answers.jsonl", rows), len(rows), tmp_path, tools)


def score_file(name, answers, number, tmp_path, tools):
    evaluation = evaluate_answers(name, answers, official_data(), tools)
    write_evaluation(evaluation, tmp_path / "run")
    assert len(evaluation.scores) == number


@pytest.mark.slow
def test_all_of_amber_is_scored(tmp_path):
    draw = random.Random(0)
    captions = json.loads((official_data() / "golden" / "object_halbench_word_mode.json").read_text())["items"]
    described = [f"{draw.choice(captions)['caption'][:350]} {draw.choice(captions)['caption']}" for _ in range(1004)]
    answers = described + draw.choices(["Yes", "No"], k=14_216)
    rows = [{"id": number, "response": answer} for number, answer in enumerate(answers, 1)]
    score("amber", rows, tmp_path, official_tools())


def test_all_of_pope_is_scored(tmp_path):
    draw = random.Random(0)
    rows = [
        {"id": f"{split}/{number}", "answer": draw.choice(["Yes, there is.", "No."])}
        for split in ("random", "popular", "adversarial")
        for number in range(1, 3001)
    ]
    score("pope", rows, tmp_path, plain_tools())


def test_all_of_pope_is_scored_by_order(tmp_path):
    for split in ("random", "popular", "adversarial"):
        questions = (official_data() / "pope" / f"coco_pope_{split}.json").read_text().splitlines()
        rows = [{"question": json.loads(question)["text"], "answer": "No."} for question in questions]
        write_rows(tmp_path / "answers" / f"{split}.jsonl", rows)
    score_file("pope", tmp_path / "answers", 9_000, tmp_path, plain_tools())
