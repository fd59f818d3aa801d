"""Tokenizers of the kinds that vision-language models have, trained here on three sentences, and chat templates.

Each is an instance of the class that transformers loads for the real model, with a vocabulary of a few hundred tokens.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

SENTENCES = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful answers.",
    "USER: What is in the picture? ASSISTANT: There is a red cup on the table, and a small dog under it.",
    "user describe the scene. assistant The sky is blue, two people walk along the street. User: Assistant:",
)
"""What the tokenizers are trained on."""


@cache
def _byte_level_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _train(tokenizer, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))


@cache
def _metaspace_vocabulary(specials: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=440, special_tokens=[*specials, *in_bytes], show_progress=False)
    return _train(tokenizer, trainer)


def _train(tokenizer: Tokenizer, trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer.train_from_iterator(SENTENCES, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return trained["vocab"], [tuple(merge) for merge in trained["merges"]]


def gpt2_tokenizer(*tokens: str) -> Any:
    """Returns a byte-level BPE tokenizer as Phi-2 has it: no BOS, `<|endoftext|>` ends a text."""
    vocab, merges = _byte_level_vocabulary()
    tokenizer = GPT2Tokenizer(vocab=dict(vocab), merges=list(merges))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def qwen_tokenizer(*tokens: str, **named: str) -> Any:
    """Returns Qwen's byte-level BPE tokenizer; `<|im_end|>` ends a turn."""
    vocab, merges = _byte_level_vocabulary()
    tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *tokens)
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocab), merges=list(merges), eos_token="<|im_end|>", extra_special_tokens=named
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in tokens])
    return tokenizer


def llama_tokenizer(*tokens: str, **named: str) -> Any:
    """Returns Llama's SentencePiece-like BPE tokenizer, which puts `<s>` in front and a `▁` before the first word."""
    vocab, merges = _metaspace_vocabulary(("<unk>", "<s>", "</s>"))
    tokenizer = LlamaTokenizer(
        vocab=dict(vocab),
        merges=list(merges),
        pad_token="<unk>",
        add_bos_token=True,
        extra_special_tokens=named,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return tokenizer


def gemma_tokenizer(*tokens: str, **named: str) -> Any:
    """Returns Gemma's tokenizer: spaces become `▁`, none is added, `<bos>` goes in front."""
    vocab, merges = _metaspace_vocabulary(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    tokenizer = GemmaTokenizer(vocab=dict(vocab), merges=list(merges), add_bos_token=True, extra_special_tokens=named)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return tokenizer


def unigram_tokenizer(*tokens: str) -> Any:
    """Returns a Unigram tokenizer with Metaspace, as T5 has it, that adds no special token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", *tokens]
    alphabet = sorted(set("".join(SENTENCES)) - {" "})
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


# -- chat templates, in the manner of each family ---------------------------------------------------------------------


def turn_template(
    *,
    image: str,
    first: str = "",
    start: str = "",
    names: str = "{{ message['role'] }}",
    colon: str,
    gap: str = "",
    end: str,
) -> str:
    """Returns a template of turns `start name colon gap content end`; generation continues `start name colon`."""
    opening = start + names + colon
    return (
        first + "{% for message in messages %}" + opening + gap + "{% if message['content'] is string %}"
        "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        + end
        + "{% endfor %}{% if add_generation_prompt %}"
        + opening.replace("message['role']", "'assistant'")
        + "{% endif %}"
    )


CHATML = dict(start="<|im_start|>", colon="\n", end="<|im_end|>\n")
"""Ends a turn with a special token and a line break, as Qwen and InternVL do."""
VICUNA = turn_template(image="<image>\n", names="{{ message['role'] | upper }}", colon=":", gap=" ", end=" ")
"""Ends a turn with no token at all, as the templates of llava-hf do."""
BRACKETS = dict(
    first="{{ bos_token }}", names="[{{ message['role'] | upper }}]", colon="", gap=" ", end="{{ eos_token }}"
)
"""Ends a turn with EOS, as Mistral does."""
