"""What of transformers' image-text-to-text classes cannot be trained is refused, with the reason."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from cases import MDPO, prepare_pairs, split_cells
from plain_forwards import logprobs_alone, read_all_alone
from test_probe import try_out
from tiny_models import DEPENDENT, EVERY, MODELS, say_what_is_missing
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mmdpo.models.families import find_family
from mmdpo.models.load import check_model
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.probe import TOLERANCES, ProbeError, compare

ACROSS = "models that read images through cross-attention are not supported"
REFUSED = {
    "blip-2": "its query transformer stands between pictures and text",
    "instructblip": "its query transformer stands between pictures and text",
    "instructblipvideo": "its query transformer stands between pictures and text",
    "florence2": "it is an encoder and a decoder",
    "t5gemma2": "it is an encoder and a decoder",
    "kosmos-2": ACROSS,
    "nemotron_h_omni": "has no text decoder and head inside",
    "git": "has no get_image_features",
    "pix2struct": "has no get_image_features",
    "blip": "has no get_image_features",
    "fuyu": "its processor writes places and ends of its own",
    "idefics": "has no get_image_features",
    "kosmos-2.5": ACROSS,
    "mistral4": "has no get_image_features",
    "mllama": "has no get_image_features",
    "pi0": "has no text decoder and head inside",
    "pp_formulanet": "has no get_image_features",
    "udop": "has no get_image_features",
    "vision-encoder-decoder": "has no get_image_features",
}
UNTRIED = {
    "its image processor needs torchvision": (
        "apertus1p5", "gemma4_unified", "inkling2", "inkling2_loop", "inkling_mm_model", "minicpm_ocr",
        "minimax_m3_vl", "molmo2", "muse_glimmer", "muse_spark", "step3p7", "unlimited_ocr",
    ),
    "its tower needs timm": ("fast_vlm", "perception_lm"),
    "it reads documents, by prompts that its processor writes": (
        "deepseek_ocr2", "glm_ocr", "got_ocr2", "granite_docling", "paddleocr_vl", "pp_chart2table", "qianfan_ocr",
    ),
    "it reads video and sound or draws, beside reading pictures": (
        "chameleon", "cosmos3_edge", "cosmos3_omni", "emu3", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker",
        "video_llama_3", "video_llava",
    ),
    "it reads proteins, and AutoModelForImageTextToText does not build it": ("evolla",),
    "nobody has made a tiny one yet": (
        "aria", "cohere_compass", "deepseek_vl_hybrid", "dots3_note", "ernie4_5_vl_moe", "glm5_next", "hunyuan_vl",
        "hy_v4_vl", "lfm3_vl", "minicpmv4_7", "mistral_large4", "qwen4_exp",
    ),
}  # fmt: skip
"""Classes that no contract test runs, by the reason. The generic family takes them, and the probe tries them on two
rows of the run before it trains."""
BY_NAME = {"diffusion_gemma": "it writes blocks of tokens by diffusion"}
"""Refused as well; of its default sizes no model can be made."""


def test_every_class_of_transformers_is_tested_refused_or_known_to_be_untried():
    """A class that is new in transformers shows here."""
    classes = {
        name: {kind} if isinstance(kind, str) else set(kind)
        for name, kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()
    }
    made = {type(make().model).__name__ for make in (MODELS | DEPENDENT).values()}
    tested = {name for name, kinds in classes.items() if kinds & made}
    left_out = {name for name in EVERY.keys() - MODELS.keys() if say_what_is_missing(name)}
    refused, untried = {*REFUSED, *BY_NAME}, {name for names in UNTRIED.values() for name in names}
    assert not tested & refused
    assert not untried & (tested | refused)
    new = classes.keys() - tested - left_out - refused - untried
    assert not new, "write a contract case, a refusal, or the reason for neither"


@pytest.mark.parametrize("name", BY_NAME)
def test_a_class_is_refused_by_its_name(name):
    model = torch.nn.Module()
    model.config = SimpleNamespace(model_type=name)
    with pytest.raises(ValueError, match=f"^Module cannot be trained: {BY_NAME[name]}"):
        check_model(model)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() & MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()))
def test_a_class_that_cannot_be_trained_is_refused_with_the_reason(name):
    config = transformers.AutoConfig.for_model(name)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    with pytest.raises(ValueError, match=REFUSED[name]) as told:
        check_model(model)
    assert str(told.value).startswith(type(model).__name__)


@pytest.mark.parametrize("name", MODELS)
def test_a_class_that_can_be_trained_is_not_refused(name):
    check_model(MODELS[name]().model)


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_tower_that_depends_on_its_batch_is_found_where_it_does(name):
    """MiniCPM-V 4.6 did in transformers 5.23."""
    tiny = DEPENDENT[name]()
    prepared, batch = prepare_pairs(tiny, MDPO)
    with torch.no_grad():
        alone = logprobs_alone(tiny, read_all_alone(tiny, prepared, MDPO))
        together = split_cells(Scorer(tiny.model, find_family(tiny.model.config), MDPO)(batch, MDPO))
    if compare(together, alone).distance > TOLERANCES["float32"]:
        with pytest.raises(ProbeError, match="depends on what else is in its batch"):
            try_out(tiny, copy.deepcopy(tiny.model))
    else:
        scorer, found = try_out(tiny, copy.deepcopy(tiny.model))
        assert (scorer.shares_prefix, found.rows) == (False, "separate")
