"""The pass before training: which rows it tries, what it scores, what it reads from disk, and that all say the same."""

import logging
import math
import os
import resource
import shutil
import signal
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainerCallback

import small_trainer
from mmdpo import MDPOTrainer
from mmdpo.data.collate import Collator
from mmdpo.data.prepare import Preparer
from mmdpo.folders import LOCK
from mmdpo.records import Cell, RowError
from mmdpo.scoring import value_cache
from mmdpo.scoring.reference import AdapterOff, FrozenModel, StartOfPolicy
from mmdpo.scoring.value_cache import ValueCacheError
from mmdpo.training import row_pass
from mmdpo.training import trainer as trainer_module
from mmdpo.training.durable.sealing import read_record
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs

CHOSEN, REJECTED, CORRUPTED = (
    Cell("original", "chosen"),
    Cell("original", "rejected"),
    Cell("corrupted", "chosen"),
)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def made_rows():
    return make_pairs(8, seed=5)


@pytest.fixture
def rows(made_rows):
    return [dict(row) for row in made_rows]


@pytest.fixture
def build_trainer(tmp_path):
    cache = {"ref_cache_dir": str(tmp_path / "cache")}
    return lambda rows, **changes: small_trainer.build_trainer(tmp_path, rows, **(cache | changes))


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, made_rows):
    """A run that has scored all rows: the folder that it has left, and its values."""
    folder = tmp_path_factory.mktemp("first")
    trainer = small_trainer.build_trainer(folder, made_rows, ref_cache_dir=str(folder / "cache"))
    return folder / "cache", trainer.train_dataset.ref_logprobs


@pytest.fixture
def scored_before(first_run, tmp_path):
    """Begins with a cache that holds all rows; returns their values."""
    cache, values = first_run
    shutil.copytree(cache, tmp_path / "cache")
    return values


@pytest.fixture
def asked(monkeypatch):
    """Counts how often a live reference is asked for a (row, cell)."""
    count = Counter()
    for kind in (AdapterOff, FrozenModel, StartOfPolicy):

        def ask(self, batch, cells, *, original=kind.__call__, **others):
            count.update((row, cell) for row in batch["index"].tolist() for cell in cells)
            return original(self, batch, cells, **others)

        monkeypatch.setattr(kind, "__call__", ask)
    return count


@pytest.fixture
def score(build_trainer, asked):
    """Runs the pass alone; returns its values and which (row, cell) were scored for it."""

    def run(rows, **changes):
        asked.clear()
        trainer = build_trainer(rows, **changes)
        assert max(asked.values(), default=1) == 1, "something was scored twice"
        return trainer.train_dataset.ref_logprobs, set(asked)

    return run


GRADIENT = Image.linear_gradient("L").resize((48, 48)).convert("RGB")


def grid(rows, cells=(CHOSEN, REJECTED, CORRUPTED)):
    return {(row, cell) for row in rows for cell in cells}


def shift(model):
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    return model


def load_model(dtype="float32"):
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=dtype)


