"""`mmdpo merge`: one model out of a run, with the logits of adapter and base, or an error that says why not."""

import io
import json
import os
import re
import shutil

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from mmdpo.checkpoints import merge
from mmdpo.cli import main
from mmdpo.models.load import load_model
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import attach_adapter
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs
from small_trainer import build_trainer

OPTIONS = {
    "model_name_or_path": "world", "use_peft": True, "lora_r": 4, "max_steps": 4,
    "per_device_train_batch_size": 4, "learning_rate": 5e-3, "gradient_checkpointing": False, "use_cpu": True,
    "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip


def train(folder, **changes):
    folder.mkdir()
    lines = []
    for number, row in enumerate(make_pairs(8, seed=11)):
        row["images"][0].save(folder / f"{number}.png")
        lines.append(json.dumps({**row, "images": [f"{number}.png"]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    files = {"dataset_name": str(folder / "pairs.jsonl"), "output_dir": str(folder / "run")}
    values = {**OPTIONS, **files, **changes}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(folder / "recipe.yaml")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A copy of the world's checkpoint whose card names a licence."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(CHECKPOINT, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    return train(tmp_path_factory.mktemp("runs") / "lora", model_name_or_path=str(base))


def logits(model, processor):
    row = make_pairs(1, seed=3)[0]
    prompt = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
    inputs = processor(text=prompt, images=row["images"][0], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits.float()


def logits_of(folder, dtype="auto"):
    model, loading = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(loading.values()), loading
    return logits(model, AutoProcessor.from_pretrained(folder))


def adapted_logits(run, base):
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base, dtype="float32"), run)
    return logits(model, AutoProcessor.from_pretrained(run))


def run_card(folder, monkeypatch):
    """Runs the code of a card in its folder."""
    code = re.search(r"## Use\n\n```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    make_pairs(1, seed=3)[0]["images"][0].save(folder / "picture.jpg")
    monkeypatch.chdir(folder)
    exec(compile(code, "card", "exec"), {})


def merge_error(capsys, *arguments):
    capsys.readouterr()
    assert main(["merge", *map(str, arguments)]) == 2
    return capsys.readouterr().err


class TestEqualLogits:
    def assert_equal(self, found, expected, base):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert (expected - logits_of(base, "float32")).abs().max() > 1e-2, "the adapter changed nothing"

    def test_of_a_run(self, run, base, tmp_path):
        assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
        self.assert_equal(logits_of(tmp_path / "merged"), adapted_logits(run, base), base)
        held = {path.name for path in (tmp_path / "merged").iterdir()}
        assert {"config.json", "model.safetensors", "README.md", "curves.png", "processor_config.json"} <= held
        assert "adapter_config.json" not in held
        assert "training_args.bin" not in held

    def test_with_a_base_that_was_a_folder_and_lies_elsewhere_now(self, base, tmp_path, monkeypatch):
        shutil.copytree(base, tmp_path / "models" / "base")
        monkeypatch.chdir(tmp_path)
        run = train(tmp_path / "folder", model_name_or_path="models/base", save_strategy="no")
        (tmp_path / "models").rename(tmp_path / "elsewhere")
        moved = tmp_path / "elsewhere" / "base"
        assert main(["merge", str(run), str(tmp_path / "merged"), "--base", str(moved)]) == 0
        card = (tmp_path / "merged" / "README.md").read_text()
        assert "A model trained from `base`" in card
        assert "huggingface.co/models" not in card, "it never was on the hub"
        front = yaml.safe_load(card.split("---\n")[1])
        assert "base_model" not in front
        assert front["license"] == "apache-2.0"

    def test_with_a_world_as_the_base(self, run, base, tmp_path):
        assert main(["merge", str(run), str(tmp_path / "merged"), "--base", "world"]) == 0
        self.assert_equal(logits_of(tmp_path / "merged"), adapted_logits(run, base), base)

    def test_of_a_checkpoint_inside_a_run(self, run, base, tmp_path):
        assert main(["merge", str(run / "checkpoint-2"), str(tmp_path / "merged")]) == 0
        self.assert_equal(logits_of(tmp_path / "merged"), adapted_logits(run / "checkpoint-2", base), base)

    @pytest.mark.parametrize("kind", [{"use_dora": True}, {"use_rslora": True}], ids=str)
    def test_of_other_adapters(self, tmp_path, base, kind):
        run = train(tmp_path / "kind", model_name_or_path=str(base), save_strategy="no", **kind)
        assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
        self.assert_equal(logits_of(tmp_path / "merged"), adapted_logits(run, base), base)

    def test_of_a_model_that_was_trained_whole(self, tmp_path, base, monkeypatch):
        run = train(tmp_path / "whole", model_name_or_path=str(base), use_peft=False, save_strategy="no")
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr("sys.stderr", terminal)
        assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
        assert torch.equal(logits_of(tmp_path / "merged"), logits_of(run))
        for stage in ("reading (1/2)", "copying (2/2)"):
            assert f"merging: {stage}" in terminal.getvalue()
        assert main(["merge", str(run), str(tmp_path / "small"), "--dtype", "bfloat16"]) == 0
        assert {tensor.dtype for tensor in load_file(tmp_path / "small" / "model.safetensors").values()} == {
            torch.bfloat16
        }


class TestCommitOfTheBase:
    """An adapter is for the weights of one commit; `main` may be others by now."""

    COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

    def test_is_in_the_adapter_of_a_run_and_of_one_that_was_trained_further(self, tmp_path):
        model = load_model(resolve_start("world"))
        model.config._commit_hash = self.COMMIT
        trainer = build_trainer(tmp_path, make_pairs(4, seed=5), model=model, peft_config=LoraConfig(r=2))
        trainer.save_model()
        settings = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
        assert settings["revision"] == self.COMMIT
        assert resolve_start(str(tmp_path / "run")).revision == self.COMMIT
        other = load_model(resolve_start("world"))
        tensors = load_file(tmp_path / "run" / "adapter_model.safetensors")
        assert attach_adapter(other, tmp_path / "run", tensors, base="world").peft_config["default"].revision is None

    def test_is_the_one_that_is_merged_unless_a_base_is_given(self, run, base, tmp_path, monkeypatch):
        copy, asked = tmp_path / "run", []
        shutil.copytree(run, copy)
        settings = json.loads((copy / "adapter_config.json").read_text())
        (copy / "adapter_config.json").write_text(json.dumps({**settings, "revision": self.COMMIT}))
        monkeypatch.setattr(
            merge, "find_folder", lambda name, *, revision=None, **kwargs: asked.append(revision) or base
        )
        assert main(["merge", str(copy), str(tmp_path / "merged")]) == 0
        assert main(["merge", str(copy), str(tmp_path / "again"), "--base", str(base)]) == 0
        assert asked == [self.COMMIT, None]

    def test_is_the_one_that_the_card_loads(self, run, tmp_path, monkeypatch):
        copy, asked = tmp_path / "run", []
        shutil.copytree(run, copy)
        settings = json.loads((copy / "adapter_config.json").read_text())
        (copy / "adapter_config.json").write_text(json.dumps({**settings, "revision": self.COMMIT}))
        load = AutoModelForImageTextToText.from_pretrained
        monkeypatch.setattr(
            AutoModelForImageTextToText,
            "from_pretrained",
            lambda name, *, revision, **options: asked.append(revision) or load(name, **options),
        )
        run_card(copy, monkeypatch)
        assert asked == [self.COMMIT]


@pytest.fixture(scope="module")
def tied_base(tmp_path_factory):
    """The world's checkpoint with one weight for embeddings and head."""
    folder = tmp_path_factory.mktemp("tied") / "model"
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(CHECKPOINT).save_pretrained(folder)
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    return folder


class TestTiedEmbeddings:
    @pytest.mark.parametrize(
        "adapter",
        [
            {"lora_target_modules": ["q_proj", "lm_head"]},
            {"lora_target_modules": ["q_proj", "embed_tokens"]},
            {"lora_target_modules": ["embed_tokens", "lm_head"]},
            {"lora_target_modules": ["q_proj", "v_proj"], "lora_modules_to_save": ["lm_head"]},
            {"lora_target_modules": ["q_proj", "v_proj"]},
        ],
        ids=lambda adapter: "-".join(map(str, adapter["lora_target_modules"] + list(adapter)[1:])),
    )
    def test_a_merged_model_scores_as_base_and_adapter_do(self, tmp_path, tied_base, adapter):
        run = train(tmp_path / "run", model_name_or_path=str(tied_base), save_strategy="no", **adapter)
        assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
        expected = adapted_logits(run, tied_base)
        torch.testing.assert_close(
            logits_of(tmp_path / "merged"), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )
        is_tied = json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
        assert is_tied == (list(adapter.values()) == [["q_proj", "v_proj"]])

    def test_a_merge_that_scores_otherwise_is_refused_with_both_numbers(self, run, tmp_path, capsys, monkeypatch):
        save = PreTrainedModel.save_pretrained

        def lose_a_layer(model, folder, **options):
            with torch.no_grad():
                model.get_decoder().layers[0].mlp.down_proj.weight.zero_()
            save(model, folder, **options)

        monkeypatch.setattr(PreTrainedModel, "save_pretrained", lose_a_layer)
        message = merge_error(capsys, run, tmp_path / "merged")
        assert len(re.findall(r"-\d+\.\d{4}", message)) == 2
        assert not (tmp_path / "merged").exists()


def test_weights_keep_the_precision_of_the_base_and_are_added_before_they_are_rounded(run, base, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="bfloat16")
    model.save_pretrained(tmp_path / "base16")
    AutoProcessor.from_pretrained(base).save_pretrained(tmp_path / "base16")
    assert main(["merge", str(run), str(tmp_path / "merged"), "--base", str(tmp_path / "base16")]) == 0
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    adapter = load_file(run / "adapter_model.safetensors")
    settings = json.loads((run / "adapter_config.json").read_text())
    down = next(name for name in adapter if name.endswith("lora_A.weight"))
    change = adapter[down.replace("lora_A", "lora_B")] @ adapter[down] * settings["lora_alpha"] / settings["r"]
    path = down.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    expected = (model.get_submodule(path).weight.float() + change).bfloat16()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="auto")
    assert torch.equal(merged.get_submodule(path).weight, expected)


class TestRefusals:
    def test_what_is_no_run_folder(self, run, tmp_path, capsys):
        assert "is no run folder: it holds neither" in merge_error(capsys, tmp_path, tmp_path / "out")
        (tmp_path / "checkpoint-7").mkdir()
        assert "name one of its checkpoints: checkpoint-7" in merge_error(capsys, tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert "holds something already" in merge_error(capsys, run, run)

    @pytest.fixture
    def copy(self, run, tmp_path):
        shutil.copytree(run, tmp_path / "copy")
        return tmp_path / "copy"

    def test_several_adapters(self, copy, tmp_path, capsys, caplog):
        shutil.copytree(copy, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoint-*"))
        (tmp_path / "other").rename(copy / "other")
        assert main(["merge", str(copy), str(tmp_path / "merged")]) == 0
        assert (
            f"holds other adapters beside the one that is used: to use such a one, name {copy / 'other'}" in caplog.text
        )
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (copy / name).unlink()
        assert "name one of them: other" in merge_error(capsys, copy, tmp_path / "again")
        assert main(["merge", str(copy / "other"), str(tmp_path / "again")]) == 0

    def test_an_adapter_for_another_base(self, copy, tmp_path, capsys):
        tensors = load_file(copy / "adapter_model.safetensors")
        first, *_ = sorted(tensors)
        moved = {name: tensor for name, tensor in tensors.items() if name != first} | {
            "base_model.model.x": torch.ones(2)
        }
        save_file(moved, copy / "adapter_model.safetensors")
        error = merge_error(capsys, copy, tmp_path / "out")
        assert "is for another base" in error
        assert f"1 missing: {first}; 1 unknown: base_model.model.x" in error
        tensors[first] = torch.zeros(4, 7)
        save_file(tensors, copy / "adapter_model.safetensors")
        assert f"1 of another shape: {first} is [4, 7] instead of [4, " in merge_error(capsys, copy, tmp_path / "out")
        settings = json.loads((copy / "adapter_config.json").read_text())
        (copy / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": "nothing.like.it"}))
        assert "is for another base" in merge_error(capsys, copy, tmp_path / "out")

    def test_a_base_that_is_gone_and_an_adapter_that_is_cut_short(self, copy, tmp_path, capsys):
        settings = json.loads((copy / "adapter_config.json").read_text())
        gone = settings | {"base_model_name_or_path": "gone/gone"}
        (copy / "adapter_config.json").write_text(json.dumps(gone))
        error = merge_error(capsys, copy, tmp_path / "out")
        assert "there is no folder gone/gone here" in error
        assert "--base names it where it lies elsewhere now" in error
        path = copy / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        assert "cut short or damaged" in merge_error(capsys, copy, tmp_path / "out")
        path.unlink()
        assert "nor adapter_model.safetensors" in merge_error(capsys, copy, tmp_path / "out")

    def test_a_base_of_quantised_weights_and_what_it_was_made_of(self, copy, base, tmp_path, capsys):
        quantised = tmp_path / "base-4bit"
        shutil.copytree(base, quantised)
        config = json.loads((base / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (quantised / "config.json").write_text(json.dumps(config))
        settings = json.loads((copy / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = str(quantised)
        (copy / "adapter_config.json").write_text(json.dumps(settings))
        message = merge_error(capsys, copy, tmp_path / "merged")
        assert "holds quantised weights" in message
        assert "--base" in message
        assert main(["merge", str(copy), str(tmp_path / "merged"), "--base", str(base)]) == 0

    def test_an_adapter_with_biases_that_the_base_has_no_place_for(self, copy, tmp_path, capsys):
        tensors = load_file(copy / "adapter_model.safetensors")
        columns = {name: tensor for name, tensor in tensors.items() if name.endswith("lora_B.weight")}
        biases = {name.replace("weight", "bias"): torch.ones(len(tensor)) for name, tensor in columns.items()}
        save_file(tensors | biases, copy / "adapter_model.safetensors")
        settings = json.loads((copy / "adapter_config.json").read_text()) | {"lora_bias": True}
        (copy / "adapter_config.json").write_text(json.dumps(settings))
        error = merge_error(capsys, copy, tmp_path / "out")
        assert "the adapter cannot be added to its base" in error
        assert "the base layer has no bias" in error
        assert not (tmp_path / "out").exists()

    def test_a_pickled_adapter(self, copy, base, tmp_path, capsys):
        tensors = load_file(copy / "adapter_model.safetensors")
        (copy / "adapter_model.safetensors").unlink()
        torch.save(tensors, copy / "adapter_model.bin")
        assert "--allow_pickle" in merge_error(capsys, copy, tmp_path / "out")
        assert main(["merge", str(copy), str(tmp_path / "out"), "--allow_pickle"]) == 0
        assert (logits_of(tmp_path / "out") - logits_of(base)).abs().max() > 1e-2


def test_the_card_of_a_run_and_of_what_was_merged_of_it(run, base, tmp_path):
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
    cards = {
        name: (folder / "README.md").read_text() for name, folder in (("run", run), ("merged", tmp_path / "merged"))
    }
    fronts = {name: yaml.safe_load(card.split("---\n")[1]) for name, card in cards.items()}
    assert fronts["run"]["library_name"] == "peft"
    assert fronts["merged"]["library_name"] == "transformers"
    for name, card in cards.items():
        assert "| rows | shared |" in card
        assert "| probe | within " in card
        assert fronts[name]["license"] == "apache-2.0"
        assert "base_model" not in fronts[name], "a folder of this machine means nothing elsewhere"
        assert str(base) not in card
        assert str(tmp_path) not in card
        for part in (
            "| training pairs | 8 |",
            "`rank_image`",
            "[corrupted, chosen]",
            "| beta | 0.1 |",
            "| lora_r | 4 |",
            "| disable_dropout | True |",
        ):
            assert part in card, part
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        last = [record for record in history if "loss" in record][-1]
        assert f"| `rewards/margins` | {last['rewards/margins']:.4g} |" in card
        assert "![Curves" in card
        assert re.search(r"\| mmdpo's commit \| [0-9a-f]{40}(, with changes)? \|", card)
    assert "PeftModel.from_pretrained" in cards["run"]
    assert "PeftModel" not in cards["merged"]
    assert cards["merged"].split("---\n")[2].startswith("\n# merged\n")


@pytest.mark.parametrize("which", ["run", "merged"])
def test_the_use_of_a_card_runs_as_it_stands_and_answers_about_a_picture(run, tmp_path, which, monkeypatch, capsys):
    folder = run
    if which == "merged":
        folder = tmp_path / "merged"
        assert main(["merge", str(run), str(folder)]) == 0
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    capsys.readouterr()
    run_card(there, monkeypatch)
    assert capsys.readouterr().out.strip()


def test_a_processor_without_a_chat_template_is_given_a_plain_prompt(run, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "chat_template.jinja").unlink()
    assert main(["merge", str(copy), str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    run_card(tmp_path / "merged", monkeypatch)
    assert capsys.readouterr().out.strip()


def test_the_project_has_no_address_so_its_name_is_no_link(run):
    card = (run / "README.md").read_text()
    assert "[mmdpo](" not in card
    assert "[mDPO](https://arxiv.org/abs/2406.11839)" in card


@pytest.mark.parametrize("objective", ["evil_module:TERMS", [{"evil_module:Term": ["original", "chosen"]}]])
def test_merging_somebodys_run_imports_nothing_that_its_recipe_names(
    run, base, tmp_path, monkeypatch, objective, capsys
):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe |= {"objective": objective, "corruption": "evil_module:corrupt"}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\nTERMS = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["merge", str(copy), str(tmp_path / "merged")]) == 0
    assert not (tmp_path / "was_run").exists()
    assert "evil_module" in (tmp_path / "merged" / "README.md").read_text(), "it is shown as text"


def test_a_run_whose_files_are_pipes_or_devices_is_refused_in_a_line(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "trainer_state.json").unlink()
    os.mkfifo(copy / "trainer_state.json")
    assert "trainer_state.json cannot be read: it is a named pipe and no regular file" in merge_error(
        capsys, copy, tmp_path / "merged"
    )


def test_pushing_uploads_the_merged_folder(run, tmp_path, monkeypatch, capsys):
    calls = []

    class Api:
        def create_repo(self, name, *, exist_ok):
            calls.append((name, exist_ok))
            return type("Url", (), {"repo_id": f"me/{name}"})

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return "https://hub/me/it"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert main(["merge", str(run), str(tmp_path / "merged"), "--push_to_hub", "it"]) == 0
    assert calls[0] == ("it", True)
    assert calls[1][0] == "me/it"
    assert {"model.safetensors", "README.md"} <= set(calls[1][1])
    assert "https://hub/me/it" in capsys.readouterr().out


def test_what_cannot_be_uploaded_is_kept_and_said_how_to_upload_later(run, tmp_path, capsys):
    """The suite is offline."""
    error = merge_error(capsys, run, tmp_path / "merged", "--push_to_hub", "me/it")
    assert f"{tmp_path / 'merged'} is whole, and could not be uploaded" in error
    assert f"`hf upload me/it {tmp_path / 'merged'}`" in error
    assert (tmp_path / "merged" / "model.safetensors").is_file()
