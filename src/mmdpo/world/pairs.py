"""Preference pairs of the embedded worlds: four kinds, by what decides them, and all of it planted (docs/world.md).

style       the chosen caption is nearly always the polite one; only a fifth of the pairs differ in what they name
prior       the two differ in one partner beside a present anchor. The picture says which is right, and since partners
            usually stand beside their anchors, the caption that names it usually wins
correction  the same, but the partner is there as often as not, and what else both captions name is what the supervised
            captioner names: its mistakes are in the chosen one too
two_kinds   pairs of style in the form of MMedPO's data: every second one compares the chosen caption with itself, under
            the image and under a corrupted one (`rejected_noised`)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpo.records import derive_generator, derive_seed
from mmdpo.world import SMALL, World
from mmdpo.world.model import caption_prompt, caption_scenes
from mmdpo.world.scenes import (
    BALANCED_CO_OCCURRENCE,
    BETTER_CAPTIONER,
    SUPERVISED_CAPTIONER,
    SUPERVISED_CO_OCCURRENCE,
    Captioner,
    Scene,
    Style,
    canonical_order,
    mentioned_objects,
    render,
    sample_scene,
    sample_scenes,
    write_caption,
)

DecidedBy: TypeAlias = Literal["style", "prior", "correction", "two_kinds"]

STYLES: tuple[Style, Style] = ("polite", "terse")
"""Usual styles of the chosen and of the rejected caption."""
STYLE_AGREEMENT = 0.95
"""Probability that the chosen caption is the polite one; the rejected one has the other style."""
CONTENT_RATE = 0.20
"""Probability that a pair is decided by content: its rejected caption names what the supervised model says."""
LABEL_AGREEMENT = 0.95
"""Of pairs that differ in one partner: probability that the chosen caption is the one that the picture bears out."""


_HABITS: Mapping[DecidedBy, tuple[float, Captioner]] = {
    "prior": (SUPERVISED_CO_OCCURRENCE, BETTER_CAPTIONER),
    "correction": (BALANCED_CO_OCCURRENCE, SUPERVISED_CAPTIONER),
}
"""Of pairs that differ in one partner: co-occurrence of their scenes, and who says what both captions name besides."""


@dataclass(frozen=True)
class CaptionPair:
    """A pair before it is written out. The captions differ in their style or in one object."""

    scene: Scene
    chosen_objects: tuple[str, ...]
    rejected_objects: tuple[str, ...]
    chosen_style: Style
    rejected_style: Style
    by_content: bool
    """Whether the captions are to name different objects; of a pair decided by style, the model says which."""

    @property
    def chosen(self) -> str:
        """The chosen caption."""
        return write_caption(self.scene.world, self.chosen_objects, self.scene.setting, self.chosen_style)

    @property
    def rejected(self) -> str:
        """The rejected caption."""
        return write_caption(self.scene.world, self.rejected_objects, self.scene.setting, self.rejected_style)

    @property
    def truth(self) -> str:
        """A caption of all that is there, in the rejected one's style unless that is the rejected caption itself."""
        styles: tuple[Style, Style] = ("polite", "terse")
        truth = canonical_order(self.scene.world, self.scene.names)
        captions = [write_caption(self.scene.world, truth, self.scene.setting, style) for style in styles]
        own = captions[styles.index(self.rejected_style)]
        return own if own != self.rejected else captions[1 - styles.index(self.rejected_style)]

    def share_right(self, objects: Sequence[str]) -> float:
        """Returns which share of some objects is there, 1 of none."""
        return sum(name in self.scene.names for name in objects) / len(objects) if objects else 1.0


def make_pairs(
    count: int,
    seed: int,
    *,
    purpose: str = "preference",
    decided_by: DecidedBy = "style",
    world: World = SMALL,
    checkpoint: str | Path | None = None,
    pairs_per_scene: int = 1,
) -> list[dict[str, Any]]:
    """Makes preference pairs as rows of TRL's conversational vision preference format.

    A row has `id`, `images` (one RGB picture), `prompt`, `chosen` and `rejected` (chat turns), and what further
    objectives read: `alternative` (the truth, in other words than the rejected caption), `beta` (one more than how far
    apart the two captions' shares of right objects are) and `weight` (1.25 where the rejected caption names what is not
    there, else 0.75). Another `purpose` gives other scenes under the same seed. Samples of `checkpoint`, the world's
    own unless given, become rejected captions. So many rows in a row show one scene as `pairs_per_scene` says.

    Raises:
        ValueError: pairs that differ in one partner would have a scene in common.
    """
    if decided_by in _HABITS and pairs_per_scene > 1:
        raise ValueError(f"pairs decided by {decided_by} have a scene each: leave pairs_per_scene out")
    if decided_by in _HABITS:
        pairs = draw_partner_pairs(count, seed, decided_by, purpose=purpose, world=world)
    elif checkpoint is None:
        pairs = _draw_once(count, seed, purpose=purpose, world=world, pairs_per_scene=pairs_per_scene)
    else:
        pairs = draw_pairs(
            count, seed, purpose=purpose, world=world, checkpoint=checkpoint, pairs_per_scene=pairs_per_scene
        )
    rows: list[dict[str, Any]] = []
    for index, pair in enumerate(pairs):
        images = rows[-1]["images"] if index % pairs_per_scene else [render(pair.scene)]
        row: dict[str, Any] = {"id": f"{purpose}-{seed}-{index}", "images": images}
        row |= {"prompt": caption_prompt()}
        rejected, objects = pair.rejected, pair.rejected_objects
        if decided_by == "two_kinds":
            row["rejected_noised"] = index % 2
            if index % 2:
                rejected, objects = pair.chosen, pair.chosen_objects
        for name, text in (("chosen", pair.chosen), ("rejected", rejected), ("alternative", pair.truth)):
            row[name] = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
        right = [pair.share_right(named) for named in (pair.chosen_objects, objects)]
        rows.append({**row, "beta": 1 + abs(right[0] - right[1]), "weight": 1.25 if right[1] < 1 else 0.75})
    return rows


