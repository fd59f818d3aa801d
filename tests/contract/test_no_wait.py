"""A training step on a device that is not there: whoever reads a value back, waits for a copy or mixes devices raises.

The families whose own code in transformers waits are named with the place, so that a version which mends it shows.
"""

from __future__ import annotations

import copy
import sys
import traceback
from pathlib import Path

import pytest
import torch
from cases import MDPO, SEPARATE_ALONE, Case, prepare_pairs
from peft import LoraConfig
from tiny_models import MODELS
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from mmdpo.models.families import find_family
from mmdpo.models.trained import add_adapter
from mmdpo.objective.presets import PRESETS
from mmdpo.world.pairs import make_pairs
from perf.fake import DEVICE, FakeDevice, WaitError, place_batch, place_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_trainer import build_trainer, first_batch

WAITING = (DataDependentOutputException, DynamicOutputShapeException, WaitError)

WAIT_INSIDE = {
    # A tensor of lengths is made on the device from a list.
    "llava_next": ("models/llava_next/modeling_llava_next.py", "feature_lens = torch.tensor("),
    "llava_next_video": ("models/llava_next_video/modeling_llava_next_video.py", "feature_lens = torch.tensor("),
    "llava_onevision": ("models/llava_onevision/modeling_llava_onevision.py", "feature_lens = torch.tensor("),
    # Sizes that lie on the device become slices and lists.
    "mistral3": ("models/pixtral/modeling_pixtral.py", "size[0] // self.patch_size"),
    "lighton_ocr": ("models/pixtral/modeling_pixtral.py", "size[0] // self.patch_size"),
    "glm4v": ("models/glm4v/modeling_glm4v.py", "get_vision_position_ids("),
    "glm46v": ("models/glm4v/modeling_glm4v.py", "get_vision_position_ids("),
    "glm4v_moe": ("models/glm4v_moe/modeling_glm4v_moe.py", "get_vision_position_ids("),
    "exaone4_5": ("models/exaone4_5/modeling_exaone4_5.py", "get_vision_position_ids("),
    "granite4_vision": ("models/granite4_vision/modeling_granite4_vision.py", "image_size.tolist()"),
    # Features are added where a mask says, for whose places the device is asked.
    "qwen3_vl": ("models/qwen3_vl/modeling_qwen3_vl.py", "hidden_states[visual_pos_masks, :]"),
    "qwen3_vl_moe": ("models/qwen3_vl_moe/modeling_qwen3_vl_moe.py", "hidden_states[visual_pos_masks, :]"),
    # Patches that are no padding are picked by a mask.
    "gemma4": ("models/gemma4/modeling_gemma4.py", "hidden_states[pooler_mask]"),
    "gemma4_moe": ("models/gemma4/modeling_gemma4.py", "hidden_states[pooler_mask]"),
    # Padded images are found by their pixels.
    "idefics3": ("models/idefics3/modeling_idefics3.py", "pixel_values[real_images_inds]"),
    "smolvlm": ("models/smolvlm/modeling_smolvlm.py", "pixel_values[real_images_inds]"),
    "idefics2": ("models/idefics2/modeling_idefics2.py", "pixel_values[real_images_inds]"),
    # Sizes on the device become indices.
    "kimi_k25": ("models/kimi_k25/modeling_kimi_k25.py", "get_vision_interpolation_indices_and_weights("),
    # A number is made on the device in every layer that leaves out small activations.
    "gemma3n": ("models/gemma3n/modeling_gemma3n.py", "target_sparsity_tensor = torch.tensor("),
    # Indicators of pictures are made on the host and sent.
    "ovis2": ("models/ovis2/modeling_ovis2.py", ").to(image_features.device)"),
}
"""Families that share rows, and where transformers' own forward waits for the device first."""

HALF = ("qwen3_vl_moe", "gemma4_moe", "kimi_k25")
"""Mixtures of experts, whose matrices a device of shapes multiplies in bfloat16 alone."""
SHARING = [name for name in MODELS if name not in SEPARATE_ALONE]


def step_on_device(name: str, way: str) -> None:
    tiny = MODELS[name]()
    family = find_family(tiny.model.config)
    model = add_adapter(copy.deepcopy(tiny.model), family, LoraConfig(r=2), ["language_model"]).train()
    dtype = torch.bfloat16 if name in HALF else None
    _, batch = prepare_pairs(tiny, MDPO)
    typed = {name: v.to(dtype) if v.is_floating_point() else v for name, v in batch["image_inputs"].items()}
    batch = {**batch, "image_inputs": typed}
    scorer = Case(tiny, way, model).scorer(batch, MDPO)
    device = FakeDevice()
    place_model(model, device, dtype=dtype)
    with device.running():
        scored = scorer(place_batch(batch, device), MDPO)
        scored.logprobs.sum().backward()
    assert scored.logprobs.device == DEVICE
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad.device == DEVICE for parameter in trained)


