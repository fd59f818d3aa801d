"""MDPOTrainer: the start, invariances, what moves and what does not, references, resuming, and errors."""

import json
import math

import pytest
import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PeftConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
    inject_adapter_in_model,
)
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainerCallback

import small_trainer
from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.records import RowError
from mmdpo.scoring.reference import AdapterOff, FrozenModel
from mmdpo.training.metrics import check_best_metric
from mmdpo.training.run_plan import count_steps
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs
from small_trainer import first_batch, losses_of, weights_of


@pytest.fixture(scope="module")
def rows():
    return make_pairs(12, seed=5)


def build_trainer(folder, rows, **changes):
    return small_trainer.build_trainer(folder, rows, **{"freeze_projector": False, **changes})


def loss_of(trainer, model, batch):
    return float(trainer.compute_loss(model, batch).detach())


class TestStart:
    def test_every_term_of_mdpo_is_ln_2(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, probe=True)
        assert trainer.probe.rows == "shared"
        loss = trainer.compute_loss(trainer.model.train(), first_batch(trainer, 12)).detach()
        assert float(loss) == pytest.approx(3 * math.log(2), abs=1e-5)
        metrics = trainer._metrics["train"].flush(trainer.accelerator)
        for term in ("rank_response", "rank_image", "anchor_chosen"):
            assert metrics[f"loss/{term}"] == pytest.approx(math.log(2), abs=1e-5)

    def test_one_step_raises_the_chosen_answer_and_lowers_the_others(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, per_device_train_batch_size=12, num_train_epochs=4, learning_rate=3e-4)
        trainer.train()
        last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
        assert last["rewards/chosen"] > 0
        assert last["rewards/margins"] > 0
        assert last["rewards/image_margins"] > 0
        assert last["loss"] < 3 * math.log(2)


class TestInvariances:
    def test_the_loss_of_a_batch_is_the_mean_over_its_examples_whatever_the_padding_and_order(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, precompute_ref_log_probs=False)
        perturb(trainer.model)
        together = loss_of(trainer, trainer.model, first_batch(trainer, 6))
        alone = [loss_of(trainer, trainer.model, first_batch(trainer, 1, i)) for i in range(6)]
        backwards = trainer.data_collator([trainer.train_dataset[i] for i in reversed(range(6))])
        assert len({len(first_batch(trainer, 1, i)["answer_ids"][0]) for i in range(6)}) > 1, "no padding to test"
        assert together == pytest.approx(sum(alone) / 6, rel=1e-5)
        assert together == pytest.approx(loss_of(trainer, trainer.model, backwards), rel=1e-5)

    def test_accumulation_equals_one_batch_even_where_micro_batches_differ_in_size(self, tmp_path, rows):
        """Six pairs in one step: as 6, as 2 + 2 + 2, as 4 + 2, one by one."""

        def train(size, accumulation):
            trainer = build_trainer(
                tmp_path / str(size),
                rows[:6],
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                optim="sgd",
                learning_rate=0.1,
            )
            trainer.train()
            assert trainer.state.global_step == 1
            return losses_of(trainer), weights_of(trainer)

        whole, expected = train(6, 1)
        for size, accumulation in ((2, 3), (4, 2), (1, 6)):
            losses, weights = train(size, accumulation)
            assert losses == pytest.approx(whole, rel=1e-5), size
            for (name, one), other in zip(expected.items(), weights.values(), strict=True):
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6, msg=f"{name}, {size} at a time")

    def test_gradient_checkpointing_changes_nothing(self, tmp_path, rows):
        plain, checkpointed = (
            build_trainer(tmp_path / str(flag), rows, gradient_checkpointing=flag) for flag in (False, True)
        )
        plain.train()
        checkpointed.train()
        assert losses_of(checkpointed) == pytest.approx(losses_of(plain), rel=1e-5)

    @pytest.mark.slow
    def test_bf16_follows_float32(self, tmp_path, rows):
        """Rewards are differences of log-probabilities: these stay in float32 whatever the model computes in."""
        full = build_trainer(tmp_path / "float32", rows, learning_rate=3e-4)
        half = build_trainer(tmp_path / "bf16", rows, learning_rate=3e-4, bf16=True)
        full.train()
        half.train()
        assert losses_of(half)[0] == pytest.approx(3 * math.log(2), abs=1e-5)
        assert losses_of(half) == pytest.approx(losses_of(full), abs=0.02)

    @pytest.mark.parametrize("with_adapter", [False, True], ids=["full", "lora"])
    def test_in_bf16_precomputed_references_have_the_precision_of_the_policy(self, tmp_path, rows, with_adapter):
        adapter = LoraConfig(r=2) if with_adapter else None
        trainer = build_trainer(tmp_path, rows, bf16=True, peft_config=adapter)
        trainer.train()
        first = next(entry for entry in trainer.state.log_history if "loss" in entry)
        for cell in ("chosen", "rejected", "corrupted"):
            assert first[f"rewards/{cell}"] == pytest.approx(0, abs=1e-6), cell

    def test_dataloader_workers_change_nothing(self, tmp_path, rows):
        alone, helped = (build_trainer(tmp_path / str(n), rows, dataloader_num_workers=n) for n in (0, 2))
        alone.train()
        helped.train()
        assert losses_of(helped) == losses_of(alone)


