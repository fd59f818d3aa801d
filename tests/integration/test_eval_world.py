"""`mmdpo eval world --model world`: offline, from the shipped checkpoint to a result."""

import json
from functools import partial
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

import forked
from mmdpo.benchmarks.definitions import Tools
from mmdpo.benchmarks.tasks._world import WorldBenchmark
from mmdpo.benchmarks.tasks.world import BENCHMARK
from mmdpo.cli import main
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import GenerationSettings, Question
from mmdpo.generation.transformers import TransformersAnswerer
from mmdpo.world import SMALL
from mmdpo.world.model import CHECKPOINT, caption_scenes
from mmdpo.world.scenes import score_captions


def read_answers(folder: Path):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def load_world():
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "run"
    assert main(["eval", "world", "--model", "world", "--out", str(folder), "--resamples", "200"]) == 0
    return folder


def test_captions_and_scores_are_those_of_the_world_s_own_evaluation(evaluated):
    scenes = WorldBenchmark(SMALL).scenes
    captions = caption_scenes(*load_world(), scenes, batch_size=100)
    assert [row["answer"] for row in read_answers(evaluated)] == captions
    expected = score_captions(scenes, captions)
    metrics = json.loads((evaluated / "result.json").read_text())["metrics"]
    for name in ("chair_i", "chair_s", "cover", "cog"):
        assert metrics[f"world/{name}"]["exact"] == pytest.approx(getattr(expected, name))
    assert metrics["world/chair_i"]["low"] < expected.chair_i < metrics["world/chair_i"]["high"]


def test_an_adapter_is_given_as_the_model_or_beside_it(evaluated, tmp_path, capsys):
    model, processor = load_world()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "world"
    adapted.save_pretrained(tmp_path / "trained")
    expected = caption_scenes(adapted, processor, WorldBenchmark(SMALL).scenes[:8], batch_size=8)
    common = ["eval", "world", "--limit", "8", "--resamples", "100", "--out"]
    assert main([*common, str(tmp_path / "a"), "--model", str(tmp_path / "trained")]) == 0
    assert main([*common, str(tmp_path / "b"), "--model", "world", "--adapter", str(tmp_path / "trained")]) == 0
    for folder in ("a", "b"):
        assert [row["answer"] for row in read_answers(tmp_path / folder)] == expected
    assert expected != [row["answer"] for row in read_answers(evaluated)][:8]
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["coverage"]["all"] == {"items": 400, "answered": 8, "scored": 8}
    capsys.readouterr()
    # The same folder for another adapter, trained into the same place: the names are equal, the weights are not.
    next(iter(p for n, p in adapted.named_parameters() if "lora_B" in n)).data.add_(1.0)
    adapted.save_pretrained(tmp_path / "trained")
    assert main([*common, str(tmp_path / "b"), "--model", "world", "--adapter", str(tmp_path / "trained")]) == 2
    assert "adapter_weights was" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_answer_what_one_does(evaluated, tmp_path):
    run = tmp_path / "run"
    arguments = ["eval", "world", "--model", "world", "--limit", "60", "--resamples", "100", "--out", run]
    assert "".join(forked.run_ranks(*arguments)).count("60 of 400 items answered") == 1
    expected = [row["answer"] for row in read_answers(evaluated)][:60]
    assert [row["answer"] for row in read_answers(run)] == expected
    assert sorted(path.name for path in run.iterdir()) == ["answers.jsonl", "result.json", "scores.jsonl"]


def test_a_model_that_answers_twice_is_loaded_once(monkeypatch):
    loaded = []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self: loaded.append(self) or load(self))
    answerer = TransformersAnswerer(Checkpoint("world"))
    items = BENCHMARK.read_items(Path(), Tools(None, None))[:2]
    questions = [Question(item.id, item.prompt, partial(BENCHMARK.draw_image, item)) for item in items]
    first, second = ([a.text for a in answerer.answer(questions, GenerationSettings())] for _ in range(2))
    assert first == second
    assert len(loaded) == 1
