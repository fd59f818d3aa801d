"""What a run costs: counted from what is on disk, estimated for the rest, and kept within a budget."""

import json
from types import SimpleNamespace

import pytest

from mmdpo.cli import main
from mmdpo.commands.pairs import _agrees
from mmdpo.generation.endpoint import Budget, BudgetSpentError
from mmdpo.generation.questions import GenerationSettings, Question
from mmdpo.pairs.asking import Prices
from mmdpo.pairs.check_judge import Gold
from mmdpo.pairs.cost import Estimate, Ledger, Spent
from mmdpo.pairs.judging import read_verdicts
from mmdpo.pairs.run import PairsRun
from tests.pairs_help import Scripted, make_prompt, paint, parse, write_lines

PRICES = {"policy": Prices(1.0, 4.0), "judge": Prices(10.0, 0.0)}
MODELS = {"sample": "policy", "judge claims": "judge", "check claims": "judge", "judge free": ""}


def write_run(folder, answers=4, replies=2, checks=1):
    line = {"id": "a", "text": "", "prompt_tokens": 100, "tokens": 20}
    write_lines(folder / "samples.jsonl", [line | {"k": k} for k in range(answers - 1)])
    write_lines(folder / "samples.part-1.jsonl", [line | {"k": answers - 1}])
    reply = {"key": "", "reply": "yes", "prompt_tokens": 1000, "tokens": 1}
    write_lines(folder / "replies-claims.jsonl", [*([reply] * (replies - 1)), {"key": "", "reply": "no"}])
    write_lines(folder / "check-claims.jsonl", [reply] * checks)


def test_what_is_on_disk_is_counted_by_step_with_its_price(tmp_path):
    """Sampling reads 4 · 100 tokens at 1 a million and writes 4 · 20 at 4; of one reply nobody said the tokens."""
    write_run(tmp_path)
    ledger = Ledger.read(tmp_path, PRICES, None, MODELS)
    counts = {step: (of.requests, of.read, of.written) for step, of in ledger.steps.items()}
    assert counts == {"sample": (4, 400, 80), "judge claims": (2, 1000, 1), "check claims": (1, 1000, 1)}
    assert ledger.steps["sample"].price == pytest.approx((400 + 80 * 4) / 1e6)
    assert ledger.total == pytest.approx((400 + 320 + 10_000 + 10_000) / 1e6)


def test_cost_is_written_with_its_sums_and_seconds_add_up_over_commands(tmp_path):
    write_run(tmp_path)
    for seconds in (2.0, 3.5):
        ledger = Ledger.read(tmp_path, PRICES, 9.0, MODELS)
        ledger.steps["sample"].seconds += seconds
        ledger.add("sample", "policy", 50, 10)  # is on disk next time, or never was
        ledger.write()
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["steps"]["sample"] == {
        "requests": 5,
        "read": 450,
        "written": 90,
        "price": pytest.approx((450 + 360) / 1e6),
        "seconds": 5.5,
    }
    assert found["price"] == pytest.approx((450 + 360 + 20_000) / 1e6)
    assert found["budget"] == 9.0


def test_models_without_a_price_cost_nothing(tmp_path):
    write_run(tmp_path)
    assert Ledger.read(tmp_path, {}, None, MODELS).total == 0


