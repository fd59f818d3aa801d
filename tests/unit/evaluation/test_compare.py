"""`mmdpo eval compare`: runs of the embedded world, whose data needs no file, beside each other."""

import io
import json
import random
import re
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eval_verb import run
from mmdpo.benchmarks.reading import EvaluationError
from mmdpo.benchmarks.tasks._world import SEED, WorldBenchmark
from mmdpo.evaluation.compare import compare_runs
from mmdpo.report.comparison import markdown_comparison, print_comparison
from mmdpo.world import SMALL
from mmdpo.world.scenes import Captioner, write_caption


def score(folder, captioner, seed=0, scenes=400, fewer=0, **result):
    """Writes a run whose model is a captioner; `result` replaces keys of its result.json."""
    generator, rows = np.random.default_rng(seed), []
    for number, scene in enumerate(WorldBenchmark(SMALL).scenes[:scenes]):
        caption = write_caption(SMALL, captioner.name_objects(scene, generator), scene.setting, "terse")
        rows.append({"id": f"test-{SEED}-{number}", "answer": caption})
    folder.mkdir(parents=True)
    answers = folder.parent / f"{folder.name}.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows[fewer:]))
    run("world", "--answers", answers, "--out", folder, "--resamples", "100", "--partial")
    answers.unlink()
    if result:
        path = folder / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | result))
    return folder


PRIOR, CAREFUL = Captioner(0.5, 0.05), Captioner(0.1, 0.05)


@pytest.fixture
def runs(tmp_path):
    return [score(tmp_path / "start", PRIOR), score(tmp_path / "mdpo", CAREFUL, seed=1)]


def rows_of(comparison, run):
    return {row.metric: row for row in comparison.rows if row.run == run}


def test_differences_are_those_of_the_values_and_their_intervals_say_what_is_clear(runs):
    rows = rows_of(compare_runs(runs), "mdpo")
    chair = rows["world/chair_i"]
    assert chair.value - chair.first_value == pytest.approx(chair.difference, abs=0.011)
    assert chair.low < chair.difference < chair.high < 0
    assert chair.excludes_zero is True
    assert rows["world/cover"].excludes_zero is False  # both leave out one object in twenty
    assert rows["world/cover"].low < 0 < rows["world/cover"].high
    assert chair.items == 400
    assert chair.items_needed < 400 < rows["world/cover"].items_needed


def test_a_run_does_not_differ_from_itself(runs):
    comparison = compare_runs([runs[0], runs[1].parent / "start"])
    assert {row.difference for row in comparison.rows} == {0.0}
    assert not any(row.excludes_zero for row in comparison.rows)
    assert {row.items_needed for row in comparison.rows} == {None}


def test_table_picture_and_files(runs, tmp_path, capsys):
    third = score(tmp_path / "dpo", Captioner(0.3, 0.05), seed=2)
    capsys.readouterr()
    assert run("compare", *runs, third) == 0
    shown = capsys.readouterr().out
    assert "A = start, B = mdpo" in shown
    assert "A = start, B = dpo" in shown
    out = tmp_path / "compare"
    content = json.loads((out / "compare.json").read_text())
    assert content["runs"] == ["start", "mdpo", "dpo"]
    assert len(content["rows"]) == 8
    lines = (out / "compare.csv").read_text().splitlines()
    assert lines[0].startswith("first,benchmark,metric,unit,better,run,first_value,value,difference,low,high")
    assert len(lines) == 9
    table = (out / "compare.md").read_text()
    assert re.search(r"\| world/chair_i ↓ \| [\d.]+ \| [\d.]+ \| −[\d.]+ \| −[\d.]+ … −[\d.]+ \| yes \| 400 \|", table)
    with Image.open(out / "compare.png") as picture:
        assert min(picture.size) > 300
    assert "chair_i ↓" in re.sub("<!--|-->", "", (out / "compare.svg").read_text())


def test_runs_on_other_items_are_compared_on_the_common_ones_and_marked(runs, tmp_path):
    part = score(tmp_path / "part", CAREFUL, seed=1, scenes=150, fewer=50)
    comparison = compare_runs([runs[0], part])
    assert {row.items for row in comparison.rows} == {100}
    assert any(
        "on the 100 items that both have scored (400 in start, 100 in part)" in note for note in comparison.notes
    )
    assert any(note.startswith("part, world: partial: 300 of the 400") for note in comparison.notes)
    whole = json.loads((runs[0] / "result.json").read_text())["metrics"]["world/chair_i"]["value"]
    assert rows_of(comparison, "part")["world/chair_i"].first_value != whole