def first_batch(trainer, count=4):
    return trainer.data_collator([trainer.train_dataset[row] for row in range(count)])


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class TestReuse:
    def test_a_second_run_asks_the_reference_nothing(self, score, rows):
        first, scored = score(rows)
        assert scored == grid(range(8))
        again, scored = score(rows)
        assert scored == set()
        assert torch.equal(again, first)

    @pytest.mark.usefixtures("scored_before")
    def test_lora_and_full_fine_tuning_of_one_checkpoint_share_a_cache(self, score, rows, tmp_path):
        assert score(rows, peft_config=LoraConfig(r=2))[1] == set()
        assert score(rows, peft_config=LoraConfig(r=4, target_modules=["q_proj"]))[1] == set()
        assert score(rows, ref_model=load_model())[1] == set()
        for part in (load_model(), AutoProcessor.from_pretrained(CHECKPOINT)):
            part.save_pretrained(tmp_path / "saved")
        assert score(rows, model=str(tmp_path / "saved"))[1] == set()

    @pytest.mark.parametrize(
        ("change", "scored"),
        [
            (lambda rows: rows[2].update(images=[GRADIENT]), grid([2])),
            (lambda rows: rows[3].update(rejected=rows[4]["chosen"]), grid([3], [REJECTED])),
            slow(lambda rows: rows[3].update(chosen=rows[4]["rejected"]), grid([3], [CHOSEN, CORRUPTED])),
            (lambda rows: rows[5].update(rejected_images=[Image.new("RGB", (48, 48))]), None),
            (lambda rows: rows.reverse(), set()),
            (lambda rows: rows.insert(0, {**rows[0], "id": "new", "images": [GRADIENT]}), grid([0])),
        ],
        ids=["image", "rejected", "chosen", "a column of corrupted images", "order", "another row"],
    )
    @pytest.mark.usefixtures("scored_before")
    def test_of_changed_rows_what_changed_alone_is_scored(self, score, rows, change, scored):
        if scored is None:  # a dataset has a column for all rows or for none
            for row in rows:
                row["rejected_images"] = [Image.new("RGB", (48, 48), (9, 9, 9))]
            score(rows)
            scored = grid([5], [CORRUPTED])
        change(rows)
        assert score(rows)[1] == scored

    @pytest.mark.parametrize(
        ("options", "cells"),
        [
            ({"seed": 2}, [CORRUPTED]),
            slow({"corruption": "blur"}, [CORRUPTED]),
            slow({"corruption_options": {"low": 0.05}}, [CORRUPTED]),
            slow({"crop_space": "processed"}, [CORRUPTED]),
            slow({"corruption_draw": "picture"}, [CORRUPTED]),
            ({"bf16": True}, [CHOSEN, REJECTED, CORRUPTED]),
            slow({"max_length": 64}, [CHOSEN, REJECTED, CORRUPTED]),
            slow({"attention": "separate"}, [CHOSEN, REJECTED, CORRUPTED]),
            ({"model": lambda: shift(load_model())}, [CHOSEN, REJECTED, CORRUPTED]),
            slow({"model": lambda: load_model("bfloat16")}, [CHOSEN, REJECTED, CORRUPTED]),
            ({"learning_rate": 1e-5, "beta": 0.2, "per_device_train_batch_size": 3}, []),
        ],
        # The text of a function holds its address, which differs between test workers.
        ids=lambda value: ", ".join(value if isinstance(value, dict) else map(str, value)) or "nothing",
    )
    @pytest.mark.usefixtures("scored_before")
    def test_options_cost_what_depends_on_them(self, score, rows, options, cells):
        made = {name: value() if callable(value) else value for name, value in options.items()}
        assert score(rows[:4], **made)[1] == grid(range(4), cells)

    def test_dpo_pays_for_mdpo(self, score, rows):
        dpo, scored = score(rows, objective="dpo")
        assert scored == grid(range(8), [CHOSEN, REJECTED])
        mdpo, scored = score(rows)
        assert scored == grid(range(8), [CORRUPTED])
        assert torch.equal(mdpo[:, :2], dpo)

    def test_of_two_adapters_the_one_that_is_on_is_scored(self, score, rows):
        def adapted(name):
            torch.manual_seed(0)
            settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
            model = get_peft_model(load_model(), settings, adapter_name="one")
            model.add_adapter("two", settings)
            model.set_adapter(name)
            return model

        one, _ = score(rows, model=adapted("one"))
        two, scored = score(rows, model=adapted("two"))
        assert scored == grid(range(8))
        assert not torch.equal(one, two)

    def test_rows_with_equal_contents_are_scored_once(self, score, rows):
        values, scored = score([rows[0], {**rows[0], "id": "twin"}])
        assert scored == grid([0]) | grid([1], [CORRUPTED])
        assert torch.equal(values[0, :2], values[1, :2])

    def test_drawn_for_the_picture_the_corrupted_one_of_equal_rows_is_scored_once_too(self, score, rows):
        values, scored = score([rows[0], {**rows[0], "id": "twin"}], corruption_draw="picture")
        assert scored == grid([0])
        assert torch.equal(values[0], values[1])

    def test_a_batch_maker_of_the_callers_own_is_scored_and_never_stored(self, build_trainer, asked, rows, tmp_path):
        ours = build_trainer(rows).data_collator
        for _ in range(2):
            asked.clear()
            trainer = build_trainer(rows, data_collator=lambda items: ours(items), ref_cache_dir=str(tmp_path / "own"))
            trainer.train()
            assert set(asked) == grid(range(8))
        assert not list((tmp_path / "own").glob("*/*.safetensors"))


