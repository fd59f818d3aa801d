"""MDPOConfig: the defaults of the paper, and combinations that cannot work."""

import dataclasses
import math
import re

import pytest
from accelerate.parallelism_config import ParallelismConfig
from trl import DPOConfig, ModelConfig, ScriptArguments

from mmdpo.keys import ABSENT
from mmdpo.records import Cell
from mmdpo.training import config, option_checks
from mmdpo.training.config import MDPOConfig
from mmdpo.training.ranges import RANGES

WITHOUT_RANGE = {
    "label_smoothing_factor": "refused unless 0",
    "neftune_noise_alpha": "refused",
    "local_rank": "set by launchers",
}
"""Numeric options that need no range, and why."""


@pytest.fixture
def configure(tmp_path):
    def make(**options):
        return MDPOConfig(**({"output_dir": str(tmp_path / "run"), "report_to": "none", "use_cpu": True} | options))

    return make


def test_the_defaults_are_the_papers(configure):
    args = configure()
    assert (args.beta, args.learning_rate, args.num_train_epochs, args.warmup_steps) == (0.1, 1e-5, 3, 0.1)
    assert args.lr_scheduler_type == "cosine"
    assert (args.objective, args.corruption, args.crop_space) == ("mdpo", "crop_0_20", "image")
    assert args.build_objective().cells == (
        Cell("original", "chosen"),
        Cell("original", "rejected"),
        Cell("corrupted", "chosen"),
    )
    assert dict(args.build_corruptions()["corrupted"].options) == {"low": 0.01, "high": 0.2}
    assert args.disable_dropout
    assert args.freeze_vision_tower
    assert args.freeze_projector
    assert not args.corruption_per_epoch
    assert not args.trust_remote_code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_space": "processed", "corruption": "blur"}, "crop_space: processed works with .*, not with blur"),
        (
            {"corruption_per_epoch": True, "dataloader_persistent_workers": True, "dataloader_num_workers": 1},
            "turn dataloader_persistent_workers off",
        ),
        ({"beta": 0.0}, "beta must be a number in .*; got 0.0"),
        ({"beta": float("nan")}, "beta must be a number in .*; got nan"),
        ({"crop_space": "procesed"}, "crop_space must be one of image, processed; got 'procesed'"),
        ({"on_bad_row": "eror"}, "on_bad_row must be one of error, skip; got 'eror'"),
        ({"check_data": "ful"}, "check_data must be one of full, text; got 'ful'"),
        ({"image_terms": "where posible"}, "image_terms must be one of required, where_possible; got 'where posible'"),
        ({"corrupted_images": "al"}, "corrupted_images must be one of all, demonstrations; got 'al'"),
        ({"beta": -0.1}, "beta must be a number in .*; got -0.1"),
        (
            {"objective": '[{"rank": [["original", "chosen"], ["blnk", "chosen"]]}]'},
            "unknown corruption 'blnk'; did you mean 'blank'",
        ),
        ({"max_length": 1}, "max_length must be .* room for a prompt"),
        ({"label_smoothing_factor": 0.1}, "use label_smoothing"),
        ({"neftune_noise_alpha": 5.0}, "differs between policy and reference"),
        ({"parallelism_config": {"tp_size": 2}}, "which only Python can make"),
        ({"parallelism_config": ParallelismConfig(cp_size=2)}, "cut rows into parts"),
        ({"torch_compile_mode": "default"}, "torch_compile: a compiled model does not notice"),
        ({"use_liger_kernel": True}, "use_liger_kernel replaces layers after the references were scored"),
        ({"include_num_input_tokens_seen": True}, "include_num_input_tokens_seen counts .* leave it out"),
        ({"include_for_metrics": ["loss", "inputs"]}, "include_for_metrics: .* leave inputs out"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config: dispatch_batches .* leave it out"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers: .* set dataloader_num_workers"),
        ({"gradient_checkpointing_kwargs": {"use_reentrent": True}}, "did you mean 'use_reentrant'"),
        ({"gradient_checkpointing_kwargs": {"offload": True}}, "offload moves activations off a GPU"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "^lr_scheduler_type: warmup_stable_decay .*num_decay_steps"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "^lr_scheduler_type: cosine with lr_scheduler_kwargs .*cycles"),
        ({"loss_type": ["sigmoid", "sft"]}, "combine losses as terms of `objective:`"),
        ({"loss_type": "aot"}, "loss_type must be one of sigmoi"),
        ({"image_terms": "where_possible", "objective": "image_dpo"}, "every term of the objective needs one"),
        ({"loss_type": "ipo", "objective": "image_dpo"}, "this objective has none"),
        ({"label_smoothing": 0.1, "objective": "sft_chosen"}, "this objective has none"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "label_smoothing goes with"),
        ({"label_smoothing": 0.5}, r"label_smoothing must be a number in \[0, 0.5\)"),
        ({"objective": "dpo_anker"}, "did you mean 'dpo_anchor'"),
        ({"corruption": "crop_0_2"}, "did you mean 'crop_0_20'"),
        ({"corruption_options": {"hihg": 0.1}}, "has no option 'hihg'; did you mean 'high'"),
        ({"corruption_options": {"high": "0.1"}}, "option 'high' of corruption 'crop_0_20' must be float"),
        ({"corruption_options": {"low": 0.3, "high": 0.1}}, "low"),
    ],
    ids=str,
)
def test_what_cannot_work_together_is_refused(configure, options, message):
    with pytest.raises(ValueError, match=message):
        configure(**options)


