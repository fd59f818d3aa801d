"""What mmdpo uses of transformers, accelerate and torch without a public name: in one file, and still as it expects."""

import ast
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Trainer

import mmdpo
from mmdpo import MDPOConfig, MDPOTrainer
from mmdpo.models import seams
from mmdpo.world.pairs import make_pairs

SOURCE = Path(mmdpo.__file__).parent
OVERRIDDEN = {"_run_epoch", "_push_from_checkpoint", "_load_from_checkpoint", "_load_best_model"}
"""Methods of Trainer; their behaviour is tested in test_checkpointing.py."""

ELSEWHERE = {"os._exit", "argparse._SubParsersAction"}
"""A documented function, and the type of what `add_subparsers` returns."""
NAMED_TUPLES = {"_asdict", "_fields"}
"""Documented names of `typing.NamedTuple`."""


def private_names(tree):
    """Yields what a file reads by a name with an underscore, but of `self`, `cls` and mmdpo's own classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            yield node.attr, ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("mmdpo"):
            parts = [*(node.module or "").split("."), *(name.name for name in node.names)]
            yield from ((part, f"{node.module}: {part}") for part in parts if part[:1] == "_" and part[:2] != "__")


def own_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_private_names_of_libraries_stand_in_one_file():
    trees = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}
    own = {name for tree in trees.values() for name in own_names(tree)} - OVERRIDDEN
    found = {
        f"{path}: {text}" for path, tree in trees.items() if path != "models/seams.py"
        for name, text in private_names(tree) if name not in own | NAMED_TUPLES and text not in ELSEWHERE
    }  # fmt: skip
    place = "training/durable/durable_trainer.py"
    trainer = {f"{place}: {whose}.{name}" for name in OVERRIDDEN for whose in ("self", "super()")}
    assert not found - trainer


@pytest.mark.parametrize("kind", ["pre", "post", "replaced", "none"])
def test_hooks_of_a_module_are_seen(kind):
    layer = nn.Linear(2, 2)
    if kind == "pre":
        layer.register_forward_pre_hook(lambda module, given: None)
    elif kind == "post":
        layer.register_forward_hook(lambda module, given, output: None)
    elif kind == "replaced":
        layer.forward = lambda given: given
    assert seams.has_hooks(layer) == (kind != "none")


def test_four_private_methods_of_trainer_are_overridden():
    ours = MDPOTrainer.__mro__[: MDPOTrainer.__mro__.index(Trainer)]
    private = {name for each in ours for name in vars(each) if name[0] == "_" and name[:2] != "__"}
    assert {name for name in private if hasattr(Trainer, name)} == OVERRIDDEN


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(torch.zeros(100_000), path),
        lambda path: save_file({"value": torch.zeros(100_000)}, path),
        lambda path: path.write_text("x" * 100_000),
    ],
    ids=["torch", "safetensors", "text"],
)
def test_a_full_disk_is_recognised(tmp_path, write):
    """A limit on the size of files makes real writes fail, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        write(tmp_path / "file")
    except Exception as error:
        assert seams.is_write_failure(error), repr(error)  # noqa: PT017
    else:
        pytest.fail("it was written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_other_errors_are_no_full_disk():
    assert not seams.is_write_failure(RuntimeError("CUDA error"))
    assert not seams.is_write_failure(ValueError("No space left on device"))


def test_the_attention_implementation_and_the_commit_can_be_read(tmp_path):
    shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    model = LlamaForCausalLM(LlamaConfig(**shape))
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert seams.attention_of(model) == name
    model.config.save_pretrained(tmp_path)
    assert seams.commit_of(AutoConfig.from_pretrained(tmp_path)) is None
    model.config._commit_hash = "4b825dc"
    assert seams.commit_of(model.config) == "4b825dc"


def test_writing_weights_in_place_is_counted_and_moving_them_is_not():
    layer = nn.Linear(2, 2)
    before = seams.count_changes(layer)
    layer.to("cpu", torch.float32)
    assert seams.count_changes(layer) == before
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert seams.count_changes(layer) == before, "there was no gradient"
    with torch.no_grad():
        layer.weight.add_(1)
    assert seams.count_changes(layer) != before


def test_a_batch_size_that_was_lowered_for_want_of_memory_reaches_the_dataloader(tmp_path):
    class Hungry(MDPOTrainer):
        sizes = ()

        def training_step(self, model, inputs, *args, **kwargs):
            self.sizes = (*self.sizes, len(inputs["index"]))
            if len(inputs["index"]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().training_step(model, inputs, *args, **kwargs)

    args = MDPOConfig(
        output_dir=str(tmp_path), auto_find_batch_size=True, per_device_train_batch_size=4, max_steps=2,
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Hungry("world", args=args, train_dataset=make_pairs(8, seed=5))
    trainer.train()
    assert trainer.sizes[0] == 4
    assert trainer.sizes[1:] in ((2, 2), (3, 2, 2))
    moved = seams.move_inputs(trainer, {"index": torch.arange(2), "text": "as it is"})
    assert moved["index"].device == trainer.args.device
    assert moved["text"] == "as it is"
