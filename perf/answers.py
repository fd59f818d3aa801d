"""Measures what several answers to one prompt cost: `python -m perf.answers`.

A LLaVA of moderate size with random weights, its CLIP tower at 336 pixels, so that a picture has 576 tokens, answers
questions about photographs through transformers, as `mmdpo eval` and `mmdpo pairs sample` do: one answer to each;
several to each with the prompt read for every answer; several with it read once. Sides are timed in turn. CPU seconds
depend less than wall time on what else the machine does.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from mmdpo.generation import CheckpointOptions
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import GenerationSettings, Question
from mmdpo.generation.transformers import BATCH_SIZE, TransformersAnswerer
from perf.command import Figures, make_parser, read_options, time_in_turn, write_measured
from perf.loader import SIZE, draw_photograph
from perf.record import describe_run
from perf.rows import build_processor
from perf.shapes import CLIP, TINY, Shape

MODERATE = Shape(
    "moderate",
    "llava",
    dict(hidden_size=768, num_hidden_layers=8, vocab_size=32_000, intermediate_size=2064,
         num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=4096),
    {**CLIP, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6},
    lora_rank=8,
    image_size=336,
)  # fmt: skip
PROMPTS, ANSWERS, TOKENS, WORDS = 8, 8, 16, 24
SETTINGS = GenerationSettings(max_new_tokens=TOKENS, temperature=1.0)
ONE, EACH, ONCE = "one answer", "several, the prompt read for each", "several, the prompt read once"
TARGET = 2.5
"""Times one answer, at most, that several cost whose prompt is read once."""
EXPECTED = (
    "of the time of one answer about three quarters are picture and prompt, which are read once; a step of eight rows "
    "costs about two steps of one, since weights are read once for all of them: 1.5 to 2 times one answer, and about 7 "
    "times where the prompt is read for each"
)
"""What was expected before the first measurement."""


def main() -> None:
    """Measures, and writes a results file."""
    options = read_options(make_parser(__doc__, 3, tiny="a tiny model"))
    torch.set_num_threads(1)
    shape = TINY if options.tiny else MODERATE
    result = describe_run("cpu") | {"kind": "answers", "miniature": options.tiny, "shape": shape.describe()}
    result |= {"prompts": PROMPTS, "answers": ANSWERS, "tokens": TOKENS, "batch_size": BATCH_SIZE, "size": SIZE}
    result |= {"expected": EXPECTED, "target": TARGET, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        result["sides"] = measure(shape, Path(folder), options.repetitions)
    write_measured(result, options, "answers")


def measure(shape: Shape, folder: Path, repetitions: int) -> dict[str, Any]:
    """Returns the figures of every side, timed in turn after a first time that does not count."""
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(shape.config()).save_pretrained(folder)
    build_processor(shape).save_pretrained(folder)
    answerer = TransformersAnswerer(Checkpoint(str(folder), CheckpointOptions(dtype="float32")))
    sides = {ONE: (1, True), EACH: (ANSWERS, False), ONCE: (ANSWERS, True)}
    photographs = [draw_photograph(seed) for seed in range(PROMPTS)]
    list(answerer.answer(make_questions(photographs[:1], 2), SETTINGS))
    assert answerer._reads_once, "the trial with the first prompt has found it exact"

    def sample(count: int, *, reads_once: bool) -> Figures:
        answerer._reads_once = reads_once
        return time_answers(answerer, make_questions(photographs, count))

    turns = {name: partial(sample, count, reads_once=reads_once) for name, (count, reads_once) in sides.items()}
    return time_in_turn(turns, repetitions, warm_up=1)


def make_questions(photographs: list[bytes], count: int) -> list[Question]:
    """Returns questions that ask for so many answers about every photograph."""
    words = " ".join(f"w{word}" for word in range(WORDS))
    return [
        Question(f"{place}/{k}", words, photograph, seed=k)
        for place, photograph in enumerate(photographs)
        for k in range(count)
    ]


def time_answers(answerer: TransformersAnswerer, questions: list[Question]) -> dict[str, float]:
    """Returns wall and CPU seconds of sampling an answer to every question."""
    start, used = time.perf_counter(), time.process_time()
    answers = list(answerer.answer(questions, SETTINGS))
    figures = {"wall": time.perf_counter() - start, "cpu": time.process_time() - used}
    assert len(answers) == len(questions)
    return figures | {"tokens": sum(answer.details["tokens"] for answer in answers) / len(answers)}


if __name__ == "__main__":
    main()
