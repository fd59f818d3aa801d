"""The implicit reward of a trained run: log π(answer) under it less that under what it was trained from, in nats.

Source: Rafailov et al., DPO (arXiv 2305.18290). Needs `run`, a folder of `mmdpo train`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmdpo.pairs.judges import Context, Verdict, Verdicts
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.samples import Sample

NEEDS, STRIKES, WORDS = "", False, dict[str, str]()
NEEDS_RUN = True


def judge(prompt: Prompt, samples: Sequence[Sample], context: Context) -> Verdicts:
    """Returns one verdict for each sample: the reward of the whole answer."""
    assert context.rewards is not None
    texts = list(dict.fromkeys(sample.text for sample in samples))
    rewards = dict(zip(texts, context.rewards(prompt, texts), strict=True))
    return [Verdict(rewards[sample.text]) for sample in samples]
