"""`mmdpo diagnose`: what it says of models and data whose dependence on the image is known."""

import fcntl
import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import forked
from mmdpo.cli import main
from mmdpo.diagnosis import pair_scores
from mmdpo.diagnosis.pair_scores import ScoreLog, score_items
from mmdpo.world.pairs import make_pairs


def write_pairs(folder, count, seed=11, **changes):
    """Writes pairs of the world as a JSON Lines file; `changes` are laid over the rows with these numbers."""
    lines = []
    for number, row in enumerate(make_pairs(count, seed=seed)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"], **changes.get(f"row_{number}", {})}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / "pairs.jsonl")


class TestFiles:
    @pytest.fixture(scope="class")
    def diagnosis(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("diagnosis")
        data = write_pairs(folder, 14, row_3={"images": [], "prompt": [{"role": "user", "content": "describe"}]})
        out = folder / "out"
        assert main(["diagnose", "--model", "world", "--dataset", data, "--out", str(out)]) == 0
        return out

    def test_a_pair_without_an_image_is_left_out_by_name_and_the_rest_is_measured(self, diagnosis):
        found = json.loads((diagnosis / "diagnosis.json").read_text())
        assert found["pairs"] == 13
        assert "row 4: it has no image" in found["left_out"][0]
        assert found["measures"]["accuracy_real"]["low"] is not None
        assert found["measures"]["gain_chosen"]["value"] > 5, "the supervised model looks at the image"
        assert "there is no reference" in found["notes"][0]
        assert not any("was trained on these pairs" in note for note in found["notes"])
        assert found["measures"]["margin_real"]["unit"] == "nats"

    def test_a_pair_whose_score_is_no_number_ends_it_by_name_and_what_came_before_is_kept(
        self, tmp_path, monkeypatch, capsys
    ):
        def overflow(*given, **how):
            scored = score_items(*given, **how)
            return replace(scored, sums=scored.sums * torch.tensor([1.0, math.nan])) if calls.pop() == 2 else scored

        calls = [3, 2, 1]
        monkeypatch.setattr(pair_scores, "score_items", overflow)
        data, out = write_pairs(tmp_path, 6), tmp_path / "out"
        command = ["diagnose", "--model", "world", "--dataset", data, "--out", str(out), "--batch_size", "2"]
        assert main(command) == 2
        assert "row 4: the policy gives its answers no finite log-probability" in capsys.readouterr().err
        assert len((out / "policy_scores.jsonl").read_text().splitlines()) == 3
        assert not (out / "diagnosis.json").exists()

    def test_examples_are_sorted_and_carry_their_pictures(self, diagnosis):
        rows = [json.loads(line) for line in (diagnosis / "examples.jsonl").read_text().splitlines()]
        reliance = [row["reliance"] for row in rows]
        assert reliance == sorted(reliance, reverse=True)
        assert all(Image.open(row["images"][0]).size == (96, 96) for row in rows)
        assert (diagnosis / rows[0]["picture"]).is_file()
        assert (diagnosis / rows[-1]["corrupted_picture"]).is_file()
        first = rows[0]
        assert first["reliance"] == pytest.approx(first["margins"]["real"] - first["margins"]["none"])

    def test_tokens_of_both_ends_add_up_to_what_pairs_are_sorted_by(self, diagnosis):
        pairs = {row["rank"]: row for row in map(json.loads, (diagnosis / "examples.jsonl").read_text().splitlines())}
        rows = [json.loads(line) for line in (diagnosis / "per_token.jsonl").read_text().splitlines()]
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]
        for row in rows:
            pair = pairs[row["rank"]]
            assert row["id"] == pair["id"]
            for name, answer in row["answers"].items():
                assert answer["text"] == pair[name]
                assert "".join(answer["text"][start:end] for start, end in answer["spans"]) == answer["text"]
                sums = {image: sum(values) for image, values in answer["policy"].items()}
                assert sums["real"] - sums["none"] == pytest.approx(pair["gains"][name], abs=1e-3)
            chosen, rejected = (row["answers"][name]["policy"] for name in ("chosen", "rejected"))
            for image, margin in pair["margins"].items():
                assert sum(chosen[image]) - sum(rejected[image]) == pytest.approx(margin, abs=1e-3)
        page = (diagnosis / "diagnosis.html").read_text()
        assert page.count("policy, against no image: sum") == 24

    def test_the_page_needs_no_other_file(self, diagnosis):
        page = (diagnosis / "diagnosis.html").read_text()
        assert page.count("data:image/png;base64,") == 36, "the image, the corrupted and the other one of 12 pairs"
        assert "http" not in page.replace("http-equiv", "")
        assert "prefers-color-scheme: dark" in page
        assert "pair accuracy, another example" in page
        assert "| pair accuracy, no image (%) |" in (diagnosis / "diagnosis.md").read_text()

    def test_the_other_examples_image_stands_beside_for_the_verdict_rests_on_it(self, diagnosis):
        rows = [json.loads(line) for line in (diagnosis / "examples.jsonl").read_text().splitlines()]
        pictures = [
            [Image.open(diagnosis / row[key]).tobytes() for key in ("picture", "other_picture")] for row in rows[:3]
        ]
        assert all(own != other for own, other in pictures)


class TestInterrupted:
    """Scores are on disk as they are made; a diagnosis that was killed resumes from them."""

    @pytest.fixture(scope="class")
    def killed_once(self, tmp_path_factory):
        """A diagnosis in a process that is killed after two of four batches, once for all tests."""
        folder = tmp_path_factory.mktemp("killed")
        data = write_pairs(folder, 14)
        code = (
            "import os, signal\n"
            "from mmdpo.diagnosis.pair_scores import ScoreLog\n"
            "append = ScoreLog.append\n"
            "def append_and_die(log, start, scores):\n"
            "    append(log, start, scores)\n"
            "    if start >= 4:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "ScoreLog.append = append_and_die\n"
            "from mmdpo.cli import main\n"
            f"main({self.command(data, folder / 'out')!r})\n"
        )
        (folder / "killed.py").write_text(code)
        assert forked.run(folder / "killed.py")[0] == -signal.SIGKILL
        return folder

    @pytest.fixture
    def killed(self, killed_once, tmp_path):
        """Its data and its folder, copied for one test."""
        shutil.copytree(killed_once, tmp_path, dirs_exist_ok=True)
        return str(tmp_path / "pairs.jsonl"), tmp_path / "out"

    def command(self, data, out):
        return ["diagnose", "--model", "world", "--dataset", data, "--batch_size", "4", "--out", str(out)]

    def test_it_resumes_where_it_was_and_finds_what_an_uninterrupted_one_finds(self, killed, monkeypatch):
        data, out = killed
        assert len((out / "policy_scores.jsonl").read_text().splitlines()) == 1 + 8
        with (out / "policy_scores.jsonl").open("a") as file:
            file.write('{"key": "torn')
        scored = []
        append = ScoreLog.append
        monkeypatch.setattr(
            ScoreLog, "append", lambda log, start, scores: (scored.append(start), append(log, start, scores))
        )
        assert main(self.command(data, out)) == 0
        assert scored == [8, 12], "the first two batches are not scored again"
        whole = out.with_name("whole")
        assert main(self.command(data, whole)) == 0
        assert (out / "examples.jsonl").read_text() == (whole / "examples.jsonl").read_text()
        assert (out / "policy_scores.jsonl").read_text() == (whole / "policy_scores.jsonl").read_text()
        assert (out / "per_token.jsonl").read_text() == (whole / "per_token.jsonl").read_text()

    @pytest.mark.parametrize("other", ["batch", "answer", "picture", "order"])
    def test_other_settings_or_rows_are_refused(self, killed, other, capsys):
        data, out = killed
        command = self.command(data, out)
        lines = Path(data).read_text().splitlines()
        if other == "batch":
            command[command.index("--batch_size") + 1] = "2"
        elif other == "picture":
            shutil.copy(Path(data).parent / "5.png", Path(data).parent / "0.png")
        else:
            first = json.loads(lines[0])
            first["chosen"][0]["content"] = "something else"
            changed = [json.dumps(first), *lines[1:]] if other == "answer" else [*lines[1:], lines[0]]
            Path(data).write_text("\n".join(changed) + "\n")
        before = (out / "policy_scores.jsonl").read_text()
        assert main(command) == 2
        said = capsys.readouterr().err
        expected = "with another batch_size: 4 there, 2 now" if other == "batch" else "was scored with another prompt"
        assert expected in said
        assert (out / "policy_scores.jsonl").read_text() == before, "nothing is lost"

    def test_a_finished_diagnosis_is_not_written_over(self, killed, capsys):
        data, out = killed
        assert main(self.command(data, out)) == 0
        assert main(self.command(data, out)) == 2
        assert "holds a run already" in capsys.readouterr().err


def test_data_whose_interval_touches_chance_is_not_said_to_be_decided_by_its_text(tmp_path, capsys):
    rows = []
    for number in range(16):  # the first word tells in three of four pairs
        words = ("yes", "no") if number % 4 else ("no", "yes")
        chosen, rejected = (f"{word} it is {number}" for word in words)
        rows.append(
            {"prompt": f"<image>what is {number}?", "images": ["a.png"], "chosen": chosen, "rejected": rejected}
        )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert main(["diagnose", "--data_only", "--dataset", str(tmp_path / "pairs.jsonl"), "--out", str(out)]) == 0
    rule = json.loads((out / "diagnosis.json").read_text())["rules"]["text"]
    said = " ".join(capsys.readouterr().out.split())
    assert rule["low"] <= 50 <= rule["high"]
    assert "cannot be told" in said
    assert "so much of the preference can be learnt" not in said


@pytest.mark.parametrize("verb", [["diagnose", "--model", "world"], ["diagnose", "--data_only"]])
def test_a_place_where_nothing_can_be_written_is_said_in_a_line_before_anything_is_scored(verb, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*verb, "--dataset", "world", "--pairs", "4", "--out", str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be made" in said
    assert "choose another place" in said


def test_a_folder_that_another_process_works_in_is_refused(tmp_path, capsys):
    """Both would add their scores to one file, from which neither could be resumed."""
    out = tmp_path / "out"
    out.mkdir()
    with (out / "_lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for what in (["--model", "world"], ["--data_only"]):
            assert main(["diagnose", *what, "--dataset", "world", "--pairs", "4", "--out", str(out)]) == 2
            assert "is in use by another process" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["_lock"]


def test_an_adapter_is_compared_with_the_model_without_it(tmp_path):
    data = write_pairs(tmp_path, 4)
    options = dict(objective="dpo", learning_rate="1e-3", lora_r="2", num_train_epochs="2", logging_steps="1")
    flags = [f"--{key}={value}" for key, value in options.items()]
    flags += ["--use_peft", "--use_cpu", "--report_to=none", "--save_strategy=no", "--gradient_checkpointing=false"]
    train = ["train", "--model_name_or_path", "world", "--dataset_name", data, "--output_dir", str(tmp_path / "run")]
    assert main([*train, *flags]) == 0
    out = tmp_path / "out"
    named = ["--model", "world", "--adapter", str(tmp_path / "run"), "--dataset", data]
    assert main(["diagnose", *named, "--out", str(out)]) == 0
    found = json.loads((out / "diagnosis.json").read_text())
    assert "adapter switched off" in found["notes"][0]
    assert found["measures"]["margin_real"]["unit"] == "reward"
    assert found["measures"]["margin_real"]["value"] != 0
    rows = [json.loads(line) for line in (out / "per_token.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    answers = [answer for row in rows for answer in row["answers"].values()]
    assert all(len(of["policy"]["real"]) == len(of["reference"]["real"]) == len(of["tokens"]) for of in answers)
    assert any(of["policy"] != of["reference"] for of in answers), "the adapter is off for the reference"
    assert "reference, against no image" in (out / "diagnosis.html").read_text()
    assert any("too few for intervals" in note for note in found["notes"])
    assert any(f"was trained on these pairs ({tmp_path / 'run' / 'recipe.yaml'})" in note for note in found["notes"])


def test_pairs_of_one_image_have_no_other_image_and_the_rest_is_reported(tmp_path):
    data = write_pairs(tmp_path, 3, row_1={"images": ["0.png"]}, row_2={"images": ["0.png"]})
    out = tmp_path / "out"
    assert main(["diagnose", "--model", "world", "--dataset", data, "--out", str(out), "--per_token", "0"]) == 0
    found = json.loads((out / "diagnosis.json").read_text())
    assert "accuracy_other" not in found["measures"]
    assert not (out / "per_token.jsonl").exists()
    assert "tokens" not in (out / "policy_scores.jsonl").read_text()
    assert "accuracy_none" in found["measures"]
    assert any("another example's image is not measured" in note for note in found["notes"])


def test_the_planted_shortcut_of_the_world_is_found_in_the_data_alone(tmp_path):
    out = tmp_path / "out"
    assert main(["diagnose", "--data_only", "--dataset", "world", "--pairs", "200", "--out", str(out)]) == 0
    found = json.loads((out / "diagnosis.json").read_text())
    assert 88 < found["rules"]["text"]["accuracy"] <= 100
    assert found["grouped_by"] == "prompt and image"
    assert "“sure”" in {name for feature in found["features"] for name in feature["names"]}
    assert len((out / "examples.jsonl").read_text().splitlines()) == 200
    assert "the first 3 words alone" in (out / "diagnosis.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--model is missing"),
        (["--data_only", "--model", "world"], "leave out --model"),
        (["--model", "world", "--adapter", "a", "--reference", "b"], "not both"),
        (["--model", "world", "--batch_size", "0"], "--batch_size is 0"),
        (["--model", "world", "--corruption", "blurr"], "did you mean 'blur'"),
        (["--model", "world", "--image_dir", "i"], "--image_dir means nothing to --dataset; leave it out"),
        (["--data_only", "--beta", "0.2"], "--beta means nothing to --data_only; leave it out"),
        (["--model", "world", "--per_token", "many"], "--per_token is many; give a number of pairs, `all`, or 0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path, flags, said, capsys):
    assert main(["diagnose", "--dataset", "world", "--out", str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class TestProbes:
    """On the embedded world, which knows no letters: what is written, and what each number is a share of."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("probes")
        questions, prompts = [], []
        for number, row in enumerate(make_pairs(4, seed=11)):
            row["images"][0].save(folder / f"{number}.png")
            questions.append(
                {
                    "id": f"q{number}",
                    "question": "describe",
                    "image": f"{number}.png",
                    "entity": "a street" if number else None,
                    "multiple_choices": {"A": "cup", "B": "rug"},
                    "multiple_choices_answer": "A",
                }
            )
            prompts.append({"prompt": "describe", **({"image": f"{number}.png"} if number else {})})
        (folder / "questions.json").write_text(json.dumps(questions))
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
        return folder

    def test_a_conflict_is_measured_where_the_thing_is_named(self, folder, tmp_path, capsys):
        out = tmp_path / "out"
        command = ["diagnose", "--model", "world", "--conflict", str(folder / "questions.json"), "--out", str(out)]
        assert main(command) == 0
        found = json.loads((out / "diagnosis.json").read_text())
        assert {name: found["measures"][name]["n"] for name in ("accuracy_image", "accuracy_text", "flip_rate")} == {
            "accuracy_image": 4,
            "accuracy_text": 3,
            "flip_rate": 3,
        }
        cells = ("both_right", "image_only", "text_only", "both_wrong")
        assert sum(found["measures"][cell]["value"] for cell in cells) == pytest.approx(100)
        assert "4 questions of" in (out / "diagnosis.md").read_text()
        assert "1 of 4 questions do not say" in capsys.readouterr().out
        assert "answer, text" in (out / "diagnosis.html").read_text()

    def test_an_empty_picture_moves_the_prompt_layer_by_layer(self, folder, tmp_path):
        out = tmp_path / "out"
        command = ["diagnose", "--model", "world", "--empty_image", str(folder / "prompts.jsonl"), "--out", str(out)]
        assert main([*command, "--empty", "noise"]) == 0
        found = json.loads((out / "diagnosis.json").read_text())
        assert {name: measure["n"] for name, measure in found["measures"].items()} == {
            "refusals_image": 3,
            "refusals_empty": 4,
            "refusals_none": 4,
        }
        moved = [layer["moved"] for layer in found["layers"]]
        assert moved[0] == 0  # the last token's embedding knows nothing of what stands before it
        assert all(value > 0 for value in moved[1:])
        vectors = load_file(out / "vectors.safetensors")
        assert {name: len(of) for name, of in vectors.items()} == {"mean": len(moved), "first_component": len(moved)}

    @pytest.mark.parametrize(("probe", "file"), [("--conflict", "questions.json"), ("--empty_image", "prompts.jsonl")])
    def test_replies_about_a_picture_that_is_another_one_now_are_refused(self, folder, tmp_path, capsys, probe, file):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        out = tmp_path / "out"
        command = ["diagnose", "--model", "world", probe, str(tmp_path / file), "--out", str(out)]
        assert main(command) == 0
        (out / "diagnosis.json").unlink()  # as if it had been killed before
        assert main(command) == 0
        (out / "diagnosis.json").unlink()
        shutil.copy(tmp_path / "1.png", tmp_path / "2.png")
        assert main(command) == 2
        assert "replies with another asked" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "give one of --dataset, --conflict and --empty_image"),
            (["--conflict", "q.json", "--dataset", "world"], "give one of"),
            (["--conflict", "q.json", "--data_only"], "--data_only looks at pairs"),
            (["--conflict", "q.json", "--pairs", "100"], "--pairs means nothing to --conflict; leave it out"),
            (["--empty_image", "p.jsonl", "--reference", "b"], "--reference means nothing to --empty_image"),
            (["--conflict", "nowhere.json"], "nowhere.json: there is no such file"),
        ],
    )
    def test_what_cannot_be_asked_for(self, tmp_path, capsys, flags, message):
        assert main(["diagnose", "--model", "world", "--out", str(tmp_path / "out"), *flags]) == 2
        assert message in capsys.readouterr().err
