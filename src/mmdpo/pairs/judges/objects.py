"""Objects that an answer names against those that are there (column `objects`), as CHAIR counts them.

Source: Rohrbach et al., Object Hallucination in Image Captioning (EMNLP 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

from mmdpo.pairs.judges import Context, Verdicts, claim_objects, find_there
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample

NEEDS, STRIKES, WORDS = "objects", True, dict[str, str]()
OPTIONS = ("vocabulary",)


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
    """Returns one verdict for each sample: an object is a claim, right if it is there."""
    there = find_there(prompt, context.vocabulary)
    return [claim_objects(sample.text, context.vocabulary, lambda name: (name in there, None)) for sample in samples]