class TestFailure:
    def test_a_pass_that_breaks_off_goes_on_where_it_stopped(self, score, rows, monkeypatch):
        whole, _ = score(rows, ref_cache_dir=None, per_device_train_batch_size=2)
        ask, calls = StartOfPolicy.__call__, []

        def break_off(*arguments, **keywords):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return ask(*arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(StartOfPolicy, "__call__", break_off)
            with pytest.raises(KeyboardInterrupt):
                score(rows, per_device_train_batch_size=2)
        values, scored = score(rows, per_device_train_batch_size=2)
        assert scored == grid(range(4, 8))
        assert torch.equal(values, whole)

    def test_values_are_on_disk_before_the_pass_ends(self, score, rows, monkeypatch, tmp_path):
        monkeypatch.setattr(value_cache, "SHARD_VALUES", 12)
        ask, counts = StartOfPolicy.__call__, []

        def look(*arguments, **keywords):
            counts.append(len(list((tmp_path / "cache").glob("*/*.safetensors"))))
            return ask(*arguments, **keywords)

        monkeypatch.setattr(StartOfPolicy, "__call__", look)
        score(rows, per_device_train_batch_size=2)
        assert counts == [0, 0, 1, 1]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_steps": 3}, "trains on 6 of 8 rows"),
            ({"num_train_epochs": 0.5}, "trains on 4 of 8 rows"),
            ({"max_steps": 4}, None),
            ({"max_steps": 3, "precompute_ref_log_probs": False}, None),
        ],
    )
    def test_a_run_that_trains_on_few_of_the_scored_rows_says_so(
        self, build_trainer, rows, caplog, monkeypatch, options, said
    ):
        monkeypatch.setattr(row_pass, "WORTH_TELLING", 2)
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, **options}
        for tells in (said is not None, False):  # the second time they are read from disk
            caplog.clear()
            build_trainer(rows, **options)
            assert ("precompute_ref_log_probs: false" in caplog.text) is tells
            assert not tells or said in caplog.text

    def test_a_damaged_shard_is_scored_anew_and_replaced(self, scored_before, score, rows, tmp_path, caplog):
        (shard,) = (tmp_path / "cache").glob("*/*.safetensors")
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 0xFF]))
        values, scored = score(rows)
        assert scored == grid(range(8))
        assert f"{shard} is damaged" in caplog.text
        assert torch.equal(values, scored_before)
        assert shard.read_bytes() == content

    def test_a_folder_that_cannot_be_written_stops_the_run_before_any_forward(
        self, build_trainer, asked, rows, tmp_path
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueCacheError, match=rf"{tmp_path}/file.*ref_cache_dir"):
            build_trainer(rows, ref_cache_dir=str(tmp_path / "file"))
        assert not asked
        build_trainer(rows, ref_cache_dir=str(tmp_path / "file"), precompute_ref_log_probs=False).train()

    def test_a_cache_that_may_only_be_read_serves_what_it_has(self, score, asked, rows, monkeypatch):
        whole, _ = score(rows[:4])

        def refuse(**_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        assert torch.equal(score(rows[:4])[0], whole)
        with pytest.raises(ValueCacheError, match=r"Permission denied.*ref_cache_dir"):
            score(rows)
        assert not asked

    def test_another_precision_is_said_and_not_served(self, score, rows, caplog):
        score(rows[:4], bf16=True)
        with caplog.at_level(logging.INFO, logger="mmdpo"):
            assert score(rows[:4])[1] == grid(range(4))
        assert "cached references are for bfloat16, this run is float32: computing anew" in caplog.text

    def test_two_trainers_in_one_process_keep_their_precisions(self, build_trainer, rows):
        # accelerate keeps one setting for all: the second trainer's, when the first one scores
        full, half = build_trainer(rows), build_trainer(rows, bf16=True)
        assert not torch.equal(full.train_dataset.ref_logprobs, half.train_dataset.ref_logprobs)

    def test_a_value_that_is_not_finite_names_its_row_and_is_not_stored(self, score, rows, monkeypatch):
        ask = StartOfPolicy.__call__

        def spoil(self, batch, cells, **keywords):
            values = ask(self, batch, cells, **keywords)
            return values.masked_fill(batch["index"] == 5, float("nan"))

        with monkeypatch.context() as patch:
            patch.setattr(StartOfPolicy, "__call__", spoil)
            with pytest.raises(FloatingPointError, match="no finite log-probability for train, row 6"):
                score(rows)
        values, scored = score(rows)
        assert scored == grid(range(4, 8))
        assert values.isfinite().all()


class TestLive:
    def test_the_trainer_has_its_reference_model_as_an_attribute(self, build_trainer, rows):
        given = load_model()
        assert build_trainer(rows, ref_model=given).ref_model is given
        copied = build_trainer(rows, precompute_ref_log_probs=False)
        assert copied.ref_model is not copied.model
        assert not any(parameter.requires_grad for parameter in copied.ref_model.parameters())
        assert build_trainer(rows, peft_config=LoraConfig(r=2)).ref_model is None
        assert build_trainer(rows).ref_model is None, "the policy itself, before it moves"

    def test_a_given_reference_is_scored_as_the_policy_is(self, build_trainer, rows):
        for attention in ("auto", "separate"):
            trainer = build_trainer(rows, ref_model=load_model(), attention=attention)
            assert trainer._live_reference.scorer.shares_prefix == trainer._scorer.shares_prefix

    def test_cached_and_live_values_are_equal_bit_for_bit(self, build_trainer, rows):
        def reference_of(trainer):
            batch = first_batch(trainer)
            return trainer.reference(batch, trainer.objective.reference_cells, policy=trainer.model, memo={})

        live = reference_of(build_trainer(rows, precompute_ref_log_probs=False))
        for _ in range(2):
            cached = build_trainer(rows)
            assert first_batch(cached)["ref_logprobs"] is not None
            assert torch.equal(reference_of(cached), live)

    def test_whether_values_were_cached_changes_nothing_of_a_run(self, build_trainer, rows):
        """Not even the random numbers: dropout is on."""
        options = {"disable_dropout": False, "peft_config": LoraConfig(r=2, lora_alpha=16, lora_dropout=0.3)}
        first, second = (build_trainer(rows, num_train_epochs=2, **options) for _ in range(2))
        first.train()
        torch.manual_seed(1)
        second = build_trainer(rows, num_train_epochs=2, **options)
        second.train()
        assert losses_of(second) == losses_of(first)

    def test_dropout_never_reaches_a_stored_value(self, build_trainer, score, rows):
        config = AutoConfig.from_pretrained(CHECKPOINT)
        config.text_config.attention_dropout = 0.5
        model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, config=config, dtype="float32")
        trainer = build_trainer(rows, model=model.train(), disable_dropout=False)
        assert model.training
        torch.testing.assert_close(trainer.train_dataset.ref_logprobs, score(rows)[0])

    @pytest.mark.parametrize("with_adapter", [slow(False), True], ids=["full", "lora"])
    def test_a_fresh_corruption_each_epoch_is_scored_live_and_the_rest_is_cached(
        self, build_trainer, asked, rows, with_adapter
    ):
        def run(**changes):
            asked.clear()
            adapter = LoraConfig(r=2, lora_alpha=16) if with_adapter else None
            options = {"num_train_epochs": 2, "corruption_per_epoch": True, "peft_config": adapter}
            trainer = build_trainer(rows, eval_dataset=rows[:4], eval_strategy="epoch", **options, **changes)
            trainer.train()
            return trainer, Counter(cell for _, cell in asked.elements())

        live, count = run(precompute_ref_log_probs=False)
        assert count == dict.fromkeys([CHOSEN, REJECTED, CORRUPTED], 2 * 8 + 2 * 4)
        cached, count = run()
        assert count == {CHOSEN: 8, REJECTED: 8, CORRUPTED: 2 * 8 + 2 * 4}, "the evaluation's rows are known by then"
        assert losses_of(cached) == pytest.approx(losses_of(live), rel=1e-5)
        assert losses_of(live)[-1] != pytest.approx(3 * math.log(2), rel=1e-3), "nothing moved, nothing was compared"

    def test_another_picture_each_epoch_may_cut_every_answer_elsewhere(self, build_trainer, rows):
        options = {"corruption": "random_image", "corruption_per_epoch": True}
        assert isinstance(build_trainer(rows, **options).reference, FrozenModel)
        unlimited = build_trainer(rows, max_length=None, **options)
        assert unlimited.reference.cells == (CHOSEN, REJECTED)

    def test_full_fine_tuning_holds_no_second_model(self, build_trainer, rows):
        trainer = build_trainer(rows)
        assert trainer.reference.live.scorer.model is trainer.model

    def test_a_batch_without_values_is_scored_live_where_a_reference_is_left(self, build_trainer, rows):
        adapted = build_trainer(rows, peft_config=LoraConfig(r=2, lora_alpha=16))
        before = float(adapted.compute_loss(adapted.model, first_batch(adapted)).detach())
        assert before == pytest.approx(3 * math.log(2), abs=1e-5)
        adapted.train()
        assert float(adapted.compute_loss(adapted.model, first_batch(adapted) | {"ref_logprobs": None})) != before

    @pytest.mark.parametrize("how", ["by hand", "by training"])
    def test_a_policy_that_has_moved_is_no_reference(self, build_trainer, rows, how):
        trainer = build_trainer(rows)
        batch = first_batch(trainer) | {"ref_logprobs": None}
        assert float(trainer.compute_loss(trainer.model, batch)) == pytest.approx(3 * math.log(2), abs=1e-5)
        if how == "by hand":
            shift(trainer.model)
        else:
            trainer.train()
        with pytest.raises(ValueError, match=r"not scored before training.*precompute_ref_log_probs: false"):
            trainer.compute_loss(trainer.model, batch)
        with pytest.raises(ValueError, match="not scored before training"):
            trainer.evaluate(make_pairs(2, seed=9))


