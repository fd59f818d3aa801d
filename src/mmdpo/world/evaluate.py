"""How well captions fit scenes: the hallucination measures of CHAIR and AMBER, exact because the scenes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmdpo.world.captions import CaptionDetail, compare_names
from mmdpo.world.scenes import Scene, render
from mmdpo.world.worlds import PROMPT


@dataclass(frozen=True)
class WorldScores:
    """Measures over a set of captions, each in per cent; the definitions are CHAIR's and AMBER's."""

    chair_i: float
    """Hallucinated mentions / mentions, over all captions together. Lower is better."""
    chair_s: float
    """Captions with at least one hallucinated mention / captions. Lower is better."""
    cover: float
    """Objects of the scenes that are named / objects of the scenes. Higher is better."""
    cog: float
    """Mentions of an absent partner whose anchor is present / mentions: the part of `chair_i` that follows the
    co-occurrence prior, as AMBER's Cog is. Lower is better."""


def caption_prompt() -> list[dict[str, Any]]:
    """Returns the one prompt of this world as chat turns: an image, then the instruction."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]


def caption_scenes(model: Any, processor: Any, scenes: Sequence[Scene], batch_size: int) -> list[str]:
    """Captions every scene with greedy decoding; returns the texts without special tokens, one per scene."""
    captions: list[str] = []
    for start in range(0, len(scenes), batch_size):
        captions += generate_captions(model, processor, scenes[start : start + batch_size], do_sample=False)
    return captions


def generate_captions(model: Any, processor: Any, scenes: Sequence[Scene], *, do_sample: bool) -> list[str]:
    """Captions one batch of scenes; samples at temperature 1 from torch's global random state if `do_sample`."""
    text = processor.apply_chat_template(caption_prompt(), add_generation_prompt=True)
    inputs = processor(images=[render(scene) for scene in scenes], text=[text] * len(scenes), return_tensors="pt").to(
        model.device
    )
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        tokens = model.generate(**inputs, do_sample=do_sample)
    model.train(was_training)
    answers = tokens[:, inputs["input_ids"].shape[1] :]
    return [str(answer) for answer in processor.batch_decode(answers, skip_special_tokens=True)]


def compare_caption(scene: Scene, caption: str) -> CaptionDetail:
    """Sorts the objects of a caption and of its scene into correct, hallucinated and missed."""
    return compare_names(scene.world, scene.names, caption)


def score_captions(scenes: Sequence[Scene], captions: Sequence[str]) -> WorldScores:
    """Scores one caption per scene; a ratio without a denominator (no caption names anything) is 0.

    Raises `ValueError` if there is not exactly one caption per scene, or no scene at all.
    """
    if len(scenes) != len(captions) or not scenes:
        raise ValueError(f"{len(scenes)} scenes and {len(captions)} captions: give one caption for each, at least one")
    details = [compare_caption(scene, caption) for scene, caption in zip(scenes, captions, strict=True)]
    correct = sum(len(detail.correct) for detail in details)
    hallucinated = sum(len(detail.hallucinated) for detail in details)
    present = sum(len(scene.objects) for scene in scenes)
    return WorldScores(
        chair_i=_per_cent(hallucinated, correct + hallucinated),
        chair_s=_per_cent(sum(1 for detail in details if detail.hallucinated), len(details)),
        cover=_per_cent(correct, present),
        cog=_per_cent(sum(len(detail.cognitive) for detail in details), correct + hallucinated),
    )


def _per_cent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