# One row without padding is the simpler case of several with it: `packed` alone is tried each time.
@pytest.mark.parametrize("way", [pytest.param("shared", marks=pytest.mark.slow), "packed"])
@pytest.mark.parametrize("name", [name for name in SHARING if name not in WAIT_INSIDE])
def test_forward_and_backward_wait_for_nothing(name, way):
    step_on_device(name, way)


@pytest.mark.parametrize("name", [name for name in WAIT_INSIDE if name in MODELS])
def test_where_transformers_waits_it_is_known(name):
    with pytest.raises(WAITING) as caught:
        step_on_device(name, "shared")
    inside = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if "/transformers/" in frame.filename]
    of_models = [frame for frame in inside if "/models/" in frame.filename]
    path, line = WAIT_INSIDE[name]
    assert of_models[-1].filename.endswith(path)
    assert line in of_models[-1].line


# -- the step of the trainer, loss and metrics in it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    made = make_pairs(5, seed=5)
    others = [row["images"] for row in made]
    return [
        {
            **row,
            "alternative": [{"role": "assistant", "content": [{"type": "text", "text": "two red cubes"}]}],
            "rejected_images": others[place - 1],
            "weight": 0.5,
            "beta": 1.0,
        }
        for place, row in enumerate(made)
    ]


def train_on_device(trainer, *, accumulates=1):
    """Runs what Trainer does between two optimizer steps."""
    batches = [first_batch(trainer, 2, start) for start in range(accumulates)]
    device = FakeDevice()
    model = place_model(trainer.model.train(), device)
    for kept in vars(trainer._live_reference).values():  # a frozen copy, where there is one
        if hasattr(kept, "model") and kept.model is not model:
            place_model(kept.model, device)
    trainer.current_gradient_accumulation_steps = accumulates
    with device.running():
        placed = iter([place_batch(batch, device) for batch in batches])
        micro_batches, count = trainer.get_batch_samples(placed, accumulates, DEVICE)
        for batch in micro_batches:
            loss = trainer.compute_loss(model, batch, num_items_in_batch=count)
            loss.backward()
            assert trainer.floating_point_ops(batch) > 0
    assert loss.device == DEVICE
    assert any(parameter.grad is not None for parameter in model.parameters())
    sums = trainer._metrics["train"].state()
    assert all(total.device == DEVICE for total, _ in sums.values())


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=() if name in ("dpo", "mdpo") else pytest.mark.slow) for name in PRESETS]
)
def test_the_step_of_every_preset_waits_for_nothing(tmp_path, rows, objective):
    train_on_device(build_trainer(tmp_path, rows, objective=objective, probe=False))


@pytest.mark.parametrize(
    "options",
    [
        dict(precompute_ref_log_probs=False),
        dict(corruption_per_epoch=True, lora=True),
        dict(max_tokens_per_row=80),
        pytest.param(dict(precompute_ref_log_probs=False, lora=True), marks=pytest.mark.slow),
        pytest.param(dict(gradient_checkpointing=True), marks=pytest.mark.slow),
        pytest.param(dict(image_terms="where_possible"), marks=pytest.mark.slow),
        pytest.param(dict(freeze_projector=False, freeze_vision_tower=False), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_step_of_mdpo_waits_for_nothing_however_it_is_set_up(tmp_path, rows, options):
    given = {name: value for name, value in options.items() if name != "lora"}
    adapter = LoraConfig(r=2) if options.get("lora") else None
    train_on_device(build_trainer(tmp_path, rows, probe=False, peft_config=adapter, **given), accumulates=2)


# -- the device that is not there -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        lambda there, here: there.sum().item(),
        lambda there, here: bool(there.any()),
        lambda there, here: there.tolist(),
        lambda there, here: there[there > 0],
        lambda there, here: there.nonzero(),
        lambda there, here: there.cpu(),
        lambda there, here: here.to(there.device),
        lambda there, here: there.copy_(here),
        lambda there, here: there[torch.tensor([0])],
        lambda there, here: torch.tensor([1.0], device=there.device),
        lambda there, here: there + here,
        lambda there, here: torch.nn.functional.embedding(torch.tensor([0]), there),
    ],
)
def test_what_waits_or_mixes_devices_raises(wait):
    device = FakeDevice()
    with device.running():
        there = torch.empty(2, 3, device=DEVICE)
        with pytest.raises(WAITING):
            wait(there, torch.ones(2, 3))
        assert torch.ones(3).tolist() == [1, 1, 1], "the host has values"
        sent = torch.ones(2, 3).to(DEVICE, non_blocking=True)
        assert (2.0 * (sent + there)).sum().device == DEVICE
