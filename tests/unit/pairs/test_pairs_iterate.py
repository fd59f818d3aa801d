"""Rounds: what is held out, what each trains on, which are kept, and going on where it was stopped."""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

import forked
import mmdpo.pairs.steps
from mmdpo.cli import main
from mmdpo.files import UnusableFileError
from mmdpo.options import UsageError, parse_options
from mmdpo.pairs.gate import IterateError, Measured, judge_round, measure
from mmdpo.pairs.iterate import BEST, ROUNDS, Rounds, make_table
from mmdpo.pairs.options import IterateOptions, PairsOptions
from mmdpo.pairs.plan import BuildError
from mmdpo.pairs.round_prompts import HELD_OUT, split_prompts
from mmdpo.pairs.round_training import can_go_on
from mmdpo.pairs.run import PairsRun
from mmdpo.pairs.steps import RoundsStopped, execute

PAIRS = {"prompts": "world", "model": "world", "max_new_tokens": 40, "judges": ["objects"], "limit": 60}


def good(**changes):
    return Measured(
        **{"wrong": 20.0, "right": 3.0, "words": 12.0, "useless": 0.0, "repeating": 0.0, "answers": 50, **changes}
    )


def options_of(tmp_path, *words, **pairs):
    file = tmp_path / "pairs.yaml"
    file.write_text(yaml.safe_dump({**PAIRS, **pairs}))
    flags = [f"--pairs={file}", f"--out={tmp_path / 'out'}", "--held_out=20", "--prompts_per_round=15", *words]
    return parse_options(IterateOptions, flags, "iterate")


class Commands:
    """Takes the place of the processes: writes the files that each command would, and keeps what was asked."""

    def __init__(self, monkeypatch, results, yields=None):
        self.words, self.results, self.yields, self.fail_at = [], dict(results), yields or {}, None
        monkeypatch.setattr("mmdpo.pairs.iterate.measure", lambda run: self.results[run.folder.parent.name])
        monkeypatch.setattr(PairsRun, "build", lambda run: self._build(run))

    def __call__(self, words):
        said = " ".join(words[3:])
        self.words.append(said)
        if self.fail_at is not None and self.fail_at in said:
            self.fail_at = None
            raise IterateError(f"{said} ended with status 9")
        if said.startswith("eval"):
            self._evaluate(words)
        if "train --config" in said:
            recipe = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
            run = Path(recipe["output_dir"])
            run.mkdir(parents=True, exist_ok=True)
            (run / "config.json").write_text("{}")

    def _build(self, run):
        number = run.folder.parent.name
        share = self.yields.get(number, 0.5)
        if share == 0:
            raise BuildError("no pair is left")
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "train.yaml").write_text(yaml.safe_dump({"objective": "dpo_anchor", "dataset_name": "x"}))
        return {"pairs": {"train": 7}, "funnel": {"yield": share}, "errors": {"chosen": 0.0, "pool": 20.0}}

    def _evaluate(self, words):
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        metric = {"exact": 21.3 if out.parent.name == "round-0" else 8.44}
        (out / "result.json").write_text(json.dumps({"metrics": {"world/chair_i": metric}}))

    def of(self, verb):
        return [said for said in self.words if said.startswith(verb)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wrong": 10.0, "right": 2.9}, ""),
        ({"wrong": 20.0}, "F1 is 88.9, no more than 88.9"),
        ({"wrong": 0.0, "right": 1.5}, "F1 is 66.7, no more"),
        ({"wrong": 2.0, "right": 2.5}, "right claims changed by -16.7 %"),
        ({"wrong": 2.0, "words": 16.0}, r"answers changed their length by \+33 % against the start, more than 25 %"),
        ({"wrong": 2.0, "useless": 5.0}, "5.0 % of answers are empty, cut off or looping, 5.0 points more"),
    ],
)
def test_a_round_is_kept_if_it_is_better_and_no_guard_speaks_against_it(tmp_path, changes, said):
    reason = judge_round(good(**changes), good(), good(), options_of(tmp_path))
    assert re.fullmatch(f"{said}.*" if said else "", reason)


def test_the_gate_may_be_the_wrong_claims_alone(tmp_path):
    chosen = options_of(tmp_path, "--gate=wrong")
    assert judge_round(good(wrong=19.0, right=2.6), good(), good(), chosen) == ""
    assert "not fewer than 20.0" in judge_round(good(wrong=20.0, right=4.0), good(), good(), chosen)


def test_f1_is_the_harmonic_mean_of_right_claims_and_of_those_against_the_start():
    assert good(wrong=10.0, right=2.4).f1(good()) == pytest.approx(2 * 90 * 80 / 170)
    assert good(wrong=100.0, right=0.0).f1(good()) == 0


