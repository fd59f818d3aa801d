"""How pairs become rows: shared or separate, packed, grouped by length. None of it changes what is learned."""

import pytest
import torch
from peft import LoraConfig
from test_trainer import build_trainer, first_batch, losses_of, weights_of

from mmdpo.world.pairs import make_pairs


@pytest.fixture(scope="module")
def rows():
    return make_pairs(12, seed=5)


@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.slow), {"max_tokens_per_row": 80}],
    ids=["one row", "rows of 80 tokens"],
)
def test_shared_rows_learn_what_separate_ones_learn(tmp_path, rows, changes):
    separate = build_trainer(tmp_path / "separate", rows, attention="separate")
    shared = build_trainer(tmp_path / "shared", rows, attention="shared", **changes)
    for trainer in (separate, shared):
        trainer.train()
    assert losses_of(shared) == pytest.approx(losses_of(separate), rel=1e-4)
    for name, value in weights_of(shared).items():
        torch.testing.assert_close(value, weights_of(separate)[name], rtol=1e-3, atol=2e-4, msg=name)


def test_a_step_reads_each_picture_and_prompt_once(tmp_path, rows):
    tokens = {}
    for attention in ("shared", "separate"):
        trainer = build_trainer(tmp_path / attention, rows, attention=attention)
        batch, seen = first_batch(trainer), []
        trainer.model.get_decoder().register_forward_pre_hook(
            lambda _, __, kwargs, seen=seen: seen.append(kwargs["attention_mask"].sum()), with_kwargs=True
        )
        trainer._scorer(batch, trainer.objective.cells)
        tokens[attention] = int(seen[0])
        # 6 · tokens · parameters, as transformers estimates it
        parameters = trainer.model.num_parameters(exclude_embeddings=True)
        assert trainer.floating_point_ops(batch) == 6 * tokens[attention] * parameters
    chosen, rejected = batch["answer_mask"].sum(1).reshape(2, -1).sum(1).tolist()
    original, corrupted = batch["prompt_mask"].sum(1).reshape(2, -1).sum(1).tolist()
    assert tokens["shared"] == original + corrupted + 2 * chosen + rejected
    assert tokens["separate"] == tokens["shared"] + original


class TestLengths:
    def test_lengths_are_those_of_prompt_and_answers(self, tmp_path, rows):
        trainer = build_trainer(tmp_path, rows)
        batch = first_batch(trainer, len(rows))
        answers = batch["answer_mask"].sum(1).reshape(2, -1).sum(0)
        prompts = batch["prompt_mask"].sum(1).reshape(2, -1)[0]
        assert trainer.train_dataset.lengths == tuple((prompts + answers).tolist())

    def test_pairs_of_like_length_go_into_one_batch(self, tmp_path):
        rows = make_pairs(48, seed=5)

        def spread(strategy):
            trainer = build_trainer(tmp_path / strategy, rows, train_sampling_strategy=strategy)
            lengths = trainer.train_dataset.lengths
            trainer.get_train_dataloader()
            order = list(trainer.rows)
            assert sorted(order) == list(range(48))
            batches = [[lengths[i] for i in order[start : start + 4]] for start in range(0, 48, 4)]
            return sum(max(batch) - min(batch) for batch in batches)

        assert spread("group_by_length") < spread("random") / 2

    def test_rebalanced_batches_train_on_every_pair(self, tmp_path, rows):
        trainer = build_trainer(
            tmp_path,
            rows,
            train_sampling_strategy="batch_rebalance",
            gradient_accumulation_steps=3,
            precompute_ref_log_probs=False,
        )
        pairs = []
        trainer.data_collator = lambda items, collate=trainer.data_collator: pairs.extend(items) or collate(items)
        trainer.train()
        assert sorted(item.index for item in pairs) == list(range(12))
        assert len(losses_of(trainer)) == 1
        assert losses_of(trainer)[0] == pytest.approx(3 * 0.6931472, abs=1e-4)

    def test_lengths_that_nobody_counted_are_missed_early(self, tmp_path, rows):
        with pytest.raises(ValueError, match="needs the length of every row, which only check_data: full counts"):
            build_trainer(tmp_path, rows, train_sampling_strategy="group_by_length", check_data="text")


def test_adapters_under_bf16_cast_nothing_up_and_nothing_changes(tmp_path, rows):
    trainer = build_trainer(tmp_path, rows, peft_config=LoraConfig(r=2), bf16=True, precompute_ref_log_probs=False)
    layers = [module for module in trainer.model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    assert layers
    assert not any(layer.cast_input_dtype_enabled for layer in layers)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    losses = []
    for cast in (False, True):
        for layer in layers:
            layer.cast_input_dtype_enabled = cast
        with trainer.accelerator.autocast():
            losses.append(float(trainer.compute_loss(trainer.model, first_batch(trainer)).detach()))
    assert losses[0] == losses[1]
    assert losses[0] != pytest.approx(3 * 0.6931472, abs=1e-3)