class TestWhatMoves:
    def test_lora_adapts_the_language_model_alone_by_default(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, peft_config=LoraConfig(r=2, lora_dropout=0.1), freeze_projector=True)
        before = weights_of(trainer)
        trainer.train()
        trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert trained
        assert all("language_model" in name and "lora_" in name for name in trained)
        changed = {name for name, value in weights_of(trainer).items() if not torch.equal(value, before[name])}
        assert changed
        assert changed <= trained

    @pytest.mark.parametrize("targets", [["q_proj", "fc1"], "all-linear"])
    def test_named_lora_targets_never_reach_a_frozen_part(self, tmp_path, rows, targets):
        trainer = build_trainer(
            tmp_path, rows, peft_config=LoraConfig(r=2, target_modules=targets), freeze_projector=True
        )
        adapted = {name for name, _ in trainer.model.named_parameters() if "lora_" in name}
        assert any("q_proj" in name for name in adapted)
        assert not any("vision_tower" in name or "projector" in name for name in adapted)

    @pytest.mark.parametrize(
        "left_out",
        [
            dict(exclude_modules=["o_proj"]),
            dict(exclude_modules=r".*\.o_proj"),
            dict(modules_to_save=["o_proj"]),
            dict(exclude_modules=["o_proj"], trainable_token_indices=[3, 4]),
        ],
        ids=str,
    )
    def test_lora_on_every_layer_leaves_out_what_its_configuration_leaves_out(self, tmp_path, rows, left_out):
        trainer = build_trainer(tmp_path, rows[:4], peft_config=LoraConfig(r=2, **left_out))
        adapted = {name for name, _ in trainer.model.named_parameters() if "lora_" in name}
        assert any("q_proj" in name for name in adapted)
        assert not any("o_proj" in name for name in adapted)

    @pytest.mark.parametrize("is_cached", [True, False])
    def test_what_a_caller_has_frozen_of_an_adapter_stays_frozen(self, tmp_path, rows, is_cached):
        model = get_peft_model(small_trainer.open_world()[0], LoraConfig(r=2, target_modules=["q_proj"]))
        for name, parameter in model.named_parameters():
            if "vision_tower" in name:
                parameter.requires_grad_(False)
        moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert moving
        trainer = build_trainer(tmp_path, rows[:4], model=model, precompute_ref_log_probs=is_cached)
        assert isinstance(trainer._live_reference, AdapterOff)
        trainer.train()
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == moving

    def test_a_kind_of_adapter_that_excludes_no_modules_names_its_own_when_it_is_saved(self, tmp_path, rows):
        trainer = build_trainer(
            tmp_path, rows[:4], peft_config=VeraConfig(r=2, target_modules=["q_proj"]), freeze_projector=True
        )
        trainer.save_model()
        settings = PeftConfig.from_pretrained(tmp_path / "run")
        again = get_peft_model(small_trainer.open_world()[0], settings)
        saved, loaded = ({name for name, _ in model.named_parameters()} for model in (trainer.model, again))
        assert saved == loaded
        assert any("vera_" in name for name in saved)
        assert not any("vera_" in name and "vision_tower" in name for name in saved)

    def test_an_adapter_that_transformers_put_into_the_model_is_refused(self, tmp_path, rows):
        # As its `from_pretrained` does with the folder of an adapter.
        model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), small_trainer.open_world()[0])
        with pytest.raises(ValueError, match="transformers has put an adapter into the model"):
            build_trainer(tmp_path, rows[:4], model=model)

    def test_an_adapter_of_tokens_before_the_prompt_is_refused(self, tmp_path, rows):
        tokens = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        for given in (
            dict(peft_config=tokens),
            dict(model=get_peft_model(small_trainer.open_world()[0], tokens)),
        ):
            with pytest.raises(ValueError, match="tokens of its own in front of a prompt"):
                build_trainer(tmp_path, rows[:4], **given)

    def test_adalora_needs_a_callback_that_allocates_its_ranks_and_this_is_said(self, tmp_path, rows, caplog):
        class Allocate(TrainerCallback):
            def on_optimizer_step(self, args, state, control, model=None, **kwargs):
                model.base_model.update_and_allocate(state.global_step)

        config = AdaLoraConfig(
            init_r=4, target_r=1, tinit=0, tfinal=1, deltaT=1, total_step=4, target_modules=["q_proj"]
        )
        trainer = build_trainer(tmp_path, rows[:8], peft_config=config, max_steps=4, callbacks=[Allocate()])
        assert "AdaLoRA's ranks stay as they begin (init_r) unless a callback" in caplog.text
        trainer.train()
        kept = trainer.model.peft_config["default"].rank_pattern
        assert 0 < sum(sum(ranks) for ranks in kept.values()) < 4 * len(kept)

    def test_what_a_caller_trains_beside_an_adapter_and_is_not_saved_with_it_is_said(self, tmp_path, rows, caplog):
        def describe(unfrozen, **options):
            settings = LoraConfig(r=2, target_modules=["q_proj"], **options)
            model = get_peft_model(small_trainer.open_world()[0], settings)
            for name, parameter in model.named_parameters():
                if unfrozen in name:
                    parameter.requires_grad_(True)
            caplog.clear()
            build_trainer(tmp_path, rows[:4], model=model)
            return caplog.text

        told = describe("multi_modal_projector")
        assert "4 trained weights are no part of the adapter" in told
        assert "multi_modal_projector" in told
        assert "no part" not in describe("nothing", modules_to_save=["multi_modal_projector"], bias="all")

    def test_lora_reaches_the_parts_that_flags_unfreeze(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, peft_config=LoraConfig(r=2), freeze_vision_tower=False)
        adapted = {name for name, _ in trainer.model.named_parameters() if "lora_" in name}
        for part in ("language_model", "multi_modal_projector", "vision_tower"):
            assert any(part in name for name in adapted), part

    @pytest.mark.parametrize("tower", [True, False])
    @pytest.mark.parametrize("projector", [True, False])
    def test_flags_freeze_tower_and_projector_in_full_fine_tuning(self, tmp_path, rows, tower, projector):
        trainer = build_trainer(tmp_path, rows[:4], freeze_vision_tower=tower, freeze_projector=projector)
        before = weights_of(trainer)
        trainer.train()
        changed = {name for name, value in weights_of(trainer).items() if not torch.equal(value, before[name])}
        assert any("language_model" in name for name in changed)
        assert any("vision_tower" in name for name in changed) is not tower
        assert any("projector" in name for name in changed) is not projector

    def test_dropout_is_off_in_policy_and_reference(self, tmp_path, rows):
        config = AutoConfig.from_pretrained(CHECKPOINT)
        config.text_config.attention_dropout = config.vision_config.attention_dropout = 0.3
        model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, config=config, dtype="float32")
        trainer = build_trainer(tmp_path, rows, model=model, peft_config=LoraConfig(r=2, lora_dropout=0.5))
        batch = first_batch(trainer)
        perturb(trainer.model)
        trainer.model.train()
        first, second = (loss_of(trainer, trainer.model, batch) for _ in range(2))
        assert first == second