def test_greedy_answers_alone_are_measured(tmp_path):
    run = PairsRun(parse_options(PairsOptions, [*_flags(tmp_path), "--limit=3"], "pairs"))
    run.folder.mkdir()
    names = [prompt.id for prompt in run.prompts]
    samples = [
        {"id": names[0], "k": 0, "text": "cup , plate .", "kind": "greedy"},
        {"id": names[0], "k": 1, "text": "bed bed bed bed bed", "kind": "draw"},
        {"id": names[1], "k": 0, "text": "cup .", "kind": "greedy"},
        {"id": names[2], "k": 0, "text": "cup cup cup cup cup", "kind": "greedy"},
    ]
    right, wrong = {"text": "cup", "is_true": True}, {"text": "plate", "is_true": False}
    verdicts = [
        {"id": names[0], "verdicts": {"0": {"score": -1, "claims": [right, wrong]}}},
        {"id": names[1], "verdicts": {"0": {"score": 1, "claims": [right]}}},
    ]
    (run.folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (run.folder / "verdicts-objects.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    found = measure(run)
    assert found.wrong == pytest.approx(100 / 3)
    assert found.right == pytest.approx(2 / 3)
    assert found.words == pytest.approx((4 + 2 + 5) / 3)
    assert found.useless == found.repeating == pytest.approx(100 / 3)


def _flags(tmp_path):
    return ["--prompts=world", "--model=world", f"--out={tmp_path / 'run'}", "--judges=objects", "--num_samples=1"]


def split(rounds):
    return split_prompts(rounds.whole.prompts, rounds.options.held_out, rounds.pairs.sampling.seed, rounds.folder)


def test_each_round_has_fresh_prompts_and_none_of_those_that_are_held_out(tmp_path, monkeypatch):
    commands = Commands(
        monkeypatch,
        {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0), "round-3": good(wrong=4.0)},
    )
    state = Rounds(options_of(tmp_path, "--rounds=3"), commands).run()
    held_out = set((tmp_path / "out" / HELD_OUT).read_text().split("\n")[:-1])
    seen = [set((tmp_path / "out" / f"round-{n}" / "prompts.txt").read_text().split("\n")[:-1]) for n in (1, 2, 3)]
    assert [len(of) for of in (held_out, *seen)] == [20, 15, 15, 10]
    assert len(held_out.union(*seen)) == 60, "no prompt twice"
    assert [row["kept"] for row in state["rounds"]] == [True, True, True]
    assert "no prompts left" not in state["ended"]


def test_prompts_about_one_image_are_held_out_together(tmp_path, monkeypatch):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:02}.png")
    pairs = {"prompts": str(folder), "ask": ["What is it?", "Where is it?"], "judges": ["consistency"], "limit": None}
    rounds = Rounds(options_of(tmp_path, "--held_out=11", **pairs), lambda words: None)
    (tmp_path / "out").mkdir()
    rest = split(rounds)
    held_out = (tmp_path / "out" / HELD_OUT).read_text().split("\n")[:-1]
    assert len(held_out) == 12
    assert {name.partition("#")[0] for name in held_out}.isdisjoint(name.partition("#")[0] for name in rest)


def test_prompts_that_share_one_of_several_images_are_held_out_together(tmp_path):
    """Twelve chains of three prompts: a and b, b and c, c alone."""
    from PIL import Image

    rows = []
    for number in range(12):
        names = [f"{number:02}{letter}.png" for letter in "abc"]
        for place, name in enumerate(names):
            Image.new("RGB", (8, 8), (number, place, 0)).save(tmp_path / name)
        for place, of in enumerate((names[:2], names[1:], names[2:])):
            rows.append({"id": f"{number}-{place}", "prompt": "What is it?", "images": of})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = {"prompts": str(tmp_path / "rows.jsonl"), "judges": ["consistency"], "limit": None}
    rounds = Rounds(options_of(tmp_path, "--held_out=10", **pairs), lambda words: None)
    (tmp_path / "out").mkdir()
    rest = split(rounds)
    held_out = (tmp_path / "out" / HELD_OUT).read_text().split("\n")[:-1]
    assert (len(held_out), len(rest)) == (12, 24)
    assert {name.partition("-")[0] for name in held_out}.isdisjoint(name.partition("-")[0] for name in rest)


def test_another_number_of_prompts_in_a_round_brings_none_back(tmp_path, monkeypatch):
    results = {f"round-{n}": good(wrong=20.0 - n) for n in range(5)}
    commands = Commands(monkeypatch, results)
    state = Rounds(options_of(tmp_path, "--rounds=2"), commands).run()
    for words, said in ((["--rounds=3", "--prompts_per_round=4"], ""), (["--rounds=5"], "round 5 has no prompts left")):
        state = Rounds(options_of(tmp_path, *words), commands).run()
        assert state["ended"].startswith(said)
        assert bool(state["ended"]) == bool(said)
    seen = [(tmp_path / "out" / f"round-{n}" / "prompts.txt").read_text().split("\n")[:-1] for n in (1, 2, 3, 4)]
    assert list(map(len, seen)) == [15, 15, 4, 6]
    assert len(set().union(*seen)) == 40


