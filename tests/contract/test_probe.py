"""The probe before a run: it lets rows be shared where that is exact, and stops where a model's batch changes it."""

from __future__ import annotations

import copy
import json
import logging
import re
from typing import Any

import pytest
import torch
from cases import MDPO, assert_same_logprobs, conversation, picture, prepare, two_pairs
from peft import LoraConfig
from plain_forwards import logprobs_alone, read_all_alone
from tiny_models import MODELS, TinyModel
from tiny_models.decoders import llava_with

import small_trainer
from mmdpo.corruption import load
from mmdpo.data.collate import Collator
from mmdpo.data.items import Items
from mmdpo.data.prepare import Preparer
from mmdpo.data.tokenise import Renderer
from mmdpo.models.families import Family, find_family
from mmdpo.models.seams import attention_of
from mmdpo.records import CORRUPTED
from mmdpo.scoring.forward import Scorer
from mmdpo.scoring.probe import Probe, ProbeError, probe, score_alone
from mmdpo.world.pairs import make_pairs

UNRECORDED = ("olmo2", "smollm3", "granite")
"""Text decoders that are not in the record."""


def collate(tiny: TinyModel, family: Family) -> Collator:
    return Collator(Preparer(Renderer(tiny.processor, family), MDPO, {CORRUPTED: load("crop_0_20")}, seed=0))


def try_out(tiny: TinyModel, model: Any, family: Family | None = None, **options: Any) -> tuple[Scorer, Probe]:
    family = family or find_family(model.config)
    return probe(Scorer(model, family, MDPO), collate(tiny, family), Items(two_pairs(tiny), seed=0), **options)


# -- the forwards that it compares with -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_its_forwards_are_those_of_a_processor_and_a_model_alone(name):
    tiny = MODELS[name]()
    examples = [*two_pairs(tiny), conversation(tiny, "Describe two.", "A cup.", "A dog.", picture(4, 26, 26))]
    collator = collate(tiny, find_family(tiny.model.config))
    items = [Items(examples, seed=0)[place] for place in range(3)]
    with torch.no_grad():
        found = score_alone(tiny.model, collator, items, collator(items))
        prepared, _ = prepare(tiny, examples, MDPO)
        assert_same_logprobs(found, logprobs_alone(tiny, read_all_alone(tiny, prepared, MDPO)))


# -- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_models_share_by_the_probe_where_the_record_says_so(name):
    tiny = MODELS[name]()
    model = copy.deepcopy(tiny.model)
    is_recorded = find_family(model.config).why_separate(model) is None
    scorer, found = try_out(tiny, model)
    assert scorer.shares_prefix == is_recorded
    assert found.rows == ("shared" if is_recorded else "separate")
    assert found.distance <= 1e-5 < found.tolerance


@pytest.mark.parametrize("decoder", UNRECORDED)
def test_a_decoder_outside_the_record_shares_where_that_is_exact(decoder):
    tiny = llava_with(decoder)
    model = copy.deepcopy(tiny.model)
    assert "not among those proven" in find_family(model.config).why_separate(model)
    scorer, found = try_out(tiny, model)
    assert (scorer.shares_prefix, found.rows, found.why_separate) == (True, "shared", None)
    examples = [conversation(tiny, "What?", "Two dogs on the table.", "A cup.", picture(5, 33, 20)), *two_pairs(tiny)]
    prepared, batch = prepare(tiny, examples, MDPO)
    with torch.no_grad():
        sums = torch.stack([t.sum() for t in logprobs_alone(tiny, read_all_alone(tiny, prepared, MDPO))])
        torch.testing.assert_close(scorer(batch, MDPO).logprobs.flatten(), sums, rtol=1e-5, atol=1e-5)


def test_a_family_without_a_file_shares_with_positions_of_three_rows():
    tiny = MODELS["qwen2_vl"]()
    scorer, _ = try_out(tiny, copy.deepcopy(tiny.model), Family())
    assert scorer.shares_prefix


