"""What a dry run says, against what a real run then does: tokens, steps, parameters and bytes."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from rich.console import Console
from transformers import LlamaConfig, LlavaConfig, TrainerCallback

from mmdpo.cli import main
from mmdpo.training.config import MDPOConfig
from mmdpo.training.dry_run import dry_run, plan_run
from mmdpo.training.recipe import parse_recipe
from mmdpo.training.run import build_trainer, train
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs
from small_trainer import write_pairs

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
from tiny_models import MODELS

LORA = dict(use_peft=True, lora_r=4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 11)


@pytest.fixture
def arguments(pairs, tmp_path):
    def make(**changes):
        values = {
            "model_name_or_path": "world", "dataset_name": pairs, "output_dir": tmp_path / "run", "max_steps": 1,
            "per_device_train_batch_size": 4, "use_cpu": True, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "gradient_checkpointing": False, "probe": False, **changes,
        }  # fmt: skip
        return [f"--{key}={value}" for key, value in values.items()]

    return make


@pytest.fixture
def plan(arguments):
    return lambda **changes: plan_run(parse_recipe(arguments(**changes)))


def size(tensors):
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


class WeighStep(TrainerCallback):
    """Weighs gradients and optimizer states where both are there."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.gradients = size(p.grad for p in model.parameters() if p.grad is not None)

    def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.states = size(s for of_one in optimizer.state_dict()["state"].values() for s in of_one.values())


STATIC = {
    "full": dict(precompute_ref_log_probs=False),
    "full, cached": {},
    "lora": dict(**LORA, precompute_ref_log_probs=False),
    "dora in bfloat16": dict(**LORA, use_dora=True, dtype="bfloat16"),
    "projector, too": dict(**LORA, freeze_projector=False),
    "sgd": dict(optim="sgd"),
    "continued": dict(adapter_name_or_path="ADAPTER", precompute_ref_log_probs=False),
}


QUICK = ("full", "lora")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in STATIC]
)
def test_what_stays_in_memory_is_exact_to_the_byte(kind, plan, arguments, tmp_path):
    options = dict(STATIC[kind])
    if kind == "continued":
        moved = train(arguments(**LORA, output_dir=tmp_path / "first", warmup_steps=0))
        options["adapter_name_or_path"] = moved.args.output_dir
    planned = plan(**options)
    said = {line.name: line.bytes for line in planned.memory}
    trainer, scale = build_trainer(parse_recipe(arguments(**options))), WeighStep()
    trainer.add_callback(scale)
    trainer.train()

    parameters = dict(trainer.model.named_parameters())
    added = [p for name, p in parameters.items() if "lora_" in name]
    assert said["weights"] == size(parameters.values()) - size(added)
    assert said.get("adapter", 0) == size(added)
    assert said["gradients"] == scale.gradients > 0
    assert said["optimizer"] == scale.states
    own = {id(p) for p in parameters.values()}
    copied = [p for p in trainer._live_reference.scorer.model.parameters() if id(p) not in own]
    assert said["reference"] == size(copied)
    assert bool(copied) == (kind in ("full", "continued"))

    assert sum(part.parameters for part in planned.parts) == sum(p.numel() for p in parameters.values())
    assert sum(part.trained for part in planned.parts) == sum(p.numel() for p in parameters.values() if p.requires_grad)
    assert planned.parts[0].part == "language_model"


