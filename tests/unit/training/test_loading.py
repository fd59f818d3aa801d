"""Checkpoints and adapters that do not fit: transformers and PEFT would warn, and train on made-up weights."""

import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from mmdpo import MDPOTrainer
from mmdpo.cli import main
from mmdpo.models.families import find_family
from mmdpo.models.load import load_config, load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.models.weights import CheckpointError
from mmdpo.training.config import MDPOConfig
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
from tiny_models import MODELS

WEIGHTS = "model.safetensors"
HEAD, NORM = "lm_head.weight", "language_model.model.norm.weight"
"""Names as they lie on disk."""


def config(tmp_path, **options):
    return MDPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", **options)


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the world's checkpoint, which a test may spoil."""
    folder = tmp_path / "model"
    shutil.copytree(CHECKPOINT, folder)
    return folder


@pytest.fixture
def spoil(checkpoint):
    def change(function):
        tensors = load_file(checkpoint / WEIGHTS)
        assert NORM in tensors
        save_file(function(tensors), checkpoint / WEIGHTS, metadata={"format": "pt"})
        return str(checkpoint)

    return change


class TestWeights:
    def test_that_are_missing(self, spoil, tmp_path, caplog, monkeypatch):
        said = logging.getLogger("transformers.modeling_utils")
        monkeypatch.setattr(said, "handlers", [caplog.handler])
        monkeypatch.setattr(said, "level", logging.WARNING)
        name = spoil(lambda held: {key: value for key, value in held.items() if key != NORM})
        with pytest.raises(
            CheckpointError, match=r"weights of .*LlavaFor.*: 1 missing: model\.language_model\.norm\.w"
        ):
            load_model(resolve_start(name, config(tmp_path).load_options()))
        assert "newly initialized" not in caplog.text, "transformers says the opposite"

    def test_that_nobody_asked_for(self, spoil, tmp_path):
        name = spoil(lambda held: held | {"extra.weight": torch.ones(2)})
        with pytest.raises(CheckpointError, match=r"1 unknown: extra\.weight$"):
            load_model(resolve_start(name, config(tmp_path).load_options()))

    def test_of_another_shape(self, spoil, tmp_path):
        name = spoil(lambda held: held | {NORM: torch.ones(7)})
        with pytest.raises(CheckpointError, match=r"1 of another shape: .*norm\.weight is \[7\] instead of \[128\]"):
            load_model(resolve_start(name, config(tmp_path).load_options()))

    def test_of_another_architecture(self, checkpoint, tmp_path):
        MODELS["idefics3"]().model.config.save_pretrained(checkpoint)
        with pytest.raises(
            CheckpointError, match=r"describes a Idefics3ForCond.* are those of another architecture.*missing.*unknown"
        ):
            load_model(resolve_start(str(checkpoint), config(tmp_path).load_options()))

    def test_that_are_cut_short_are_named_by_file(self, checkpoint, tmp_path):
        tensors = load_file(checkpoint / WEIGHTS)
        (checkpoint / WEIGHTS).unlink()
        save_torch_state_dict(tensors, checkpoint, max_shard_size=1_000_000)
        first, second, *_ = sorted(checkpoint.glob("*.safetensors"))
        assert len(load_model(resolve_start(str(checkpoint), config(tmp_path).load_options())).state_dict()) == len(
            tensors
        )
        content = second.read_bytes()
        for cut in (content[:-1], content[:100], b""):
            second.write_bytes(cut)
            with pytest.raises(CheckpointError, match=rf"{second.name} is cut short or damaged") as raised:
                load_model(resolve_start(str(checkpoint), config(tmp_path).load_options()))
            assert first.name not in str(raised.value)
        second.unlink()
        with pytest.raises(OSError, match=second.name):
            load_model(resolve_start(str(checkpoint), config(tmp_path).load_options()))

    @pytest.mark.parametrize(
        ("content", "told"),
        [("{", "is not valid JSON"), ("{}", "the key 'weight_map' is missing")],
        ids=["text", "empty"],
    )
    def test_behind_an_index_that_is_none(self, checkpoint, tmp_path, content, told):
        (checkpoint / WEIGHTS).rename(checkpoint / "model-00001-of-00001.safetensors")
        (checkpoint / f"{WEIGHTS}.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=rf"model\.safetensors\.index\.json.*{told}"):
            load_model(resolve_start(str(checkpoint), config(tmp_path).load_options()))

    def test_that_are_known_to_be_left_out_are_not_missed(self, spoil, tmp_path):
        name = spoil(lambda held: held | {"vision_tower.vision_model.embeddings.position_ids": torch.arange(17)})
        assert load_model(resolve_start(name, config(tmp_path).load_options())).lm_head.weight.any()
        MODELS["qwen2_5_vl"]().model.save_pretrained(tmp_path / "qwen")  # which has no such buffer at all
        held = load_file(tmp_path / "qwen" / WEIGHTS) | {"visual.position_ids": torch.arange(17)}
        save_file(held, tmp_path / "qwen" / WEIGHTS, metadata={"format": "pt"})
        assert load_model(resolve_start(str(tmp_path / "qwen"), config(tmp_path).load_options()))

    @pytest.mark.parametrize("holds_head", [False, True], ids=["once", "twice"])
    def test_that_are_tied(self, tmp_path, holds_head):
        """A head that is the embedding lies on disk once, in older checkpoints twice."""
        tiny = MODELS["llava_1_5"]().model
        settings = tiny.config.to_dict()
        settings["tie_word_embeddings"] = settings["text_config"]["tie_word_embeddings"] = True
        tied = type(tiny)(type(tiny.config).from_dict(settings))
        assert tied.lm_head.weight is tied.get_input_embeddings().weight
        tied.save_pretrained(tmp_path / "tied")
        held = load_file(tmp_path / "tied" / WEIGHTS)
        assert not [key for key in held if key.endswith(HEAD)]
        if holds_head:
            embedding = next(key for key in held if key.endswith("embed_tokens.weight"))
            held[embedding.replace("model.embed_tokens", "lm_head")] = held[embedding].clone()
            save_file(held, tmp_path / "tied" / WEIGHTS, metadata={"format": "pt"})
        loaded = load_model(resolve_start(str(tmp_path / "tied"), config(tmp_path).load_options()))
        assert torch.equal(loaded.lm_head.weight, tied.lm_head.weight)


class TestFolders:
    def test_in_bunny_s_own_layout_are_to_be_converted(self, checkpoint, tmp_path):
        """transformers would ask to trust its code, which would not make it trainable either."""
        (checkpoint / "config.json").write_text(json.dumps({"model_type": "bunny-phi"}))
        with pytest.raises(CheckpointError, match=rf"`mmdpo convert bunny {checkpoint} FOLDER`"):
            load_config(resolve_start(str(checkpoint), config(tmp_path).load_options()))

    def test_that_are_not_there(self, tmp_path):
        with pytest.raises(CheckpointError, match="there is no folder /nowhere/model, and the hub has no names like"):
            load_config(resolve_start("/nowhere/model", config(tmp_path).load_options()))

    def test_without_a_processor_say_whose_it_takes(self, checkpoint, tmp_path):
        for path in checkpoint.glob("*processor_config.json"):
            path.unlink()
        with pytest.raises(
            CheckpointError, match=rf"^{checkpoint} holds a model and no processor .*trained from into it"
        ):
            load_processor(resolve_start(str(checkpoint), config(tmp_path).load_options()))

    def test_without_a_tokenizer_are_named(self, checkpoint, tmp_path):
        for path in checkpoint.glob("*token*"):
            path.unlink()
        with pytest.raises(CheckpointError, match=f"cannot load the processor of '{checkpoint}'"):
            load_processor(resolve_start(str(checkpoint), config(tmp_path).load_options()))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA on the world's model, as a folder."""
    folder = tmp_path_factory.mktemp("adapter")
    model = load_model(
        resolve_start("world", MDPOConfig(output_dir=str(folder), use_cpu=True, report_to="none").load_options())
    )
    targets = find_family(model.config).lora_targets(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    return tmp_path / "adapter"


class TestAdapters:
    def refuse(self, folder, tmp_path, *, base="world", **options):
        with pytest.raises(CheckpointError) as raised:
            load_model(
                resolve_start(base, config(tmp_path, adapter_name_or_path=str(folder), **options).load_options())
            )
        return str(raised.value)

    def test_for_a_base_of_another_name(self, adapter, checkpoint, tmp_path):
        told = self.refuse(adapter, tmp_path, base=str(checkpoint))
        assert str(adapter) in told
        assert str(CHECKPOINT) in told
        assert str(checkpoint) in told
        assert "base_model_name_or_path" in told, "the way out"

    def test_for_a_base_that_was_moved(self, copied, checkpoint, tmp_path):
        moved = checkpoint.rename(tmp_path / CHECKPOINT.name)
        model = load_model(resolve_start(str(moved), config(tmp_path, adapter_name_or_path=str(copied)).load_options()))
        assert model.peft_config["default"].base_model_name_or_path == str(moved)

    def test_whose_layers_the_base_lacks(self, copied, tmp_path):
        self.change(copied, target_modules=r"nothing\.like\.it")
        told = self.refuse(copied, tmp_path)
        assert f"the adapter in {copied} is for another base than {CHECKPOINT}" in told

    def test_with_missing_and_extra_weights(self, copied, tmp_path):
        held = load_file(copied / "adapter_model.safetensors")
        first = min(held)
        del held[first]
        save_file(held | {"base_model.model.x": torch.ones(2)}, copied / "adapter_model.safetensors")
        told = self.refuse(copied, tmp_path)
        assert f"1 missing: {first}; 1 unknown: base_model.model.x" in told

    def test_cut_short_or_gone(self, copied, tmp_path):
        path = copied / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        assert "adapter_model.safetensors is cut short or damaged" in self.refuse(copied, tmp_path)
        assert "there is no folder gone/gone here" in self.refuse("gone/gone", tmp_path)
        assert "no folder /gone/gone" in self.refuse("/gone/gone", tmp_path)

    def test_on_an_adapter(self, adapter, tmp_path):
        assert "one of them has to be the base" in self.refuse(adapter, tmp_path, base=str(adapter))

    def change(self, folder, **changes):
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | changes))

    @pytest.mark.parametrize("kind", [None, "NONSENSE"])
    def test_of_no_kind_that_is_known(self, copied, tmp_path, kind):
        self.change(copied, peft_type=kind)
        assert f"adapter_config.json is for no adapter that PEFT knows: peft_type is {kind!r}" in self.refuse(
            copied, tmp_path
        )

    def test_whose_base_is_gone(self, copied, tmp_path):
        self.change(copied, base_model_name_or_path="/gone/base")
        with pytest.raises(CheckpointError, match=r"/gone/base.*as model_name_or_path, and .*as adapter_name_or_path"):
            load_config(resolve_start(str(copied), config(tmp_path).load_options()))

    def test_that_names_no_base(self, copied, tmp_path):
        self.change(copied, base_model_name_or_path=None)
        with pytest.raises(CheckpointError, match="names no base model: give it as model_name_or_path"):
            load_config(resolve_start(str(copied), config(tmp_path).load_options()))
        assert load_model(resolve_start("world", config(tmp_path, adapter_name_or_path=str(copied)).load_options()))


def test_the_command_says_it_in_one_line(spoil, tmp_path, capsys):
    name = spoil(lambda held: held | {NORM: torch.ones(7)})
    pair = {"prompt": "<image>?", "chosen": "a", "rejected": "b", "images": ["1.png"]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    files = [f"--dataset_name={tmp_path / 'pairs.jsonl'}", f"--output_dir={tmp_path / 'run'}", "--use_cpu=true"]
    assert main(["train", "--model_name_or_path", name, *files, "--check_data", "text", "--report_to", "none"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("mmdpo: the weights of")
    assert not (tmp_path / "run").exists()


def test_a_processor_of_tiles_is_no_fault_of_the_rows_that_cannot_be_cropped_after_it(tmp_path):
    """With `on_bad_row: skip` those rows would be left out, and rows without images trained alone."""
    tiny = MODELS["llava_next"]()
    with pytest.raises(ValueError, match=r"^crop_space: processed needs .* \(1, 5, 3, 16, 16\) for 1 images"):
        MDPOTrainer(
            tiny.model,
            args=config(tmp_path, crop_space="processed", on_bad_row="skip"),
            train_dataset=make_pairs(2, seed=0),
            processing_class=tiny.processor,
        )
