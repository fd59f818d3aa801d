"""What every benchmark promises, whoever wrote it: a file dropped into `mmdpo/benchmarks/tasks` is tested here.

It needs a folder `tests/golden/NAME` of its own: a few items in the official format made by hand (answers, and replies
of the judge if it has one), and `expected.json` with numbers worked out by hand.
"""

import json
import random
import re
from importlib import import_module

import pytest

from benchmark_data import HAND_MADE, chair_folder, official_data, plain_tools
from mmdpo.benchmarks import tasks
from mmdpo.benchmarks.evaluate import evaluate_answers, find_data
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.recorded_replies import RecordedReplies
from mmdpo.benchmarks.result_folder import read_table, write_evaluation
from mmdpo.benchmarks.stats import exists
from mmdpo.evaluation.publishing import write_samples
from mmdpo.generation.questions import GenerationSettings
from mmdpo.world import WORLDS

every_benchmark = pytest.mark.parametrize("name", tasks.names())
SIZES = {"chair": 500, "world": 400, "world_large": 400}
"""Of those whose items are chosen or drawn here."""


OF_PAIRS = ("accuracy_text", "no_letter_text", "both_right", "image_only", "text_only", "both_wrong", "flip_rate")
UNASKED = {f"conflict/viquae/{name}" for name in OF_PAIRS}
"""What the official data has no answers to: ViQuAE's file does not name what its pictures show."""


def read_items(name, data=HAND_MADE):
    return tasks.load(name).read_items(find_data(name, data), plain_tools())


def official_folder(name, tmp_path):
    """Returns the folder of a benchmark's own data; skips where it is not in hand."""
    data = official_data()
    if tasks.load(name).draw_image is None and not (data / tasks.load(name).data_name).is_dir():
        pytest.skip(f"no data of {name} in {data}: its rules are tested on hand-made items alone")
    if name != "chair":
        return data
    rows = [json.loads(line) for line in (data / "pope" / "coco_pope_random.json").open()]
    ids = sorted({int(row["image"][-16:-4]) for row in rows})  # 500 images of val2014
    return chair_folder(tmp_path / "chair", ids)


class FakeJudge:
    name = "fake judge"

    def reply(self, item, answer):
        return '["dog", "cat"]' if "dog" in item.prompt or len(answer) % 2 else "[]\nrating: 3"


def tools_for(name, judge=True):
    replies = HAND_MADE / name / "replies.jsonl"
    if not judge or not replies.exists():
        return plain_tools()
    benchmark = tasks.load(name)
    return plain_tools(RecordedReplies.read(replies, benchmark.judged_ids(read_items(name)), benchmark.reads))


def hand_made_answers(name):
    return next((HAND_MADE / name).glob("answers.*"))


def evaluate(name, answers, **options):
    return evaluate_answers(name, answers, HAND_MADE, tools_for(name), resamples=200, **options)


def fake_model(item):
    """Answers anything: yes, no, or a few words, depending on the item alone."""
    number = sum(map(ord, item.id))
    return ("Yes", "No", "A dog and a cat stand under the tree.", "Not that I see. A man, a table.", "cup , bed .")[
        number % 5
    ]


def write_answers(path, name, items):
    rows = [{"answer": fake_model(item), "benchmark": name, "id": item.id} for item in items]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@every_benchmark
def test_it_documents_itself(name):
    benchmark = tasks.load(name)
    module = import_module(f"mmdpo.benchmarks.tasks.{name}")
    assert len(benchmark.summary) > 20
    assert ": " in benchmark.summary, "its title, a colon, and what it measures"
    assert benchmark.licence, "LICENCE says whose data it is"
    assert "Source:" in module.__doc__ or name in WORLDS, "its docstring says whose rule it is: `Source: …`"
    about = getattr(module, "BENCHMARK", module).find_id.__doc__ or ""
    assert "EvaluationError" in about, "the docstring of find_id says when it raises EvaluationError"
    metric_names = [metric.name for metric in benchmark.metrics]
    assert len(set(metric_names)) == len(metric_names)
    assert all(re.fullmatch(rf"{name}(/[a-z0-9_]+)+", metric) for metric in metric_names)
    assert all(metric.over for metric in benchmark.metrics)


@every_benchmark
def test_hand_made_answers_score_what_was_worked_out_by_hand(name):
    expected = json.loads((HAND_MADE / name / "expected.json").read_text())
    evaluation = evaluate(name, hand_made_answers(name), allow_partial=expected.get("partial", False))
    values = {metric: evaluation.metrics[metric].value for metric in expected["metrics"]}
    assert values == expected["metrics"]
    assert {trap: note.count for trap, note in evaluation.notes.items()} == expected["notes"]
    for item_id, flagged in expected.get("flagged", {}).items():
        reason = evaluation.scores[item_id].reason
        assert reason.get("word", reason)["flagged"] == flagged
    assert all(note.meaning for note in evaluation.notes.values())


@every_benchmark
def test_it_says_which_language_tools_it_uses(name):
    """The help of `mmdpo eval NAME` shows the options of those alone."""
    tools, used = tools_for(name), {"linguistics", "similarity"}
    evaluate_answers(name, hand_made_answers(name), HAND_MADE, tools, resamples=100, allow_partial=True)
    assert used & set(tools.used) == used & set(tasks.load(name).uses)


