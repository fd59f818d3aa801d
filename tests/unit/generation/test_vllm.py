"""vLLM is called as its documentation has it; a stand-in checks the calls, since vLLM runs on few machines."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from mmdpo.benchmarks.tasks._world import WorldBenchmark
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import GenerationSettings, Question, chat_turns
from mmdpo.generation.vllm import VllmAnswerer
from mmdpo.records import CHOSEN, PreferenceExample
from mmdpo.world import SMALL
from mmdpo.world.model import CHECKPOINT
from mmdpo.world.scenes import render


@pytest.fixture
def stand_in(monkeypatch):
    calls = SimpleNamespace(made=[], generated=[], sampling=[])

    class LLM:
        def __init__(self, **options):
            calls.made.append(options)

        def generate(self, prompts, sampling_params, *, lora_request, use_tqdm):
            calls.generated.append((prompts, lora_request))
            said = SimpleNamespace(text=" a cup ", finish_reason="stop")
            return [SimpleNamespace(outputs=[said]) for _ in prompts]

    def sampling(**options):
        calls.sampling.append(options)

    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams = LLM, sampling
    request.LoRARequest = lambda name, number, path: (name, number, path)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def world_questions(count):
    return [Question(str(k), "describe", render(scene)) for k, scene in enumerate(WorldBenchmark(SMALL).scenes[:count])]


def test_prompts_are_the_tokens_that_training_reads(stand_in, monkeypatch):
    monkeypatch.setattr("mmdpo.generation.vllm.AT_ONCE", 2)
    settings, checkpoint = GenerationSettings(max_new_tokens=9), Checkpoint("world")
    answers = list(VllmAnswerer(checkpoint).answer(world_questions(5), settings))
    assert [(found.id, found.text) for found in answers] == [(str(k), "a cup") for k in range(5)]
    assert [len(prompts) for prompts, _ in stand_in.generated] == [2, 2, 1]
    prompt = stand_in.generated[0][0][1]
    renderer = checkpoint.load_renderer()
    example = PreferenceExample("", chat_turns(world_questions(1)[0], settings), {CHOSEN: "cup ."})
    trained = renderer.render(example, [CHOSEN], with_images=True)
    assert prompt["prompt_token_ids"] == renderer.tokenizer(trained.prompt, add_special_tokens=False)["input_ids"]
    assert prompt["multi_modal_data"]["image"].tobytes() == render(WorldBenchmark(SMALL).scenes[1]).tobytes()
    assert stand_in.sampling == [{"max_tokens": 9, "temperature": 0.0}]
    options = {"model": str(CHECKPOINT), "dtype": "float32", "limit_mm_per_prompt": {"image": 1}}
    assert options.items() <= stand_in.made[0].items()
    assert "enable_lora" not in stand_in.made[0]


def test_an_adapter_is_a_lora_request_with_room_for_its_rank(stand_in, tmp_path):
    settings = {"peft_type": "LORA", "base_model_name_or_path": "world", "r": 20, "rank_pattern": {"q_proj": 40}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    sampled = GenerationSettings(temperature=0.5, top_p=0.9, seed=4)
    list(VllmAnswerer(Checkpoint(str(tmp_path))).answer(world_questions(1), sampled))
    assert stand_in.made[0]["enable_lora"] is True
    assert stand_in.made[0]["max_lora_rank"] == 64
    assert stand_in.made[0]["model"] == str(CHECKPOINT)
    assert stand_in.generated[0][1] == ("adapter", 1, str(tmp_path))
    assert {"temperature": 0.5, "top_p": 0.9, "seed": 4}.items() <= stand_in.sampling[0].items()


def test_what_vllm_cannot_do_is_said(monkeypatch):
    with pytest.raises(ValueError, match="num_beams 1"):
        list(VllmAnswerer(Checkpoint("world")).answer(world_questions(1), GenerationSettings(num_beams=3)))
    with pytest.raises(ValueError, match="merge"):
        VllmAnswerer(Checkpoint("world", CheckpointOptions(pad_to_square=True)))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"mmdpo\[vllm\]"):
        list(VllmAnswerer(Checkpoint("world")).answer(world_questions(1), GenerationSettings()))
