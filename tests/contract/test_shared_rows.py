"""Answers that share a row with their prompt: which models can, text decoders one by one, adapters, 16 bits."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    SEPARATE_ALONE,
    WAYS,
    Case,
    Plain,
    assert_same_gradients,
    assert_same_logprobs,
    plain_logprobs,
    plain_pairs,
    prepare_pairs,
    score_plainly,
    split_cells,
)
from peft import LoraConfig
from plain_forwards import gradients
from tiny_models import MODELS, TinyModel
from tiny_models.decoders import OPTIONS, WINDOW, llava_with

from mmdpo.models.families import PROVEN_DECODERS, Family, find_family
from mmdpo.models.trained import add_adapter
from mmdpo.scoring import tree_attention
from mmdpo.scoring.tree_attention import follow_paths, uses_flex

SHARED_WAYS = WAYS[1:]
SHARING = [name for name in MODELS if name not in SEPARATE_ALONE]


def score_together(case: Case) -> list[torch.Tensor]:
    _, batch = prepare_pairs(case.tiny, CELLS)
    return split_cells(case.score(batch, CELLS))


def assert_all_same(case: Case) -> None:
    alone, together = plain_pairs(case.tiny, CELLS), score_together(case)
    assert_same_logprobs(together, alone.logprobs)
    assert_same_gradients(gradients(case.scored, together), alone.gradients)


# -- who can ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_shares_but_those_that_are_known_not_to(name):
    model = MODELS[name]().model
    why = find_family(model.config).why_separate(model)
    assert (why is None) == (name not in SEPARATE_ALONE)
    if name == "qwen3_5":
        assert why.startswith("Qwen3_5ForConditionalGeneration is not among the model families proven")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (dict(model_type="bloom"), "its text decoder, bloom, is not among those proven"),
        (
            dict(layer_types=["full_attention", "mamba", "linear_attention"]),
            "layers of linear_attention, mamba, which read a row as one sequence",
        ),
        (dict(_attn_implementation="eager"), "attn_implementation: eager; sdpa and flex_attention can share"),
    ],
)
def test_the_reason_names_what_is_in_the_way(changes, why):
    decoder = SimpleNamespace(**{"model_type": "llama", "_attn_implementation": "sdpa", **changes})
    model = torch.nn.Module()
    model.get_decoder = lambda: SimpleNamespace(config=decoder)
    llava = find_family(SimpleNamespace(model_type="llava"))
    assert why in llava.why_separate(model)
    assert "not among the model families" in Family().why_separate(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_head_whose_logits_are_changed_behind_it_is_not_the_last(name):
    model = MODELS[name]().model
    changed = {"aya_vision", "cohere2_vision", "gemma3n", "gemma4_moe", "granite4_vision", "hyperclovax_vision_v2"}
    assert find_family(model.config).head_is_last(model) == (name not in {*SEPARATE_ALONE, *changed})


def soft_cap(logits: torch.Tensor) -> torch.Tensor:
    return 2 * torch.tanh(logits / 2)


def scale(logits: torch.Tensor) -> torch.Tensor:
    return logits / 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("option", "change"), [("final_logit_softcapping", soft_cap), ("logit_scale", scale)])
def test_logits_that_are_changed_behind_the_head_are_scored_as_changed(option, change, way):
    def changed(model: Any) -> Any:
        model = copy.deepcopy(model)
        setattr(model.get_decoder().config, option, 2.0)

        def change_logits(_: Any, __: Any, output: Any) -> Any:
            output.logits = change(output.logits)
            return output

        model.register_forward_hook(change_logits)
        return model

    tiny = replace(MODELS["llava_1_5"](), model=changed(MODELS["llava_1_5"]().model))
    bare, capped = (torch.cat(plain_pairs(of, CELLS).logprobs) for of in (MODELS["llava_1_5"](), tiny))
    assert float((bare - capped).abs().mean()) > 0.1
    assert_all_same(Case(tiny, way, changed(MODELS["llava_1_5"]().model)))


# -- text decoders ----------------------------------------------------------------------------------------------------


AT_HOME = ("granite4_vision_text", "gemma3n_text")
"""Decoders that stand in their own class alone: the first is in no mapping of transformers, the second needs tokens."""


made_once = cache(llava_with)


@pytest.mark.parametrize("way", SHARED_WAYS)
@pytest.mark.parametrize("decoder", [name for name in PROVEN_DECODERS if name not in AT_HOME])
def test_llava_with_any_proven_text_decoder_scores_as_plain_forwards_do(decoder, way):
    tiny = made_once(decoder)
    config = tiny.model.get_decoder().config
    assert config.model_type == decoder
    if "sliding_window" in OPTIONS.get(decoder, {}):
        assert config.sliding_window == WINDOW
    case = case_of(tiny, way)
    assert find_family(tiny.model.config).why_separate(tiny.model) is None
    assert_all_same(case)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), [("llava_1_5", "shared"), ("gemma3", "packed")])
def test_flex_attention_scores_as_plain_forwards_do(monkeypatch, name, way):
    """Values alone: on a CPU it has no backward pass. It is compiled, anew for every shape."""
    # The checks of shapes wrap functions, and torch counts the arguments of this one.
    monkeypatch.setattr(tree_attention, "follow_paths", lambda *args: inspect.unwrap(follow_paths(*args)))
    tiny = MODELS[name]()
    model = copy.deepcopy(tiny.model)
    model.get_decoder().set_attn_implementation("flex_attention")
    assert find_family(model.config).why_separate(model) is None
    # What torch 2.13 generates for lengths that vary does not compile on a CPU.
    with torch.no_grad(), torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        together = score_together(Case(tiny, way, model))
        assert uses_flex(model.get_decoder())
        found, expected = torch.cat(together), torch.cat(plain_logprobs(tiny, CELLS))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# -- adapters, and heads that are not trained -------------------------------------------------------------------------


@cache
def adapt(name: str) -> TinyModel:
    """Returns a model with an adapter that changes something, everything else frozen."""
    tiny = MODELS[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = LoraConfig(r=4, init_lora_weights=False)
        adapted = add_adapter(
            copy.deepcopy(tiny.model), find_family(tiny.model.config), adapter, ["language_model"]
        ).eval()
    return replace(tiny, model=adapted)


def case_of(tiny: TinyModel, way: str) -> Case:
    return Case(tiny, way, copy.deepcopy(tiny.model))


@pytest.mark.parametrize("way", SHARED_WAYS)
@pytest.mark.parametrize("name", SHARING)
def test_an_adapter_has_the_gradients_of_plain_forwards(name, way):
    case = case_of(adapt(name), way)
    assert all("lora" in n for n, p in case.model.named_parameters() if p.requires_grad)
    adapted, bare = plain_pairs(case.tiny, CELLS).logprobs, plain_logprobs(MODELS[name](), CELLS)
    assert float((torch.cat(adapted) - torch.cat(bare)).abs().max()) > 0.01
    assert_all_same(case)


ROUGH = {"gemma4": 0.3, "gemma3n": 0.3, "kimi_k25": 0.2}
"""Gemma 4 and 3n have four layers here, each of which multiplies by an embedding of its own; Kimi K2.5 normalises keys
of eight numbers, and rounding changes which experts are asked."""


@cache
def plain_in_16_bits(tiny: TinyModel) -> Plain:
    with torch.autocast("cpu", torch.bfloat16):
        return score_plainly(tiny, prepare_pairs(tiny, CELLS)[0], CELLS)


@pytest.mark.parametrize("way", SHARED_WAYS)
@pytest.mark.parametrize("name", SHARING)
def test_rounding_to_16_bits_costs_no_more_than_in_plain_forwards(name, way):
    case = case_of(adapt(name), way)

    def flatten(scored: Plain) -> list[torch.Tensor]:
        return [torch.cat(scored.logprobs), torch.cat([gradient.flatten() for gradient in scored.gradients.values()])]

    with torch.autocast("cpu", torch.bfloat16):
        scored = score_together(case)
        shared = Plain([tokens.detach() for tokens in scored], gradients(case.scored, scored))
    assert scored[0].dtype == torch.float32
    exact, plain = plain_pairs(case.tiny, CELLS), plain_in_16_bits(case.tiny)
    for ours, theirs, true in zip(flatten(shared), flatten(plain), flatten(exact), strict=True):
        assert torch.isfinite(ours).all()
        noise = float((theirs - true).norm())
        # Rounding turns a router's choice for a token or two, other ones in each: noise comes in larger lumps.
        assert 0 < float((ours - true).norm()) <= (1.5 if "moe" in name else 1.25) * noise
        assert noise < ROUGH.get(name, 0.1) * float(true.norm())