class TestReference:
    @pytest.mark.slow
    def test_adapter_off_frozen_copy_and_precomputed_give_the_same_run(self, tmp_path, rows):
        def adapter():
            return LoraConfig(r=2, lora_alpha=16)

        live = build_trainer(tmp_path / "a", rows, peft_config=adapter(), precompute_ref_log_probs=False)
        assert isinstance(live.reference, AdapterOff)
        precomputed = build_trainer(tmp_path / "b", rows, peft_config=adapter())
        given = build_trainer(tmp_path / "c", rows, peft_config=adapter())
        start = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
        given.reference = FrozenModel(
            type(live._scorer)(start.eval(), live._scorer.family, live.objective.cells), share_images=False
        )
        for trainer in (live, precomputed, given):
            trainer.train()
        assert losses_of(live)[-1] != pytest.approx(losses_of(live)[0], rel=1e-3)
        assert losses_of(precomputed) == pytest.approx(losses_of(live), rel=1e-5)
        assert losses_of(given) == pytest.approx(losses_of(live), rel=1e-5)

    def test_full_fine_tuning_keeps_a_frozen_copy_that_shares_what_is_frozen(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, precompute_ref_log_probs=False)
        reference = trainer.reference.scorer.model
        before = {name: value.clone() for name, value in reference.named_parameters()}
        trainer.train()
        for name, value in reference.named_parameters():
            assert torch.equal(value, before[name]), name
        policy = dict(trainer.model.named_parameters())
        for name, value in reference.named_parameters():
            assert (value is policy[name]) == ("vision_tower" in name), name

    def test_full_fine_tuning_with_precomputed_references_equals_the_live_run(self, tmp_path, rows):
        live = build_trainer(
            tmp_path / "a", rows, eval_dataset=rows[:4], eval_strategy="epoch", precompute_ref_log_probs=False
        )
        precomputed = build_trainer(tmp_path / "b", rows, eval_dataset=rows[:4], eval_strategy="epoch")
        live.train()
        precomputed.train()
        assert losses_of(precomputed) == pytest.approx(losses_of(live), rel=1e-5)
        assert evaluations(precomputed)[-1]["eval_loss"] == pytest.approx(evaluations(live)[-1]["eval_loss"], rel=1e-5)

    def test_an_adapter_that_was_trained_before_is_its_own_reference(self, tmp_path, rows):
        first = build_trainer(tmp_path / "a", rows, peft_config=LoraConfig(r=2, lora_alpha=16))
        first.train()
        again = build_trainer(tmp_path / "b", rows, model=first.model)
        loss = loss_of(again, again.model, first_batch(again))
        assert loss == pytest.approx(3 * math.log(2), abs=1e-5)

    @pytest.mark.parametrize(("freeze_projector", "encodings"), [(True, 1), (False, 2)])
    def test_policy_and_reference_share_the_image_features_of_a_frozen_tower(
        self, tmp_path, rows, freeze_projector, encodings
    ):
        """Two images per pair, original and corrupted: encoded once for three cells, and once for both models."""
        trainer = build_trainer(tmp_path, rows, freeze_projector=freeze_projector, precompute_ref_log_probs=False)
        seen = []
        tower = trainer.model.model.vision_tower
        tower.register_forward_pre_hook(lambda _, a, k: seen.append(a[0] if a else k["pixel_values"]), with_kwargs=True)
        reference_tower = trainer.reference.scorer.model.model.vision_tower
        if reference_tower is not tower:
            reference_tower.register_forward_pre_hook(
                lambda _, a, k: seen.append(a[0] if a else k["pixel_values"]), with_kwargs=True
            )
        trainer.compute_loss(trainer.model, first_batch(trainer))
        assert [len(pixels) for pixels in seen] == [8] * encodings
        for pixels in seen[1:]:
            assert torch.equal(pixels, seen[0]), "policy and reference saw different images"