def test_a_judge_that_is_none_of_the_runs_any_more_was_paid_for(tmp_path):
    judge = json.dumps({"judge": "claims", "splits": "sentences", "name": "first"})
    options = parse("--prompts", "x", "--model", "m", "--out", tmp_path, "--judges", judge, "--judge_model", "scripted")
    run = PairsRun(options, [make_prompt(image=paint())])
    run.open_policy = lambda: Scripted(lambda turns: "A cup. A dog.")
    run.open_judge = lambda choice: Scripted(say)
    run.sample()
    run.judge()
    run.check_judges([Gold(make_prompt("g"), ("A cup.", "A cow."), (1.0, 0.0), ("", ""))])
    prices = ["--prices", '{"scripted": [1e6, 0]}', "--budget", 1000]
    other = parse("--prompts", "x", "--model", "m", "--out", tmp_path, "--judges", "consistency", *prices)
    ledger = PairsRun(other).ledger
    assert {step: (of.requests, of.price) for step, of in ledger.steps.items()} == {
        "sample": (9, 0),
        "judge first": (2, 20),
        "check first": (2, 20),
    }


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--base_url", "http://a/v1", "--judges", "objects"], "policy"),
        (["--judges", "claims", "--judge_model", "mod", "--judge_base_url", "http://a/v1"], "mod"),
        (["--judges", '{"judge": "claims", "model": "mod", "base_url": "http://a/v1"}'], "mod"),
    ],
)
def test_a_budget_that_no_price_would_ever_reach_is_refused(words, asked):
    flags = ["--prompts", "x", "--model", "policy", "--out", "y", "--budget=5", *words]
    with pytest.raises(
        ValueError, match=rf"names modell, none of the models that are asked at an endpoint \({asked}\)"
    ):
        parse(*flags, "--prices", '{"modell": [1, 2]}')
    assert parse(*flags, "--prices", json.dumps({asked: [0, 0]})).judging.budget == 5


def test_addresses_are_written_down_without_what_is_secret_in_them():
    judge = '{"judge": "claims", "model": "m", "base_url": "https://me:word@b/v1?key=c"}'
    flags = ["--prompts", "x", "--model", "m", "--out", "y", "--judges", judge, "objects"]
    found = parse(*flags, "--base_url=https://me:word@a/v1", "--judge_base_url=https://c/v1?api-key=d").resolved()
    assert (found["base_url"], found["judge_base_url"]) == ("https://a/v1", "https://c/v1")
    assert found["judges"] == [{"judge": "claims", "model": "m", "base_url": "https://b/v1"}, "objects"]


# -- budgets -----------------------------------------------------------------------------------------------------------


def ledger_of(spent, budget):
    ledger = Ledger(None, {"m": Prices(1e6, 0)}, budget)
    ledger.add("sample", "m", spent, 0)
    return ledger


def test_a_model_loaded_here_is_asked_nothing_once_the_budget_is_spent():
    model = Scripted(lambda words: "yes")
    question = Question("a", "Is it?")
    watched = ledger_of(4, 5).watch(model)
    assert watched.describe() == model.describe()
    assert watched.processes is model.processes
    assert [answer.text for answer in watched.answer([question], GenerationSettings())] == ["yes"]
    with pytest.raises(BudgetSpentError, match=r"the budget of 5 is spent \(5\.00\)"):
        list(ledger_of(5, 5).watch(model).answer([question], GenerationSettings()))
    assert len(model.asked) == 1


def test_an_endpoint_keeps_its_own_limits_beside_the_budget():
    model = Scripted(lambda words: "yes")
    model.endpoint = type("Endpoint", (), {"budget": Budget(max_requests=2, max_tokens=99)})()
    ledger = ledger_of(4, 5)
    assert ledger.watch(model) is model
    model.endpoint.budget.take_request()
    ledger.add("sample", "m", 1, 0)
    with pytest.raises(BudgetSpentError, match="the budget of 5 is spent"):
        model.endpoint.budget.take_request()
    ledger.budget = 50
    model.endpoint.budget.take_request()
    with pytest.raises(BudgetSpentError, match="the budget of 2 requests is spent"):
        model.endpoint.budget.take_request()
    assert model.endpoint.budget.max_tokens == 99


def test_without_a_budget_nothing_is_watched():
    model = Scripted(None)
    assert ledger_of(10**6, None).watch(model) is model


# -- estimates ---------------------------------------------------------------------------------------------------------


def say(words):
    return "yes" if "cup" in words else "no"


def run_of(folder, prompts, *more):
    judge = json.dumps({"judge": "claims", "splits": "sentences"})
    options = parse(
        "--prompts", "x", "--model", "policy", "--out", folder, "--judges", judge, "--num_samples", 3, *more
    )
    run = PairsRun(options, prompts)
    run.open_policy = lambda: Scripted(lambda turns: "A cup. A dog.")
    run.open_judge = lambda choice: Scripted(say)
    return run


def estimates(run):
    """Of every step the prompts done and left, and the requests that are left."""
    return {of.step: (of.done, of.left, of.row()["requests"]) for of in run.estimate()}