def test_the_link_is_of_the_round_that_is_the_best_after_another_guard(tmp_path, monkeypatch):
    results = {"round-0": good(), "round-1": good(wrong=15.0), "round-2": good(wrong=5.0, right=2.7)}
    commands = Commands(monkeypatch, results)
    words = ["--prompts_per_round=20", "--rounds=3"]
    assert [row["kept"] for row in Rounds(options_of(tmp_path, *words), commands).run()["rounds"]] == [True, True]
    best = tmp_path / "out" / BEST
    assert best.resolve() == (tmp_path / "out" / "round-2" / "run").resolve()
    state = Rounds(options_of(tmp_path, *words, "--guard_cover=-5"), commands).run()
    assert [row["kept"] for row in state["rounds"]] == [True, False]
    assert best.resolve() == (tmp_path / "out" / "round-1" / "run").resolve()


def test_a_training_that_was_killed_before_its_first_checkpoint_is_begun_again(tmp_path, monkeypatch):
    """Its folder holds the beginning of a run, which `mmdpo train` takes with that flag alone."""
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    (tmp_path / "out" / "round-1" / "run").mkdir(parents=True)
    (tmp_path / "out" / "round-1" / "run" / "recipe.yaml").write_text("")
    Rounds(options_of(tmp_path, "--rounds=1"), commands).run()
    (said,) = [said for said in commands.of("train") if "--config" in said]
    assert said.endswith("--resume_from_checkpoint true")


def test_answers_that_no_judge_could_look_at_are_a_result_too(tmp_path):
    """A model that says nothing any more has no verdicts, and the gate is there for such a one."""
    run = PairsRun(parse_options(PairsOptions, [*_flags(tmp_path), "--limit=2"], "pairs"))
    run.folder.mkdir()
    rows = [
        {"id": prompt.id, "k": k, "text": "", "kind": kind} for prompt in run.prompts for k, kind in enumerate(KINDS)
    ]
    (run.folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.judge()
    found = measure(run)
    assert (found.right, found.words, found.useless) == (0, 0, 100)
    assert "right claims changed by -100.0 %" in judge_round(
        found, good(), good(), options_of(tmp_path, "--gate=wrong")
    )


KINDS = ("greedy", "draw")


def test_a_judge_that_knows_no_right_claims_decides_about_no_round(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(right=0.0)})
    with pytest.raises(
        IterateError, match=r"the judge objects holds no claim of the start to be right.*--held_out_judges"
    ):
        Rounds(options_of(tmp_path), commands).run()
    assert [said for said in commands.words if "round-1" in said] == []


def test_a_start_that_one_judge_has_measured_is_not_compared_with_what_another_one_says(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)})
    Rounds(options_of(tmp_path, "--rounds=1"), commands).run()
    with pytest.raises(IterateError, match=r"held_out_judge {'judge': 'objects'}, and now it is {'judge': 'consis"):
        Rounds(options_of(tmp_path, "--held_out_judges=consistency"), commands).run()
    state = Rounds(options_of(tmp_path, "--held_out_judges=objects"), commands).run()
    assert [row["kept"] for row in state["rounds"]] == [True, True]


def test_what_most_draws_say_is_known_of_several_draws_alone(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    for judge, count in (("consistency", 6), ("objects", 1)):
        place = tmp_path / judge
        place.mkdir()
        Rounds(options_of(place, "--rounds=1", judges=[judge], num_samples=6), commands).run()
        asked = yaml.safe_load((place / "out" / "round-1" / "held_out.yaml").read_text())
        assert asked["num_samples"] == count


def test_a_round_starts_from_the_last_one_that_was_kept_and_the_link_says_which_is_the_best(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=12.0)})
    state = Rounds(options_of(tmp_path, "--rounds=3"), commands).run()
    out = tmp_path / "out"
    recipes = [yaml.safe_load((out / f"round-{n}" / "train.yaml").read_text()) for n in (1, 2)]
    assert [recipe["model_name_or_path"] for recipe in recipes] == ["world", str(out / "round-1" / "run")]
    assert "ref_model_name_or_path" not in recipes[1]
    assert yaml.safe_load((out / "round-2" / "pairs.yaml").read_text())["model"] == str(out / "round-1" / "run")
    assert (out / BEST).resolve() == (out / "round-1" / "run").resolve()
    assert [row["kept"] for row in state["rounds"]] == [True, False]
    assert state["ended"].startswith("round 2 is not kept: F1")
    assert len(make_table(state).rows) == 3


