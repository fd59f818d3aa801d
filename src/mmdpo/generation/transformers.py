"""Answers from a model in memory: questions of one length together, padded on the left, pictures read ahead."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BatchFeature, GenerationConfig

from mmdpo.data.tokenise import Renderer
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
from mmdpo.records import RowError, derive_seed
from mmdpo.scoring.probe import TOLERANCES, ProbeError, compare, find_precision

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
_MOST_WORKERS = 4
_LOOKED_AT = 20
"""Tokens that an answer may begin with, the likeliest ones, that the probe compares."""
_FIRST_TOKEN = GenerationSettings(max_new_tokens=1)


@dataclass(frozen=True)
class PromptReader:
    """Makes what a model reads of several questions: a pure function, so that workers may run it."""

    renderer: Renderer
    settings: GenerationSettings

    def __call__(self, questions: Sequence[Question]) -> BatchFeature:
        """Returns the inputs, padded on the left; raises RowError, naming the question, for a picture it cannot read.

        All of the questions have a picture, or none. The beginning-of-sequence token stands where training puts it: see
        `Renderer.opening_ids`.
        """
        prompts = [render_prompt(question, self.settings, self.renderer) for question in questions]
        pictures = (
            {"images": [[self._load(question)] for question in questions]} if questions[0].image is not None else {}
        )
        inputs = self.renderer.processor(
            text=prompts,
            **pictures,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs.pop("labels", None)  # PaliGemma's, for another use
        for opening in reversed(self.renderer.opening_ids(prompts[0])):
            _put_in_front(inputs, opening)
        return inputs

    def read_or_fail(self, questions: Sequence[Question]) -> BatchFeature | RowError:
        """Returns an error as a value: torch would bury what that of a worker says."""
        try:
            return self(questions)
        except RowError as error:
            return error

    def _load(self, question: Question) -> Any:
        try:
            assert question.image is not None
            return load_image(question.image)
        except RowError as error:
            raise RowError(error.problem, source=f"item {question.id}") from error


class TransformersAnswerer:
    """Generates with transformers, in one process or in those that `accelerate launch` started."""

    def __init__(
        self, checkpoint: Checkpoint, *, batch_size: int = BATCH_SIZE, workers: int | None = None, probe: bool = True
    ) -> None:
        """Loads nothing yet.

        `batch_size` is how many questions each process answers at once, halved where memory runs out; `workers` are
        processes that read pictures ahead, none on a CPU, which has other things to do, unless given. `probe` compares
        two questions of the first batch with the same questions alone.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {batch_size}")
        self.checkpoint, self.batch_size = checkpoint, batch_size
        state = PartialState(cpu=not torch.accelerator.is_available())
        self.device = state.device
        self._is_tried = not probe
        self.processes = Processes(state.process_index, state.num_processes, state.wait_for_everyone)
        spare = 0 if self.device.type == "cpu" else min(_MOST_WORKERS, (os.cpu_count() or 1) // state.num_processes)
        self._workers = spare if workers is None else workers

    def describe(self) -> Mapping[str, Any]:
        """Returns the model, its precision and versions; the batch size changes no more than rounding."""
        versions = list_versions("mmdpo", "torch", "transformers", "peft")
        return {"backend": "transformers", **self.checkpoint.describe(), "versions": versions}

    def answer(self, questions: Sequence[Question], settings: GenerationSettings) -> Iterator[GeneratedAnswer]:
        """Yields the answers batch by batch, the longest questions first, so that memory runs out early or never.

        Raises RowError for a picture that cannot be read, or a processor without chat template; ValueError where one
        question alone does not fit into memory; ProbeError as `_Generator.try_together`.
        """
        batches, reader = self._make_batches(questions), self._make_reader(settings)
        loader: DataLoader[Any] = DataLoader(
            batches,  # type: ignore[arg-type]  # any sequence will do
            batch_size=None,
            collate_fn=reader.read_or_fail,
            num_workers=self._workers,
            generator=torch.Generator(),  # else a seed for workers is drawn from the global random state
            pin_memory=self.device.type == "cuda",
        )
        read_ahead = iter(loader)  # reads pictures while the model is loaded
        generator = _Generator(self._model, reader)
        for batch, inputs in zip(batches, read_ahead, strict=True):
            if isinstance(inputs, RowError):
                raise inputs
            if not self._is_tried and len(batch) > 1:
                generator.try_together(batch)
                self._is_tried = True
            yield from generator(batch, inputs)

    def score_options(
        self, questions: Sequence[Question], options: Sequence[str], settings: GenerationSettings
    ) -> Iterator[tuple[str, Float[Tensor, "n"]]]:
        """Yields for each question, by its id, log π of the options as first words of its answer, in nats.

        An option counts by its first token. Raises RowError for a picture that cannot be read.
        """
        reader = self._make_reader(settings)
        generator = _Generator(self._model, reader)
        for batch in self._make_batches(questions):
            logprobs = generator.begin(batch)
            for question, row in zip(batch, logprobs, strict=True):
                prompt = render_prompt(question, settings, reader.renderer)
                tokens = [reader.renderer.answer_ids(prompt, option)[0] for option in options]
                yield question.id, row[tokens].cpu()

    @torch.inference_mode()
    def read_last_states(self, questions: Sequence[Question], settings: GenerationSettings) -> Float[Tensor, "n l h"]:
        """Returns the states of the last token of each prompt: of its embedding, and after each layer of the decoder.

        Each prompt is read alone. Raises RowError for a picture that cannot be read.
        """
        reader = self._make_reader(settings)
        found = []
        for question in questions:
            inputs = reader([question]).to(self._model.device, self._model.dtype)
            states = self._model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
            found.append(torch.stack([state[0, -1].float().cpu() for state in states]))
        return torch.stack(found)

    def _make_batches(self, questions: Sequence[Question]) -> list[list[Question]]:
        """Returns the questions in batches, the longest first; those with a picture apart from those without."""
        batches = []
        for has_picture in (True, False):
            some = [question for question in questions if (question.image is not None) == has_picture]
            ordered = sorted(some, key=sort_key, reverse=True)
            batches += [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]
        return batches

    def _make_reader(self, settings: GenerationSettings) -> PromptReader:
        reader = PromptReader(self.checkpoint.load_renderer(), settings)
        tokenizer = reader.renderer.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return reader

    @cached_property
    def _model(self) -> Any:
        """Loaded once, for all benchmarks that are answered one after the other."""
        return self.checkpoint.load().to(self.device)


class _Generator:
    """A loaded model that answers batches."""

    def __init__(self, model: Any, reader: PromptReader) -> None:
        self.model, self.reader = model, reader
        self.tokenizer = reader.renderer.tokenizer
        self.config = make_generation_config(model, self.tokenizer, reader.settings)
        self.largest: int | None = None
        """Most questions that fit into memory at once, once that is known."""

    def __call__(self, batch: Sequence[Question], inputs: BatchFeature | None) -> Iterator[GeneratedAnswer]:
        if self.largest is None or len(batch) <= self.largest:
            answers = self._try(batch, self.reader(batch) if inputs is None else inputs)
            if answers is not None:
                yield from answers
                return
            release_memory()
            self.largest = len(batch) // 2
            logger.warning("out of memory with %d questions at once: continuing with %d", len(batch), self.largest)
        middle = len(batch) // 2
        for part in (batch[:middle], batch[middle:]):
            yield from self(part, None)

    def try_together(self, batch: Sequence[Question]) -> None:
        """Raises ProbeError, with both numbers, where two questions' answers begin otherwise together than alone.

        Nothing is compared where two do not fit into memory: then none is answered beside another one.
        """
        first, *others = batch
        pair = (first, next((other for other in reversed(others) if other.image != first.image), others[-1]))
        try:
            together, alone = self.begin(pair), torch.cat([self.begin([question]) for question in pair])
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            release_memory()
            return
        likely = alone.topk(min(_LOOKED_AT, alone.shape[1])).indices
        found, expected = together.gather(1, likely), alone.gather(1, likely)
        difference, precision = compare(list(found), list(expected)), find_precision(self.model, self.model.device)
        if not difference.distance <= TOLERANCES[precision]:
            place = difference.place
            token = self.tokenizer.decode(likely[place, :1])
            raise ProbeError(
                f"item {pair[place].id}: the first token {token!r} of the answer has log π = "
                f"{float(found[place, 0]):.4f} beside another question and {float(expected[place, 0]):.4f} alone, and "
                f"the {likely.shape[1]} likeliest tokens are {difference.distance:.2g} nats apart, where rounding to "
                f"{precision} explains {TOLERANCES[precision]:g}: what {type(self.model).__name__} says depends on "
                "what else is in its batch. Use --batch_size 1, or --no_probe to answer all the same"
            )

    @torch.inference_mode()
    def begin(self, batch: Sequence[Question]) -> Float[Tensor, "B V"]:
        """Returns log π of the first token of every answer."""
        placed = self.reader(batch).to(self.model.device, self.model.dtype)
        greedy = make_generation_config(self.model, self.tokenizer, _FIRST_TOKEN)
        output = self.model.generate(
            **placed, generation_config=greedy, output_logits=True, return_dict_in_generate=True
        )
        logprobs: Tensor = output.logits[0].float().log_softmax(-1)
        return logprobs

    def _try(self, batch: Sequence[Question], inputs: BatchFeature) -> list[GeneratedAnswer] | None:
        """Returns the answers, None where memory ran out; the error is let go of, since its frames hold tensors."""
        try:
            return self._generate(batch, inputs)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(batch) == 1:
                raise ValueError(
                    f"item {batch[0].id} alone does not fit into memory ({str(error)[:120]}): lower max_new_tokens or "
                    "num_beams, or take a smaller dtype"
                ) from None
            return None

    @torch.inference_mode()
    def _generate(self, batch: Sequence[Question], inputs: BatchFeature) -> list[GeneratedAnswer]:
        placed = inputs.to(self.model.device, self.model.dtype)
        with torch.random.fork_rng(enabled=self.config.do_sample):
            if self.config.do_sample:
                torch.manual_seed(derive_seed(self.reader.settings.seed, batch[0].id, "generation"))
            tokens = self.model.generate(**placed, generation_config=self.config)
        new = tokens[:, placed["input_ids"].shape[1] :].cpu()
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = torch.isin(new, torch.tensor(self.config.eos_token_id)).any(dim=1).tolist()
        return [
            GeneratedAnswer(question.id, text.strip(), {"finish_reason": "stop" if end else "length"})
            for question, text, end in zip(batch, texts, ended, strict=True)
        ]


def make_generation_config(model: Any, tokenizer: Any, settings: GenerationSettings) -> GenerationConfig:
    """Returns the settings as transformers takes them.

    Of the model's own generation config only what belongs to its tokens holds (where an answer ends, which tokens are
    suppressed): a checkpoint's taste in sampling or repetition would make answers of two models incomparable.
    """
    own = model.generation_config
    ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    sampled = dict(top_p=settings.top_p, temperature=settings.temperature, top_k=0) if settings.temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        do_sample=settings.temperature > 0,
        **{"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, **sampled},
        eos_token_id=list(ends) if isinstance(ends, list | tuple) else [ends],
        pad_token_id=tokenizer.pad_token_id,
    )


def _put_in_front(inputs: BatchFeature, token: int) -> None:
    """Puts a token before the first of every left-padded row."""
    padding = (inputs["attention_mask"] == 0).sum(dim=1)
    rows = torch.arange(len(padding))
    shape = inputs["input_ids"].shape
    for name, values in inputs.items():
        if not isinstance(values, Tensor) or values.shape != shape:
            continue
        longer = torch.cat([values[:, :1], values], dim=1)
        # The first column is padding's, or is replaced below; types of text are 0, as everywhere.
        longer[rows, padding] = {"input_ids": token, "attention_mask": 1}.get(name, 0)
        inputs[name] = longer
