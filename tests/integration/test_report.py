"""`mmdpo report` as a command: a run of training with its evaluation and sample answers, beside others."""

import json
import re
import shutil

import pytest

from mmdpo.cli import main
from mmdpo.evaluation.pictures import find_picture
from mmdpo.world.scenes import BALANCED_CO_OCCURRENCE, render, sample_scenes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of two steps, each evaluated on the same answers but for one."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("mdpo", "dpo"):
        arguments = dict(
            model_name_or_path="world",
            dataset_name="world",
            output_dir=folder / name,
            objective=name,
            per_device_train_batch_size=4,
            max_steps=2,
            logging_steps=1,
            report_to="none",
            use_cpu="true",
            disable_tqdm="true",
            check_data="text",
            precompute_ref_log_probs="false",
            sample_answers_steps=1,
            sample_answers=2,
        )
        assert main(["train", *(f"--{key}={value}" for key, value in arguments.items())]) == 0
        answers = folder / f"{name}.jsonl"
        scenes = sample_scenes(400, 0, BALANCED_CO_OCCURRENCE, "test")
        said = [" , ".join(scene.names) for scene in scenes]
        absent = next(name for name in ("cup", "car", "bed") if name not in scenes[0].names)
        said[0] += f" , {absent}" if name == "dpo" else ""
        rows = [{"id": f"test-0-{place}", "answer": text} for place, text in enumerate(said)]
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = folder / name / "eval" / "world"
        assert main(["eval", "world", f"--answers={answers}", f"--out={out}", "--resamples=200"]) == 0
    return folder


def test_the_page_of_two_runs_tells_what_they_did_and_where_they_differ(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(runs / "mdpo"), str(runs / "dpo"), "--out", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert str(page) in capsys.readouterr().out
    assert not re.search(r'(src|href)="(?!data:|#)', html), "the page needs no other file"
    assert "What is missing" not in html
    for title in ("Training", "Evaluation: Embedded world", "Sample answers during training", "Settings"):
        assert f">{title}</h2>" in html
    assert ">objective</th><td>mdpo</td><td>dpo</td>" in html
    assert len(re.findall(r"<mark>(?:cup|car|bed)</mark>", html)) == 1, "one word of one answer is wrong"
    assert "below it the difference to mdpo" in html
    assert html.index('id="in-short"') < html.index("Against mdpo, dpo ") < html.index('id="eval-world"')
    assert html.count("<figcaption>corrupted</figcaption>") == 6 + 2, "of six items, and of the samples of mDPO"
    assert html.count('class="strip"') == 4, "two prompts of two runs, folded"
    assert html.count("<h4>chosen</h4>") == html.count("<h4>rejected</h4>") == 2
    beside = {path.name for path in (tmp_path / "page_files").iterdir()}
    assert {"curves.png", "curves.svg", "eval-world.csv", "eval-world.md", "training.csv", "samples.csv"} <= beside
    assert {f"eval-world_differences.{ending}" for ending in ("png", "svg", "md", "csv")} <= beside


def test_the_command_says_what_it_found_and_what_it_left_out(runs, tmp_path, capsys):
    (runs / "odd\x1b[2J").mkdir(exist_ok=True)
    assert main(["report", str(runs), "--out", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^Found: 2 results: ", said)
    for name in ("mdpo", "dpo"):
        assert f"/{name}: a run of mmdpo train inside" in said
    assert said.count("Left out: ") == 2
    assert "\x1b" not in said


def test_a_page_that_cannot_be_written_is_said_in_a_line(runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(runs / "mdpo"), "--out", str(tmp_path / "file" / "page.html")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is a file: choose another place" in said


def test_comparing_folders_whose_names_are_markup_prints_the_names(runs, tmp_path, capsys):
    odd = tmp_path / "[" / "bold]x"
    shutil.copytree(runs / "mdpo" / "eval" / "world", odd)
    shutil.copytree(runs / "dpo" / "eval" / "world", tmp_path / "other" / "bold]x")
    out = str(tmp_path / "out")
    assert main(["eval", "compare", str(odd), str(tmp_path / "other" / "bold]x"), "--out", out]) == 0
    assert "[/bold]x" in (tmp_path / "out" / "compare.md").read_text()


def test_a_folder_of_no_kind_is_an_error_that_names_what_was_looked_for(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(runs / "mdpo"), str(tmp_path), "--out", str(page)]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in (str(tmp_path), "recipe.yaml", "result.json", "study.yaml", "diagnosis.json"))
    assert not page.exists()


def test_scenes_are_painted_by_the_seed_and_number_of_their_id(tmp_path):
    (scene,) = sample_scenes(4, 7, BALANCED_CO_OCCURRENCE, "test")[3:]
    assert find_picture(None, "world", "test-7-3", "test-7-3.png").tobytes() == render(scene).tobytes()
    assert find_picture(tmp_path, "pope", "random/1", "absent.jpg") is None