def test_the_judges_of_the_held_out_answers_look_again_at_pairs_of_a_round(tmp_path, monkeypatch):
    """Of three pairs the first is ranked alike, the second is not, of the third one answer has no verdict; a rewritten
    answer is no pair of two."""
    pairs = {"own pairs-0-0": [(1, 2)], "own pairs-0-1": [(2, 1)], "own pairs-0-2": [(1, 2)], "own pairs-0-3": [(1, 1)]}
    monkeypatch.setattr("mmdpo.pairs.iterate.read_taken", lambda folder: pairs)
    folder = tmp_path / "out" / "round-1"
    (folder / "pairs").mkdir(parents=True)
    rows = [{"id": name, "k": k, "text": "cup ."} for name in pairs for k in (0, 1, 2)]
    (folder / "pairs" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def judge(words):
        asked.append(" ".join(words[3:]))
        scores = {name: {"1": {"score": 2}, "2": {"score": 1}} for name in list(pairs)[:2]}
        scores["own pairs-0-2"] = {"1": {"score": 1}}
        lines = [json.dumps({"id": name, "verdicts": of}) + "\n" for name, of in scores.items()]
        (folder / "again" / "verdicts-consistency.jsonl").write_text("".join(lines))

    rounds = Rounds(options_of(tmp_path, "--held_out_judges=consistency"), judge)
    assert rounds._judge_again(1, folder) == 50
    assert asked == [f"pairs judge --config {folder / 'again.yaml'}"]
    judged = [json.loads(line) for line in (folder / "again" / "samples.jsonl").read_text().splitlines()]
    assert [(row["id"], row["k"]) for row in judged] == [(f"own pairs-0-{n}", k) for n in range(3) for k in (1, 2)]
    assert yaml.safe_load((folder / "again.yaml").read_text())["judges"] == ["consistency"]
    assert Rounds(options_of(tmp_path), judge)._judge_again(1, folder) is None
    monkeypatch.setattr("mmdpo.pairs.iterate.read_taken", lambda folder: {"own pairs-0-3": [(1, 1)]})
    assert rounds._judge_again(1, folder) is None
    assert len(asked) == 1, "there is nothing that another judge could compare"
    state = {"start": vars(good()), "rounds": [{"round": 1, "pairs": 7, "yield": 0.5, "agreed": 50.0, "kept": False}]}
    assert make_table(state).rows[1][-4:] == ("7", "50", "50", "not kept")


def test_start_and_reference_may_stay_the_base(tmp_path, monkeypatch):
    for name, words, start, reference in (
        ("a", ["--reference=base"], "previous", "world"),
        ("b", ["--reference=base", "--start=base"], "base", None),
    ):
        place = tmp_path / name
        place.mkdir()
        commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)})
        Rounds(options_of(place, *words), commands).run()
        recipe = yaml.safe_load((place / "out" / "round-2" / "train.yaml").read_text())
        previous = str(place / "out" / "round-1" / "run")
        assert recipe["model_name_or_path"] == (previous if start == "previous" else "world")
        assert recipe.get("ref_model_name_or_path") == reference


def test_an_adapter_is_merged_before_the_next_round(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)})

    def run(words):
        commands(words)
        if "train" in words[3:]:
            recipe = yaml.safe_load(Path(words[-1]).read_text())
            (Path(recipe["output_dir"]) / "adapter_config.json").write_text("{}")

    Rounds(options_of(tmp_path), run).run()
    out = tmp_path / "out"
    assert commands.of("merge") == [f"merge {out}/round-{n}/run {out}/round-{n}/model" for n in (1, 2)]
    recipe = yaml.safe_load((out / "round-2" / "train.yaml").read_text())
    assert recipe["model_name_or_path"] == str(out / "round-1" / "model")


@pytest.mark.parametrize("step", ["round-0/held_out.yaml", "round-1/pairs.yaml", "train", "round-2/held_out.yaml"])
def test_rounds_that_were_stopped_go_on_at_that_step_and_end_as_if_nothing_was(tmp_path, monkeypatch, step):
    results = {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)}
    commands = Commands(monkeypatch, results)
    commands.fail_at = step
    with pytest.raises(IterateError, match="status 9"):
        Rounds(options_of(tmp_path), commands).run()
    before = len(commands.of("train"))
    state = Rounds(options_of(tmp_path), commands).run()
    assert [row["kept"] for row in state["rounds"]] == [True, True]
    assert len(commands.of("train")) == (3 if step == "train" else 2), "what was trained is not trained again"
    assert before <= 2
    assert json.loads((tmp_path / "out" / ROUNDS).read_text()) == state


def test_a_round_without_pairs_ends_the_iteration_and_what_was_reached_is_kept(tmp_path, monkeypatch):
    for name, share, said in (("few", 0.05, "fewer than one in ten"), ("none", 0, "round 2 gives no pairs")):
        place = tmp_path / name
        place.mkdir()
        results = {"round-0": good(), "round-1": good(wrong=10.0)}
        state = Rounds(options_of(place), Commands(monkeypatch, results, {"round-2": share})).run()
        assert said in state["ended"]
        assert (place / "out" / BEST).resolve() == (place / "out" / "round-1" / "run").resolve()


@pytest.mark.parametrize("share", [0, 0.05])
def test_a_first_round_that_gave_no_pairs_is_tried_again_by_the_same_command(tmp_path, monkeypatch, share):
    results = {"round-0": good(), "round-1": good(wrong=10.0)}
    commands = Commands(monkeypatch, results, {"round-1": share})
    assert "round 1 gives" in Rounds(options_of(tmp_path, "--rounds=1"), commands).run()["ended"]
    commands.yields = {}  # by another rule in pairs.yaml
    state = Rounds(options_of(tmp_path, "--rounds=1"), commands).run()
    assert (state["ended"], [row["kept"] for row in state["rounds"]]) == ("", [True])


