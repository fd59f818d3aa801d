"""Answers from vLLM: the same prompts, token by token, as those that transformers reads; adapters as LoRA requests.

vLLM is given the tokens of each prompt instead of chat turns, so that template and beginning-of-sequence token are
those of training whatever vLLM's own rules are. It puts the features of the picture in the place of its token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import (
    GeneratedAnswer,
    GenerationSettings,
    Processes,
    Question,
    list_versions,
    load_image,
    render_prompt,
    sort_key,
)
from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import read_json

AT_ONCE = 256
"""Questions handed to vLLM together, which batches them itself; after each lot the answers reach the disk."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Room for the rank of an adapter that vLLM knows."""


class VllmAnswerer:
    """Generates with vLLM in this process."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Loads nothing yet. Raises ValueError for what vLLM reads from the model's folder and nowhere else."""
        if checkpoint.options.pad_to_square:
            raise ValueError(
                "vLLM reads pictures by the processor in the model's folder: `mmdpo merge` a run that was trained with "
                "pad_to_square and answer with the merged model, or take --backend transformers"
            )
        self.checkpoint = checkpoint
        self.processes = Processes()

    def describe(self) -> Mapping[str, Any]:
        """Returns the model, its precision and versions."""
        versions = list_versions("mmdpo", "torch", "transformers", "vllm")
        return {"backend": "vllm", **self.checkpoint.describe(), "versions": versions}

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        """Yields the answers lot by lot; pictures of the next lot are read while one is answered.

        Raises ImportError without vLLM, ValueError for beams, RowError for a picture that cannot be read.
        """
        if settings.num_beams > 1:
            raise ValueError(f"vLLM searches no beams here (num_beams is {settings.num_beams}): give --num_beams 1")
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ImportError('--backend vllm needs vLLM: pip install "mmdpo[vllm]"') from error
        adapter = self.checkpoint.start.adapter
        request = None if adapter is None else LoRARequest("adapter", 1, str(adapter.resolve()))
        sampled = {"top_p": settings.top_p, "seed": settings.seed} if settings.temperature > 0 else {}
        how = vllm.SamplingParams(max_tokens=settings.max_new_tokens, temperature=settings.temperature, **sampled)
        for lot, prompts in self._read_ahead(sorted(questions, key=sort_key), settings):
            outputs = self._model.generate(prompts, how, lora_request=request, use_tqdm=False)
            for question, output in zip(lot, outputs, strict=True):
                said = output.outputs[0]
                yield GeneratedAnswer(question.id, said.text.strip(), {"finish_reason": said.finish_reason})

    @cached_property
    def _model(self) -> Any:
        """Loaded once, for all benchmarks that are answered one after the other."""
        import vllm

        start, adapter = self.checkpoint.start, self.checkpoint.start.adapter
        return vllm.LLM(
            model=start.base,
            revision=start.revision,
            dtype=self.checkpoint.dtype,
            trust_remote_code=self.checkpoint.options.trust_remote_code,
            limit_mm_per_prompt={"image": 1},
            **({} if adapter is None else {"enable_lora": True, "max_lora_rank": _find_rank(adapter)}),
        )

    def _read_ahead(
        self, questions: Sequence[Question], settings: GenerationSettings
    ) -> Iterator[tuple[Sequence[Question], list[dict[str, Any]]]]:
        renderer = self.checkpoint.load_renderer()

        def read(question: Question) -> dict[str, Any]:
            tokens = {"prompt_token_ids": renderer.prompt_ids(render_prompt(question, settings, renderer))}
            picture = {} if question.image is None else {"multi_modal_data": {"image": load_image(question.image)}}
            return {**tokens, **picture}

        def read_lot(start: int) -> list[dict[str, Any]]:
            return [read(question) for question in questions[start : start + AT_ONCE]]

        # One thread: tokenizers are not made to be shared, and decoding keeps ahead of any model all the same.
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(read_lot, 0)
            for start in range(0, len(questions), AT_ONCE):
                prompts = waiting.result()
                waiting = thread.submit(read_lot, start + AT_ONCE)
                yield questions[start : start + AT_ONCE], prompts


def _find_rank(adapter: Path) -> int:
    """Returns the least room that holds the adapter's rank; raises ValueError where vLLM has none so large."""
    settings = read_json(adapter / ADAPTER_CONFIG)
    rank = max([int(settings.get("r", 0)), *map(int, (settings.get("rank_pattern") or {}).values())])
    room = next((size for size in RANKS if size >= rank), None)
    if room is None:
        raise ValueError(f"{adapter}: vLLM takes adapters of rank {RANKS[-1]} at most, this one has {rank}: merge it")
    return room
