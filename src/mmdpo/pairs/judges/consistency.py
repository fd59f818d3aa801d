"""Objects that most answers to a prompt share are believed: needs no truth and no model.

Source: Wang et al., Self-Consistency (arXiv 2203.11171), whose vote is over whole answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmdpo.pairs.judges import Context, Verdicts, claim_objects, find_objects
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample

NEEDS, STRIKES, WORDS = "", True, dict[str, str]()
OPTIONS = ("agreement", "vocabulary")


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
    """Returns one verdict for each sample; an object is believed if enough of the policy's samples name it."""
    drawn = [sample for sample in samples if sample.is_draw] or samples
    counts = Counter(name for sample in drawn for name in find_objects(sample.text, context.vocabulary))
    shares = {name: count / len(drawn) for name, count in counts.items()}

    def believe(name: str) -> tuple[bool, float]:
        share = shares.get(name, 0.0)
        return share >= context.agreement, share

    return [claim_objects(sample.text, context.vocabulary, believe) for sample in samples]