def test_other_guards_decide_again_about_the_round_that_was_not_kept(tmp_path, monkeypatch):
    results = {"round-0": good(), "round-1": good(wrong=2.0, right=2.5), "round-2": good(wrong=1.0, right=2.5)}
    commands = Commands(monkeypatch, results)
    assert "right claims" in Rounds(options_of(tmp_path), commands).run()["ended"]
    state = Rounds(options_of(tmp_path, "--guard_cover=-20"), commands).run()
    assert [row["kept"] for row in state["rounds"]] == [True, True]
    assert len(commands.of("train")) == 2


def test_benchmarks_are_told_beside_the_rounds_and_decide_nothing(tmp_path, monkeypatch):
    results = {f"round-{n}": good(wrong=20.0 - n) for n in range(3)}
    commands = Commands(monkeypatch, results)
    options = options_of(tmp_path, "--evaluate", "world --limit 8")
    for _ in range(2):  # done again, nothing is asked again
        state = Rounds(options, commands).run()
    out = tmp_path / "out"
    models = ["world", str(out / "round-1" / "run"), str(out / "round-2" / "run")]
    assert commands.of("eval") == [
        f"eval world --limit 8 --model {model} --out {out / f'round-{n}' / 'world'}" for n, model in enumerate(models)
    ]
    assert [row["benchmarks"] for row in state["rounds"]] == [{"world/chair_i": 8.44}] * 2
    assert all(row["kept"] for row in state["rounds"])
    table = make_table(state)
    assert "world/chair_i" in table.headers
    assert [row[table.headers.index("world/chair_i")] for row in table.rows] == ["21.3", "8.4", "8.4"]


def test_a_benchmark_with_other_options_is_asked_again_of_every_model(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=19.0)})
    for words in ("world --limit 8", "world", "world"):
        Rounds(options_of(tmp_path, "--rounds=1", "--evaluate", words), commands).run()
    asked = [said.partition(" --model")[0] for said in commands.of("eval")]
    assert asked == ["eval world --limit 8"] * 2 + ["eval world"] * 2


def test_pairs_of_earlier_rounds_are_mixed_in(tmp_path, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    rounds = Rounds(options_of(tmp_path, "--mix_previous=0.5"), lambda words: None)
    for number in (1, 2):
        place = tmp_path / "out" / f"round-{number}" / "pairs" / "dataset"
        place.mkdir(parents=True)
        parquet.write_table(pa.table({"round": [number] * 8}), place / "train.parquet")
    mixed = parquet.read_table(rounds._mix(2, tmp_path / "out" / "round-2"))
    assert mixed.column("round").to_pylist() == [2] * 8 + [1] * 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mix_previous=2"], r"give a number in \[0, 1\]"),
        (["--start=base"], "give --reference base too"),
        (["--guard_cover=1"], r"give a number in \[-inf, 0\]"),
        (["--rounds=0"], "give 1 or more"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, words, said):
    with pytest.raises(ValueError, match=said):
        options_of(tmp_path, *words)


def test_what_begins_with_no_benchmark_is_refused(tmp_path):
    with pytest.raises(IterateError, match="'ambr --limit 3' begins with no benchmark; give amber"):
        Rounds(options_of(tmp_path, "--evaluate", "ambr --limit 3"), None)
    with pytest.raises(IterateError, match="pope is there twice"):
        Rounds(options_of(tmp_path, "--evaluate", "pope", "amber", "pope --limit 3"), None)


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(IterateError, match="no_greedy"):
        Rounds(options_of(tmp_path, no_greedy=True))
    with pytest.raises(IterateError, match="the adapter runs/a would be put onto the models of all rounds"):
        Rounds(options_of(tmp_path, adapter="runs/a"))
    (tmp_path / "recipe.yaml").write_text("adapter_name_or_path: runs/b\n")
    with pytest.raises(IterateError, match="the adapter runs/b"):
        Rounds(options_of(tmp_path, f"--train={tmp_path / 'recipe.yaml'}"))
    with pytest.raises(UsageError, match=r"pairs.yaml: there is no 'num_smaples'; did you mean 'num_samples'"):
        Rounds(options_of(tmp_path, num_smaples=3))
    rounds = Rounds(options_of(tmp_path, "--held_out=60"), lambda words: None)
    (tmp_path / "out").mkdir()
    with pytest.raises(IterateError, match="60 prompts about 60 images, and --held_out 60 takes all"):
        rounds.run()


def test_a_folder_of_other_rounds_is_refused(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)})
    Rounds(options_of(tmp_path), commands).run()
    with pytest.raises(IterateError, match="reference 'previous', and now it is 'base'"):
        Rounds(options_of(tmp_path, "--reference=base"), commands).run()
    with pytest.raises(IterateError, match="other prompts than these rounds would hold out"):
        Rounds(options_of(tmp_path, "--held_out=10"), commands).run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_new_tokens": 60}, "held_out_answers {'max_new_tokens': 40}, and now it is {'max_new_tokens': 60}"),
        ({"system_prompt": "Be brief."}, "'system_prompt': None.*'system_prompt': 'Be brief.'"),
        ({"vocabulary": "words.json"}, "held_out_answers {'vocabulary': '[0-9a-f]{16}'}"),
    ],
)
def test_answers_that_were_asked_for_otherwise_are_not_compared_with_those_of_the_start(
    tmp_path, monkeypatch, changes, said
):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)})
    Rounds(options_of(tmp_path, "--rounds=1"), commands).run()
    (tmp_path / "words.json").write_text('{"mug": "cup"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IterateError, match=said):
        Rounds(options_of(tmp_path, **changes), commands).run()


def test_a_folder_of_something_else_is_left_alone(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "iterate.yaml").write_text("")
    (tmp_path / "out" / "holiday.jpg").write_text("")
    with pytest.raises(UnusableFileError, match=r"out holds holiday.jpg and no rounds: choose another --out"):
        Rounds(options_of(tmp_path), commands).run()
    assert not commands.words
    (tmp_path / "out" / "holiday.jpg").unlink()
    assert Rounds(options_of(tmp_path, "--rounds=1"), commands).run()["rounds"][0]["kept"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "http://localhost:1/v1", "model": "policy"}, "policy is behind an endpoint, and rounds train it"),
        ({"dry_run": True}, "dry_run: rounds do what they say"),
    ],
)
def test_what_no_round_can_do_is_refused_before_the_first(tmp_path, changes, said):
    with pytest.raises(IterateError, match=said):
        Rounds(options_of(tmp_path, **changes))