@pytest.mark.parametrize("attention", ["shared", "separate"])
@pytest.mark.parametrize("objective", ["mdpo", "mdpo_combined"])
def test_tokens_are_those_that_collator_and_planner_make(plan, arguments, attention, objective):
    options = dict(attention=attention, objective=objective)
    planned = plan(**options)
    trainer = build_trainer(parse_recipe(arguments(**options)))
    found = []
    for batch in trainer.get_train_dataloader():
        rows = trainer._scorer.plan(batch, trainer.objective.cells)
        found.append((int(rows.attention_mask.sum()), rows.input_ids.numel(), len(rows.targets)))
    pairs, counted = 11, sum(pair.tokens for pair in planned.tokens)
    if (attention, objective) == ("shared", "mdpo_combined"):
        # Another row's picture may be in the batch with its own row, and is then read once; pairs are counted apart.
        assert 0.9 * counted < sum(tokens for tokens, _, _ in found) < counted
    else:
        assert sum(tokens for tokens, _, _ in found) == counted
    assert planned.tokens_per_step == pytest.approx(4 * counted / pairs)
    assert max(padded for _, padded, _ in found) <= planned.batch.tokens <= 1.5 * max(padded for _, padded, _ in found)
    assert max(answers for _, _, answers in found) <= planned.batch.answer_tokens


def test_the_largest_micro_batch_is_met_exactly_where_it_is_the_only_one(plan, arguments):
    for attention in ("shared", "separate"):
        options = dict(attention=attention, per_device_train_batch_size=11)
        trainer = build_trainer(parse_recipe(arguments(**options)))
        (batch,) = trainer.get_train_dataloader()
        rows = trainer._scorer.plan(batch, trainer.objective.cells)
        planned = plan(**options).batch
        assert (planned.tokens, planned.answer_tokens) == (rows.input_ids.numel(), len(rows.targets))


@pytest.mark.parametrize(
    "options",
    [pytest.param(dict(num_train_epochs=2), marks=pytest.mark.slow),
     pytest.param(dict(gradient_accumulation_steps=2), marks=pytest.mark.slow),
     pytest.param(dict(dataloader_drop_last=True), marks=pytest.mark.slow),
     dict(per_device_train_batch_size=3, gradient_accumulation_steps=3, num_train_epochs=1.5)],
    ids=str,
)  # fmt: skip
def test_steps_are_those_of_the_run(plan, arguments, options):
    planned = plan(max_steps=-1, learning_rate=1e-12, **options)
    trainer = build_trainer(parse_recipe(arguments(max_steps=-1, learning_rate=1e-12, **options)))
    trainer.train()
    assert planned.steps == trainer.state.max_steps
    assert planned.pairs == 11


def test_batches_that_not_all_processes_have_are_left_out_with_the_last_one(plan, monkeypatch):
    monkeypatch.setattr(MDPOConfig, "world_size", 3)
    options = dict(max_steps=-1, num_train_epochs=1, per_device_train_batch_size=2)
    assert plan(**options).steps == 2, "11 rows are six batches"
    assert plan(**options, dataloader_drop_last=True).steps == 1, "five whole batches, of which two have no third"


@pytest.mark.parametrize("attention", ["shared", "separate"])
def test_activations_are_what_autograd_keeps_within_a_fifth(plan, arguments, attention):
    options = dict(**LORA, attention=attention, per_device_train_batch_size=11)
    said = next(line.bytes for line in plan(**options).memory if line.name == "activations")
    trainer = build_trainer(parse_recipe(arguments(**options)))
    (batch,) = trainer.get_train_dataloader()
    own = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer._scorer(batch, trainer.objective.cells)
    assert said == pytest.approx(sum(count for count, _ in kept.values()), rel=0.2)


