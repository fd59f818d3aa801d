"""What a caller gives to a trainer is his: it may be used for a second trainer, and is as it was."""

import copy
from functools import partial

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainingArguments

import small_trainer
from mmdpo import MDPOTrainer
from mmdpo.models.load import load_model, load_processor
from mmdpo.models.start import resolve_start
from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def rows():
    return make_pairs(4, seed=5)


configure = partial(small_trainer.configure, max_steps=1, per_device_train_batch_size=2)


def test_objects_of_other_libraries_are_named_with_what_to_give(tmp_path, rows):
    for options, said in (
        (dict(args=TrainingArguments(str(tmp_path), use_cpu=True)), "args is a TrainingArguments: give an MDPOConfig"),
        (dict(args=configure(tmp_path), peft_config={"r": 2}), r"peft_config is a dict: give peft's LoraConfig\(\*\*"),
    ):
        with pytest.raises(TypeError, match=said):
            MDPOTrainer("world", train_dataset=rows, **options)


def test_a_model_without_a_name_needs_its_processor(tmp_path, rows):
    model = load_model(resolve_start("world"))
    model.config.name_or_path = model.name_or_path = ""
    with pytest.raises(ValueError, match="does not say where it was loaded from: give its processor as processing_cla"):
        MDPOTrainer(model, args=configure(tmp_path), train_dataset=rows)


def count_adapted(trainer, part):
    return sum(part in name and "lora_B" in name for name, _ in trainer.model.named_parameters())


@pytest.mark.parametrize(
    "targets", [None, pytest.param("all-linear", marks=pytest.mark.slow), ["q_proj", "fc1"]], ids=str
)
def test_one_lora_config_adapts_the_same_layers_for_every_trainer(tmp_path, rows, targets):
    given = LoraConfig(r=2, target_modules=targets)
    before = copy.deepcopy(given.to_dict())
    for thawed in (False, True):
        options = dict(freeze_vision_tower=not thawed, freeze_projector=not thawed)
        reused, fresh = (
            MDPOTrainer("world", args=configure(tmp_path, **options), train_dataset=rows, peft_config=config)
            for config in (given, LoraConfig(r=2, target_modules=targets))
        )
        assert (count_adapted(reused, "vision_tower") > 0) == thawed
        for part in ("language_model", "projector", "vision_tower"):
            assert count_adapted(reused, part) == count_adapted(fresh, part)
        assert given.to_dict() == before


def test_modules_that_the_caller_excludes_stay_out_beside_those_of_frozen_parts(tmp_path, rows):
    config = LoraConfig(r=2, target_modules=["q_proj", "k_proj", "fc1"], exclude_modules=["k_proj"])
    trainer = MDPOTrainer("world", args=configure(tmp_path), train_dataset=rows, peft_config=config)
    adapted = {name for name, _ in trainer.model.named_parameters() if "lora_B" in name}
    assert adapted
    assert all("language_model" in name and "k_proj" not in name for name in adapted)


def test_a_convolution_of_a_frozen_tower_is_not_adapted_by_its_name(tmp_path, rows):
    config = LoraConfig(r=2, target_modules=["q_proj", "patch_embedding"])
    trainer = MDPOTrainer("world", args=configure(tmp_path), train_dataset=rows, peft_config=config)
    assert count_adapted(trainer, "vision_tower") == 0
    assert count_adapted(trainer, "language_model") > 0


def test_options_and_processor_of_the_caller_are_as_they_were(tmp_path, rows):
    args = configure(tmp_path, hub_token="secret", model_init_kwargs={"dtype": "float32", "token": "secret"})
    processor = load_processor(resolve_start("world"))
    processor.tokenizer.pad_token = None
    before = copy.copy(args)
    stream = Dataset.from_list(rows).to_iterable_dataset()  # for which options are resolved in place
    trainer = MDPOTrainer("world", args=args, train_dataset=stream, processing_class=processor)
    trainer.train()
    assert vars(args) == vars(before)
    assert args.precompute_ref_log_probs
    assert processor.tokenizer.pad_token is None
    assert trainer.processing_class.tokenizer.pad_token is not None
    assert (trainer.args.hub_token, trainer.args.model_init_kwargs["token"]) == ("secret", "secret")


@pytest.mark.parametrize(
    "options", [dict(model_init_kwargs={"dtype": "bfloat16"}), dict(adapter_name_or_path="runs/before")], ids=str
)
def test_a_model_that_was_loaded_leaves_no_option_about_loading_unread(tmp_path, rows, options):
    model = load_model(resolve_start("world"))
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: .*loaded already: load it that way, or give its na"):
        MDPOTrainer(model, args=configure(tmp_path, **options), train_dataset=rows)