@every_benchmark
def test_its_items_can_be_asked(name):
    items = read_items(name)
    assert len({item.id for item in items}) == len(items)
    assert all(item.prompt.strip() and item.cluster for item in items)
    benchmark = tasks.load(name)
    assert GenerationSettings(**benchmark.generation).temperature == 0
    if benchmark.draw_image is not None:
        assert benchmark.draw_image(items[1]).tobytes() != benchmark.draw_image(items[0]).tobytes()
    judge_prompt, reads = benchmark.judge_prompt, benchmark.reads
    assert judge_prompt is not None or not benchmark.needs_judge
    assert (judge_prompt is None) == (reads is None)
    if judge_prompt is not None:
        assert not reads("I would rather not say.")
        hostile = ("", "[" * 100_000, '["a", ' + "9" * 10_000 + "]", "rating" + " ." * 100_000, "\ud800", "\0")
        assert not any(reads(reply) for reply in hostile)  # and it takes no time
        replies = [json.loads(line)["reply"] for line in (HAND_MADE / name / "replies.jsonl").open()]
        assert any(reads(reply) for reply in replies if isinstance(reply, str))
        assert all(item.prompt in judge_prompt(item, "An answer.") for item in items)
        assert "An answer." in judge_prompt(items[0], "An answer.")


@every_benchmark
def test_a_written_run_holds_the_numbers_it_was_made_from(name, tmp_path):
    """Any model, any order of rows: the same result; counts on disk give the metrics again."""
    items = list(read_items(name))
    answers = write_answers(tmp_path / "answers.jsonl", name, items)
    evaluation = evaluate_answers(name, answers, HAND_MADE, plain_tools(FakeJudge()), resamples=200)
    result = json.loads(write_evaluation(evaluation, tmp_path / "run").read_text())
    random.Random(0).shuffle(items)
    shuffled = write_answers(tmp_path / "shuffled.jsonl", name, items)
    again = evaluate_answers(name, shuffled, HAND_MADE, plain_tools(FakeJudge()), resamples=200)
    assert again.metrics == evaluation.metrics
    sums = read_table(tmp_path / "run").sums()
    metrics = [metric for metric in tasks.load(name).metrics if exists(metric, sums)]
    assert {metric.name for metric in metrics} == set(result["metrics"])
    for metric in metrics:
        shown = result["metrics"][metric.name]
        assert shown["exact"] == pytest.approx(float(metric.compute(sums)[0]), nan_ok=True) or shown["exact"] is None
        assert shown["n"] > 0
        if None not in (shown["low"], shown["exact"]):
            assert shown["low"] <= shown["high"]
    assert not set(result["notes"]) - {"empty_answer"} - set(tasks.load(name).traps)
    assert (tmp_path / "run" / "answers.jsonl").read_text().count("\n") == len(items)
    rescored = evaluate_answers(
        name, tmp_path / "run" / "answers.jsonl", HAND_MADE, plain_tools(FakeJudge()), resamples=200
    )
    assert rescored.metrics == evaluation.metrics


@every_benchmark
def test_its_samples_are_written_and_can_be_scored_again(name, tmp_path):
    evaluation = evaluate(name, hand_made_answers(name), allow_partial=True)
    samples = write_samples(evaluation, tmp_path)
    rows = [json.loads(line) for line in samples.open()]
    assert all(row["doc"]["question"] in row["arguments"]["gen_args_0"]["arg_0"] for row in rows)
    assert evaluate(name, samples, allow_partial=True).metrics == evaluation.metrics


@every_benchmark
def test_answers_that_are_missing_make_it_partial_or_an_error(name, tmp_path):
    items = read_items(name)
    part = [item for item in items if item.part == items[0].part]
    answers = write_answers(tmp_path / "answers.jsonl", name, part[:-1])
    with pytest.raises(EvaluationError, match=f"1 of the {len(part)} items .* no answer \\({part[-1].id}\\)"):
        evaluate_answers(name, answers, HAND_MADE, plain_tools(FakeJudge()), resamples=100)
    evaluation = evaluate_answers(name, answers, HAND_MADE, plain_tools(FakeJudge()), resamples=100, allow_partial=True)
    assert evaluation.coverage[part[0].part].answered == len(part) - 1
    result = json.loads(write_evaluation(evaluation, tmp_path / "run").read_text())
    assert result["partial"] is True
    assert any("1 of the" in reason for reason in result["partial_because"])


@every_benchmark
def test_answers_of_others_are_refused_with_their_line(name, tmp_path):
    own = write_answers(tmp_path / "own.jsonl", name, read_items(name))
    for other in tasks.names():
        if other == name:
            continue
        rows = [json.dumps({"id": item.id, "answer": "Yes"}) for item in read_items(other)]
        path = tmp_path / f"{other}.jsonl"
        path.write_text(own.read_text() + "\n".join(rows) + "\n")
        with pytest.raises(EvaluationError, match=rf"{other}\.jsonl, line \d+: .*(none of|second answer)"):
            evaluate(name, path)
        if tasks.load(name).answers_of == other:  # whose answers it reads
            continue
        path.write_text(json.dumps({"id": read_items(name)[0].id, "benchmark": other, "answer": "Yes"}))
        with pytest.raises(EvaluationError, match=f"line 1: an answer of {other}, not of {name}"):
            evaluate(name, path)


@every_benchmark
def test_the_official_data_is_read_whole(name, tmp_path):
    data = official_folder(name, tmp_path)
    items = read_items(name, data)
    assert len(items) == (tasks.load(name).size or SIZES[name])
    answers = write_answers(tmp_path / "answers.jsonl", name, items)
    evaluation = evaluate_answers(name, answers, data, plain_tools(FakeJudge()), resamples=200)
    absent = {metric for metric in UNASKED if metric.startswith(f"{name}/")}
    assert set(evaluation.metrics) == {metric.name for metric in tasks.load(name).metrics} - absent
    assert sum(coverage.answered for coverage in evaluation.coverage.values()) == len(items)
