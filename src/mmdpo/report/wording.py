"""The sentences that the terminal and the page share: what the variants are, and what the world does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """How a variant of the quickstart is called in front of readers."""

    label: str
    meaning: str


VARIANTS = {
    "start": Variant("Start", "the supervised checkpoint that ships with the package"),
    "dpo": Variant("DPO", "prefers the chosen to the rejected answer, both under the scene's own image"),
    "mdpo": Variant(
        "mDPO",
        "DPO, and prefers the scene's image to a corrupted one for the same chosen answer, and anchors the chosen "
        "answer's reward above zero",
    ),
    "sft_chosen": Variant("SFT on chosen", "the control: plain supervised training on the chosen answers"),
}


@dataclass(frozen=True)
class Caveat:
    """One thing that a reader of the results has to know: a title, a sentence and a paragraph."""

    title: str
    short: str
    full: str


WORLD_CAVEATS = (
    Caveat(
        "The prior is planted",
        "The language prior that hallucinates is planted.",
        "Some objects of this world go together, such as cup and plate. The captions that taught the starting model "
        "name a missing partner half of the time, as if it were there. In preference and test scenes partners are "
        "missing more often than they were in the scenes of that training, so the habit is wrong more often. "
        "A real model's prior was designed by nobody.",
    ),
    Caveat(
        "DPO's unconditional preference is planted in part",
        "Style alone decides 80 % of the pairs, so that DPO can do without the image is planted in part.",
        "Style alone, polite or terse, decides four pairs in five, and a rule that never looks at the image is right "
        "on about 95 % of all pairs. The last two columns of the table tell who learnt such a rule: a preference that "
        "is as accurate with another scene's image as with the right one makes no use of the image.",
    ),
    Caveat(
        "Supervised training on the chosen answers does as well",
        "Chosen answers are nearly the truth here, so supervised training on them, the control, does as well.",
        "The chosen answers of this world are nearly the truth, so a model that plainly imitates them does as well as "
        "mDPO or better. That is what the control is there to show. Nothing on this page says that preference training "
        "beats supervised training where good answers are at hand.",
    ),
    Caveat(
        "CHAIR without Cover misleads",
        "Read CHAIR together with Cover: naming fewer objects lowers it.",
        "A captioner that names fewer objects invents fewer of them. A lower CHAIR is progress only while Cover, the "
        "share of the scene's objects that are named, holds.",
    ),
    Caveat(
        "A small sample of a toy world",
        "{scenes} scenes, one seed ({seed}): nothing here is a claim about real models.",
        "The figures come from {scenes} scenes and one seed ({seed}); another seed moves them by several points. They "
        "are a check of the training code. Nothing here is a claim about real models.",
    ),
)
"""What the embedded world plants and what it does not show; `{scenes}` and `{seed}` are filled in from the results."""


def variant_label(name: str) -> str:
    """Returns the name that readers see; a variant that is not one of the quickstart's keeps its own."""
    return VARIANTS[name].label if name in VARIANTS else name


def fill(text: str, results: Mapping[str, Any]) -> str:
    """Fills the number of scenes and the seed into a caveat's text."""
    return text.format(scenes=results["scenes"], seed=results["seed"])
