"""A text model on this machine, through its chat template: greedy, in batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmdpo.generation.endpoint import Reply
from mmdpo.generation.questions import GenerationSettings
from mmdpo.judges import Fail, JudgeOptions, Keep, Request
from mmdpo.records import derive_seed


def make_source(options: JudgeOptions) -> LocalSource:
    """Returns the judge; its model is loaded with the first request, since all replies may be kept already."""
    return LocalSource(options)


@dataclass
class LocalSource:
    """Asks a model in memory, on an accelerator if there is one."""

    options: JudgeOptions

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The model and its tokenizer; raises OSError for no such model, ValueError for one without chat template."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        name = self.options.model
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(name, padding_side="left")
        except OSError as error:
            raise OSError(
                f"--judge_model {name}: no chat model of that name can be loaded ({error}); for one behind an "
                "endpoint give --judge_url too"
            ) from error
        if tokenizer.chat_template is None:
            raise ValueError(f"{name}: its tokenizer has no chat template; a judge has to be a chat model")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return model.to(device or "cpu").eval(), tokenizer

    def complete(self, requests: Sequence[Request], keep: Keep, fail: Fail) -> None:
        """Asks all, `batch_size` at once, the longest first; replies are handed over after each batch."""
        ordered = sorted(requests, key=lambda request: len(request.prompt), reverse=True)
        for start in range(0, len(ordered), self.options.batch_size):
            batch = ordered[start : start + self.options.batch_size]
            for request, reply in zip(batch, self._generate(batch), strict=True):
                keep(request, reply)

    def _generate(self, batch: Sequence[Request]) -> list[Reply]:
        import torch
        from transformers import LogitsProcessorList

        from mmdpo.generation.sampling import SeededDraw
        from mmdpo.models.load import plain_decoding

        model, tokenizer = self._loaded
        settings = GenerationSettings(**self.options.settings(batch[0].attempt))
        config = plain_decoding(model, tokenizer, settings.max_new_tokens)
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": request.prompt}] for request in batch],
            add_generation_prompt=True,
            tokenize=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        processors = LogitsProcessorList()
        if settings.temperature > 0:
            seeds = [derive_seed(settings.seed, request.prompt, "judge") for request in batch]
            processors.append(SeededDraw(seeds, settings))
        with torch.inference_mode():
            generated = model.generate(**inputs, generation_config=config, logits_processor=processors)
        new = generated[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._read(tokens, config.eos_token_id) for tokens in new]

    def _read(self, tokens: list[int], ends: Sequence[int]) -> Reply:
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        said = tokens if end is None else tokens[:end]
        text = str(self._loaded[1].decode(said, skip_special_tokens=True)).strip()
        return Reply(text, self.options.model, "length" if end is None else "stop", {"completion_tokens": len(said)})