def carry_state(model: Any) -> Any:
    """Lets every token see the mean of all before it in its row, whatever the attention says."""

    def add_mean(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden + hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[None, :, None]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    model.get_decoder().layers[0].register_forward_hook(add_mean)
    return model


def test_a_decoder_that_reads_a_row_as_one_sequence_is_scored_separately():
    tiny = MODELS["llava_1_5"]()
    model = carry_state(copy.deepcopy(tiny.model))
    scorer, found = try_out(tiny, model)
    assert not scorer.shares_prefix
    assert attention_of(model.get_decoder()) == "sdpa", "the model is as it was"
    assert len(re.findall(r"-\d+\.\d{4}", found.why_separate)) == 2
    with pytest.raises(ProbeError, match="attention: shared does not work for this model"):
        try_out(tiny, model, attention="shared")
    assert try_out(tiny, model, attention="separate")[1].why_separate is None


def test_a_forward_that_cannot_read_shared_rows_is_scored_separately():
    tiny = MODELS["llava_1_5"]()
    model = copy.deepcopy(tiny.model)

    def refuse(_: Any, __: Any, kwargs: Any) -> None:
        if kwargs.get("position_ids") is not None:
            raise TypeError("no position_ids here")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    scorer, found = try_out(tiny, model)
    assert not scorer.shares_prefix
    assert "no position_ids here" in found.why_separate


# -- batches ----------------------------------------------------------------------------------------------------------


def depend_on_the_batch(model: Any) -> Any:
    """Lets each picture's features depend on those beside it, as a tower does that normalises over its batch."""

    def add_mean(_: Any, args: Any, kwargs: Any) -> Any:
        pixels = kwargs.pop("pixel_values", None) if not args else args[0]
        return (pixels + pixels.mean(0, keepdim=True), *args[1:]), kwargs

    tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))
    tower.register_forward_pre_hook(add_mean, with_kwargs=True)
    return model


@pytest.mark.parametrize("attention", ["auto", "separate"])
def test_a_tower_whose_output_depends_on_its_batch_stops_with_both_numbers(attention):
    tiny = MODELS["llava_1_5"]()
    with pytest.raises(ProbeError, match=r"is -\d+\.\d{4} beside .* and -\d+\.\d{4} by a plain forward"):
        try_out(tiny, depend_on_the_batch(copy.deepcopy(tiny.model)), attention=attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_16_bits_is_within_its_tolerance(dtype):
    for name in ("llava_1_5", "qwen2_5_vl", "gemma3"):
        tiny = MODELS[name]()
        scorer, found = try_out(tiny, copy.deepcopy(tiny.model).to(dtype))
        assert scorer.shares_prefix, name
        assert found.precision == str(dtype).removeprefix("torch.")


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return make_pairs(4, seed=5)


def make_trainer(tmp_path, rows, *, change=lambda model: model, **changes):
    model, processor = small_trainer.open_world()
    options = {"output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2, "probe": True, **changes}
    return small_trainer.build_trainer(tmp_path, rows, model=change(model), processing_class=processor, **options)


def test_training_stops_before_its_references_are_scored(tmp_path, rows):
    with pytest.raises(ProbeError, match="probe: false trains all the same"):
        make_trainer(tmp_path, rows, change=depend_on_the_batch)
    trainer = make_trainer(tmp_path, rows, change=depend_on_the_batch, probe=False)
    trainer.train()
    assert json.loads((tmp_path / "probe.json").read_text()) == {"rows": "shared", "skipped": "probe: false"}


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "live"])
def test_policy_and_reference_are_scored_alike_after_it(tmp_path, rows, caplog, adapter, is_cached):
    with caplog.at_level(logging.WARNING, "mmdpo"):
        trainer = make_trainer(
            tmp_path, rows, change=carry_state, peft_config=adapter, precompute_ref_log_probs=is_cached
        )
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("mmdpo")]
    assert "separate rows for every cell, which is slower" in line
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(3 * 0.693147, abs=1e-4)
    assert json.loads((tmp_path / "probe.json").read_text())["rows"] == "separate"


def test_a_faulty_row_is_not_what_is_tried(tmp_path, rows):
    broken = [{**rows[0], "images": [str(tmp_path / "nowhere.png")]}, *rows]
    assert make_trainer(tmp_path, broken, on_bad_row="skip").probe.rows == "shared"