class TestEvaluation:
    def test_metrics_of_training_come_back_with_the_prefix(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, eval_dataset={"near": rows[:5], "far": rows[5:]}, eval_strategy="epoch")
        trainer.train()
        names = {name for entry in evaluations(trainer) for name in entry}
        for name in ("loss", "rewards/margins", "rewards/image_accuracies", "logps/chosen", "loss/anchor_chosen"):
            assert {f"eval_near_{name}", f"eval_far_{name}"} <= names

    @pytest.mark.parametrize(
        ("metric", "near"),
        [
            ("eval_rewards/margin", "eval_rewards/margins"),
            ("los", "eval_loss"),
            ("rewards/acuracies", "eval_rewards/accuracies"),
        ],
    )
    def test_a_metric_that_no_evaluation_gives_is_named_before_anything_is_loaded(self, tmp_path, rows, metric, near):
        options = dict(eval_dataset=rows[:5], eval_strategy="epoch", metric_for_best_model=metric)
        with pytest.raises(ValueError, match=f"no evaluation gives '{metric}'; did you mean '{near}'"):
            build_trainer(tmp_path, rows, model="nowhere/nothing", **options)

    @pytest.mark.parametrize("objective", ["mdpo", "mdpo_combined", "sft_chosen"])
    def test_every_metric_of_an_evaluation_may_choose_the_best_model(self, tmp_path, rows, objective):
        trainer = build_trainer(tmp_path, rows, eval_dataset={"near": rows[:5]}, objective=objective)
        for name in trainer.evaluate():
            if "preparation_time" not in name and not name.endswith("epoch"):
                check_best_metric(name, trainer.objective, ["near"])

    def test_rows_without_images_give_no_metric_of_images_to_choose_by(self, tmp_path, rows):
        held_out = [{**row, "images": [], "prompt": [{"role": "user", "content": "describe"}]} for row in rows[:2]]
        options = dict(image_terms="where_possible", metric_for_best_model="rewards/image_margins")
        with pytest.raises(ValueError, match="rewards/image_margins is a mean over rows with images, and no row of ev"):
            build_trainer(tmp_path, rows[:4], eval_dataset=held_out, **options)
        build_trainer(tmp_path / "one", rows[:4], eval_dataset=[*held_out, rows[5]], **options)

    def test_an_optimizer_that_cannot_be_made_is_an_error_before_anything_is_scored(self, tmp_path, rows):
        with pytest.raises(ValueError, match=r"^optim: galore_adamw: "):  # its package is not there, or modules are not
            build_trainer(tmp_path, rows[:4], optim="galore_adamw")

    def test_an_evaluation_at_the_start_needs_rows(self, tmp_path, rows):
        with pytest.raises(ValueError, match=r"eval_on_start .* there is no evaluation dataset"):
            build_trainer(tmp_path, rows[:4], eval_on_start=True)

    def test_rows_that_make_no_batch_are_an_error(self, tmp_path, rows):
        with pytest.raises(ValueError, match="dataloader_drop_last leaves nothing of 3 rows"):
            build_trainer(tmp_path, rows[:3], dataloader_drop_last=True)  # before references are scored

    def test_rows_that_make_no_step_of_batch_rebalance_are_an_error(self, tmp_path, rows):
        options = dict(dataloader_drop_last=True, gradient_accumulation_steps=2, per_device_train_batch_size=2)
        build_trainer(tmp_path, rows[:3], **options)
        with pytest.raises(ValueError, match=r"nothing of 3 rows, since a step of batch_rebalance takes 4: .*accumul"):
            build_trainer(tmp_path, rows[:3], train_sampling_strategy="batch_rebalance", **options)

    @pytest.mark.parametrize("strategy", ["random", "batch_rebalance"])
    @pytest.mark.parametrize("drops", [False, True])
    def test_steps_of_an_epoch_are_counted_as_they_are_taken(self, tmp_path, rows, strategy, drops):
        options = dict(gradient_accumulation_steps=2, per_device_train_batch_size=2, learning_rate=0.0)
        trainer = build_trainer(
            tmp_path, rows[:7], train_sampling_strategy=strategy, dataloader_drop_last=drops, **options
        )
        trainer.train()
        assert trainer.state.global_step == count_steps(7, trainer.args)

    def test_a_run_without_a_step_is_an_error(self, tmp_path, rows):
        class StopAtOnce(TrainerCallback):
            def on_epoch_begin(self, args, state, control, **kwargs):
                state.max_steps = 0

        with pytest.raises(ValueError, match="without a single step"):
            build_trainer(tmp_path, rows, callbacks=[StopAtOnce()]).train()

    def test_compute_metrics_is_given_the_rewards(self, tmp_path, rows):
        given = {}

        def keep(prediction):
            given["rewards"], given["places"] = prediction.predictions, prediction.label_ids
            return {"pairs": len(prediction.predictions)}

        args = MDPOConfig(
            output_dir=str(tmp_path / "run"),
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            gradient_checkpointing=False,
            precompute_ref_log_probs=False,
        )
        trainer = MDPOTrainer("world", args=args, train_dataset=rows, eval_dataset=rows[:5], compute_metrics=keep)
        perturb(trainer.model)
        metrics = trainer.evaluate()
        assert metrics["eval_pairs"] == 5
        assert given["places"].tolist() == [0, 1, 2, 3, 4]
        margins = given["rewards"][:, 0] - given["rewards"][:, 1]
        assert margins.mean() == pytest.approx(metrics["eval_rewards/margins"], rel=1e-4, abs=1e-6)

    def test_every_row_is_evaluated_though_training_drops_the_last_batch(self, tmp_path, rows):
        options = dict(per_device_train_batch_size=4, per_device_eval_batch_size=4)
        expected = build_trainer(tmp_path, rows, eval_dataset=rows[:5], **options).evaluate()
        found = build_trainer(tmp_path, rows, eval_dataset=rows[:5], dataloader_drop_last=True, **options).evaluate()
        assert found["eval_logps/chosen"] == expected["eval_logps/chosen"]

    def test_any_dataset_can_be_evaluated(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows)
        assert trainer.evaluate(rows[:3])["eval_loss"] == pytest.approx(3 * math.log(2), abs=1e-5)
        found = trainer.predict(rows[:3])
        assert found.metrics["test_loss"] == pytest.approx(3 * math.log(2), abs=1e-5)
        assert found.predictions.shape == (3, 3)

    def test_with_precomputed_references_evaluation_works_before_training_and_refuses_what_came_too_late(
        self, tmp_path, rows
    ):
        trainer = build_trainer(tmp_path, rows, eval_dataset=rows[:4])
        assert trainer.evaluate()["eval_loss"] == pytest.approx(3 * math.log(2), abs=1e-5)
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < 3 * math.log(2) - 1e-3
        with pytest.raises(ValueError, match="not scored before training"):
            trainer.evaluate(rows[4:8])


