"""What of transformers' image-text-to-text classes cannot be trained is refused, with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from cases import MDPO, prepare_pairs, split_cells
from plain_forwards import logprobs_alone, read_all_alone
from test_probe import try_out
from tiny_models import DEPENDENT, MODELS

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
}


@pytest.mark.parametrize("name", REFUSED)
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
