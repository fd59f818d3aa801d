"""Which model a name means, and what of it a run of answers depends on."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from mmdpo.generation import CheckpointOptions
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.world.model import CHECKPOINT


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(CHECKPOINT, tmp_path / "model")


def test_weights_are_known_by_what_they_are_and_not_by_where(copy):
    shipped, copied = (Checkpoint(model).describe() for model in ("world", str(copy)))
    assert shipped.pop("model") != copied.pop("model")
    assert shipped == copied
    path = next(copy.glob("*.safetensors"))
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] += 0.01
    save_file(tensors, path, {"format": "pt"})
    assert Checkpoint(str(copy)).describe()["weights"] != shipped["weights"]


def test_a_chat_template_that_is_edited_is_another_one(tmp_path):
    """Else a run would go on with answers to two prompts, or keep all of those to the first."""
    file, found = tmp_path / "t.jinja", []
    for text in ("{{ messages }}", "{{ messages }} ", "{{ messages }}"):
        file.write_text(text)
        found.append(Checkpoint("world", CheckpointOptions(chat_template=str(file))).describe()["chat_template"])
    assert found[0] == found[2] != found[1]
    assert found[0].startswith(f"{file} (")
    for name in ("vicuna", None):
        assert Checkpoint("world", CheckpointOptions(chat_template=name)).describe()["chat_template"] == name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: str(folder / "none"), "there is no such folder"),
        (lambda folder: str(folder), r"neither config\.json nor adapter_config\.json; name one of .*: checkpoint-10$"),
    ],
    ids=["absent", "unfinished"],
)
def test_a_folder_without_a_model(tmp_path, make, message):
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        Checkpoint(make(tmp_path)).describe()


def test_an_adapter_names_its_base_and_brings_its_processor(tmp_path):
    settings = {"peft_type": "LORA", "base_model_name_or_path": "world"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    start = Checkpoint(str(tmp_path)).start
    assert (start.base, start.adapter, start.processor) == (str(CHECKPOINT), tmp_path, str(CHECKPOINT))
    for path in CHECKPOINT.glob("*"):
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "generation_config.json"):
            shutil.copy(path, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }} of its own")
    checkpoint = Checkpoint("world", CheckpointOptions(adapter=str(tmp_path)))
    assert checkpoint.start.processor == str(tmp_path)
    assert "of its own" in checkpoint.load_renderer().processor.chat_template
