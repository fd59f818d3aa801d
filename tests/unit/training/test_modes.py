"""Training mode reaches what is trained: frozen parts compute what the reference computes, and no dropout is left."""

import math
from functools import partial

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.beit.modeling_beit import BeitDropPath

import small_trainer
from mmdpo import MDPOTrainer
from mmdpo.models.families import find_family
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import disable_dropout, rest_frozen_modules
from mmdpo.world.pairs import make_pairs
from small_trainer import losses_of


@pytest.fixture(scope="module")
def rows():
    return make_pairs(8, seed=5)


configure = partial(small_trainer.configure, max_steps=3, per_device_train_batch_size=2, learning_rate=0.0)


def model_with_statistics(args):
    """The world's model, whose vision tower normalises over the batch, as FastVLM's does."""
    model = load_model(resolve_start("world"))
    embeddings = next(module for module in model.modules() if hasattr(module, "patch_embedding"))
    width = embeddings.patch_embedding.out_channels
    norm = nn.BatchNorm2d(width)
    with torch.no_grad():
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2.0)
    first = embeddings.patch_embedding
    embeddings.patch_embedding = nn.Sequential(first, norm)
    embeddings.patch_embedding.weight = first.weight  # the embeddings ask it for its dtype
    return model, norm


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("is_cached", [pytest.param(True, marks=pytest.mark.slow), False], ids=["cached", "live"])
def test_at_learning_rate_zero_a_tower_with_batch_statistics_leaves_the_loss_at_its_start(
    tmp_path, rows, adapter, is_cached
):
    args = configure(tmp_path, precompute_ref_log_probs=is_cached)
    model, norm = model_with_statistics(args)
    before = norm.running_mean.clone(), norm.running_var.clone()
    trainer = MDPOTrainer(
        model,
        args=args,
        train_dataset=rows,
        processing_class=load_processor(resolve_start("world")),
        peft_config=adapter,
    )
    trainer.train()
    assert losses_of(trainer) == pytest.approx([3 * math.log(2)] * 3, abs=1e-5)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


def test_statistics_of_a_trained_tower_rest_too(tmp_path, rows):
    args = configure(tmp_path, freeze_vision_tower=False)
    model, norm = model_with_statistics(args)
    before = norm.running_mean.clone()
    trainer = MDPOTrainer(
        model,
        args=args,
        train_dataset=rows,
        processing_class=load_processor(resolve_start("world")),
    )
    trainer.train()
    assert losses_of(trainer) == pytest.approx([3 * math.log(2)] * 3, abs=1e-5)
    assert torch.equal(norm.running_mean, before)


def test_modules_without_a_trained_parameter_are_in_evaluation_mode_and_others_train(tmp_path, rows):
    trainer = MDPOTrainer("world", args=configure(tmp_path), train_dataset=rows, peft_config=LoraConfig(r=2))
    model = trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[0]])
    trainer.score(model, batch)
    base = model.get_base_model()
    part_of = find_family(model.config).locate_parts(base).part_of
    towers = [module for name, module in base.named_modules() if part_of(name) == "vision_tower" and name != "model"]
    assert not any(module.training for module in towers if module is not base)
    adapted = [module for name, module in base.named_modules() if hasattr(module, "lora_A") and ".layers." in name]
    assert adapted
    assert all(part.training for module in adapted for part in (module, module.lora_dropout))


def test_frozen_layers_under_a_trained_projector_recompute_their_activations(tmp_path):
    model = load_model(resolve_start("world"))
    family = find_family(model.config)
    part_of = family.locate_parts(model).part_of
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) == "projector")
    rest_frozen_modules(model.train(), family)
    decoder = [
        module
        for name, module in model.named_modules()
        if part_of(name) == "language_model" and isinstance(module, GradientCheckpointingLayer)
    ]
    assert decoder
    assert all(layer.training for layer in decoder)
    assert not any(module.training for layer in decoder for module in layer.children())


class StochasticDepth(nn.Module):
    """As torchvision spells it."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 0.2


class Mlp(nn.Module):
    """With a probability that its forward would read."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_drop, self.activation_dropout, self.scale, self.drop_tokens = 0.1, 0.2, 0.5, True


def test_every_spelling_of_dropout_and_drop_path_is_set_to_zero():
    model = nn.ModuleList(
        [nn.Dropout(0.1), nn.Dropout2d(0.1), nn.AlphaDropout(0.1), BeitDropPath(0.3), StochasticDepth(), Mlp()]
    )
    assert disable_dropout(model) == 7
    ones = torch.ones(1, 4, 8, 8)
    model.train()
    assert all(torch.equal(model[place](ones), ones) for place in range(4))
    assert model[4].p == 0.0
    mlp = model[5]
    assert (mlp.attn_drop, mlp.activation_dropout, mlp.scale, mlp.drop_tokens) == (0.0, 0.0, 0.5, True)
    assert disable_dropout(model) == 0