@pytest.mark.parametrize("name", ["wandb", "nonsense"])
def test_a_logger_that_is_not_there_is_named_before_anything_is_loaded(configure, monkeypatch, name):
    monkeypatch.setattr(option_checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(ValueError, match=f"report_to: {name} is not installed .*tensorboard"):
        configure(report_to=["tensorboard", name])
    assert configure(report_to="tensorboard").report_to == ["tensorboard"]
    assert configure(report_to="none").report_to == []


def test_deepspeed_that_is_not_installed_is_said_with_the_remedy(configure, monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install deepspeed"):
        configure(deepspeed="deepspeed.json")


def test_what_can_work_together_is_not(configure):
    configure(crop_space="processed", corruption="crop_20_50", corruption_per_epoch=True)
    configure(precompute_ref_log_probs=True, dataloader_persistent_workers=True, dataloader_num_workers=1)
    configure(corruption_per_epoch=True, dataloader_num_workers=1, precompute_ref_log_probs=True)
    configure(objective="dpo_no_image", loss_type="hinge")
    configure(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-6})
    configure(gradient_checkpointing_kwargs={"use_reentrant": True, "preserve_rng_state": False})


def test_losses_reach_the_response_term(configure):
    (response, image, anchor) = configure(loss_type=["ipo"]).build_objective().terms
    assert (response.loss_type, image.loss_type) == ("ipo", "sigmoid")
    assert configure(label_smoothing=0.2).build_objective().terms[0].label_smoothing == 0.2
    assert anchor.delta == 0


def test_options_of_the_corruption_are_read_from_json_too(configure):
    for options in ({"low": 0.05}, '{"low": 0.05}'):
        assert dict(configure(corruption_options=options).build_corruptions()["corrupted"].options) == {
            "low": 0.05,
            "high": 0.2,
        }


def test_checkpointing_is_on_unless_said_otherwise(configure):
    assert configure().gradient_checkpointing is True
    assert configure(gradient_checkpointing=False).gradient_checkpointing is False


@pytest.mark.skipif(not hasattr(MDPOConfig, "activation_checkpointing"), reason="this transformers has one name for it")
@pytest.mark.parametrize("flag", [True, False])
def test_the_newer_name_of_checkpointing_wins(configure, flag):
    assert configure(activation_checkpointing=flag, gradient_checkpointing=not flag).gradient_checkpointing is flag


def test_ddp_looks_for_weights_without_a_gradient_where_a_tower_or_projector_moves(configure):
    def looks(**options):
        return configure(**options).ddp_find_unused_parameters

    assert looks() is None, "transformers decides"
    assert looks(freeze_projector=False) is True
    assert looks(freeze_vision_tower=False) is True
    assert looks(freeze_vision_tower=False, ddp_find_unused_parameters=False) is False
    assert looks(freeze_vision_tower=False, gradient_checkpointing_kwargs={"use_reentrant": True}) is None


def test_references_are_scored_before_training_unless_the_model_is_sharded(configure, monkeypatch):
    assert configure().precompute_ref_log_probs is True
    assert configure(precompute_ref_log_probs=False).precompute_ref_log_probs is False
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert configure().precompute_ref_log_probs is False
    assert configure(precompute_ref_log_probs=True).precompute_ref_log_probs is True


def test_sixteen_bits_are_used_where_a_gpu_has_them_alone(configure):
    args = configure()
    assert (args.bf16, args.fp16) == (False, False), "the tests run on the CPU"
    assert configure(bf16=False).bf16 is False


def numeric_options(kind):
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    return {name for name, said in fields.items() if re.search(r"\b(int|float)\b", said)}


def test_every_numeric_option_has_a_range():
    numeric = numeric_options(MDPOConfig) | numeric_options(ModelConfig) | numeric_options(ScriptArguments)
    assert numeric - RANGES.keys() == WITHOUT_RANGE.keys() & numeric


@pytest.mark.parametrize("name", sorted(numeric_options(MDPOConfig) & RANGES.keys()))
def test_a_number_out_of_its_range_is_refused_by_name(configure, name):
    numbers = RANGES[name]
    outside = [math.nan, math.inf, -math.inf, True, "ten", numbers.low - 3]
    outside += [numbers.low] if numbers.open_low else []
    outside += [1.5] if numbers.is_whole else []
    for value in outside:
        with pytest.raises(ValueError, match=f"^{name} must be a .*number.*; got "):
            configure(**{name: value})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"corruption_options": "low"}, "corruption_options"),
        ({"corruption_options": [0.1]}, "corruption_options"),
        ({"corruption_options": "3"}, "corruption_options"),
        ({"corruption_options": "{low: 0.1"}, "corruption_options"),
        ({"corruption_options": {"low": math.nan}}, "corruption_options"),
        ({"model_init_kwargs": ["dtype"]}, "model_init_kwargs"),
        ({"lr_scheduler_kwargs": "[" * 2000 + "]" * 2000}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_kwargs": {"num_cycles": math.inf}}, "lr_scheduler_kwargs"),
        ({"gradient_checkpointing_kwargs": "use_reentrant"}, "gradient_checkpointing_kwargs"),
        ({"objective": "[" * 2000 + "]" * 2000}, "objective"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_should_be_a_mapping_and_is_none_is_refused_by_name(configure, options, name):
    with pytest.raises(ValueError, match=name):
        configure(**options)


@pytest.mark.parametrize("name", ["fp16", "fp16_full_eval", "bf16", "bf16_full_eval"])
def test_a_precision_that_the_device_has_not_is_refused_with_the_way_out(configure, monkeypatch, name):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^{name}: true needs a GPU.*leave it out"):
        configure(**{name: True, "use_cpu": False})
    if name.startswith("bf16"):
        configure(**{name: True, "use_cpu": True})


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("loss", False), ("eval_loss", False), ("loss/rank_image", False), ("eval_near_loss/anchor_chosen", False),
     ("rewards/accuracies", True), (None, None)],
)  # fmt: skip
def test_the_best_model_has_the_least_loss_of_any_name(configure, metric, greater):
    assert configure(metric_for_best_model=metric).greater_is_better is greater
    assert configure(metric_for_best_model=metric, greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize(
    "name", ["truncation_mode", "ld_alpha", "f_divergence_type", "sync_ref_model", "use_weighting"]
)
def test_an_option_that_trl_alone_has_is_answered_with_what_to_use(configure, name):
    with pytest.raises(TypeError, match=f"MDPOConfig has no {name}: .{{20}}"):
        configure(**{name: 1})


def test_of_a_slip_the_nearest_option_is_named(configure):
    with pytest.raises(TypeError, match=r"MDPOConfig has no corruptions; did you mean 'corruption'\?"):
        configure(corruptions="blank")


def test_no_option_of_trl_is_left_without_an_answer():
    ours = {field.name for kind in (MDPOConfig, ModelConfig, ScriptArguments) for field in dataclasses.fields(kind)}
    assert {field.name for field in dataclasses.fields(DPOConfig)} - ours <= ABSENT.keys()
    assert not ABSENT.keys() & ours
