"""Answers from vLLM: the same prompts, token by token, as those that transformers reads; adapters as LoRA requests.

vLLM is given the tokens of each prompt instead of chat turns, so that template and beginning-of-sequence token are
those of training whatever vLLM's own rules are. It puts the features of a picture in the place of its token, and reads
a prompt that is asked several times once, by its prefix caching.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import (
    GeneratedAnswer,
    GenerationSettings,
    Processes,
    Question,
    arrange,
    load_image,
    merge_logprobs,
    render_prompt,
)
from mmdpo.models.start import ADAPTER_CONFIG
from mmdpo.models.weights import read_checkpoint_json
from mmdpo.registry import list_versions

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
        self._loaded: tuple[Any, int] | None = None
        """The model, and how many pictures a prompt of it may have."""

    def describe(self) -> Mapping[str, Any]:
        """Returns the model, its precision and versions."""
        versions = list_versions("mmdpo", "torch", "transformers", "vllm")
        return {"backend": "vllm", **self.checkpoint.describe(), "versions": versions}

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        """Yields the answers lot by lot; pictures of the next lot are read while one is answered.

        The model is loaded for prompts with as many pictures as the questions have, and loaded anew where later ones
        have more: vLLM reserves memory for the most. A sample depends on its seed and on rounding, which in vLLM
        depends on what else is computed at the time. Raises ImportError without vLLM, ValueError for beams, RowError
        for a picture that cannot be read.
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
        pictures = max((len(question.images) for question in questions), default=0)
        for lot, prompts in self._read_ahead(arrange(questions), settings):
            model = self._load(pictures)
            how = [vllm.SamplingParams(**_sampling_options(question, settings)) for question in lot]
            outputs = model.generate(prompts, how, lora_request=request, use_tqdm=False)
            for question, output in zip(lot, outputs, strict=True):
                said = output.outputs[0]
                text = (question.begun + said.text).strip()
                yield GeneratedAnswer(question.id, text, _read_details(output, settings))

    def _load(self, pictures: int) -> Any:
        """Returns the model, loaded once for all that is answered one after the other, if it has room for pictures."""
        if self._loaded is None or self._loaded[1] < pictures:
            self._loaded = None
            gc.collect()  # ends the process that holds the memory of one with less room
            self._loaded = self._make_model(max(1, pictures)), max(1, pictures)
        return self._loaded[0]

    def _make_model(self, pictures: int) -> Any:
        import vllm

        start, adapter = self.checkpoint.start, self.checkpoint.start.adapter
        return vllm.LLM(
            model=start.base,
            revision=start.revision,
            dtype=self.checkpoint.dtype,
            trust_remote_code=self.checkpoint.options.trust_remote_code,
            limit_mm_per_prompt={"image": pictures},
            **({} if adapter is None else {"enable_lora": True, "max_lora_rank": _find_rank(adapter)}),
        )

    def _read_ahead(
        self, questions: Sequence[Question], settings: GenerationSettings
    ) -> Iterator[tuple[Sequence[Question], list[dict[str, Any]]]]:
        renderer = self.checkpoint.load_renderer()

        def read(question: Question) -> dict[str, Any]:
            tokens = {"prompt_token_ids": renderer.prompt_ids(render_prompt(question, settings, renderer))}
            pictures = [load_image(image) for image in question.images]
            shown = {"multi_modal_data": {"image": pictures if len(pictures) > 1 else pictures[0]}} if pictures else {}
            return {**tokens, **shown}

        def read_lot(start: int) -> list[dict[str, Any]]:
            return [read(question) for question in questions[start : start + AT_ONCE]]

        # One thread: tokenizers are not made to be shared, and decoding keeps ahead of any model all the same.
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(read_lot, 0)
            for start in range(0, len(questions), AT_ONCE):
                prompts = waiting.result()
                waiting = thread.submit(read_lot, start + AT_ONCE)
                yield questions[start : start + AT_ONCE], prompts


def _sampling_options(question: Question, settings: GenerationSettings) -> dict[str, Any]:
    """Returns a question's settings as vLLM calls them."""
    options: dict[str, Any] = {"max_tokens": settings.max_new_tokens, "temperature": settings.temperature}
    if settings.temperature > 0:  # seeds have 63 bits
        options |= {"top_p": settings.top_p, "seed": question.sampling_seed(settings) % 2**63}
    if settings.top_logprobs or settings.temperature > 0:  # 0: of the token that was drawn alone
        options["logprobs"] = settings.top_logprobs
    return options


def _read_details(output: Any, settings: GenerationSettings) -> dict[str, Any]:
    """Returns what vLLM says of an answer. Its log π is the model's own, whatever the temperature and top_p are."""
    said = output.outputs[0]
    details = {"finish_reason": said.finish_reason, "tokens": len(said.token_ids)}
    if output.prompt_token_ids is not None:
        details["prompt_tokens"] = len(output.prompt_token_ids)
    if (settings.temperature, settings.top_p) == (1, 1) and said.cumulative_logprob is not None:
        details["logprob"] = float(said.cumulative_logprob)
    if settings.top_logprobs and said.logprobs:
        # The token that was drawn is there too, whether it is among the likeliest or not.
        first = sorted(said.logprobs[0].values(), key=lambda found: found.logprob, reverse=True)
        likeliest = [(str(found.decoded_token), float(found.logprob)) for found in first[: settings.top_logprobs]]
        details["top_logprobs"] = merge_logprobs(likeliest)
    return details


def _find_rank(adapter: Path) -> int:
    """Returns the least room that holds the adapter's rank; raises ValueError where vLLM has none so large."""
    settings = read_checkpoint_json(adapter / ADAPTER_CONFIG)
    rank = max([int(settings.get("r", 0)), *map(int, (settings.get("rank_pattern") or {}).values())])
    room = next((size for size in RANKS if size >= rank), None)
    if room is None:
        raise ValueError(f"{adapter}: vLLM takes adapters of rank {RANKS[-1]} at most, this one has {rank}: merge it")
    return room