class TestCommand:
    def test_needs_no_weights_and_leaves_nothing(self, arguments, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        shutil.copytree(CHECKPOINT, tmp_path / "model")
        (tmp_path / "model" / "model.safetensors").unlink()
        files = sorted(tmp_path.rglob("*"))
        given = arguments(**LORA, model_name_or_path=tmp_path / "model", gradient_accumulation_steps=2)
        assert main(["train", *given, "--dry_run"]) == 0
        assert sorted(tmp_path.rglob("*")) == files
        told = capsys.readouterr().out
        for part in (
            "LlavaForConditionalGeneration, family Llava, decoder llama",
            "LoRA of rank 4 on 21 layers",
            "shared: answers under one image share its prompt",
            "scored before training, by the model itself",
            "language_model", "projector", "vision_tower", "adapter",
            "8 = 4 × 2 accumulated × 1 process",
            "tokens per step", "largest micro-batch", "with gradient checkpointing", "total",
        ):  # fmt: skip
            assert part in told, part

    def test_says_why_rows_are_not_shared(self, arguments, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "300")
        assert main(["train", *arguments(attn_implementation="eager"), "--dry_run"]) == 0
        assert "separate, one for each cell: it was loaded with attn_implementation: eager" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (dict(model_name_or_path="nobody/nothing"), "cannot load the model 'nobody/nothing'"),
            (dict(dataset_name="nobody/nothing"), "nobody/nothing"),
            (dict(dataset_name="nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
            (dict(max_length=20), "zero tokens"),
            (dict(attention="shared", attn_implementation="eager"), "attention: shared does not work"),
            (dict(load_in_4bit=True), "quantised weights cannot move"),
            (dict(**LORA, load_in_8bit=True), "set precompute_ref_log_probs: false, or take load_in_4bit"),
        ],
        ids=str,
    )
    def test_what_cannot_run_says_so(self, arguments, tmp_path, capsys, changes, message):
        assert main(["train", *arguments(**changes), "--dry_run"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_model_without_its_processor(self, arguments, tmp_path, capsys):
        shutil.copytree(CHECKPOINT, tmp_path / "model")
        for path in (tmp_path / "model").iterdir():
            if path.name not in ("config.json", "model.safetensors"):
                path.unlink()
        assert main(["train", *arguments(model_name_or_path=tmp_path / "model"), "--dry_run"]) == 2
        assert "holds a model and no processor" in capsys.readouterr().err

    def test_a_folder_that_holds_a_run(self, arguments, tmp_path, capsys):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "model.safetensors").write_text("mine")
        assert main(["train", *arguments(), "--dry_run"]) == 2
        assert "holds a run already" in capsys.readouterr().err


def test_the_real_size_of_llava_takes_no_memory(plan, tmp_path):
    """The published checkpoint has 7,063,427,072 parameters; LoRA's follow from 32 layers of 4096 and 11008."""
    LlavaConfig(text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096)).save_pretrained(
        tmp_path / "7b"
    )
    MODELS["llava_1_5"]().processor.save_pretrained(tmp_path / "7b")
    planned = plan(
        model_name_or_path=tmp_path / "7b", use_peft=True, lora_r=64, dtype="bfloat16", gradient_checkpointing=True
    )
    counts = {part.part: part for part in planned.parts}
    assert counts["adapter"].parameters == counts["adapter"].trained == 159_907_840
    assert sum(part.parameters for part in planned.parts) == 7_063_427_072 + 159_907_840
    assert sum(part.trained for part in planned.parts) == 159_907_840
    said = {line.name: line.bytes for line in planned.memory}
    assert said["weights"] == 2 * 7_063_427_072
    assert said["adapter"] == said["gradients"] == 4 * 159_907_840
    quantised = plan(model_name_or_path=tmp_path / "7b", use_peft=True, lora_r=64, dtype="bfloat16", load_in_4bit=True)
    assert 3.5e9 < quantised.memory[0].bytes < 4.6e9


def test_a_stream_is_tried_on_its_first_rows(arguments, plan, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    Dataset.from_list(make_pairs(5, seed=11)).to_parquet(tmp_path / "pairs.parquet")
    streamed = dict(dataset_name=tmp_path / "pairs.parquet", dataset_streaming=True)
    dry_run(arguments(**streamed, max_steps=7), Console())
    assert "a stream, tried on 5" in capsys.readouterr().out
    planned = plan(**streamed, max_steps=7)
    assert (planned.steps, planned.steps_per_epoch) == (7, None)
    assert "frozen copy" in planned.reference, "nothing can be scored before training"
    with pytest.raises(ValueError, match="give max_steps"):
        plan(**streamed, max_steps=-1)
