"""Every kind of adapter and precision: where it starts, what moves, what its reference is, and what it is merged to."""

import importlib.util
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.cli import main
from mmdpo.models.load import load_model
from mmdpo.models.start import LoadOptions, resolve_start
from mmdpo.models.trained import is_undone_by_switching_off, unwrap_adapter
from mmdpo.scoring.reference import AdapterOff, FrozenModel, StartOfPolicy
from mmdpo.training import assembly
from mmdpo.training.dry_run import plan_run
from mmdpo.training.recipe import parse_recipe
from mmdpo.training.run import build_trainer, train
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.pairs import make_pairs
from small_trainer import write_pairs

# A training for every kind of adapter.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_panel_on_a_card")]

NO_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is None
QUANTISED = [
    pytest.mark.rest,
    pytest.mark.skipif(NO_BITSANDBYTES, reason="bitsandbytes, for 4-bit weights, is not installed: make test-rest"),
]
LORA = dict(use_peft=True, lora_r=4, lora_alpha=8)
KINDS = {
    "full": {},
    "lora": LORA,
    "dora": dict(**LORA, use_dora=True),
    "rslora": dict(**LORA, use_rslora=True),
    "qlora": dict(**LORA, load_in_4bit=True),
    "in-8bit": dict(**LORA, load_in_8bit=True),
    "continued": dict(model_name_or_path="ADAPTER"),
    "continued-on-base": dict(adapter_name_or_path="ADAPTER"),
    "continued-in-4bit": dict(adapter_name_or_path="ADAPTER", load_in_4bit=True),
}


def kinds(*left_out):
    return [
        pytest.param(name, marks=QUANTISED if {"load_in_4bit", "load_in_8bit"} & set(options) else ())
        for name, options in KINDS.items()
        if name not in left_out
    ]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 8)


@pytest.fixture(scope="module")
def flags(pairs, tmp_path_factory):
    """Gives the flags of two steps of a kind; `ADAPTER` stands for the run that is gone on with."""
    made = {}

    def write(kind, **changes):
        folder = tmp_path_factory.mktemp(kind) / "run"
        values = {
            "model_name_or_path": "world", "dataset_name": pairs, "output_dir": folder, "max_steps": 2,
            "per_device_train_batch_size": 4, "learning_rate": 5e-3, "lr_scheduler_type": "constant",
            "warmup_steps": 0, "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "precompute_ref_log_probs": False, "gradient_checkpointing": False, "probe": False,
            **KINDS[kind], **changes,
        }  # fmt: skip
        if "ADAPTER" in values.values():
            if not made:
                made["folder"] = train(write("lora")).args.output_dir
            values = {key: made["folder"] if value == "ADAPTER" else value for key, value in values.items()}
        return [f"--{key}={value}" for key, value in values.items()]

    return write


@pytest.fixture(scope="module")
def run(flags):
    """Trains a kind."""
    return lambda kind, **changes: train(flags(kind, **changes))


@pytest.fixture(scope="module")
def make(flags):
    """Builds the trainer of a kind, without a step."""
    return lambda kind, **changes: build_trainer(parse_recipe(flags(kind, **changes)))


def history(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_starts_at_its_reference_and_moves_what_it_should(run, kind, monkeypatch):
    loaded = {}
    original = assembly.prepare_policy

    def remember(*args, **kwargs):
        policy = original(*args, **kwargs)
        loaded.update({name: p.detach().clone() for name, p in policy.named_parameters()})
        return policy

    monkeypatch.setattr(assembly, "prepare_policy", remember)
    # As by default: gradients have to pass what is recomputed, and what is quantised and adapted is probed.
    trainer = run(kind, gradient_checkpointing=True, probe=True)
    first, second = history(trainer)
    assert first["loss"] == pytest.approx(3 * math.log(2), abs=1e-6)
    rewards = [first[f"rewards/{cell}"] for cell in ("chosen", "rejected", "corrupted")]
    # A head that is trained sums in another order than the frozen one of the reference.
    assert rewards == ([pytest.approx(0, abs=1e-6)] * 3 if kind == "full" else [0.0, 0.0, 0.0])
    assert abs(second["loss"] - first["loss"]) > 1e-3

    now = dict(trainer.model.named_parameters())
    moved = {name for name in loaded if not torch.equal(loaded[name], now[name])}
    if kind == "full":
        expected = {name for name in loaded if name.startswith("model.language_model.") or name == "lm_head.weight"}
    else:
        expected = {name for name in loaded if "lora_" in name}
        assert {name for name in expected if "language_model" in name} == expected
        layers = sum("lora_A" in name for name in expected)
        assert layers == 21, "seven linear layers in each of three blocks"
    assert moved == expected
    assert {name for name, p in now.items() if p.requires_grad} == expected


@pytest.mark.parametrize("kind", kinds("full", "lora", "rslora", "in-8bit", "continued-on-base"))
def test_a_cached_reference_is_the_start_too(run, kind):
    first, _ = history(run(kind, precompute_ref_log_probs=True))
    assert first["loss"] == pytest.approx(3 * math.log(2), abs=1e-5)


class TestReference:
    @pytest.mark.parametrize(
        ("kind", "live", "cached"),
        [("lora", AdapterOff, AdapterOff), ("dora", AdapterOff, AdapterOff), ("full", FrozenModel, StartOfPolicy),
         ("continued", FrozenModel, StartOfPolicy)],
    )  # fmt: skip
    def test_is_the_cheapest_that_is_right(self, make, kind, live, cached):
        assert type(make(kind, precompute_ref_log_probs=False)._live_reference) is live
        assert type(make(kind, precompute_ref_log_probs=True)._live_reference) is cached

    def test_of_a_continued_adapter_costs_one_more_adapter(self, make):
        trainer = make("continued")
        own = {id(p) for p in trainer.model.parameters()}
        copied = [n for n, p in trainer._live_reference.scorer.model.named_parameters() if id(p) not in own]
        assert copied
        assert all("lora_" in name for name in copied)

    def adapted(self, tmp_path, **options):
        model = load_model(
            resolve_start("world", MDPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none").load_options())
        )
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **options))

    def test_is_not_the_adapter_switched_off_where_that_leaves_something_behind(self, tmp_path):
        assert is_undone_by_switching_off(self.adapted(tmp_path))
        assert is_undone_by_switching_off(self.adapted(tmp_path, modules_to_save=["lm_head"]))
        assert not is_undone_by_switching_off(self.adapted(tmp_path, init_lora_weights=False))
        assert not is_undone_by_switching_off(self.adapted(tmp_path, bias="all"))

    def test_of_trained_biases_is_the_start(self, tmp_path):
        args = MDPOConfig(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=2,
            precompute_ref_log_probs=False, logging_steps=1, save_strategy="no", gradient_checkpointing=False,
            per_device_train_batch_size=4,
        )  # fmt: skip
        trainer = MDPOTrainer(
            "world", args=args, train_dataset=make_pairs(8, seed=11), peft_config=LoraConfig(r=2, bias="all")
        )
        assert isinstance(trainer._live_reference, FrozenModel)


