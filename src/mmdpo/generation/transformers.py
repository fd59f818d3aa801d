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
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BatchFeature, LogitsProcessorList

from mmdpo.data.tokenise import Renderer
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import (
    GeneratedAnswer,
    GenerationSettings,
    Processes,
    Question,
    arrange,
    load_image,
    render_prompt,
)
from mmdpo.generation.reading_once import find_distinct, generate_from_copies
from mmdpo.generation.sampling import FirstTokens, SeededDraw
from mmdpo.models.load import plain_decoding
from mmdpo.progress import count
from mmdpo.records import RowError
from mmdpo.registry import list_versions
from mmdpo.scoring.probe import TOLERANCES, ProbeError, ScoreDifference, compare, find_precision

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
_MOST_WORKERS = 4
_LOOKED_AT = 20
"""Tokens that an answer may begin with, the likeliest ones, that the probe compares."""


@dataclass(frozen=True)
class PromptReader:
    """Makes what a model reads of several questions: a pure function, so that workers may run it."""

    renderer: Renderer
    settings: GenerationSettings

    def __call__(self, questions: Sequence[Question]) -> BatchFeature:
        """Returns the inputs, padded on the left; raises RowError, naming the question, for a picture it cannot read.

        All of the questions have pictures, or none. The beginning-of-sequence token stands where training puts it: see
        `Renderer.opening_ids`.
        """
        prompts = [render_prompt(question, self.settings, self.renderer) for question in questions]
        pictures = {"images": [self._load(question) for question in questions]} if questions[0].images else {}
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

    def read_ahead(self, questions: Sequence[Question]) -> BatchFeature | RowError:
        """Returns the inputs of questions that are read differently, an error as a value: torch buries a worker's."""
        try:
            return self(find_distinct(questions)[0])
        except RowError as error:
            return error

    def _load(self, question: Question) -> Any:
        try:
            return [load_image(image) for image in question.images]
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
        two questions of the first batch with the same questions alone. Equal prompts of a batch are read once, where a
        trial with the first of them finds that this changes nothing.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {batch_size}")
        self.checkpoint, self.batch_size = checkpoint, batch_size
        state = PartialState(cpu=not torch.accelerator.is_available())
        self.device = state.device
        self._is_tried = not probe
        self._reads_once: bool | None = None
        """None: not tried yet."""
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
            collate_fn=reader.read_ahead,
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
            generator.reads_once = settings.num_beams == 1 and self._can_read_once(generator, batch)
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
    def read_last_states(
        self, questions: Sequence[Question], settings: GenerationSettings, *, shown: bool = True
    ) -> Float[Tensor, "n l h"]:
        """Returns the states of the last token of each prompt: of its embedding, and after each layer of the decoder.

        Each prompt is read alone; of a model with several streams of states (Gemma 3n), the first is the one that its
        layers read. `shown` is whether a bar counts the prompts. Raises RowError for a picture that cannot be read.
        """
        reader = self._make_reader(settings)
        found = []
        for question in count(questions, "reading", "prompt", shown=shown):
            inputs = reader([question]).to(self._model.device, self._model.dtype)
            states = self._model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
            found.append(torch.stack([state[..., -1, :].flatten(0, -2)[0].float().cpu() for state in states]))
        return torch.stack(found)

    def _make_batches(self, questions: Sequence[Question]) -> list[list[Question]]:
        """Returns the questions in batches as `arrange` has them; each batch is of questions with as many pictures."""
        batches = []
        for pictures in sorted({len(question.images) for question in questions}, reverse=True):
            some = arrange([question for question in questions if len(question.images) == pictures])
            batches += [some[start : start + self.batch_size] for start in range(0, len(some), self.batch_size)]
        return batches

    def _can_read_once(self, generator: _Generator, batch: Sequence[Question]) -> bool:
        """Says whether equal prompts are read once; the first batch that has some tries it, and why not is logged."""
        if self._reads_once is None and len(find_distinct(batch)[0]) < len(batch):
            why = generator.try_reading_once(batch)
            if why is not None:
                logger.warning("prompts that are asked several times are read each time: %s", why)
            self._reads_once = why is None
        return self._reads_once is True

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
        settings = reader.settings
        self.config = plain_decoding(model, self.tokenizer, settings.max_new_tokens, settings.num_beams)
        self._one_token = plain_decoding(model, self.tokenizer, 1)
        self._one_token.update(return_dict_in_generate=True, output_logits=True)
        self.reads_once = False
        """Whether equal prompts of a batch are read once."""
        self.largest: int | None = None
        """Most questions that fit into memory at once, once that is known."""

    def __call__(self, batch: Sequence[Question], inputs: BatchFeature | None) -> Iterator[GeneratedAnswer]:
        """Yields the answers; `inputs` are those of the batch's distinct prompts, if they have been read ahead."""
        if self.largest is None or len(batch) <= self.largest:
            answers = self._try(batch, inputs)
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
        difference, tolerance, precision, tokens = self._compare(together, alone)
        if not difference.distance <= tolerance:
            place = difference.place
            token = self.tokenizer.decode(tokens[place, :1])
            found, expected = (float(logprobs[place, tokens[place, 0]]) for logprobs in (together, alone))
            raise ProbeError(
                f"item {pair[place].id}: the first token {token!r} of the answer has log π = "
                f"{found:.4f} beside another question and {expected:.4f} alone, and "
                f"the {tokens.shape[1]} likeliest tokens are {difference.distance:.2g} nats apart, where rounding to "
                f"{precision} explains {tolerance:g}: what {type(self.model).__name__} says depends on "
                "what else is in its batch. Use --batch_size 1, or --no_probe to answer all the same"
            )

    def try_reading_once(self, batch: Sequence[Question]) -> str | None:
        """Returns why the batch's equal prompts cannot be read once, None where they can.

        Two answers to one prompt, and one to another if there is one, are begun both ways.
        """
        distinct, rows = find_distinct(batch)
        repeated = next(place for place in rows if rows.count(place) > 1)
        others = [question for place, question in enumerate(distinct) if place != repeated]
        tried = [distinct[repeated], *others[-1:], distinct[repeated]]
        name = type(self.model).__name__
        try:
            once, each = self.begin(tried, reads_once=True), self.begin(tried)
        except Exception as error:  # whatever a forward raises that cannot go on from copies of a cache
            if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                release_memory()
                return f"memory does not hold {len(tried)} of them at once"
            if isinstance(error, torch.AcceleratorError):
                raise
            problem = next(iter(str(error).splitlines()), "")[:200]
            return f"{name} cannot go on from copies of what it has read ({type(error).__name__}: {problem})"
        difference, tolerance, precision, _ = self._compare(once, each)
        if difference.distance <= tolerance:
            return None
        return (
            f"{name} begins an answer {difference.distance:.2g} nats a token apart from copies of what it has read, "
            f"where rounding to {precision} explains {tolerance:g}"
        )

    def _compare(
        self, found: Float[Tensor, "B V"], expected: Float[Tensor, "B V"]
    ) -> tuple[ScoreDifference, float, str, Int[Tensor, "B n"]]:
        """Returns how far apart log π of the likeliest first tokens is, what rounding explains, and these tokens."""
        likely = expected.topk(min(_LOOKED_AT, expected.shape[1])).indices
        difference = compare(list(found.gather(1, likely)), list(expected.gather(1, likely)))
        precision = find_precision(self.model, self.model.device)
        return difference, TOLERANCES[precision], precision, likely

    @torch.inference_mode()
    def begin(self, batch: Sequence[Question], *, reads_once: bool = False) -> Float[Tensor, "B V"]:
        """Returns log π of the first token of every answer."""
        output, _ = self._run(batch, None, reads_once, generation_config=self._one_token)
        logprobs: Tensor = output.logits[0].float().log_softmax(-1)
        return logprobs

    def _run(
        self, batch: Sequence[Question], inputs: BatchFeature | None, reads_once: bool, **options: Any
    ) -> tuple[Any, Int[Tensor, "B L"]]:
        """Returns what `generate` returns with these options, and the mask of the prompts that it has read."""
        distinct, rows = find_distinct(batch) if reads_once else (list(batch), list(range(len(batch))))
        if inputs is None or len(inputs["input_ids"]) != len(distinct):  # read ahead before it was known how
            inputs = self.reader(distinct)
        placed = inputs.to(self.model.device, self.model.dtype)
        mask = placed["attention_mask"][rows]
        generate = self.reader.renderer.family.generate
        if len(distinct) == len(batch):
            return generate(self.model, **placed, **options), mask
        return generate_from_copies(generate, self.model, placed, rows, self._one_token, **options), mask

    def _try(self, batch: Sequence[Question], inputs: BatchFeature | None) -> list[GeneratedAnswer] | None:
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
    def _generate(self, batch: Sequence[Question], inputs: BatchFeature | None) -> list[GeneratedAnswer]:
        settings, processors = self.reader.settings, LogitsProcessorList()
        first, draw = FirstTokens(settings.num_beams), None
        if settings.top_logprobs:
            processors.append(first)
        if settings.temperature > 0:
            draw = SeededDraw([question.sampling_seed(settings) for question in batch], settings)
            processors.append(draw)
        options = {"generation_config": self.config, "logits_processor": processors}
        tokens, mask = self._run(batch, inputs, self.reads_once, **options)
        if not all(processor.is_asked for processor in processors):
            raise ValueError(
                f"{type(self.model).__name__}.generate loses logits_processor, by which mmdpo samples and reads "
                "likelihoods: generate with temperature 0 and without top_logprobs, or with another backend"
            )
        new = tokens[:, mask.shape[1] :].cpu()
        is_end = torch.isin(new, torch.tensor(self.config.eos_token_id))
        ended = is_end.any(dim=1).tolist()
        counts = [int(row.int().argmax()) + 1 if end else len(row) for row, end in zip(is_end, ended, strict=True)]
        details: list[dict[str, Any]] = [
            {"finish_reason": "stop" if end else "length", "tokens": count, "prompt_tokens": length}
            for end, count, length in zip(ended, counts, mask.sum(dim=1).tolist(), strict=True)
        ]
        if draw is not None:
            for said, logprob in zip(details, draw.sum_logprobs(counts), strict=True):
                said["logprob"] = logprob
        if settings.top_logprobs:
            likeliest = first.name_likeliest(settings.top_logprobs, self.tokenizer)
            for said, logprobs in zip(details, likeliest, strict=True):
                said["top_logprobs"] = logprobs
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        for place, question in enumerate(batch):
            if question.begun:  # decoded with the token before, else a space at its start would be left out
                length, row = mask.shape[1], tokens[place]
                parts = (row[length - 1 : length], row[length - 1 :])
                known, whole = (self.tokenizer.decode(part, skip_special_tokens=True) for part in parts)
                texts[place] = question.begun + str(whole[len(known) :])
        return [
            GeneratedAnswer(question.id, text.strip(), said)
            for question, text, said in zip(batch, texts, details, strict=True)
        ]


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
