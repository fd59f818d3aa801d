"""Answers from a model, one file for each way to ask it; nothing here opens one before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmdpo.options import Options, option


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """answers by transformers or vLLM"""

    adapter: str | None = option(None, "Put the adapter of this run onto --model.")
    dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        None, "Precision of the weights.", unset="bfloat16 on a GPU that has it, else float32"
    )
    revision: str = option("main", "Branch, tag or commit of a hub name.")
    chat_template: str | None = option(
        None, "Chat template: a Jinja file, or vicuna, which is LLaVA-1.5's.", unset="the processor's"
    )
    chat_template_kwargs: str | None = option(None, "Variables of the chat template, as JSON.")
    pad_to_square: bool = option(False, "Pad pictures as LLaVA-1.5 was trained to see them.")
    trust_remote_code: bool = option(False, "Run the checkpoint's Python code.")
    allow_pickle: bool = option(False, "Open pickled weights, which can run code.")