class TestResuming:
    @pytest.mark.parametrize("with_adapter", [False, True], ids=["full", "lora"])
    def test_a_resumed_run_has_the_losses_and_weights_of_an_uninterrupted_one(self, tmp_path, rows, with_adapter):
        def run(folder, resume=None, **changes):
            trainer = build_trainer(
                tmp_path / folder,
                rows,
                peft_config=LoraConfig(r=2, lora_alpha=16) if with_adapter else None,
                num_train_epochs=2,
                save_strategy="steps",
                save_steps=4,  # amid the second epoch
                corruption_per_epoch=True,
                lr_scheduler_type="cosine",
                **changes,
            )
            trainer.train(resume_from_checkpoint=resume)
            return trainer

        whole = run("whole")
        resumed = run("resumed", resume=str(tmp_path / "whole" / "run" / "checkpoint-4"))
        assert whole.state.global_step == resumed.state.global_step == 6
        assert losses_of(resumed) == losses_of(whole)
        for (name, one), other in zip(weights_of(whole).items(), weights_of(resumed).values(), strict=True):
            assert torch.equal(one, other), name

    def test_the_best_checkpoint_is_loaded_at_the_end(self, tmp_path, rows):
        """The learning rate is far too high on purpose: the first checkpoint is the best."""
        trainer = build_trainer(
            tmp_path,
            rows,
            eval_dataset=rows[:4],
            learning_rate=3e-2,
            num_train_epochs=2,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="logps/chosen",
            greater_is_better=True,
        )
        trainer.train()
        logps = [entry["eval_logps/chosen"] for entry in evaluations(trainer)]
        assert max(logps) - min(logps) > 1e-2
        assert trainer.evaluate()["eval_logps/chosen"] == pytest.approx(max(logps), rel=1e-5)

    def test_precomputed_references_of_a_resumed_run_are_those_of_the_start(self, tmp_path, rows):
        def run(folder, resume=None):
            trainer = build_trainer(tmp_path / folder, rows, save_strategy="steps", save_steps=2)
            trainer.train(resume_from_checkpoint=resume)
            return trainer

        whole = run("whole")
        resumed = run("resumed", resume=str(tmp_path / "whole" / "run" / "checkpoint-2"))
        assert losses_of(resumed) == losses_of(whole)


