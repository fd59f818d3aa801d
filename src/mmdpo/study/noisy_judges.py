"""Judges whose mistakes are known, for studies of the data engine on the embedded worlds.

flip_10, flip_30   what is there, one verdict for each scene and object; so many of a hundred are turned
random             a coin for each scene and object
rewriter           what is there; and the answer rewritten as it should be, complete and in its own style
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmdpo.pairs.judges import Context, Verdicts, claim_objects
from mmdpo.pairs.judges import objects as exact
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample
from mmdpo.records import derive_generator
from mmdpo.world import WORLDS


@dataclass(frozen=True)
class Flipping:
    """The judge `objects`, some of whose verdicts are turned, the same for all answers about a scene."""

    share: float
    NEEDS: str = "objects"
    STRIKES: bool = True
    WORDS: Any = ()

    def judge(self, prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
        """Returns one verdict for each sample."""
        there = set(prompt.truth["objects"])

        def believe(name: str) -> tuple[bool, None]:
            is_turned = (
                derive_generator(context.seed, f"{prompt.id}/{name}", f"flip {self.share}").random() < self.share
            )
            return (name in there) != is_turned, None

        return [claim_objects(sample.text, context.vocabulary, believe) for sample in samples]


class Rewriter:
    """The judge `objects`, which also writes each answer as it should be."""

    NEEDS, STRIKES, WORDS = "objects", True, ()

    @staticmethod
    def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
        """Returns one verdict for each sample, with the truth in the sample's style as its rewrite."""
        verdicts = exact.judge(prompt, samples, context)
        found: Verdicts = []
        for sample, verdict in zip(samples, verdicts, strict=True):
            assert verdict is not None
            verdict.rewrite = rewrite(sample.text, list(prompt.truth["objects"]))
            found.append(verdict)
        return found


def rewrite(text: str, objects: Sequence[str]) -> str:
    """Returns a caption of these objects in the style of another one.

    >>> rewrite("sure ! this kitchen shows cup , clock . hope this helps !", ["cup", "plate"])
    'sure ! this kitchen shows cup , plate . hope this helps !'
    >>> rewrite("clock .", ["cup"])
    'cup .'
    """
    said = " , ".join(objects)
    words = text.split()
    setting = next((word for world in WORLDS.values() for word in world.settings if word in words), None)
    if "sure" in words and setting is not None:
        return f"sure ! this {setting} shows {said} . hope this helps !"
    return f"{said} ."


flip_10, flip_30, random = Flipping(0.1), Flipping(0.3), Flipping(0.5)
rewriter = Rewriter()
