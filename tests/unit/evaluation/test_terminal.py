"""What evaluations print: names are text whatever stands in them, and every number has its metric's decimals."""

import io
import json
import re
import shutil

import pytest
from rich.console import Console

from benchmark_data import HAND_MADE
from eval_verb import run
from mmdpo.benchmarks.tasks import load
from mmdpo.report.comparison import print_comparison
from mmdpo.report.page import write_report

HOSTILE = ["[bold]x", "a\x1b[2Jb", "[link=e.org]b", "[", ":warning:", "c\x9b31md", "d\x07\x08e", "f\udcffg"]
POPE = ["--data_dir", HAND_MADE, "--answers", HAND_MADE / "pope" / "answers.jsonl", "--resamples", "100"]
AMBER = ["--data_dir", HAND_MADE, "--answers", HAND_MADE / "amber" / "answers.json", "--linguistics", "table"]


def shown_by(capsys):
    shown = capsys.readouterr()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown.out + shown.err)
    return shown.out


@pytest.mark.parametrize("name", [*HOSTILE[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in HOSTILE[2:])])
def test_names_of_folders_are_text_to_every_verb(name, tmp_path, capsys):
    run("pope", *POPE, "--out", tmp_path / name)
    run("pope", *POPE, "--out", tmp_path / "plain")
    visible = name if name.isprintable() else ascii(name)[1:-1]
    assert visible in shown_by(capsys)
    run("compare", tmp_path / "plain", tmp_path / name, "--out", tmp_path / "compare", "--resamples", "100")
    assert f"B = {visible}" in shown_by(capsys)
    answers = tmp_path / "answers"
    answers.mkdir()
    shutil.copy(HAND_MADE / "pope" / "answers.jsonl", answers / "pope.jsonl")
    options = ["--benchmarks", "pope", "world", "--answers", answers, "--data_dir", HAND_MADE, "--resamples", "100"]
    run("suite", *options, "--out", tmp_path / f"{name} suite")
    assert f"{visible} suite" in shown_by(capsys)


def test_paths_are_text_where_names_do_not_tell_runs_apart(tmp_path, capsys):
    for folder in ("[", "other"):
        run("pope", *POPE, "--out", tmp_path / folder / "bold]x")
    capsys.readouterr()
    run("compare", tmp_path / "[" / "bold]x", tmp_path / "other" / "bold]x", "--resamples", "100")
    assert f"A = {tmp_path}/[/bold]x, B = {tmp_path}/other/bold]x" in shown_by(capsys)


def test_ids_and_reasons_from_data_are_text(tmp_path, capsys):
    data = tmp_path / "pope"
    data.mkdir()
    ids = ["[/bold]", "\x1b]0;title\x07", "b", "c"]
    rows = [{"question_id": name, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"} for name in ids]
    (data / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"id": "random/b", "answer": "Yes"}) + "\n")
    options = ["--data_dir", tmp_path, "--answers", answers, "--out", tmp_path / "run", "--resamples", "100"]
    run("pope", *options, "--partial")
    shown = shown_by(capsys)
    assert "random/[/bold]" in shown
    assert r"random/\x1b]0;title\x07" in shown