class TestErrors:
    def test_a_text_model_is_refused(self, tmp_path, rows):
        from transformers import LlamaConfig, LlamaForCausalLM

        tiny = {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "vocab_size": 40,
        }
        text_model = LlamaForCausalLM(LlamaConfig(**tiny))
        args = MDPOConfig(output_dir=str(tmp_path / "run"), report_to="none")
        with pytest.raises(ValueError, match="not a vision-language model"):
            MDPOTrainer(
                text_model, args=args, train_dataset=rows, processing_class=AutoProcessor.from_pretrained(CHECKPOINT)
            )
        text_model.save_pretrained(tmp_path / "text")
        AutoProcessor.from_pretrained(CHECKPOINT).tokenizer.save_pretrained(tmp_path / "text")
        with pytest.raises(ValueError, match="vision-language"):
            MDPOTrainer(str(tmp_path / "text"), args=args, train_dataset=rows)
        assert not (tmp_path / "run").exists()

    def test_chat_turns_need_a_chat_template(self, tmp_path, rows):
        processor = AutoProcessor.from_pretrained(CHECKPOINT)
        processor.chat_template = None
        args = MDPOConfig(output_dir=str(tmp_path / "run"), report_to="none", disable_tqdm=True)
        with pytest.raises(RowError, match="no chat template"):
            MDPOTrainer("world", args=args, train_dataset=rows, processing_class=processor)
        assert not (tmp_path / "run").exists()

    def test_the_policy_cannot_be_its_own_reference_object(self, tmp_path, rows):
        model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
        with pytest.raises(ValueError, match="one object"):
            MDPOTrainer(model, ref_model=model, args=MDPOConfig(output_dir=str(tmp_path)), train_dataset=rows)

    def test_several_gpus_in_one_process_are_refused(self, tmp_path, rows, monkeypatch):
        """Trainer would wrap the model in nn.DataParallel, whose replicas never see the shared image features."""
        monkeypatch.setattr(MDPOConfig, "n_gpu", property(lambda _: 2))
        with pytest.raises(ValueError, match="2 GPUs are visible to one process"):
            build_trainer(tmp_path, rows)

    def test_every_bad_row_is_named_before_training(self, tmp_path, rows):
        bad = [dict(row) for row in rows[:5]]
        bad[1]["chosen"] = bad[1]["rejected"]
        bad[3]["images"] = [str(tmp_path / "missing.png")]
        with pytest.raises(RowError, match=r"2 of 5 rows(.|\n)*row 2(.|\n)*row 4(.|\n)*missing\.png"):
            build_trainer(tmp_path, bad)
        assert not (tmp_path / "run").exists()

    def test_skipped_rows_are_counted_and_listed(self, tmp_path, rows, caplog):
        bad = [dict(row) for row in rows[:5]]
        bad[1]["chosen"] = bad[1]["rejected"]
        with caplog.at_level("WARNING", logger="mmdpo"):
            trainer = build_trainer(tmp_path, bad, on_bad_row="skip")
        assert "1 of 5 rows" in caplog.text
        assert len(trainer.train_dataset) == 4
        trainer.train()
        listed = [json.loads(line) for line in (tmp_path / "run" / "skipped_rows.jsonl").read_text().splitlines()]
        assert [entry["row"] for entry in listed] == [2]

    def test_a_prompt_that_leaves_no_room_for_the_answer_is_a_bad_row(self, tmp_path, rows):
        with pytest.raises(RowError, match="max_length"):
            build_trainer(tmp_path, rows, max_length=20)
        with pytest.raises(RowError, match="image tokens would be truncated"):
            build_trainer(tmp_path, rows, max_length=10)

    def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, precompute_ref_log_probs=False)
        with torch.no_grad():
            trainer.model.lm_head.weight.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match=r"step 1 .*row \d+"):
            trainer.train()

    def test_a_loss_of_an_evaluation_that_is_not_finite_names_the_rows_of_the_evaluation(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows, eval_dataset={"held out": rows[:2]}, precompute_ref_log_probs=False)
        with torch.no_grad():
            trainer.model.lm_head.weight.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="for held out, row 1, held out, row 2"):
            trainer.evaluate()