@pytest.fixture
def opened(monkeypatch):
    """Lists the ids of rows whose images are opened."""
    ids, original = [], Preparer.open

    def note(self, item, *rest):
        ids.append(item.example.id)
        return original(self, item, *rest)

    monkeypatch.setattr(Preparer, "open", note)
    return ids


class TestOnePass:
    """Each row is prepared once, and not at all where an earlier run has tried it with the same content and options."""

    @pytest.fixture
    def run(self, build_trainer, opened):
        def make(rows, **changes):
            opened.clear()
            return build_trainer(rows, **changes), list(opened)

        return make

    def test_a_row_is_prepared_once_and_in_the_next_run_not_at_all(self, run, rows):
        first, ids = run(rows)
        assert len(ids) == len(set(ids)) == 8
        again, ids = run(rows)
        assert not ids
        assert again.train_dataset.lengths == first.train_dataset.lengths
        assert torch.equal(again.train_dataset.ref_logprobs, first.train_dataset.ref_logprobs)
        again.train()
        assert again.state.global_step == 2

    @pytest.mark.parametrize("is_cached", [True, False])
    def test_what_is_known_of_rows_serves_runs_with_live_references_too(self, run, rows, is_cached):
        run(rows, precompute_ref_log_probs=is_cached)
        trainer, ids = run(rows, precompute_ref_log_probs=False, peft_config=LoraConfig(r=2))
        assert not ids
        assert len(trainer.train_dataset.lengths) == 8

    @pytest.mark.parametrize(
        ("change", "options", "count"),
        [
            (lambda rows: rows[2].update(images=[GRADIENT]), {}, 1),
            (lambda rows: rows[3].update(chosen=rows[4]["rejected"]), {}, 1),
            (lambda rows: None, {"max_length": 64}, 8),
            (lambda rows: None, {"max_image_pixels": 10_000}, 8),
            (lambda rows: None, {"seed": 2}, 8),
            (lambda rows: None, {"learning_rate": 1e-5}, 0),
        ],
        ids=["image", "answer", "max_length", "pixels", "seed", "learning rate"],
    )
    @pytest.mark.usefixtures("scored_before")
    def test_what_changed_is_tried_again(self, run, rows, change, options, count):
        change(rows)
        assert len(run(rows, precompute_ref_log_probs=False, **options)[1]) == count

    def test_faulty_rows_are_tried_in_every_run_and_cost_the_others_nothing(self, run, rows, asked):
        rows[3]["chosen"] = "describe " * 300
        rows[3]["rejected"] = "describe " * 301
        for count in (8, 1):
            trainer, ids = run(rows, on_bad_row="skip", max_length=64)
            assert len(trainer.train_dataset) == 7
            assert len(ids) == count
        assert max(asked.values()) == 1
        plain = run([row for k, row in enumerate(rows) if k != 3], max_length=64, ref_cache_dir=None)[0]
        torch.testing.assert_close(trainer.train_dataset.ref_logprobs, plain.train_dataset.ref_logprobs)

    def test_the_score_that_was_left_to_an_equal_row_is_made_up_for_where_that_is_faulty(self, run, rows, monkeypatch):
        collate = Collator.collate

        def refuse(self, examples):
            if any(example.item.example.id == "odd" for example in examples):
                raise RowError("odd")
            return collate(self, examples)

        monkeypatch.setattr(Collator, "collate", refuse)
        trainer, _ = run([{**rows[0], "id": "odd"}, rows[0]], on_bad_row="skip")
        assert len(trainer.train_dataset) == 1
        assert trainer.train_dataset.ref_logprobs.isfinite().all()

    def test_workers_find_what_one_process_finds(self, run, rows, tmp_path):
        alone, _ = run(rows, per_device_train_batch_size=2)
        shared, _ = run(rows, per_device_train_batch_size=2, dataset_num_proc=2, ref_cache_dir=str(tmp_path / "other"))
        assert torch.equal(shared.train_dataset.ref_logprobs, alone.train_dataset.ref_logprobs)
        assert shared.train_dataset.lengths == alone.train_dataset.lengths

    @pytest.mark.parametrize("cached", [True, False])
    def test_another_rows_broken_picture_is_that_rows_fault_alone(self, run, rows, tmp_path, cached):
        (tmp_path / "broken.png").write_bytes(b"no picture")
        rows[5]["images"] = [str(tmp_path / "broken.png")]
        options = {"objective": "mdpo_other_image", "precompute_ref_log_probs": cached}
        with pytest.raises(RowError, match=r"1 of 8 rows .*\n.*row 6: .*broken\.png"):
            run(rows, **options)
        trainer, _ = run(rows, on_bad_row="skip", **options)
        assert len(trainer.train_dataset) == 7
        assert len(first_batch(trainer, 7)["index"]) == 7

    def test_scores_of_one_dataset_are_not_anothers_where_the_caller_makes_batches(self, build_trainer, rows):
        ours = build_trainer(rows[:4]).data_collator
        trainer = build_trainer(rows[:4], eval_dataset=rows[4:], data_collator=lambda items: ours(items))
        expected = build_trainer(rows[:4], eval_dataset=rows[4:])
        for name in ("train_dataset", "eval_dataset"):
            found = getattr(trainer, name).ref_logprobs
            torch.testing.assert_close(found, getattr(expected, name).ref_logprobs)

    @pytest.mark.parametrize("cached", [True, False])
    def test_what_the_caller_makes_is_a_batch(self, build_trainer, rows, cached):
        ours = build_trainer(rows).data_collator
        options = {"precompute_ref_log_probs": cached}
        with pytest.raises(TypeError, match=r"the data_collator returned list: it is given items of train_dataset"):
            build_trainer(rows, data_collator=list, **options).train()
        with pytest.raises(TypeError, match=r"returned a batch without begins_as, counts: .*Batch, as"):
            build_trainer(
                rows,
                data_collator=lambda items: {k: v for k, v in ours(items).items() if k not in ("begins_as", "counts")},
                **options,
            ).train()

    def test_a_folder_that_cannot_be_written_costs_live_references_nothing(self, run, rows, tmp_path, caplog):
        (tmp_path / "file").write_text("")
        options = {"ref_cache_dir": str(tmp_path / "file"), "precompute_ref_log_probs": False}
        for _ in range(2):
            assert len(run(rows, **options)[1]) == 8
        assert "every row is tried anew" in caplog.text