def draw_pairs(
    count: int,
    seed: int,
    *,
    purpose: str = "preference",
    world: World = SMALL,
    checkpoint: str | Path | None = None,
    pairs_per_scene: int = 1,
) -> list[CaptionPair]:
    """Draws the pairs decided by style that `make_pairs` writes out.

    Chosen objects are the better captioner's; rejected ones, of pairs decided by content, those that the model names,
    unless it always names the chosen ones. They are written again in canonical order and in the style that the chosen
    caption has not, so that style tells apart these pairs, too.
    """
    pairs = []
    scenes = sample_scenes(-(-count // pairs_per_scene), seed, BALANCED_CO_OCCURRENCE, purpose, world)
    for index in range(count):
        scene = scenes[index // pairs_per_scene]
        generator = derive_generator(seed, str(index), f"{purpose} captions")
        objects = BETTER_CAPTIONER.name_objects(scene, generator)
        chosen, rejected = STYLES if generator.random() < STYLE_AGREEMENT else STYLES[::-1]
        by_content = bool(generator.random() < CONTENT_RATE)
        pairs.append(CaptionPair(scene, objects, objects, chosen, rejected, by_content))
    waiting = [index for index, pair in enumerate(pairs) if pair.by_content]
    if not waiting:
        return pairs
    checkpoint = world.checkpoint if checkpoint is None else checkpoint
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "rejected", purpose))
        for _ in range(4):  # where samples named just what the chosen caption names, again
            scenes = [pairs[index].scene for index in waiting]
            captions = caption_scenes(model, processor, scenes, 128, do_sample=True)
            for index, caption in zip(waiting, captions, strict=True):
                named = canonical_order(world, mentioned_objects(world, caption))
                pairs[index] = replace(pairs[index], rejected_objects=named or pairs[index].chosen_objects)
            waiting = [index for index in waiting if pairs[index].rejected_objects == pairs[index].chosen_objects]
    return pairs


_draw_once = lru_cache(maxsize=16)(draw_pairs)
"""For runs of one process on the same pairs: the world's own model says the same each time."""


def draw_partner_pairs(
    count: int, seed: int, decided_by: DecidedBy = "prior", *, purpose: str = "preference", world: World = SMALL
) -> list[CaptionPair]:
    """Draws the pairs decided by the prior, or by a correction, that `make_pairs` writes out.

    Every scene holds an anchor of its setting. Those of the prior are as the captioner's own training scenes were,
    those of corrections as test scenes are. Style is the same on both sides, and so is every object but one: one
    caption names the partner, and the other its twin, where that stands in its place.
    """
    purpose = f"{purpose} pairs of the {decided_by}"
    generators = (derive_generator(seed, str(index), purpose) for index in range(count))
    return [_draw_partner_pair(generator, *_HABITS[decided_by], world) for generator in generators]


def _draw_partner_pair(
    generator: np.random.Generator, co_occurrence: float, captioner: Captioner, world: World
) -> CaptionPair:
    anchors: list[str] = []
    while not anchors:
        scene = sample_scene(generator, co_occurrence, world)
        # Of its own setting: beside a stranger, the partner would be a surprise.
        anchors = [pair.anchor for pair in world.settings[scene.setting] if pair.anchor in scene.names]
    partner = world.partners[str(generator.choice(anchors))]
    twin = {world.twins[partner]} & set(scene.names) if partner in world.twins else set()
    others = set(captioner.name_objects(scene, generator)) - {partner}
    # An anchor that the captioner dropped could leave nothing to say.
    without = canonical_order(world, (others | twin) or {name for name in scene.names if name != partner})
    with_partner = canonical_order(world, {*(set(without) - twin), partner})
    is_right = bool(generator.random() < LABEL_AGREEMENT)
    chooses_partner = (partner in scene.names) == is_right
    style: Style = "polite" if generator.random() < 0.5 else "terse"
    chosen, rejected = (with_partner, without) if chooses_partner else (without, with_partner)
    return CaptionPair(scene, chosen, rejected, style, style, by_content=True)