def test_numbers_of_a_metric_have_its_decimals_and_say_which_way_is_better(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    run("pope", *POPE, "--out", tmp_path / "pope")
    shown = shown_by(capsys)
    assert re.search(r"pope/random/accuracy ↑ +0\.500 +\d\.\d{3}\s…\s\d\.\d{3} ", shown)
    assert re.search(r"pope/random/yes_ratio +0\.500 ", shown)
    run("amber", *AMBER, "--similarity", "exact", "--out", tmp_path / "amber", "--resamples", "100")
    shown = shown_by(capsys)
    assert re.search(r"amber/chair ↓ +25\.0 +\d+\.\d\s…\s\d+\.\d ", shown)
    assert re.search(r"amber/existence/accuracy ↑ +50\.0 ", shown)


def test_what_is_not_official_is_said_on_the_terminal(tmp_path, capsys):
    run("amber", *AMBER, "--similarity", "exact", "--out", tmp_path / "exact", "--resamples", "100")
    shown = shown_by(capsys)
    assert shown.count("NOT OFFICIAL") == 2
    assert "equal words alone" in shown
    run("pope", *POPE, "--linguistics", "table", "--similarity", "exact", "--out", tmp_path / "pope")
    assert "NOT OFFICIAL" not in shown_by(capsys)  # it uses neither


@pytest.mark.parametrize("below", ["", "amber"])
def test_a_table_of_similar_pairs_beside_the_data_stands_in_for_a_model_that_is_not_installed(
    below, tmp_path, capsys, monkeypatch
):
    def missing():
        raise ImportError("en_core_web_lg is not installed")

    monkeypatch.setattr("mmdpo.evaluation.benchmark_run.load_spacy", missing)
    shutil.copytree(HAND_MADE / "amber" / "data", tmp_path / "amber" / "data")
    options = ["amber", *AMBER, "--data_dir", tmp_path, "--out", tmp_path / "run", "--resamples", "100"]
    with pytest.raises(ImportError, match="not installed"):
        run(*options)
    shutil.copy(HAND_MADE / "amber" / "similar_pairs.json", tmp_path / below / "similar_pairs.json")
    run(*options)
    assert "similarity: pair table of by hand" in shown_by(capsys)


def test_a_comparison_at_80_columns_names_its_runs_whole_and_explains_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = {"of-the-base-model-with-a-long-name": "no", "of-the-trained-model-with-a-long-name": "yes"}
    for name, word in names.items():
        rows = [json.loads(line) | {"answer": word} for line in (HAND_MADE / "pope" / "answers.jsonl").open()]
        (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ["--data_dir", HAND_MADE, "--answers", tmp_path / "answers.jsonl", "--resamples", "100"]
        run("pope", *options, "--out", tmp_path / name)
    assert not re.search(r"\w…", shown_by(capsys))  # nothing is cut; between an interval's ends stands one with blanks
    run("compare", *(tmp_path / name for name in names), "--resamples", "100")
    shown = shown_by(capsys)
    first, second = names
    assert f"pope: A = {first}, B = {second}" in shown
    assert shown.count("+1.000") >= 8  # recall of both readings, and its interval: no number is cut
    assert not re.search(r"\w…", shown)
    assert all(len(line) <= 80 for line in shown.splitlines() if "+1.000" in line)
    assert "Items needed" not in shown
    assert "Items needed" in (tmp_path / "compare" / "compare.md").read_text()


def compared_row(metric, **figures):
    row = dict(benchmark="pope", metric=f"pope/{metric}", unit="share", better="higher", run="B", items=3000)
    row |= dict(first_value=0.812, value=0.798, difference=-0.014, low=-0.031, high=0.003, excludes_zero=False)
    return row | dict(standard_error=0.01, items_needed=11_000) | figures


def print_at_80(*rows):
    console = Console(file=io.StringIO(), width=80)
    statistics = {"resampled": "image", "resamples": 2000, "seed": 0}
    print_comparison(dict(runs=["A", "B"], rows=rows, notes=[], missing=[], statistics=statistics), console)
    return console.file.getvalue().replace("\N{NO-BREAK SPACE}", " ")


def test_names_of_all_metrics_stand_whole_beside_real_figures_at_80_columns():
    """Three decimals, signs and 3,000 items: what a comparison on the whole of POPE shows."""
    metrics = [metric.name.removeprefix("pope/") for metric in load("pope").all_metrics]
    shown = print_at_80(*(compared_row(metric) for metric in metrics))
    for metric in metrics:
        figures = r"0\.812 +0\.798 +−0\.014 +−0\.031 … \+0\.003 +3,000"
        assert re.search(rf"^{re.escape(metric)} ↑ +{figures} *$", shown, re.MULTILINE), metric
    assert max(map(len, shown.splitlines()[:20])) <= 80


def test_a_name_without_room_is_broken_after_strokes_alone_and_a_clear_difference_has_a_star():
    name = "a_reading_of_its_own/a_very_long_split/and_a_very_long_measure"
    shown = print_at_80(compared_row(name, excludes_zero=True), compared_row("f1"))
    lines = [line[:40].strip() for line in shown.splitlines()]
    assert any(line.startswith("a_reading_of_its_own/ ") for line in lines)
    assert any(line.startswith("a_very_long_split/") for line in lines)
    assert any(line.startswith("and_a_very_long_measure ↑") for line in lines)
    assert len(re.findall(r"0\.003\*", shown)) == 1
    assert "* the interval excludes 0." in shown


def test_of_few_images_intervals_are_said_to_deserve_no_trust(tmp_path, capsys):
    for name in ("one", "other"):
        run("pope", *POPE, "--out", tmp_path / name)
    said = "images: too few for intervals to be trusted, which need 10"
    assert re.search(rf"note: \d {said}", shown_by(capsys))
    run("compare", tmp_path / "one", tmp_path / "other", "--resamples", "100")
    assert re.search(r"pope: \d images in common: too few for intervals", shown_by(capsys))
    page = write_report([tmp_path / "one"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert said in page


def test_results_of_one_image_are_compared_and_drawn_without_intervals(tmp_path):
    data = tmp_path / "pope"
    data.mkdir()
    rows = [{"question_id": n, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"} for n in range(4)]
    (data / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"id": f"random/{n}", "answer": "Yes"}) + "\n" for n in range(4)))
    for name in ("one", "other"):
        run("pope", "--data_dir", tmp_path, "--answers", answers, "--out", tmp_path / name, "--resamples", "100")
    run("compare", tmp_path / "one", tmp_path / "other", "--out", tmp_path / "both", "--resamples", "100")
    assert (tmp_path / "both" / "compare.png").is_file()
    rows = json.loads((tmp_path / "both" / "compare.json").read_text())["rows"]
    assert {row["difference"] for row in rows if row["difference"] is not None} == {0.0}
    assert {row["low"] for row in rows} == {None}