def test_the_rest_is_estimated_by_what_was_done(tmp_path):
    prompts = [make_prompt(f"p{n}", image=paint((n, 0, 0))) for n in range(10)]
    assert estimates(run_of(tmp_path, prompts)) == {"sample": (0, 10, None), "judge claims": (0, 10, None)}
    run = run_of(tmp_path, prompts, "--limit", 4)
    run.sample()
    assert estimates(run_of(tmp_path, prompts)) == {"sample": (4, 6, 24), "judge claims": (0, 10, None)}
    run.judge()
    assert estimates(run_of(tmp_path, prompts)) == {"sample": (4, 6, 24), "judge claims": (4, 6, 12)}
    rest = {of.step: of.row() for of in run_of(tmp_path, prompts).estimate()}
    assert (rest["sample"]["read"], rest["sample"]["written"]) == (240, 96)
    assert (rest["judge claims"]["read"], rest["judge claims"]["written"]) == (120, 12)


def test_the_files_of_the_judges_that_judged_are_told(tmp_path, capsys):
    write_lines(tmp_path / "samples.jsonl", [{"id": "own pairs-0-0", "k": k, "text": "cup ."} for k in (0, 1)])
    words = ["--prompts", "world", "--model", "world", "--judges", "objects", "consistency", "--out", str(tmp_path)]
    assert main(["pairs", "judge", *words, "--limit", "1", "--only", "objects"]) == 0
    assert f"verdicts: verdicts-objects.jsonl in {tmp_path}" in capsys.readouterr().out


def test_what_all_steps_will_cost_is_told_once(tmp_path, capsys):
    words = ["--prompts", "world", "--model", "world", "--judges", "objects", "--limit", "2", "--out", str(tmp_path)]
    assert main(["pairs", "all", *words, "--dry_run"]) == 0
    assert capsys.readouterr().out.count("What is left, in proportion to what was done") == 1


def test_a_run_that_is_done_has_nothing_left_and_one_with_fewer_prompts_neither(tmp_path):
    prompts = [make_prompt(f"p{n}", image=paint((n, 0, 0))) for n in range(4)]
    run = run_of(tmp_path, prompts)
    run.sample()
    run.judge()
    assert estimates(run_of(tmp_path, prompts)) == {"sample": (4, 0, 0), "judge claims": (4, 0, 0)}
    assert estimates(run_of(tmp_path, prompts, "--limit", 2)) == {"sample": (2, 0, 0), "judge claims": (2, 0, 0)}


def test_prompts_without_an_answer_that_can_be_judged_are_not_waited_for(tmp_path):
    prompts = [make_prompt(f"p{n}", image=paint((n, 0, 0))) for n in range(4)]
    run = run_of(tmp_path, prompts)
    run.sample()
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "samples.jsonl", [row | ({"text": ""} if row["id"] == "p3" else {}) for row in rows])
    run.judge()
    assert estimates(run_of(tmp_path, prompts))["judge claims"] == (4, 0, 0)


def test_more_answers_to_each_prompt_are_part_of_the_rest(tmp_path):
    prompts = [make_prompt(f"p{n}", image=paint((n, 0, 0))) for n in range(4)]
    run_of(tmp_path, prompts).sample()
    assert estimates(run_of(tmp_path, prompts, "--num_samples", 7))["sample"] == (0, 4, 16)


def test_what_the_check_of_a_judge_cost_says_nothing_of_the_rest(tmp_path):
    prompts = [make_prompt(f"p{n}", image=paint((n, 0, 0))) for n in range(10)]
    run = run_of(tmp_path, prompts, "--limit", 4)
    run.sample()
    run.judge()
    gold = Gold(make_prompt("g"), ("A cup.", "A cow. A bee. A bus. A hat."), (1.0, 0.0), ("", ""))
    run.check_judges([gold])
    assert estimates(run_of(tmp_path, prompts))["judge claims"] == (4, 6, 12)


