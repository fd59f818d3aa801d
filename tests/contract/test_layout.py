"""Merged weights have the names that published checkpoints of their class have: other tools know no others."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import MODELS

from mmdpo.checkpoints.layout import name_as_on_the_hub, write_as_on_the_hub
from mmdpo.models.load import load_whole_model

TOWER = "vision_tower.vision_model.embeddings.patch_embedding.weight"
LLAVA = {TOWER, "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
PUBLISHED = {
    "llava_1_5": {*LLAVA, "multi_modal_projector.linear_1.weight"},
    "llava_next": {*LLAVA, "image_newline"},
    "llava_onevision": {*LLAVA, "image_newline"},
    "gemma3": {*LLAVA, "multi_modal_projector.mm_input_projection_weight"},
    "paligemma": {*LLAVA, "multi_modal_projector.linear.weight"},
    "aya_vision": {*LLAVA, "multi_modal_projector.linear_1.weight"},
    "mistral3": {"vision_tower.patch_conv.weight", "vision_tower.transformer.layers.0.attention.q_proj.weight"},
    "internvl": {"vision_tower.embeddings.patch_embeddings.projection.weight"},
    "idefics3": {"model.vision_model.embeddings.patch_embedding.weight", "model.text_model.embed_tokens.weight"},
    "smolvlm": {"model.vision_model.embeddings.patch_embedding.weight", "model.text_model.embed_tokens.weight"},
    "qwen2_vl": {"visual.patch_embed.proj.weight", "model.embed_tokens.weight"},
    "qwen2_5_vl": {"visual.patch_embed.proj.weight", "model.embed_tokens.weight"},
    "qwen3_vl": {"model.visual.patch_embed.proj.weight", "model.language_model.embed_tokens.weight"},
    "glm4v": {"model.visual.patch_embed.proj.weight", "model.language_model.embed_tokens.weight"},
}
"""Some names in the repositories of the hub, such as llava-hf/llava-1.5-7b-hf and google/gemma-3-4b-it."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_are_those_of_published_checkpoints_and_transformers_reads_them(name, tmp_path):
    model = MODELS[name]().model
    model.save_pretrained(tmp_path)
    write_as_on_the_hub(tmp_path, model)
    held = load_file(tmp_path / "model.safetensors")
    assert held.keys() >= PUBLISHED[name]
    if TOWER in PUBLISHED[name]:
        tower = {key for key in held if key.startswith("vision_tower.")}
        assert all(key.startswith("vision_tower.vision_model.") for key in tower)
    read = load_whole_model(str(tmp_path), dtype="auto").state_dict()
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[key], tensor) for key, tensor in model.state_dict().items())


def test_shards_and_their_index_agree_and_a_second_time_changes_nothing(tmp_path):
    model = MODELS["llava_1_5"]().model
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    for _ in range(2):
        write_as_on_the_hub(tmp_path, model)
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
        shards = {file: set(load_file(tmp_path / file)) for file in set(index.values())}
        assert len(shards) > 1
        assert {name: file for file, names in shards.items() for name in names} == index
        assert TOWER in index
        assert not [name for name in index if re.search(r"vision_model\.vision_model|tower\.(?!vision_model)", name)]
        assert not list(tmp_path.glob("*.partly"))


def test_names_with_the_models_own_prefix_are_known():
    tower = MODELS["gemma3"]().model
    assert name_as_on_the_hub(tower, ["model.vision_tower.post_layernorm.bias", "lm_head.weight"]) == {
        "model.vision_tower.post_layernorm.bias": "model.vision_tower.vision_model.post_layernorm.bias"
    }