def test_other_tools_are_marked(runs, tmp_path):
    other = score(tmp_path / "other", CAREFUL, seed=1, made_by={"ground_truth": "elsewhere", "judge": "j"})
    notes = compare_runs([runs[1], other]).notes
    assert any("not the same ground_truth: 400 scenes of seed 0 in mdpo, elsewhere in other" in note for note in notes)
    assert any("not the same judge: none in mdpo, j in other" in note for note in notes)
    assert compare_runs(runs).notes == ()


def test_missing_pieces_are_shown_as_missing_and_the_rest_compared(runs, tmp_path, capsys):
    damaged, torn = score(tmp_path / "damaged", CAREFUL), score(tmp_path / "torn", CAREFUL)
    (damaged / "result.json").write_text("{")
    (torn / "scores.jsonl").write_text('{"id": "test-0-0", "image"')
    assert run("compare", *runs, damaged, torn) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "result.json, line 1: no JSON" in shown
    assert "so world has values alone" in shown
    content = json.loads((tmp_path / "compare" / "compare.json").read_text())
    of_torn = [row for row in content["rows"] if row["run"] == "torn"]
    assert {row["difference"] for row in of_torn} == {None}
    assert all(row["value"] is not None for row in of_torn)
    of_mdpo = [row for row in content["rows"] if row["run"] == "mdpo"]
    assert all(row["difference"] is not None for row in of_mdpo)


def test_suites_are_compared_benchmark_by_benchmark(tmp_path):
    for name, captioner in (("one", PRIOR), ("two", CAREFUL)):
        score(tmp_path / name / "world", captioner)
    assert {row.run for row in compare_runs([tmp_path / "one", tmp_path / "two"]).rows} == {"two"}


def test_a_folder_with_two_results_of_one_benchmark_is_no_run(runs, tmp_path):
    two = tmp_path / "both"
    two.mkdir()
    for folder in runs:
        folder.rename(two / folder.name)
    with pytest.raises(EvaluationError, match=r"both: holds two results of world or more, one of them in start; name"):
        compare_runs([two, two / "start"])


def test_what_cannot_be_compared_is_named(runs, tmp_path):
    with pytest.raises(EvaluationError, match="two runs at least"):
        compare_runs(runs[:1])
    with pytest.raises(EvaluationError, match="nowhere: no folder of results"):
        compare_runs([*runs, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"empty: holds no result\.json"):
        compare_runs([*runs, tmp_path / "empty"])
    pope = score(tmp_path / "pope", CAREFUL, benchmark="pope")
    with pytest.raises(
        EvaluationError, match=r"no metric that start and another run both have .*start: world; pope: pope"
    ):
        compare_runs([runs[0], pope])


def test_an_item_that_one_run_could_not_be_judged_on_is_left_out_of_both(tmp_path):
    """Of a tolerant MMHal score the mean over other items would be another mean."""
    for name, ratings in (("a", (1, 2, 3)), ("b", (1, None, 6))):
        counts = [{} if rating is None else {"tolerant/n": 1, "tolerant/score": rating} for rating in ratings]
        rows = [{"id": str(n), "image": str(n), "counts": count | {"official/n": 1}} for n, count in enumerate(counts)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "result.json").write_text(json.dumps({"benchmark": "mmhal", "metrics": {}}))
    comparison = compare_runs([tmp_path / "a", tmp_path / "b"])
    row = rows_of(comparison, "b")["mmhal/tolerant/score"]
    assert (row.first_value, row.value, row.difference, row.items) == (2.0, 3.5, 1.5, 2)
    assert any("1 items are left out, unscored in a or b" in note for note in comparison.notes)


ODD = [None, True, -1, 0, 10**30, 1.5, "", "text", "\ud800", "\x1b[2J", [], {}, [None], float("nan"), {"a": [1]}]


def damage(value, chance, share):
    """Replaces or removes parts of a JSON value at random."""
    if chance.random() < share:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {name: damage(part, chance, share) for name, part in value.items() if chance.random() > share / 4}
    return [damage(part, chance, share) for part in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_damaged_results_are_missing_pieces_or_one_line(runs):
    result = json.loads((runs[1] / "result.json").read_text())
    scores = [json.loads(line) for line in (runs[1] / "scores.jsonl").read_text().splitlines()[:40]]
    chance, compared = random.Random(1), 0
    for _ in range(60):
        share = chance.choice((0.0005, 0.005, 0.05))
        (runs[1] / "result.json").write_text(json.dumps(damage(result, chance, share)))
        rows = [damage(row, chance, share / 4) for row in scores]
        (runs[1] / "scores.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        for order in (runs, runs[::-1]):
            with suppress(EvaluationError):
                content = asdict(compare_runs(order, resamples=100))
                print_comparison(content, Console(file=io.StringIO()))
                markdown_comparison(content)
                compared += 1
    assert 12 < compared < 108