def test_with_first_then_the_second_judge_is_asked_about_answers_that_would_be_in_a_pair(tmp_path):
    """Two of four prompts have a clean answer and one with a mistake; a second judge of the others learns nothing."""
    texts = {
        "p0": ["A cup.", "A dog.", "A cup."],
        "p1": ["A cup here.", "A cow.", "A cow."],
        "p2": ["A cup.", "A cup.", "A cup!"],
        "p3": ["A dog.", "A cow.", "A dog."],
    }
    prompts = [make_prompt(name, image=paint((n, 0, 0))) for n, name in enumerate(texts)]
    judges = [json.dumps({"judge": "claims", "splits": "sentences", "name": name}) for name in ("first", "second")]
    options = parse(
        *("--prompts", "x", "--model", "policy", "--out", tmp_path, "--judges", *judges, "--combine", "first_then"),
        *("--num_samples", 2, "--mistakes", "drop"),
    )
    run = PairsRun(options, prompts)
    asked = {}
    run.open_judge = lambda choice: asked.setdefault(choice.label, Scripted(say))
    run.open_policy = lambda: Scripted(None)
    rows = [
        {"id": name, "k": k, "text": text, "kind": "draw" if k else "greedy"}
        for name, of in texts.items()
        for k, text in enumerate(of)
    ]
    write_lines(tmp_path / "samples.jsonl", rows)
    run.judge()
    assert len(asked["first"].asked) == 2 + 2 + 1 + 2  # distinct statements about each picture
    assert sorted(text.partition('"')[2].partition('"')[0] for text in asked["second"].texts()) == [
        "A cow.",
        "A cup here.",
        "A cup.",
        "A dog.",
    ]
    assert {of.step: of.left for of in run.estimate()}["judge second"] == 0


def test_with_first_then_a_second_judge_that_costs_nothing_hears_all_answers(tmp_path):
    """A cup is in one of five draws, and would be in one of four if those alone were heard that make a pair with it."""
    (tmp_path / "words.json").write_text('{"cup": "cup"}')
    judge = json.dumps({"judge": "claims", "splits": "sentences", "name": "first"})
    options = parse(
        *("--prompts", "x", "--model", "policy", "--out", tmp_path, "--judges", judge, "consistency"),
        *("--combine", "first_then", "--num_samples", 5, "--no_greedy", "--vocabulary", tmp_path / "words.json"),
    )
    run = PairsRun(options, [make_prompt("p", image=paint())])
    run.open_judge = lambda choice: Scripted(say) if choice.asks_model else None
    texts = ["A cup.", "A dog.", "A cow.", "A bee.", "A bus."]
    write_lines(tmp_path / "samples.jsonl", [{"id": "p", "k": k, "text": of} for k, of in enumerate(texts, start=1)])
    run.judge()
    verdicts = read_verdicts(tmp_path, "consistency")["p"]
    assert [claim.probability for claim in verdicts[1].claims] == [0.2]
    assert len(verdicts) == 5
    assert {of.step: of.left for of in run.estimate()}["judge consistency"] == 0


@pytest.mark.parametrize(
    ("words", "step", "is_terminal", "reply", "agrees", "asks"),
    [
        (["--budget=5"], "judge", True, "y", True, True),
        (["--budget=5"], "judge", True, "", False, True),
        (["--budget=9"], "judge", True, "n", True, False),  # 3 spent, and 6 to come
        (["--budget=5", "--yes"], "judge", True, "n", True, False),
        (["--budget=5"], "judge", False, "n", True, False),
        (["--budget=5"], "sample", True, "n", True, False),  # of which nothing is known yet
        ([], "judge", True, "n", True, False),
    ],
)
def test_who_sits_at_a_terminal_is_asked_before_a_step_that_costs_more_than_is_left(
    tmp_path, monkeypatch, words, step, is_terminal, reply, agrees, asks
):
    asked = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: is_terminal))
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or reply)
    flags = ["--prompts", "world", "--model", "policy", "--out", tmp_path, "--judges", "objects", *words]
    options = parse(*flags, "--prices", json.dumps({"policy": [1, 1]}))
    estimates = [Estimate("sample", 0, 30, Spent()), Estimate("judge claims", 10, 20, Spent(price=3.0), share=2.0)]
    run = SimpleNamespace(options=options, ledger=SimpleNamespace(total=3.0), estimate=lambda: estimates)
    assert _agrees(run, step) is agrees
    assert len(asked) == asks
    if asks:
        assert "judge: the rest will cost about 6.00, and 2.00 of the budget of 5 is left" in asked[0]
