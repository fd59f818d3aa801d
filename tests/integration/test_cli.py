"""The commands as a user types them: what they print, what they leave behind, and how they refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import mmdpo.training.run
from mmdpo.cli import main
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Eight pairs of the embedded world as a JSON Lines file in TRL's format alone, images beside it."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = []
    for number, row in enumerate(make_pairs(8, seed=11)):
        row["images"][0].save(folder / f"{number}.png")
        columns = {name: row[name] for name in ("id", "prompt", "chosen", "rejected")}
        lines.append(json.dumps({**columns, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


@pytest.fixture
def recipe(tmp_path, pairs_file):
    path = tmp_path / "recipe.yaml"
    values = {
        "model_name_or_path": "world",
        "dataset_name": str(pairs_file),
        "output_dir": str(tmp_path / "run"),
        "use_peft": True,
        "lora_r": 2,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "report_to": "tensorboard",
        "disable_tqdm": True,
    }
    path.write_text(yaml.safe_dump(values))
    return path


def spoil(pairs_file, tmp_path, *rows):
    """Copies the pairs; each (number, changes) replaces keys of that row, counted from 1, or removes those set None."""
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    for number, changes in rows:
        lines[number - 1].update(changes)
        lines[number - 1] = {key: value for key, value in lines[number - 1].items() if value is not None}
    for image in pairs_file.parent.glob("*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    path = tmp_path / "spoilt.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


class TestTrain:
    def test_a_run_leaves_model_recipe_metrics_and_logs_and_is_refused_a_second_time(self, recipe, tmp_path, capsys):
        run = tmp_path / "run"
        assert main(["train", "--config", str(recipe)]) == 0
        assert {"adapter_model.safetensors", "recipe.yaml", "trainer_state.json", "train_results.json"} <= {
            path.name for path in run.iterdir()
        }
        assert list(run.glob("runs/*/events.out.tfevents.*")), "report_to: tensorboard wrote nothing"
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        assert {"loss", "rewards/margins", "rewards/image_margins", "loss/rank_image", "logps/chosen"} <= set(
            history[0]
        )

        assert main(["train", "--config", str(recipe)]) == 2
        assert "holds a run already" in capsys.readouterr().err

        before = (run / "adapter_model.safetensors").read_bytes()
        resume = ["--resume_from_checkpoint", "true", "--num_train_epochs", "3"]
        assert main(["train", "--config", str(recipe), *resume]) == 0
        assert (run / "adapter_model.safetensors").read_bytes() != before

    def test_a_folder_that_cannot_be_made_is_said_before_anything_is_loaded(self, recipe, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        for place, told in (("file", "is a file"), ("file/run", "cannot be made (Not a directory)")):
            flags = ["--output_dir", str(tmp_path / place), "--model_name_or_path", "nobody/nothing"]
            assert main(["train", "--config", str(recipe), *flags]) == 2
            assert f"{tmp_path / place} {told}: choose another place" in capsys.readouterr().err

    def test_the_resolved_recipe_repeats_the_run(self, recipe, tmp_path):
        assert main(["train", "--config", str(recipe), "--beta", "0.2", "--objective", "dpo"]) == 0
        resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
        assert resolved["beta"] == 0.2
        assert resolved["objective"] == "dpo"
        again = ["train", "--config", str(tmp_path / "run" / "recipe.yaml"), "--output_dir", str(tmp_path / "again")]
        assert main(again) == 0
        first, second = (
            [
                e["loss"]
                for e in json.loads((tmp_path / n / "trainer_state.json").read_text())["log_history"]
                if "loss" in e
            ]
            for n in ("run", "again")
        )
        assert first == second

    def test_an_objective_written_as_terms_and_a_corruption_with_options(self, recipe, tmp_path):
        values = yaml.safe_load(recipe.read_text())
        values |= {
            "objective": [
                {"rank": [["original", "chosen"], ["blank", "chosen"], ["none", "chosen"]], "weight": 0.5},
                {"rank": [["original", "chosen"], ["corrupted", "chosen"]]},
            ],
            "corruption": "noise",
            "corruption_options": {"step": 300},
            "max_steps": 1,
        }
        recipe.write_text(yaml.safe_dump(values))
        assert main(["train", "--config", str(recipe)]) == 0
        history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
        assert history[0]["loss/rank_image"] == pytest.approx(1.791759, abs=1e-4)  # ln 3! at the start
        assert history[0]["loss/rank_image_2"] == pytest.approx(0.693147, abs=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--learning_rat", "1"], "did you mean 'learning_rate'"),
            (["--objective", "mdop"], "did you mean 'mdpo'"),
            (["--corruption", "crop_0_2"], "did you mean 'crop_0_20'"),
            (["--beta", "-1"], "beta must be a number in"),
            (["--resume_from_checkpoint", "runs/nowhere"], "runs/nowhere is no folder"),
            (["--eval_strategy", "epoch"], "test_split_size"),
            (["--dataset_name", "nowhere.jsonl"], "no such file"),
            (["--dataset_train_split", "nope"], "dataset_train_split is 'nope', and a file has the split train alone"),
            (["--dataset_config", "small"], "pairs.jsonl: dataset_config is 'small', and only what"),
            (["--model_name_or_path", "nobody/nothing"], "nobody/nothing"),
            (["--objective", "mmedpo"], "'weight'"),
            (["--max_length", "20"], "zero tokens"),
            (["--config", "nowhere.yaml"], "there is no file nowhere.yaml"),
        ],
    )
    def test_what_cannot_run_says_so_and_leaves_no_folder(self, recipe, tmp_path, capsys, arguments, message):
        config = [] if "--config" in arguments else ["--config", str(recipe)]
        assert main(["train", *config, *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_bad_rows_stop_the_run_before_it_has_a_folder(self, recipe, pairs_file, tmp_path, capsys):
        (tmp_path / "half.png").write_bytes(Image.effect_noise((64, 64), 50).tobytes()[:10])
        spoilt = spoil(
            pairs_file,
            tmp_path,
            (2, {"chosen": None}),
            (3, {"images": ["missing.png"]}),
            (5, {"images": ["half.png"]}),
            (6, {"rejected": [{"role": "assistant", "content": "  "}]}),
            (7, {"images": ["0.png", "1.png"]}),
        )
        assert main(["train", "--config", str(recipe), "--dataset_name", str(spoilt)]) == 2
        error = capsys.readouterr().err
        assert "5 of 8 rows" in error
        for part in ("row 2: ", "row 3: ", "missing.png", "row 5: ", "half.png", "row 6: ", "row 7: "):
            assert part in error, part
        assert not (tmp_path / "run").exists()

    def test_skipped_rows_are_listed_in_the_run_folder(self, recipe, pairs_file, tmp_path):
        spoilt = spoil(pairs_file, tmp_path, (2, {"chosen": None}), (3, {"images": ["missing.png"]}))
        arguments = ["--dataset_name", str(spoilt), "--on_bad_row", "skip", "--max_steps", "1"]
        assert main(["train", "--config", str(recipe), *arguments]) == 0
        listed = [json.loads(line) for line in (tmp_path / "run" / "skipped_rows.jsonl").read_text().splitlines()]
        assert [entry["row"] for entry in listed] == [2, 3]

    def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(self, recipe, tmp_path, capsys):
        explode = ["--learning_rate", "1e30", "--max_grad_norm", "0", "--save_strategy", "no"]
        assert main(["train", "--config", str(recipe), *explode]) == 2
        assert "not finite at step" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("has_checkpoint", [False, True])
    def test_after_ctrl_c_it_says_how_to_go_on(self, recipe, tmp_path, capsys, monkeypatch, has_checkpoint):
        def interrupt(recipe):
            for step in (2, 10) if has_checkpoint else ():
                (tmp_path / "run" / f"checkpoint-{step}").mkdir()
            raise KeyboardInterrupt

        monkeypatch.setattr(mmdpo.training.run, "build_trainer", interrupt)
        assert main(["train", "--config", str(recipe)]) == 130
        told = capsys.readouterr().err
        assert "mmdpo: interrupted: " in told
        goes_on = f"--resume_from_checkpoint true goes on from {tmp_path / 'run' / 'checkpoint-10'}"
        assert (goes_on if has_checkpoint else "no checkpoint is in") in told

    def test_what_fails_after_training_leaves_the_model(self, recipe, tmp_path, capsys, monkeypatch):
        def fail(folder):
            raise OSError("the card cannot be written")

        monkeypatch.setattr(mmdpo.training.run, "write_card", fail)
        arguments = ["--save_strategy", "no", "--max_steps", "1"]
        assert main(["train", "--config", str(recipe), *arguments]) == 2
        assert "the card cannot be written" in capsys.readouterr().err
        assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
        assert main(["merge", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0

    def test_a_run_that_fails_leaves_none_of_the_folders_above_its_own_that_it_has_made(self, recipe, tmp_path, capsys):
        where = ["--output_dir", str(tmp_path / "runs" / "today" / "mine")]
        assert main(["train", "--config", str(recipe), *where, "--model_name_or_path", "checkpoints/converted"]) == 2
        told = capsys.readouterr().err
        assert "there is no folder checkpoints/converted here" in told
        assert "convert first" in told
        assert "internet" not in told
        assert not (tmp_path / "runs").exists()

    def test_an_evaluation_that_is_switched_off_is_not_made_at_the_end_either(self, recipe, tmp_path):
        split = ["--test_split_size", "0.25", "--max_steps", "1"]
        assert main(["train", "--config", str(recipe), *split, "--eval_strategy", "no"]) == 0
        assert not (tmp_path / "run" / "eval_results.json").exists()
        assert main(["train", "--config", str(recipe), *split, "--output_dir", str(tmp_path / "other")]) == 0
        assert (tmp_path / "other" / "eval_results.json").exists()

    def test_a_share_that_holds_out_no_row_says_what_to_do(self, recipe, capsys):
        assert main(["train", "--config", str(recipe), "--test_split_size", "0.02"]) == 2
        told = capsys.readouterr().err
        assert "leaves 0 of 8 rows for evaluation" in told
        assert "larger share" in told

    def test_a_wrong_image_root_is_said_once(self, recipe, tmp_path, capsys):
        assert main(["train", "--config", str(recipe), "--image_root", str(tmp_path / "nowhere")]) == 2
        told = capsys.readouterr().err
        assert f"no image was found under {tmp_path / 'nowhere'}" in told
        assert "skip" not in told
        assert len(told.splitlines()) == 1

    def test_the_password_of_an_address_is_not_printed(self, recipe, capsys):
        assert main(["train", "--config", str(recipe), "--dataset_name", "ftp://me:secret@host/rows.jsonl"]) == 2
        told = capsys.readouterr().err
        assert "secret" not in told
        assert "host/rows.jsonl" in told

    def test_a_step_is_one_readable_line(self, recipe, capsys):
        assert main(["train", "--config", str(recipe), "--max_steps", "2", "--logging_steps", "1"]) == 0
        printed = capsys.readouterr()
        shown = printed.out + printed.err
        assert "step 2/2  loss " in shown
        assert "'loss'" not in shown
        assert "is_gradient_checkpointing" not in shown
        assert "PAD/BOS/EOS" not in shown

    def test_part_of_the_rows_can_be_kept_for_evaluation(self, recipe, tmp_path, capsys):
        arguments = ["--test_split_size", "0.25", "--eval_strategy", "epoch"]
        assert main(["train", "--config", str(recipe), *arguments]) == 0
        metrics = json.loads((tmp_path / "run" / "eval_results.json").read_text())
        assert "eval_rewards/image_accuracies" in metrics
        history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
        assert history["global_step"] == 4, "six rows in batches of four, twice"
        told = [line for line in capsys.readouterr().out.splitlines() if " eval  loss " in line]
        assert [line.split()[1] for line in told] == ["2/4", "4/4"], "what was evaluated after the last step is done"
        assert (
            metrics["eval_loss"] == [entry["eval_loss"] for entry in history["log_history"] if "eval_loss" in entry][-1]
        )


class TestDataCheck:
    def test_good_data_in_words_and_in_tokens(self, pairs_file, capsys):
        assert main(["data", "check", str(pairs_file)]) == 0
        assert "Lengths in words" in capsys.readouterr().out
        assert main(["data", "check", str(pairs_file), "--model_name_or_path", "world"]) == 0
        printed = capsys.readouterr().out
        assert "Lengths in tokens" in printed
        width, height = Image.open(pairs_file.parent / "0.png").size
        assert f"{width} × {height}" in printed

    def test_faulty_rows_are_counted_named_and_written(self, pairs_file, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "300")  # nothing folded
        spoilt = spoil(pairs_file, tmp_path, (4, {"rejected": None}), (8, {"images": ["missing.png"]}))
        assert main(["data", "check", str(spoilt), "--faults", str(tmp_path / "faults.jsonl")]) == 1
        printed = capsys.readouterr().out
        assert "missing.png" in printed
        faults = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
        assert [fault["row"] for fault in faults] == [4, 8]

    @pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
    def test_a_terminal_that_cannot_show_a_character_does_not_end_the_check(self, pairs_file, tmp_path, encoding):
        spoilt = spoil(pairs_file, tmp_path, (4, {"rejected": [{"role": "assistant", "content": "\ud83d ☕"}]}))
        done = subprocess.run(
            [sys.executable, "-m", "mmdpo", "data", "check", str(spoilt)],
            env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "300"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert b"row 4" in done.stdout
        assert b"`rejected` is not valid Unicode" in done.stdout

    def test_a_missing_path_is_an_error(self, capsys):
        assert main(["data", "check", "nowhere.jsonl"]) == 2
        assert "nowhere.jsonl" in capsys.readouterr().err


class TestEntryPoints:
    def test_help_lists_what_can_be_chosen(self, capsys):
        assert main([]) == 0
        assert "quickstart" in capsys.readouterr().out
        assert main(["train", "--help"]) == 0
        printed = capsys.readouterr().out
        for word in ("corruption", "crop_0_20", "symmpo", "llama_factory", "lora_r", "freeze_projector"):
            assert word in printed, word

    def test_import_is_light(self):
        code = (
            "import sys, mmdpo;"
            "heavy = {'torch', 'transformers', 'datasets', 'PIL', 'numpy'} & set(sys.modules);"
            "assert not heavy, heavy; print(mmdpo.__version__)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_help_is_light(self):
        code = (
            "import sys; from mmdpo.cli import main; main(['--help']); heavy = "
            "{'torch', 'transformers', 'datasets', 'PIL', 'numpy', 'nltk', 'rich'} & set(sys.modules);"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_rows_are_converted_and_checked_without_the_libraries_of_models(self, pairs_file, tmp_path):
        """They take seconds to load, which is most of what a small file takes."""
        code = (
            "import sys; from mmdpo.cli import main; rows, out = sys.argv[1:];"
            "assert main(['data', 'convert', rows, out]) == 0; assert 'torch' not in sys.modules;"
            "assert main(['data', 'check', rows]) == 0;"
            "heavy = {'transformers.modeling_utils', 'transformers.processing_utils', 'peft'} & set(sys.modules);"
            "assert not heavy, heavy"
        )
        words = [sys.executable, "-c", code, str(pairs_file), str(tmp_path / "pairs.parquet")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("prints", ["text", "a table"])
    def test_a_reader_that_has_read_enough_is_no_error(self, prints, pairs_file):
        words = ["train", "--help_all"] if prints == "text" else ["data", "check", str(pairs_file)]
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "mmdpo", *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(writing)
        assert done.stderr == ""
        assert done.returncode == 141  # as of a program that SIGPIPE ends

    def test_the_public_names(self):
        import mmdpo

        assert dir(mmdpo) == ["MDPOConfig", "MDPOTrainer", "__version__", "diagnose", "evaluate", "score_tokens"]
        assert mmdpo.MDPOTrainer.__module__ == "mmdpo.training.trainer"
        with pytest.raises(AttributeError, match="MDPOTrainr"):
            _ = mmdpo.MDPOTrainr

    def test_every_recipe_in_the_repository_is_valid(self, tmp_path):
        from mmdpo.training.recipe import parse_recipe

        recipes = sorted((Path(__file__).parents[2] / "src" / "mmdpo" / "recipes").glob("*.yaml"))
        assert recipes
        for path in recipes:
            parse_recipe(["--config", str(path), "--output_dir", str(tmp_path / path.stem)])