class TestDatasets:
    def test_every_evaluation_set_is_scored_before_the_policy_moves(self, build_trainer, asked, rows):
        trainer = build_trainer(rows[:4], eval_dataset={"near": rows[:2], "far": rows[4:]}, eval_strategy="epoch")
        trainer.train()
        assert sum(asked.values()) == 3 * 8, "the rows of `near` are known from training"
        assert {len(items) for items in trainer.eval_dataset.values()} == {2, 4}

    def test_a_model_that_is_spread_over_devices_stays_where_it_is(self, build_trainer, rows, monkeypatch):
        model = load_model()
        model.hf_device_map = {"model": 0, "lm_head": 1}

        def move(*args, **kwargs):
            raise AssertionError("it would not fit on one of them")

        monkeypatch.setattr(model, "to", move)
        assert build_trainer(rows, model=model).train_dataset.ref_logprobs is not None

    def test_an_objective_without_a_reference_is_given_none(self, build_trainer, asked, rows, tmp_path):
        build_trainer(rows, objective="sft_chosen").train()
        assert not asked
        assert not list((tmp_path / "cache").glob("*/*.safetensors"))

    def test_a_given_reference_is_the_one_that_is_scored(self, scored_before, score, rows):
        given, scored = score(rows, ref_model=shift(load_model()))
        assert scored == grid(range(8))
        assert not torch.equal(given, scored_before)


