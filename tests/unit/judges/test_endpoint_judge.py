"""A judge behind an endpoint, from the command line, against a real server that fails in every way a server can."""

import io
import json
import re
import socket
from contextlib import nullcontext

import pytest

from benchmark_data import HAND_MADE
from eval_verb import run
from mmdpo import progress
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.tasks import load
from mmdpo.evaluation.judging import REMINDER, KeepingJudge
from mmdpo.judges import Failure, JudgeOptions

ANSWERS = ["It is red.", "A man sits there.", "The bowl.", "Five."]


def judge(benchmark, server, out, *more):
    """Scores the hand-made answers; returns the result."""
    folder = HAND_MADE / benchmark
    answers = next(folder.glob("answers.*"))
    url = server if isinstance(server, str) else server.url
    arguments = [benchmark, "--data_dir", folder, "--answers", answers, "--out", out, "--linguistics", "table"]
    arguments += ["--judge_url", url, "--judge_model", "judge", "--resamples", "100", *more]
    run(*arguments)
    return json.loads((out / "result.json").read_text())


def which(prompt):
    return next(number for number, answer in enumerate(ANSWERS) if f"Answer of the assistant: {answer}\n" in prompt)


def kept(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_kind_of_failure_is_survived_and_no_reply_is_asked_for_twice(serve, tmp_path):
    troubles = [
        [("slow", 0.6, "Rating: 1")],
        [("status", 429, {"Retry-After": "0.05"}), ("status", 500, {})],
        [("malformed",)],
        [("cut",)],
    ]

    def behave(prompt, number):
        trouble = troubles[which(prompt)]
        return trouble[number] if number < len(trouble) else f"Fine. Rating: {which(prompt) + 2}"

    server = serve(behave)
    first = judge("mmhal", server, tmp_path / "run", "--judge_timeout", "0.3")
    assert first["metrics"]["mmhal/score"]["value"] == 3.5  # 2, 3, 4 and 5
    assert first["partial"] is False
    assert first["made_by"]["judge"] == "judge (replies by model-of-2024)"
    assert len(server.requests) == 9  # four that were replied to, five that were not
    replies = kept(tmp_path / "run" / "judge_replies.jsonl")
    assert {row["reply"] for row in replies} == {f"Fine. Rating: {rating}" for rating in (2, 3, 4, 5)}
    assert replies[0]["usage"]["total_tokens"] == 10
    assert replies[0]["finish_reason"] == "stop"
    assert server.requests[0]["key"] == "Bearer a-secret-key"
    assert "a-secret-key" not in "".join(path.read_text() for path in (tmp_path / "run").iterdir())

    again = judge("mmhal", server, tmp_path / "run")
    assert len(server.requests) == 9
    assert again["metrics"] == first["metrics"]
    assert again["made_by"] == first["made_by"]


def test_questions_to_the_judge_its_replies_and_scores_are_counted_on_a_terminal(serve, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0)
    judge("mmhal", serve(lambda prompt, number: "Rating: 4"), tmp_path)
    for bar in ("mmhal, questions to the judge: ", "judge: ", "mmhal scores: "):
        assert re.search(rf"\r{bar}.* 0/4 ", terminal.getvalue()), bar


def test_many_are_asked_at_once(serve, tmp_path):
    server = serve(lambda prompt, number: ("slow", 0.2, "Rating: 4"))
    judge("mmhal", server, tmp_path, "--judge_concurrency", "4")
    assert server.most_at_once == 4


def test_an_unreadable_reply_is_asked_for_again_and_differently_then_unscored(serve, tmp_path):
    def behave(prompt, number):
        if which(prompt) == 0:
            return "I cannot say." if REMINDER not in prompt else "Rating: 5"
        return "No number from me." if which(prompt) == 1 else "Rating: 3"

    server = serve(behave)
    result = judge("mmhal", server, tmp_path / "run", "--judge_retries", "2")
    mended, hopeless = (
        [request for request in server.requests if which(request["messages"][0]["content"]) == number]
        for number in (0, 1)
    )
    assert (len(mended), len(hopeless), len(server.requests)) == (2, 3, 7)
    assert [request["temperature"] for request in hopeless] == [0, 0.7, 0.7]
    assert hopeless[1]["seed"] != hopeless[2]["seed"]
    assert result["metrics"]["mmhal/tolerant/score"]["value"] == 3.67  # 5, 3, 3; the second is no zero
    assert result["metrics"]["mmhal/tolerant/score"]["n"] == 3
    assert result["metrics"]["mmhal/score"]["value"] == 2.75  # the official rule, on the last reply
    assert result["notes"]["reply_unreadable"]["first"] == ["0000000000000001"]
    assert result["partial"] is True
    assert [row["attempt"] for row in kept(tmp_path / "run" / "judge_replies.jsonl")].count(2) == 1

    judge("mmhal", server, tmp_path / "run", "--judge_retries", "2")
    assert len(server.requests) == 7  # what could not be read is kept too


@pytest.mark.parametrize(
    ("benchmark", "thought", "verdict", "metric", "value"),
    [
        ("hallusionbench", "Is it incorrect? No.", "correct", "hallusionbench/aacc", 100.0),
        ("mmhal", "Rating: 1 or rating: 2?", "Rating: 5", "mmhal/score", 5.0),
        ("mmvp", "No, it is yes.", "yes", "mmvp/accuracy", 1.0),
    ],
)
def test_what_a_judge_only_thought_is_no_verdict(serve, tmp_path, benchmark, thought, verdict, metric, value):
    """Nor is a thought that the limit of tokens has cut, which is asked for again; replayed it is the same."""

    def behave(prompt, number):
        return f"<think>{thought}" + (f"</think>\n\n{verdict}" if REMINDER in prompt else "")

    result = judge(benchmark, serve(behave), tmp_path / "run", "--partial")
    assert result["metrics"][metric]["value"] == value
    rows = kept(tmp_path / "run" / "judge_replies.jsonl")
    assert {(row["attempt"], row["readable"]) for row in rows} == {(0, False), (1, True)}
    assert all(row["reply"].startswith("<think>") for row in rows)
    folder = HAND_MADE / benchmark
    replay = [benchmark, "--data_dir", folder, "--answers", next(folder.glob("answers.*")), "--out", tmp_path / "again"]
    run(*replay, "--judge_replies", tmp_path / "run" / "judge_replies.jsonl", "--resamples", "100", "--partial")
    assert json.loads((tmp_path / "again" / "result.json").read_text())["metrics"] == result["metrics"]


def test_kept_replies_can_be_replayed(serve, tmp_path):
    server = serve(lambda prompt, number: "Hm." if REMINDER not in prompt and which(prompt) < 2 else "**Rating:** 4")
    first = judge("mmhal", server, tmp_path / "run")
    folder = HAND_MADE / "mmhal"
    replay = ["mmhal", "--data_dir", folder, "--answers", folder / "answers.json", "--out", tmp_path / "replay"]
    replay += ["--judge_replies", tmp_path / "run" / "judge_replies.jsonl", "--resamples", "100"]
    run(*replay)
    assert json.loads((tmp_path / "replay" / "result.json").read_text())["metrics"] == first["metrics"]


def test_a_judge_that_goes_down_stops_the_run_and_the_next_one_goes_on(serve, tmp_path):
    is_down = True

    def behave(prompt, number):
        return "Rating: 6" if which(prompt) == 0 or not is_down else ("status", 503, {})

    server = serve(behave)
    few = ("--judge_tries", "2", "--judge_concurrency", "1")
    with pytest.raises(EvaluationError, match=r"no reply to 3 of 4 requests, the first about item 0{15}1: .*503.*kept"):
        judge("mmhal", server, tmp_path, *few)
    assert len(server.requests) == 1 + 3 * 2
    is_down = False
    result = judge("mmhal", server, tmp_path, *few)
    assert result["metrics"]["mmhal/score"]["value"] == 6.0
    assert len(server.requests) == 1 + 3 * 2 + 3


class DeadSource:
    """Every request fails."""

    asked = 0

    def complete(self, requests, keep, fail):
        for request in requests:
            self.asked += 1
            fail(request, Failure("it is down", "failed"))


@pytest.mark.parametrize("partial", [True, False])
def test_nothing_more_is_asked_after_a_few_failures(tmp_path, partial):
    benchmark = load("mmhal")
    items = benchmark.read_items(HAND_MADE / "mmhal", None)
    source = DeadSource()
    keeper = KeepingJudge(
        source, JudgeOptions(model="dead"), benchmark, tmp_path / "replies.jsonl", failures=2, allow_missing=partial
    )
    with nullcontext() if partial else pytest.raises(EvaluationError, match=r"no reply to 4 of 4 .*it is down"):
        keeper.ask_all([(item, "answer") for item in items])
    assert source.asked == 2
    assert not partial or [keeper.reply(item, "answer") for item in items] == [None] * 4
    assert source.asked == 2  # nor later, one by one


def test_a_judge_that_is_not_there(serve, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    serve(lambda prompt, number: "")  # shortens the waits
    with pytest.raises(EvaluationError, match=r"no reply to 4 of 4 .*no connection.*The 0 replies so far"):
        judge("mmhal", nobody, tmp_path, "--judge_tries", "2")
    result = judge("object_halbench", nobody, tmp_path / "ohb", "--judge_tries", "1", "--partial")
    assert result["partial"] is True
    assert result["coverage"]["all"] == {"items": 4, "answered": 4, "scored": 1}  # three words need no judge
    assert result["metrics"]["object_halbench/word/chair_i"]["value"] == 37.5


def test_one_refused_request_leaves_the_others(serve, tmp_path):
    server = serve(lambda prompt, number: ("status", 400, {}) if which(prompt) == 0 else "Rating: 2")
    with pytest.raises(EvaluationError, match=r"no reply to 1 of 4 requests.*refuses a request"):
        judge("mmhal", server, tmp_path)
    result = judge("mmhal", server, tmp_path, "--partial")
    assert result["metrics"]["mmhal/score"]["value"] == 2.0
    assert result["coverage"]["all"]["scored"] == 3
    assert len(server.requests) == 4 + 1  # a refusal is no reply: it is tried again, the three are not


def test_a_shared_cache_serves_every_run_and_only_what_would_be_asked_alike(serve, tmp_path):
    server = serve(lambda prompt, number: '["dog"]' if "JSON" in prompt else "Rating: 1")
    cache = ("--judge_cache", tmp_path / "cache")
    judge("mmhal", server, tmp_path / "one", *cache)
    judge("mmhal", server, tmp_path / "two", *cache)
    assert len(server.requests) == 4
    judge("object_halbench", server, tmp_path / "three", *cache)
    assert len(server.requests) == 4 + 3  # one answer is too short to hold an object
    judge("mmhal", server, tmp_path / "four", *cache, "--judge_temperature", "0.2")
    assert len(server.requests) == 4 + 3 + 4
    assert not (tmp_path / "one" / "judge_replies.jsonl").exists()


def test_a_cache_that_was_cut_off_is_mended_and_one_that_is_damaged_is_named(serve, tmp_path):
    server = serve(lambda prompt, number: "Rating: 3")
    judge("mmhal", server, tmp_path)
    path = tmp_path / "judge_replies.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    result = judge("mmhal", server, tmp_path)
    assert result["metrics"]["mmhal/score"]["value"] == 3.0
    assert len(server.requests) == 4 + 1
    assert len(kept(path)) == 4
    path.write_text('{"reply": "Rating: 6"}\n' + whole)
    with pytest.raises(EvaluationError, match=r"judge_replies\.jsonl, line 1: no kept reply"):
        judge("mmhal", server, tmp_path)


def test_a_full_disk_is_no_fault_of_the_judge(serve, tmp_path, monkeypatch):
    def fail(*_):
        raise EvaluationError("cannot be written (No space left on device)")

    monkeypatch.setattr("mmdpo.evaluation.judging.LineFile.append", fail)
    with pytest.raises(EvaluationError, match="No space left"):
        judge("mmhal", serve(lambda prompt, number: "Rating: 3"), tmp_path, "--partial")


def test_wrong_uses_are_named(serve, tmp_path):
    server = serve(lambda prompt, number: "Rating: 3")
    alone = ["mmhal", "--data_dir", HAND_MADE, "--answers", HAND_MADE / "mmhal" / "answers.json", "--out", tmp_path]
    with pytest.raises(ValueError, match="--judge_cache is of a judge that is asked: name it"):
        run(*alone, "--judge_replies", HAND_MADE / "mmhal" / "replies.jsonl", "--judge_cache", tmp_path / "cache")
    with pytest.raises(ValueError, match="--judge_retries is -1"):
        judge("mmhal", server, tmp_path, "--judge_retries", "-1")
    with pytest.raises(ValueError, match="leave --judge_model out"):
        judge("mmhal", server, tmp_path, "--judge_replies", HAND_MADE / "mmhal" / "replies.jsonl")
    with pytest.raises(ValueError, match="--judge_model: pope has no judge"):
        judge("pope", server, tmp_path)
    with pytest.raises(ValueError, match="--judge_tries is 0"):
        judge("mmhal", server, tmp_path, "--judge_tries", "0")