def test_a_recipe_is_a_file_or_a_name_and_a_misspelt_key_is_found_at_once(tmp_path):
    assert Rounds(options_of(tmp_path, "--train=world-mdpo")).recipe["objective"] == "mdpo"
    with pytest.raises(IterateError, match=r"--train: there is no recipe 'world-mdop'; did you mean 'world-mdpo'\?"):
        Rounds(options_of(tmp_path, "--train=world-mdop"))
    (tmp_path / "train.yaml").write_text("learning_rat: 1.0e-4")
    with pytest.raises(IterateError, match=r"train.yaml: unknown key 'learning_rat'; did you mean 'learning_rate'\?"):
        Rounds(options_of(tmp_path, f"--train={tmp_path / 'train.yaml'}"))


def test_what_a_judge_lacks_is_said_before_anything_is_asked(tmp_path):
    """The judges of the held-out answers have what they need; those of the pairs do not."""
    commands = []
    rounds = Rounds(options_of(tmp_path, "--held_out_judges=objects", judges=["claims"]), commands.append)
    with pytest.raises(ValueError, match="the judge claims asks a model: name one with --judge_model"):
        rounds.run()
    assert commands == []


def test_what_was_found_of_a_judge_goes_with_the_rounds(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "check-objects.json").write_text('{"judge": "objects"}')
    Rounds(options_of(tmp_path, "--rounds=1", out=str(tmp_path / "own")), commands).run()
    places = [tmp_path / "out" / name for name in ("round-0/held_out", "round-1/pairs", "round-1/held_out")]
    assert [(place / "check-objects.json").read_text() for place in places] == ['{"judge": "objects"}'] * 3
    (tmp_path / "own" / "check-objects.json").write_text('{"judge": "objects", "golds": 9}')  # it was checked again
    commands.results["round-2"] = good(wrong=5.0)
    Rounds(options_of(tmp_path, out=str(tmp_path / "own")), commands).run()
    assert "golds" in (tmp_path / "out" / "round-2" / "pairs" / "check-objects.json").read_text()


def test_a_picture_that_cannot_be_read_costs_its_own_prompt_alone(tmp_path, capsys):
    from PIL import Image

    rows = [{"id": f"{n}", "prompt": "What is it?", "image": f"{n}.png"} for n in range(14)]
    for n in range(13):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"{n}.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = {"prompts": str(tmp_path / "rows.jsonl"), "judges": ["consistency"], "limit": None}
    rounds = Rounds(options_of(tmp_path, "--held_out=10", **pairs), lambda words: None)
    (tmp_path / "out").mkdir()
    assert len(split(rounds)) == 3
    told = capsys.readouterr().out
    assert re.search(r"1 of 14 prompts are left out.*rows.jsonl, row 14: the image .*13.png cannot be read", told)
    for n in range(13):
        (tmp_path / f"{n}.png").unlink()
    with pytest.raises(ValueError, match=r"row 1: the image .*0.png cannot be read"):
        split(Rounds(options_of(tmp_path, "--held_out=10", **pairs), lambda words: None))


