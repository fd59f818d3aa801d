"""A variant that trains on its own answers: pairs of the data engine about scenes of an embedded world, in rounds.

    own_pairs:
      prompts: 900            # fresh scenes of every round
      samples: 8              # answers to each
      judge: objects          # a judge of the data engine, or mmdpo.study.noisy_judges:NAME
      rule: clean_near
      balance: mean           # none for a rule whose chosen answers are always the shorter ones
      rounds: 1               # each starts where the one before it ended
      answers: previous       # who gives the answers of later rounds: previous, or start (stale pairs)
      reference: previous     # of later rounds: previous, or start

The start answers the first round's prompts once, in its own trial, and all variants of a seed that ask as many prompts
for as many answers use its answers.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmdpo.data.dataset import PreferenceDataset
from mmdpo.data.read import read_dataset
from mmdpo.files import read_json
from mmdpo.generation.checkpoint import Checkpoint
from mmdpo.generation.questions import GenerationSettings
from mmdpo.generation.transformers import TransformersAnswerer
from mmdpo.options import Options, option
from mmdpo.pairs.build import build_pairs
from mmdpo.pairs.dataset import DATASET, TRAIN
from mmdpo.pairs.judges import Context
from mmdpo.pairs.judging import JudgeChoice, judge_samples
from mmdpo.pairs.plan import BuildPlan
from mmdpo.pairs.prompts import Prompt, draw_prompts
from mmdpo.pairs.samples import (
    NO_IMAGE,
    PROMPTS,
    SAMPLER,
    SAMPLES,
    Sample,
    SamplingPlan,
    read_prompt_digests,
    read_samples,
    sample,
)
from mmdpo.world import World

FOLDER = "own"
"""Where a trial keeps answers, verdicts and pairs."""
BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class OwnPairs(Options):
    """How a variant makes its pairs. Raises ValueError for what is none."""

    MARK: ClassVar[str] = ""

    prompts: int = option(900, "Fresh scenes of every round.", least=1)
    samples: int = option(8, "Answers to each.", least=1)
    judge: str = option("objects", "A judge of the data engine, or mmdpo.study.noisy_judges:NAME.")
    rule: str = option("clean_near", "Which two answers become a pair.")
    balance: str = option("mean", "What chosen and rejected answers have alike.")
    rounds: int = option(1, "How many; each starts where the one before it ended.", least=1)
    answers: Literal["previous", "start"] = option("previous", "Who gives the answers of later rounds.")
    reference: Literal["previous", "start"] = option("previous", "Of later rounds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        JudgeChoice(self.judge)
        self.plan_build(0, 1)

    def plan_build(self, seed: int, number: int) -> BuildPlan:
        """Returns how the pairs of a round are made; raises ValueError for a rule or balance that is none."""
        balance: Any = self.balance
        return BuildPlan(rule=self.rule, mistakes="keep", balance=balance, seed=seed, round=number)


def answer_prompts(model: str, own: OwnPairs, seed: int, number: int, world: World, folder: Path) -> None:
    """Lets a model answer the prompts of a round; beside its own answers one without the picture, to be rejected."""
    settings = GenerationSettings(max_new_tokens=world.max_words, temperature=1.0, seed=seed)
    policy = TransformersAnswerer(Checkpoint(model), batch_size=BATCH_SIZE, probe=False)
    sample(
        draw_round(own, seed, number, world), policy, settings, folder, SamplingPlan(own.samples, negatives=(NO_IMAGE,))
    )


def are_answered(own: OwnPairs, folder: Path) -> bool:
    """Says whether a folder has as many prompts and answers to each as a first round takes."""
    if not (folder / SAMPLER).is_file():
        return False
    asked = read_json(folder / SAMPLER)["settings"]["num_samples"]
    return (len(read_prompt_digests(folder)), asked) == (own.prompts, own.samples)


def draw_round(own: OwnPairs, seed: int, number: int, world: World) -> list[Prompt]:
    """Returns the prompts of a round: other scenes in each."""
    return draw_prompts(own.prompts, seed, world, f"own pairs {number}")


def make_pairs_of_round(
    own: OwnPairs, seed: int, number: int, world: World, folder: Path, answered: Path, count: int | None
) -> tuple[PreferenceDataset, dict[str, float | None]]:
    """Judges the answers in `answered` and returns the pairs, the first `count` of them, and what they are like."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SAMPLES, PROMPTS, SAMPLER):
        if answered != folder:
            shutil.copy(answered / name, folder / name)
    prompts = draw_round(own, seed, number, world)
    samples: dict[str, list[Sample]] = {}
    for each in read_samples(folder):
        if each.is_own or own.rule == "negatives":
            samples.setdefault(each.id, []).append(each)
    choice, context = JudgeChoice(own.judge), Context({name: name for name in world.objects}, seed=seed)
    judge_samples(prompts, samples, choice, context, folder)
    found = build_pairs(prompts, folder, [choice.label], own.plan_build(seed, number), resamples=0)
    pairs = read_dataset(folder / DATASET / TRAIN)
    errors = found["errors"] or {}
    return pairs[:count] if count is not None and count < len(pairs) else pairs, {
        "own/pairs": float(min(len(pairs), count or len(pairs))),
        "own/yield": 100 * found["funnel"]["yield"],
        "own/chosen_error": errors.get("chosen"),
        "own/pool_error": errors.get("pool"),
        "own/words_difference": found["words"]["difference"],
    }