def evaluations(trainer):
    return [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]


def perturb(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def shifted():
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
    perturb(model)
    return model


class TestARunningMean:
    def test_the_threshold_is_the_mean_of_all_rewards_so_far(self, tmp_path, rows):
        """By hand: from the rewards of each batch, the present one included, and none of the evaluation's."""
        trainer = build_trainer(
            tmp_path, rows[:8], objective="mpo", ref_model=shifted(), eval_dataset=rows[8:12], beta=0.5
        )
        seen = []
        for start in (0, 4):
            batch = first_batch(trainer, 4, start)
            loss, scores = trainer.compute_loss(trainer.model.train(), batch, return_outputs=True)
            better, worse = (0.5 * scores[cell].logratio.detach() for cell in trainer.objective.terms[1].pair)
            seen += ((better + worse) / 2).tolist()
            delta = sum(seen) / len(seen)
            losses = trainer.objective.losses(scores, beta=0.5, delta=delta)
            assert loss.item() == pytest.approx(losses.total.mean().item(), rel=1e-5)
            trainer.evaluate()
        assert trainer._reward_mean.value.item() == pytest.approx(delta, rel=1e-5)
        assert abs(delta) > 0.1

    def test_it_begins_anew_with_a_training(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows[:4], objective="mpo")
        for _ in range(2):
            trainer.train()
            assert trainer._reward_mean.state()[1] == 4


def test_steps_that_were_taken_before_the_batch_size_was_lowered_are_in_no_log(tmp_path, rows):
    class Hungry(MDPOTrainer):
        micro_batches = 0

        def training_step(self, *args, **kwargs):
            self.micro_batches += 1
            if self.micro_batches == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().training_step(*args, **kwargs)

    options = dict(auto_find_batch_size=True, learning_rate=0.0, max_steps=2, logging_steps=2)
    trainer = build_trainer(tmp_path, rows[:8], kind=Hungry, **options)
    trainer.train()
    assert losses_of(trainer) == [pytest.approx(3 * math.log(2), rel=1e-5)]
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(3 * math.log(2), rel=1e-5)


class TestRowsWithoutImages:
    def given(self, rows):
        """Six rows, every third without its image."""
        given = [dict(row) for row in rows[:6]]
        for row in given[::3]:
            row["images"] = []
            row["prompt"] = [{"role": "user", "content": "describe"}]
        return given

    def test_they_are_faulty_unless_asked_for(self, tmp_path, rows):
        with pytest.raises(RowError, match=r"2 of 6 rows [\s\S]*row 4: .*image_terms: where_possible"):
            build_trainer(tmp_path, self.given(rows))

    def test_terms_that_need_no_image_are_trained_on_them(self, tmp_path, rows, caplog):
        trainer = build_trainer(tmp_path, self.given(rows), image_terms="where_possible", per_device_train_batch_size=6)
        assert "2 of 6 rows have no image, and rank_image pass them over" in caplog.text
        trainer.train()
        # Ranking of responses and anchor everywhere, ranking of images in four of six.
        assert losses_of(trainer)[0] == pytest.approx((2 + 4 / 6) * math.log(2), rel=1e-5)
        assert trainer.state.log_history[0]["loss/rank_image"] == pytest.approx(math.log(2), rel=1e-5)

    def test_a_term_that_compares_the_image_with_none_needs_one(self, tmp_path, rows):
        objective = [{"rank": [["original", "chosen"], ["none", "chosen"]]}, {"anchor": ["original", "chosen"]}]
        with pytest.raises(RowError, match=r"2 of 6 rows [\s\S]*row 4: the objective compares .*where_possible"):
            build_trainer(tmp_path, self.given(rows), objective=objective)
        options = dict(objective=objective, image_terms="where_possible", per_device_train_batch_size=6)
        trainer = build_trainer(tmp_path, self.given(rows), **options)
        trainer.train()
        assert losses_of(trainer)[0] == pytest.approx((1 + 4 / 6) * math.log(2), rel=1e-5)
        assert trainer.state.log_history[0]["loss/rank_image"] == pytest.approx(math.log(2), rel=1e-5)

    def test_their_gradient_is_that_of_the_objective_without_those_terms(self, tmp_path, rows):
        given, gradients = self.given(rows)[::3], []
        for objective in ("mdpo", "dpo_anchor"):
            trainer = build_trainer(tmp_path / objective, given, objective=objective, image_terms="where_possible")
            trainer.compute_loss(trainer.model.train(), first_batch(trainer, 2)).backward()
            gradients.append({name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None})
        for name, gradient in gradients[1].items():
            torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-4, atol=1e-7, msg=name)

    def test_a_log_of_steps_without_a_single_image_leaves_out_what_is_about_images(self, tmp_path, rows):
        given = self.given(rows)[:2]
        options = dict(image_terms="where_possible", train_sampling_strategy="sequential", max_steps=2)
        trainer = build_trainer(
            tmp_path, given, eval_dataset=given[:1], eval_strategy="steps", eval_steps=2,
            per_device_train_batch_size=1, **options,
        )  # fmt: skip
        trainer.train()
        logs = trainer.state.log_history
        assert ["rewards/image_margins" in log for log in logs if "loss" in log] == [False, True]
        assert "eval_logps/chosen" in logs[2]
        assert "eval_logps/corrupted" not in logs[2]

    def test_a_running_mean_over_images_passes_them_over(self, tmp_path, rows):
        objective = [{"bco": [["original", "chosen"], ["corrupted", "chosen"]]}, {"nll": ["original", "chosen"]}]
        given, states = self.given(rows), []
        for kept in (given, [row for row in given if row["images"]]):
            options = dict(objective=objective, image_terms="where_possible", ref_model=shifted())
            trainer = build_trainer(tmp_path / str(len(kept)), kept, **options)
            trainer.compute_loss(trainer.model.train(), first_batch(trainer, len(kept)))
            states.append(trainer._reward_mean.state())
        assert states[0] == pytest.approx(states[1], rel=1e-4)

    def test_means_of_images_are_over_rows_that_have_one(self, tmp_path, rows):
        given = self.given(rows)
        means = []
        for kept in (given, [row for row in given if row["images"]]):
            trainer = build_trainer(tmp_path / str(len(kept)), kept, image_terms="where_possible", ref_model=shifted())
            trainer.compute_loss(trainer.model.train(), first_batch(trainer, len(kept)))
            means.append(trainer._metrics["train"].flush(trainer.accelerator))
        for name in ("loss/rank_image", "rewards/image_margins", "rewards/corrupted", "logps/corrupted"):
            assert means[0][name] == pytest.approx(means[1][name], rel=1e-4), name
        assert means[0]["logps/chosen"] != pytest.approx(means[1]["logps/chosen"], rel=1e-4)


