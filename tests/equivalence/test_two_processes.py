"""Two processes are one: the same losses, gradient norms and metrics as a single process with the same global batch.

Compared at 1e-5: processes add in another order, and float32 keeps seven digits. The number of rows is no multiple of
the global batch, so that the second process has none in the last step.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import forked

CONFIGURATIONS = ("live", "cached", "packed", "grouped", "rebalanced", "threshold", "tower")
ENGINES = {
    "ddp": (*CONFIGURATIONS, "disagree", "check"),
    "fsdp2": ("live", "cached", "packed"),
    "zero2": ("live", "cached", "packed"),
    "zero3": ("cached", "packed"),  # a second model, as `live` has, is refused
}
OWN = ("epoch", "total_flos", "runtime", "per_second")
"""Ends of the names of what counts time, or micro-batches."""


def run(folder: Path, engine: str, names: tuple[str, ...]) -> Path:
    folder.mkdir()
    words = (Path(__file__).with_name("world_runs.py"), folder, engine, *names)
    if engine == "one":
        status, _, errors = forked.run(*words)
        assert status == 0, errors[-3000:]
    else:
        forked.run_ranks(*words, DS_ACCELERATOR="cpu")
    return folder


def read(folder: Path, name: str):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one") / "runs", "one", CONFIGURATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[pytest.mark.rest] * name.startswith("zero")) for name in ENGINES]
)
def test_two_processes_equal_one(tmp_path, one, engine):
    if engine.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: `make test-rest` installs it")
    two = run(tmp_path / "runs", engine, ENGINES[engine])
    for name in ENGINES[engine]:
        if name in CHECKS:
            CHECKS[name](two)
            continue
        expected, found = read(one, name), read(two, name)
        losses = [entry["loss"] for entry in expected["history"] if "loss" in entry]
        assert len(losses) % 3 == 0, "nine rows are three steps of at most four"
        assert losses[-1] != pytest.approx(losses[0], rel=1e-3), "nothing was learnt, nothing was compared"
        assert [set(entry) for entry in found["history"]] == [set(entry) for entry in expected["history"]]
        for ours, theirs in zip(found["history"], expected["history"], strict=True):
            for key in [key for key in theirs if not key.endswith(OWN)]:
                if theirs["step"] == 1 and key.endswith("accuracies"):
                    continue  # policy and reference are one yet, and rounding decides which of two zeros is greater
                tolerance = 0 if key in ("loss", "eval_loss") else 1e-5
                assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=tolerance), (name, ours["step"], key)
        check_saved(two / name / "saved", one / name / "saved")
        if name == "cached":
            assert sorted(expected["shares"][0]) == sorted([*range(9), *range(5)]), "training rows, then evaluation's"
            assert found["shares"] == [[0, 2, 4, 6, 8, 0, 2, 4], [1, 3, 5, 7, 1, 3]], "each scores every other row"


def check_saved(ours: Path, theirs: Path) -> None:
    """A sharded model is saved whole; a step moves a weight by up to 1e-4."""
    (file,) = theirs.glob("*.safetensors")
    found, expected = load_file(ours / file.name), load_file(file)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name], weight, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def check_shared_rows(folder: Path) -> None:
    first, second = read(folder, "check-0"), read(folder, "check-1")
    assert [len(first["tried"]), len(second["tried"])] == [4, 3]
    assert not set(first["tried"]) & set(second["tried"])
    for name in ("lengths", "told", "left"):
        assert first[name] == second[name]
    assert len(first["lengths"]) == 7
    assert "row 3" in first["told"]
    assert "row 6" in first["told"]
    assert first["left"] == 5


def check_disagreements(folder: Path) -> None:
    first, second = read(folder, "disagree-0"), read(folder, "disagree-1")
    assert first.keys() == second.keys() == {"order", "length", "evaluation", "options"}
    for told in (first, second):
        assert "train has 4 rows on process 0 and 4 on process 1, and the first that differs is row 1" in told["order"]
        assert "train has 4 rows on process 0 and 3 on process 1" in told["length"]
        assert "the first that differs is row 4" in told["length"]
        assert "train, eval on process 0 and train on process 1" in told["evaluation"]
        assert "beta is 0.1 on process 0 and 1.1 on process 1" in told["options"]


CHECKS = {"disagree": check_disagreements, "check": check_shared_rows}
"""What two processes are asked that one has nothing to say about."""
