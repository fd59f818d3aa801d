"""A judge in memory: a tiny chat model that says nothing sensible, but says it alike."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mmdpo import judges
from mmdpo.judges import JudgeOptions, Request
from tiny_tokenizers import gpt2_tokenizer

PROMPTS = ("What is in the picture?", "The sky is blue, two people walk along the street. And a small dog?", "A cup")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = gpt2_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}USER: {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes))
    model.generation_config.do_sample, model.generation_config.top_k = True, 1  # a checkpoint's own habits do not count
    model.save_pretrained(folder)
    return folder


def ask(folder, attempt=0, **options):
    source = judges.make_source("local", JudgeOptions(model=str(folder), max_new_tokens=6, **options))
    replies = {}
    requests = [Request(str(number), "", prompt, attempt) for number, prompt in enumerate(PROMPTS)]
    source.complete(requests, lambda request, reply: replies.__setitem__(request.item_id, reply), None)
    return [replies[str(number)] for number in range(len(PROMPTS))]


def test_a_batch_gives_the_replies_that_each_prompt_gets_alone(chat_model):
    alone = ask(chat_model, batch_size=1)
    assert ask(chat_model, batch_size=3) == alone
    assert len({reply.text for reply in alone}) == 3
    assert all(reply.text for reply in alone)
    assert {reply.finish_reason for reply in alone} == {"length"}
    assert all(reply.usage["completion_tokens"] == 6 for reply in alone)


def test_a_further_attempt_is_sampled_and_seeded(chat_model):
    first, second, third = (ask(chat_model, attempt) for attempt in (0, 1, 2))
    assert first != second != third
    assert ask(chat_model, 1) == ask(chat_model, 1, batch_size=1) == second
    assert len({str(JudgeOptions(model="any").settings(attempt)) for attempt in range(3)}) == 3


def test_a_reply_ends_where_the_model_ends_it(chat_model, tmp_path):
    model = LlamaForCausalLM.from_pretrained(chat_model)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.generation_config.eos_token_id = 0  # all logits are alike now, and the first token wins
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_bytes((chat_model / file).read_bytes())
    assert {(reply.text, reply.finish_reason) for reply in ask(tmp_path)} == {("", "stop")}


def test_a_model_that_cannot_chat_is_named(chat_model, tmp_path):
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((chat_model / file).read_bytes())
    with pytest.raises(ValueError, match="no chat template"):
        ask(tmp_path)
    with pytest.raises(OSError, match=r"^--judge_model .*none: no chat model .* give --judge_url too$"):
        ask(tmp_path / "none")


def test_judges_are_found_by_the_name_of_their_file():
    assert judges.JUDGES.names() == ("endpoint", "local")
    with pytest.raises(ValueError, match=r"unknown judge 'locla'; did you mean 'local'\? There are endpoint, local"):
        judges.make_source("locla", JudgeOptions(model="any"))
    with pytest.raises(ValueError, match="--judge_url"):
        judges.make_source("endpoint", JudgeOptions(model="any"))
