"""vLLM is called as its documentation has it; a stand-in checks the calls, since vLLM runs on few machines."""

import json
import math
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from mmdpo.benchmarks.tasks._world import WorldBenchmark
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import GenerationSettings, Question, chat_turns, render_prompt
from mmdpo.generation.vllm import VllmAnswerer
from mmdpo.records import CHOSEN, PreferenceExample, derive_seed
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
            assert len(sampling_params) == len(prompts)
            return [answer(prompt, how.get("logprobs")) for prompt, how in zip(prompts, sampling_params, strict=True)]

    def answer(prompt, logprobs):
        likeliest = [(5, -0.5, " cup"), (6, -1.5, "yes"), (7, -2.0, "yes"), (8, -7.0, " drawn")]
        kept = [*likeliest[: logprobs or 0], likeliest[3]]
        first = {token: SimpleNamespace(logprob=p, rank=1, decoded_token=text) for token, p, text in kept}
        said = SimpleNamespace(
            text=" a cup ",
            finish_reason="stop",
            token_ids=[8, 9, 2],
            cumulative_logprob=None if logprobs is None else -8.25,
            logprobs=None if logprobs is None else [first, {}, {}],
        )
        return SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"] + [0] * 3, outputs=[said])

    def sampling(**options):
        calls.sampling.append(options)
        return options

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
    assert stand_in.sampling == [{"max_tokens": 9, "temperature": 0.0}] * 5
    length = len(prompt["prompt_token_ids"]) + 3
    assert answers[0].details == {"finish_reason": "stop", "tokens": 3, "prompt_tokens": length}
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
    assert {"temperature": 0.5, "top_p": 0.9, "logprobs": 0}.items() <= stand_in.sampling[0].items()


def test_what_vllm_cannot_do_is_said(monkeypatch):
    with pytest.raises(ValueError, match="num_beams 1"):
        list(VllmAnswerer(Checkpoint("world")).answer(world_questions(1), GenerationSettings(num_beams=3)))
    with pytest.raises(ValueError, match="merge"):
        VllmAnswerer(Checkpoint("world", CheckpointOptions(pad_to_square=True)))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"mmdpo\[vllm\]"):
        list(VllmAnswerer(Checkpoint("world")).answer(world_questions(1), GenerationSettings()))


def test_each_question_is_sampled_by_its_own_seed(stand_in):
    asked = [replace(world_questions(1)[0], id=str(k), seed=2**63 + k if k else None) for k in range(3)]
    sampled = GenerationSettings(temperature=1.0, seed=4, top_logprobs=3)
    answers = list(VllmAnswerer(Checkpoint("world")).answer(asked, sampled))
    derived = derive_seed(4, "0", "generation") % 2**63
    assert [how["seed"] for how in stand_in.sampling] == [derived, 1, 2]
    assert answers[0].details["logprob"] == -8.25
    # The drawn token is among them, and not asked for; equal texts are one.
    assert answers[0].details["top_logprobs"] == pytest.approx(
        {" cup": -0.5, "yes": math.log(math.exp(-1.5) + math.exp(-2.0))}
    )


@pytest.mark.parametrize("settings", [dict(temperature=0.5), dict(temperature=1.0, top_p=0.9)], ids=str)
def test_log_probabilities_of_the_model_are_not_taken_for_those_of_a_sampler(stand_in, settings):
    (answer,) = VllmAnswerer(Checkpoint("world")).answer(world_questions(1), GenerationSettings(**settings))
    assert answer.details.keys() == {"finish_reason", "tokens", "prompt_tokens"}


def test_there_is_room_for_as_many_pictures_as_a_question_has(stand_in):
    one, other = world_questions(2)
    turns = (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "cup ."}]},
        {"role": "user", "content": [{"type": "text", "text": "describe"}, {"type": "image"}]},
    )
    two = Question("two", turns, (one.image, other.image))
    answerer = VllmAnswerer(Checkpoint("world"))
    for asked in ([Question("none", "describe")], [one], [other, two], [one]):
        list(answerer.answer(asked, GenerationSettings()))
    assert [made["limit_mm_per_prompt"] for made in stand_in.made] == [{"image": 1}, {"image": 2}]
    prompts = {len(prompt["prompt_token_ids"]): prompt for prompts, _ in stand_in.generated for prompt in prompts}
    shown = prompts[max(prompts)]["multi_modal_data"]["image"]
    assert [image.tobytes() for image in shown] == [one.image.tobytes(), other.image.tobytes()]
    assert "multi_modal_data" not in stand_in.generated[0][0][0]
    placeholder = Checkpoint("world").load_renderer().tokenizer.convert_tokens_to_ids("<image>")
    assert prompts[max(prompts)]["prompt_token_ids"].count(placeholder) == 2


def test_an_answer_that_is_begun_stands_in_the_prompt(stand_in):
    plain = world_questions(1)[0]
    (answer,) = VllmAnswerer(Checkpoint("world")).answer([replace(plain, begun="plate ,")], GenerationSettings())
    assert answer.text == "plate , a cup"
    renderer = Checkpoint("world").load_renderer()
    prompt = renderer.prompt_ids(render_prompt(plain, GenerationSettings(), renderer))
    begun = renderer.tokenizer("plate ,", add_special_tokens=False)["input_ids"]
    assert stand_in.generated[0][0][0]["prompt_token_ids"] == prompt + begun