class TestContinued:
    def test_starts_where_the_first_run_ended(self, run, make):
        first = run("lora")
        again = make("continued", model_name_or_path=first.args.output_dir)
        ended = {name: p for name, p in first.model.named_parameters() if "lora_" in name}
        started = {name: p for name, p in again.model.named_parameters() if "lora_" in name}
        assert ended.keys() == started.keys()
        assert all(torch.equal(ended[name], started[name]) for name in ended)
        assert any(p.any() for name, p in started.items() if "lora_B" in name)

    def test_is_merged_to_its_own_logits(self, run, tmp_path):
        trainer = run("continued")
        assert main(["merge", trainer.args.output_dir, str(tmp_path / "merged"), "--dtype", "float32"]) == 0
        base = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype="float32")
        before = logits(base)
        adapted = logits(PeftModel.from_pretrained(base, trainer.args.output_dir))
        merged = logits(AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype="float32"))
        assert (adapted - before).abs().max() > 0.01
        torch.testing.assert_close(merged, adapted, rtol=1e-5, atol=1e-5 * float(adapted.abs().max()))

    def test_leaves_frozen_parts_as_they_are(self, tmp_path):
        get_peft_model(load_model(resolve_start("world")), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
            tmp_path / "everywhere"
        )
        start = resolve_start("world", LoadOptions(adapter=str(tmp_path / "everywhere")))

        def moving(*parts):
            return {name for name, p in load_model(start, parts=parts).named_parameters() if p.requires_grad}

        assert moving("language_model")
        assert all("language_model" in name for name in moving("language_model"))
        assert len(moving("language_model", "vision_tower")) > len(moving("language_model"))

    def test_with_options_for_a_new_adapter_is_an_error(self, run, capsys):
        with pytest.raises(ValueError, match=r"give either an adapter in the model or peft_config \(use_peft: true\)"):
            run("continued", use_peft=True)


class TestQuantised:
    pytestmark = QUANTISED

    def test_weights_are_in_four_bits(self, make):
        trainer = make("qlora")
        kinds = {
            type(layer.base_layer).__name__ for n, layer in trainer.model.named_modules() if hasattr(layer, "lora_A")
        }
        assert kinds == {"Linear4bit"}
        lora = [p for name, p in trainer.model.named_parameters() if "lora_" in name]
        assert {p.dtype for p in lora} == {torch.float32}

    def test_an_evaluation_leaves_them_as_gradients_pass_them(self, make):
        trainer = make("qlora")
        before = {name: p.shape for name, p in trainer.model.named_parameters()}
        trainer.evaluate(trainer.train_dataset)
        assert {name: p.shape for name, p in trainer.model.named_parameters()} == before

    def test_their_estimate_is_exact(self, make, pairs, tmp_path):
        options = {"dataset_name": pairs, "output_dir": tmp_path, "model_name_or_path": "world", "use_cpu": True}
        flags = [f"--{key}={value}" for key, value in {**options, **KINDS["qlora"], "report_to": "none"}.items()]
        said = {line.name: line.bytes for line in plan_run(parse_recipe(flags)).memory}
        base = [(n, p) for n, p in make("qlora").model.named_parameters() if "lora_" not in n]
        scales = [p.quant_state.absmax for _, p in base if hasattr(p, "quant_state")]
        assert said["weights"] == sum(t.numel() * t.itemsize for t in [*(p for _, p in base), *scales])

    def test_eight_bits_have_no_cached_reference(self, run):
        with pytest.raises(ValueError, match="depend a little on the rows beside it"):
            run("in-8bit", precompute_ref_log_probs=True)

    def test_whole_cannot_be_trained(self, run):
        with pytest.raises(ValueError, match="quantised weights cannot move: train an adapter"):
            run("full", load_in_4bit=True)


def test_quantising_without_bitsandbytes_says_what_to_install(run, monkeypatch):
    # As where it is not installed, since it may be.
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install .*bitsandbytes"):
        run("lora", load_in_4bit=True)


def logits(model):
    processor, row = AutoProcessor.from_pretrained(CHECKPOINT), make_pairs(1, seed=3)[0]
    prompt = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
    with torch.no_grad():
        return (
            unwrap_adapter(model)
            .eval()(**processor(text=prompt, images=row["images"][0], return_tensors="pt"))
            .logits.float()
        )