class TestRowsThatAnObjectiveCannotDoWithout:
    @pytest.mark.parametrize(
        ("objective", "check_data"), [("rdpo", "full"), ("mfpo", "full"), ("svco", "full"), ("symmpo", "text")]
    )
    def test_a_row_without_rejected_images_is_faulty_under_a_preset_that_is_about_them(
        self, tmp_path, rows, objective, check_data
    ):
        given = [{**row, "alternative": row["rejected"], "rejected_images": rows[0]["images"]} for row in rows[1:5]]
        given[2]["rejected_images"] = None
        with pytest.raises(RowError, match=r"1 of 4 rows .*\n.*row 3: .*rejected_images.*add the column"):
            build_trainer(tmp_path, given, objective=objective, check_data=check_data)

    def test_mmedpo_trains_on_the_rows_that_its_authors_publish(self, tmp_path, rows):
        """At the start no cell is told from another: s · log 2 of every row, whichever kind it is of."""
        given = []
        for number, row in enumerate(rows[:4]):
            answers = [row["chosen"][0]["content"], row["rejected"][0]["content"] if number % 2 else None]
            answers[1] = answers[1] or answers[0]
            asked = {"from": "human", "value": "<image>describe"}
            said = [[asked, {"from": "gpt", "value": text}] for text in answers]
            given.append(
                {"image": row["images"][0], "conversations": said[0], "rejected_conversations": said[1]}
                | {"weight": 0.25 * number, "rejected_noised": 1 - number % 2}
            )
        trainer = build_trainer(tmp_path, given, objective="mmedpo", corruption="noise")
        trainer.train()
        assert losses_of(trainer)[0] == pytest.approx((0 + 0.25 + 0.5 + 0.75) / 4 * math.log(2), rel=1e-5)

    def test_a_weight_below_0_or_infinite_is_faulty(self, tmp_path, rows):
        weights = (0.0, -1.0, math.nan, 1.0, math.inf, 1e39)
        given = [{**row, "weight": weight} for row, weight in zip(rows, weights, strict=False)]
        with pytest.raises(RowError, match=r"4 of 6 rows (.|\n)*row 2(.|\n)*row 3(.|\n)*row 5(.|\n)*row 6"):
            build_trainer(tmp_path, given, objective="mmedpo")

    def test_a_beta_of_0_is_faulty(self, tmp_path, rows):
        """Some losses divide by it."""
        given = [{**row, "beta": float(number)} for number, row in enumerate(rows[:4])]
        objective = [{"rank": [["original", "chosen"], ["original", "rejected"]], "loss_type": "ipo"}]
        objective[0]["beta_column"] = "beta"
        with pytest.raises(RowError, match=r"1 of 4 rows [\s\S]*row 1: .*'beta' is 0.0: what multiplies β is above 0"):
            build_trainer(tmp_path, given, objective=objective)