class TestImagesThatChange:
    """The reference was scored under one picture; the policy is never shown another one in silence."""

    @pytest.fixture
    def files(self, rows, tmp_path):
        paths = []
        for number, row in enumerate(rows):
            paths.append(tmp_path / f"{number}.png")
            row["images"][0].save(paths[-1])
            row["images"] = [str(paths[-1])]
        return paths

    @pytest.mark.parametrize("objective", ["mdpo", "mdpo_other_image"])
    def test_one_that_is_replaced_before_its_step_is_named(self, build_trainer, rows, files, objective):
        class Replace(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                Image.new("RGB", (48, 48), "red").save(files[3])

        trainer = build_trainer(rows, objective=objective)
        trainer.add_callback(Replace())
        with pytest.raises(RowError, match=r"3\.png was replaced after the reference"):
            trainer.train()

    def test_one_that_is_copied_anew_with_the_same_content_is_none(self, build_trainer, rows, files):
        class Touch(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                for file in files:
                    os.utime(file, (1, 1))

        trainer = build_trainer(rows)
        trainer.add_callback(Touch())
        trainer.train()
        assert trainer.state.global_step == 2


class TestDates:
    @pytest.fixture(scope="class")
    def dated(self, made_rows):
        def make(folder):
            processor = AutoProcessor.from_pretrained(CHECKPOINT)
            processor.chat_template = "{{ strftime_now('%H %M %S %f') }}" + processor.chat_template
            options = dict(processing_class=processor, save_strategy="steps", save_steps=1)
            return small_trainer.build_trainer(folder, made_rows, **options)

        return make

    @pytest.fixture(scope="class")
    def whole(self, dated, tmp_path_factory):
        trainer = dated(tmp_path_factory.mktemp("whole"))
        trainer.train()
        return trainer

    def test_every_prompt_of_a_run_has_one_moment_and_a_resumed_run_has_it_too(self, dated, whole, tmp_path):
        def prompts(trainer):
            batches = [trainer.data_collator([trainer.train_dataset[n] for n in range(8)]) for _ in range(2)]
            assert (batches[0]["prompt_ids"] == batches[1]["prompt_ids"]).all()
            render = trainer.data_collator.prepare.renderer.render
            return render(trainer.train_dataset[0].example, ["chosen"], with_images=True).prompt

        assert whole.state.log_history[0]["loss"] == pytest.approx(3 * math.log(2), abs=1e-5)
        again = dated(tmp_path)
        assert prompts(again) != prompts(whole)
        again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")
        assert prompts(again) == prompts(whole)

    def test_a_process_that_is_told_the_date_scores_its_rows_anew(self, dated, whole, tmp_path, monkeypatch):
        again = dated(tmp_path)
        before = again.train_dataset.ref_logprobs
        # As on every process but the main one, which alone reads the checkpoint's record.
        monkeypatch.setattr(MDPOTrainer, "recall", lambda self, remembered: None)
        moment = whole.data_collator.prepare.renderer.clock.moment
        monkeypatch.setattr(trainer_module, "on_main_process", lambda function, *, is_main: moment)
        again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")
        assert again.data_collator.prepare.renderer.clock.moment == moment
        assert again.train_dataset.ref_logprobs is not before  # though here the digits are all one unknown token

    def test_nothing_is_remembered_where_no_date_is_written(self, build_trainer, rows, tmp_path):
        trainer = build_trainer(rows, save_strategy="steps", save_steps=2)
        trainer.train()
        assert read_record(tmp_path / "run" / "checkpoint-2")["remembered"] == {}


class TestPassesThatAreCutOff:
    def test_a_disk_that_fills_up_is_one_error_and_what_was_stored_is_whole(self, build_trainer, rows, tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))  # real writes fail beyond it, as on a full disk
        try:
            with pytest.raises(ValueCacheError, match=r"cannot be written .*set ref_cache_dir"):
                build_trainer(rows)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.endswith(".partly")]
        again = build_trainer(rows)
        again.train()
        assert again.state.global_step == 2

    def test_one_that_is_killed_is_gone_on_with_and_ends_as_if_it_had_not_been(
        self, build_trainer, rows, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(value_cache, "SHARD_VALUES", 1)
        write = value_cache.ValueCache.write
        child = os.fork()
        if not child:
            written = []

            def write_and_die(cache, values):
                write(cache, values)
                written.append(len(values))
                os.kill(os.getpid(), signal.SIGKILL)

            monkeypatch.setattr(value_cache.ValueCache, "write", write_and_die)
            torch.set_num_threads(1)
            build_trainer(rows).train()
            os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        killed, whole = build_trainer(rows), build_trainer(rows, ref_cache_dir=str(tmp_path / "other"))
        for trainer in (killed, whole):
            trainer.train()
        assert torch.equal(killed.train_dataset.ref_logprobs, whole.train_dataset.ref_logprobs)
        assert not (tmp_path / "run" / LOCK).exists()
