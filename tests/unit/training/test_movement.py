"""What training does not move is said, with counts, before the run."""

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mmdpo import MDPOTrainer
from mmdpo.models.families import find_family
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.models.trained import describe_rounding, describe_unreached
from mmdpo.world.pairs import make_pairs
from small_trainer import configure


class Experts(nn.Module):
    """A mixture as transformers keeps it: the matrices of all experts in one parameter."""

    def __init__(self, width):
        super().__init__()
        self.gate_up_proj, self.router = nn.Parameter(torch.randn(4, 8, width)), nn.Parameter(torch.randn(4, width))


def model_with_experts(args):
    model = load_model(resolve_start("world"))
    for layer in model.get_decoder().layers:
        layer.mlp.experts = Experts(8)
    return model


def test_experts_that_lora_does_not_reach_are_said_with_their_number(tmp_path, caplog):
    args = configure(tmp_path)
    model, processor = model_with_experts(args), load_processor(resolve_start("world"))
    layers = len(model.get_decoder().layers)
    with caplog.at_level(logging.WARNING, "mmdpo"):
        MDPOTrainer(
            model,
            args=args,
            train_dataset=make_pairs(2, seed=5),
            processing_class=processor,
            peft_config=LoraConfig(r=2),
        )
    (line,) = [record.getMessage() for record in caplog.records if "does not reach" in record.getMessage()]
    assert f"{2 * layers} matrices" in line
    assert f"{layers * (4 * 8 * 8 + 4 * 8):,} of" in line
    assert f"layers.*.mlp.experts.gate_up_proj ({layers})" in line


def test_experts_that_are_named_are_reached(tmp_path):
    args = configure(tmp_path)
    model = model_with_experts(args)
    family = find_family(model.config)
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.router"])
    assert describe_unreached(get_peft_model(model, config), family, ("language_model",)) is None


def test_of_linear_layers_alone_nothing_is_said(tmp_path):
    model = load_model(resolve_start("world"))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    assert describe_unreached(adapted, find_family(model.config), ("language_model",)) is None


@pytest.mark.parametrize(("dtype", "rate", "is_said"), [
    (torch.bfloat16, 1e-5, True), (torch.bfloat16, 1e-1, False), (torch.float32, 1e-5, False),
])  # fmt: skip
def test_updates_that_round_away_are_said(dtype, rate, is_said):
    layer = nn.Linear(64, 64).to(dtype)
    with torch.no_grad():
        layer.weight.normal_(std=0.05)
    told = describe_rounding(layer, rate)
    assert (told is not None) == is_said
    # What is said is what happens: the first step of Adam moves each weight by the learning rate.
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 64, dtype=dtype)).sum().backward()
    torch.optim.Adam(layer.parameters(), lr=rate).step()
    moved = float((layer.weight != before).float().mean())
    assert (moved < 0.9) == is_said
    layer.requires_grad_(False)
    assert describe_rounding(layer, rate) is None


def test_full_training_in_bf16_says_so(tmp_path, caplog):
    args = configure(tmp_path, learning_rate=1e-5, model_init_kwargs={"dtype": "bfloat16"})
    with caplog.at_level(logging.WARNING, "mmdpo"):
        MDPOTrainer("world", args=args, train_dataset=make_pairs(2, seed=5))
    assert any("trained weights in bfloat16" in record.getMessage() for record in caplog.records)