def test_where_it_is_and_what_is_left_is_said(tmp_path, monkeypatch, capsys):
    results = {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=12.0)}
    Rounds(options_of(tmp_path, "--evaluate", "world"), Commands(monkeypatch, results)).run()
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'out'}: rounds done: 0 of 2; prompts: 20 held out, 40 for the rounds, 15 each",
        "start: answers to the prompts that are held out, and verdicts",
        "start: world",
        "round 1 of 2: answers to 15 prompts",
        "round 1 of 2: verdicts of the answers",
        "round 1 of 2: pairs of the answers",
        "round 1 of 2: training on 7 pairs",
        "round 1 of 2: answers to the prompts that are held out, and verdicts",
        "round 1 of 2: world",
        "round 1 of 2: kept: F1 94.7 after 88.9, 10.0 % wrong claims after 20.0 %",
        "round 2 of 2: answers to 15 prompts",
        "round 2 of 2: verdicts of the answers",
        "round 2 of 2: pairs of the answers",
        "round 2 of 2: training on 7 pairs",
        "round 2 of 2: answers to the prompts that are held out, and verdicts",
        "round 2 of 2: world",
        "round 2 of 2: not kept: F1 is 93.6, no more than 94.7",
    ]
    Rounds(options_of(tmp_path, "--rounds=9", "--guard_words=30"), Commands(monkeypatch, results)).run()
    assert "rounds done: 1 of 9" in capsys.readouterr().out


def test_prompts_that_are_too_few_for_the_rounds_are_told_before_the_first(tmp_path, monkeypatch, capsys):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    with pytest.raises(KeyError):  # of round-2, which has no result here
        Rounds(options_of(tmp_path, "--rounds=4"), commands).run()
    assert "note: the prompts are enough for 3 of 4 rounds" in capsys.readouterr().out.partition("start:")[0]


def test_each_round_says_in_its_pairs_which_it_is(tmp_path, monkeypatch):
    results = {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=5.0)}
    Rounds(options_of(tmp_path), Commands(monkeypatch, results)).run()
    for number in (1, 2):
        config = ["--config", str(tmp_path / "out" / f"round-{number}" / "pairs.yaml")]
        assert parse_options(PairsOptions, config, "pairs").plan_build().round == number


@pytest.mark.parametrize(
    ("changed", "said"), [("recipe", "learning_rate was 0.001 and is 0.01"), ("pairs", "its pairs were others")]
)
def test_what_was_trained_otherwise_is_not_taken_for_the_round_s_model(tmp_path, monkeypatch, changed, said):
    """The training is over and its model not measured yet; then recipe or rule are changed."""
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    recipe, data = tmp_path / "train.yaml", tmp_path / "out" / "round-1" / "pairs" / "dataset" / "train.parquet"
    options = options_of(tmp_path, "--rounds=1", f"--train={recipe}")
    recipe.write_text("learning_rate: 0.001\nreport_to: none\n")
    data.parent.mkdir(parents=True)
    data.write_text("some")
    commands.fail_at = "round-1/held_out.yaml"
    with pytest.raises(IterateError, match="status 9"):
        Rounds(options, commands).run()
    recipe.write_text(f"learning_rate: {0.01 if changed == 'recipe' else 0.001}\nreport_to: wandb\n")
    data.write_text("others" if changed == "pairs" else "some")
    with pytest.raises(IterateError, match=rf"round-1/run was trained otherwise \({said}\): .* remove .*round-1"):
        Rounds(options, commands).run()
    recipe.write_text("learning_rate: 0.001\nreport_to: wandb\n")
    data.write_text("some")
    assert Rounds(options, commands).run()["rounds"][0]["kept"], "put back, it goes on"
    assert len(commands.of("train")) == 1


def test_a_round_that_was_not_kept_is_made_again_once_its_folder_is_removed(tmp_path, monkeypatch):
    import shutil

    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0), "round-2": good(wrong=12.0)})
    Rounds(options_of(tmp_path), commands).run()
    seen = (tmp_path / "out" / "round-2" / "prompts.txt").read_text()
    shutil.rmtree(tmp_path / "out" / "round-2")
    commands.results["round-2"] = good(wrong=5.0)
    state = Rounds(options_of(tmp_path), commands).run()
    assert [row["kept"] for row in state["rounds"]] == [True, True]
    assert (tmp_path / "out" / "round-2" / "prompts.txt").read_text() == seen
    assert len(commands.of("train")) == 3
    shutil.rmtree(tmp_path / "out" / "round-1")
    with pytest.raises(IterateError, match=r"round-1/prompts.txt is gone, which says what its round has seen"):
        Rounds(options_of(tmp_path, "--rounds=3"), commands).run()


def test_a_training_that_ended_when_nobody_was_left_to_see_it_is_not_begun_again(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    run = tmp_path / "out" / "round-1" / "run"
    run.mkdir(parents=True)
    for name in ("config.json", "train_results.json", "README.md"):
        (run / name).write_text("{}")
    assert Rounds(options_of(tmp_path, "--rounds=1"), commands).run()["rounds"][0]["kept"]
    assert commands.of("train") == []


def test_a_training_without_checkpoints_that_was_killed_while_its_model_was_written_begins_again(tmp_path):
    run = tmp_path / "run"
    assert not can_go_on(run)
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    assert can_go_on(run), "nothing but the beginning of a run"
    (run / "config.json").write_text("{}")
    assert not can_go_on(run)
    assert not run.exists()


def test_answers_to_a_benchmark_that_do_not_go_with_other_words_are_named(tmp_path, monkeypatch):
    commands = Commands(monkeypatch, {"round-0": good(), "round-1": good(wrong=10.0)})
    Rounds(options_of(tmp_path, "--rounds=1", "--evaluate", "world --limit 8"), commands).run()
    commands.fail_at = "eval"
    with pytest.raises(IterateError, match=r"round-0/world holds answers to `world --limit 8`: .*remove it"):
        Rounds(options_of(tmp_path, "--rounds=1", "--evaluate", "world --max_new_tokens 9"), commands).run()


STEP = """
import signal, sys, time
from pathlib import Path

def end(number, frame):
    time.sleep(0.5)  # as long as a checkpoint takes
    Path(sys.argv[1], "saved").write_text(signal.Signals(number).name)
    sys.exit(75)

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
Path(sys.argv[1], "pid").write_text(str(__import__("os").getpid()))
time.sleep(60)
"""


@pytest.fixture
def hears_ctrl_c():
    """A shell starts what it runs in the background deaf to Ctrl-C; tests may run there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run_step(folder, *signals):
    """Runs a step that ends slowly; once it runs, sends each signal to this process, or with a + to both."""

    def send():
        while not (folder / "pid").is_file() or not (folder / "pid").read_text():
            time.sleep(0.01)
        for name in signals:
            number = getattr(signal, name.rstrip("+"))
            for process in [int((folder / "pid").read_text())] * name.endswith("+") + [os.getpid()]:
                os.kill(process, number)

    threading.Thread(target=send, daemon=True).start()
    execute([sys.executable, "-c", STEP, str(folder)])


def test_sigterm_lets_a_step_save_what_it_has_and_ends_the_rounds(tmp_path):
    with pytest.raises(RoundsStopped, match="the same command goes on from here"):
        run_step(tmp_path, "SIGTERM")
    assert (tmp_path / "saved").read_text() == "SIGTERM"


@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_step_that_ctrl_c_ends_too_is_waited_for(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_step(tmp_path, "SIGINT+")
    assert (tmp_path / "saved").read_text() == "SIGINT"


@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_step_that_has_not_heard_of_ctrl_c_is_told_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(mmdpo.pairs.steps, "_PATIENCE", 0.1)
    with pytest.raises(KeyboardInterrupt):
        run_step(tmp_path, "SIGINT")
    assert (tmp_path / "saved").read_text() == "SIGTERM"


def test_how_a_step_failed_is_told(capfd):
    with pytest.raises(IterateError, match="ended with SIGKILL, which the system sends where memory runs out; what it"):
        execute([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(IterateError, match="ended with status 3; what it did is kept, and the same command goes on"):
        execute([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(
        IterateError, match=r"no-launcher cannot be started \(No such file or directory\): look at --launch"
    ):
        execute(["no-launcher", "train"])


def test_a_stop_is_no_error_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(words):
        raise RoundsStopped("stopped by SIGTERM: the same command goes on from here")

    monkeypatch.setattr(Rounds.__init__, "__defaults__", (stop,))
    pairs = tmp_path / "pairs.yaml"
    pairs.write_text(yaml.safe_dump(PAIRS))
    words = ["iterate", "--pairs", str(pairs), "--out", str(tmp_path / "out"), "--held_out", "20"]
    assert main(words) == 75
    assert "mmdpo: stopped by SIGTERM: the same command goes on from here" in capsys.readouterr().err


@pytest.mark.slow
def test_two_rounds_on_the_embedded_world_name_fewer_wrong_objects(tmp_path, monkeypatch, capfd):
    """The first step is a command that is really started; the others are processes that have imported everything."""
    ran = []

    def run(words):
        ran.append(words)
        if len(ran) == 1:
            execute(words)
        else:
            assert words[:3] == [sys.executable, "-m", "mmdpo"]
            status, _, errors = forked.run(*words[3:])
            assert status == 0, errors[-3000:]

    monkeypatch.setattr(Rounds.__init__, "__defaults__", (run,))
    pairs, train = tmp_path / "pairs.yaml", tmp_path / "train.yaml"
    pairs.write_text(yaml.safe_dump({**PAIRS, "limit": None, "batch_size": 256}))
    recipe = dict(freeze_projector=False, learning_rate=3e-4, per_device_train_batch_size=16, num_train_epochs=2)
    train.write_text(yaml.safe_dump({**recipe, "use_cpu": True, "report_to": "none", "save_strategy": "no"}))
    out = tmp_path / "out"
    words = ["iterate", "--pairs", str(pairs), "--train", str(train), "--out", str(out), "--rounds", "1"]
    assert main([*words, "--held_out", "60", "--prompts_per_round", "160", "--guard_cover", "-30"]) == 0
    state = json.loads((out / ROUNDS).read_text())
    assert state["rounds"][0]["held_out"]["wrong"] < state["start"]["wrong"] / 2
    assert len(ran) > 3
    assert (out / BEST / "config.json").is_file()
    assert "best model" in capfd.readouterr().out
