"""What pairs are like, and what that is known to teach a model besides looking."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmdpo.diagnosis.shortcut import TextPair
from mmdpo.pairs.balance import MARKS, find_marks, is_uneven
from mmdpo.pairs.filters import CUT, DUPLICATE, NEAR_DUPLICATE
from mmdpo.pairs.judges import Verdict
from mmdpo.pairs.offers import LOOKED_AT, Claims, Offer, Offering
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.rules import Proposal

SHOWN_CLAIMS = 20


def contrast(texts: np.ndarray, pool: float | None, scale: float = 1) -> dict[str, Any]:
    """Returns the means of a measure of chosen and rejected texts [pairs, 2], beside that of all answers, and in which
    share of pairs the chosen text has more."""
    chosen, rejected = (scale * int(total) / len(texts) for total in texts.sum(axis=0, dtype=np.int64))
    pool = None if pool is None else scale * pool
    more, ties = (int(of.sum()) for of in (texts[:, 0] > texts[:, 1], texts[:, 0] == texts[:, 1]))
    return {"chosen": chosen, "rejected": rejected, "pool": pool, "auc": (more + 0.5 * ties) / len(texts)}


def describe_pairs(offering: Offering, taken: Sequence[tuple[Prompt, Offer]], resamples: int) -> dict[str, Any]:
    """Returns what the pairs that are taken are like, for JSON. They are read and counted one by one, and forgotten.

    `resamples` are those of the intervals of the shortcut test; 0 leaves it out.
    """
    facts = Facts(offering, len(taken))
    for prompt, offer in taken:
        facts.add(prompt, *offering.read(prompt, offer))
    return facts.describe(resamples)


class Facts:
    """What pairs are like: lengths, margins, mistakes, style, and what the text alone gives away."""

    def __init__(self, offering: Offering, count: int) -> None:
        """So many pairs will follow."""
        self._offering, self._files, self._count = offering, offering.files, count
        self._words, self._marks = array("i"), bytearray()
        self._margins, self._struck, self._clean = Counter[float](), Counter[str](), 0
        self._claims = {"chosen": Claims(), "rejected": Claims()}
        self._mistakes: dict[str, list[bool]] = {label: [] for label in self._files.labels}
        """By judge, whether it finds a mistake in each chosen answer that it has judged."""
        self._texts: list[TextPair] = []
        drawn = np.random.default_rng(offering.plan.seed).choice(count, min(count, LOOKED_AT), replace=False)
        self._looked_at, self._place = frozenset(drawn.tolist()), 0

    def add(self, prompt: Prompt, pair: Proposal, verdicts: Mapping[str, Mapping[int, Verdict]]) -> None:
        """Counts a pair. `verdicts` are those of its answers, by judge and number."""
        if self._place in self._looked_at:
            images = "+".join(self._files.images(prompt))
            self._texts.append(TextPair(prompt.id, prompt.question, images, *pair.texts))
        self._place += 1
        self._words.extend(pair.words)
        for marks in zip(*map(find_marks, pair.texts), strict=True):
            self._marks += bytes(marks)
        self._margins[round(pair.margin, 2)] += 1
        self._clean += pair.is_clean
        held = pair.verdicts
        for side, verdict in zip(self._claims, held, strict=True):
            self._claims[side].add(verdict)
        self._struck.update([claim["text"] for claim in held[1].list_claims() if not claim["is_true"]])
        k = pair.chosen.sample.k
        for label, of in verdicts.items():
            if k in of and pair.texts[0] == pair.chosen.sample.text:
                self._mistakes[label].append(bool(of[k].struck))

    def describe(self, resamples: int) -> dict[str, Any]:
        """Returns the facts. `resamples` are those of the intervals of the shortcut test; 0 leaves it out."""
        pool, strikes = self._offering.pool, self._files.strikes
        words = contrast(np.array(self._words).reshape(-1, 2), pool.mean("words"))
        marks = np.frombuffer(self._marks, np.uint8).reshape(-1, len(MARKS), 2)
        auc = words.pop("auc")
        difference = 100 * (words["chosen"] - words["rejected"]) / ((words["chosen"] + words["rejected"]) / 2)
        # The first judge has chosen the answers, so the share that it finds a mistake in is too low.
        by_judge = {label: 100 * sum(found) / len(found) for label, found in self._mistakes.items() if found}
        return {
            "clean": 100 * self._clean / self._count if strikes else None,
            "errors": {side: of.wrong for side, of in (self._claims | {"pool": pool.claims}).items()}
            if strikes
            else None,
            "by_judge": by_judge if strikes else {},
            "words": {**words, "difference": difference, "auc": auc},
            "margins": {str(margin): self._margins[margin] for margin in sorted(self._margins)},
            "style": {name: contrast(marks[:, n], pool.mean(name), 100) for n, name in enumerate(MARKS)},
            "struck": dict(self._struck.most_common(SHOWN_CLAIMS)),
            "shortcut": self._find_shortcut(resamples),
        }

    def _find_shortcut(self, resamples: int) -> dict[str, Any]:
        """Returns how well a rule that reads the text alone tells the two apart; without scikit-learn, why not."""
        from mmdpo.diagnosis.shortcut import measure_shortcut

        if not resamples:
            return {"rules": {}, "notes": ["not measured"]}
        try:
            seed = self._offering.plan.seed
            found = measure_shortcut(self._texts, resamples=resamples, seed=seed, with_features=False)
        except ImportError as error:
            return {"rules": {}, "notes": [str(error)]}
        return {"rules": found["rules"], "notes": found["notes"], "pairs": len(self._texts)}


def warn(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the pairs are known to teach besides looking, and what to do."""
    words, errors = result["words"], result["errors"]
    if words["difference"] < -10:
        yield (
            f"chosen answers are {-words['difference']:.0f} % shorter than rejected ones, which teaches brevity: "
            "balance: mean, or a rule that compares answers of one length"
        )
    if errors and (errors["chosen"] or 0) > 10:
        yield (
            f"{errors['chosen']:.0f} % of what chosen answers say is held to be wrong, and a model that is trained "
            "on them ends not far from that: mistakes: drop, or a rule that starts with clean"
        )
    uneven = [name for name, of in result["style"].items() if is_uneven(of["auc"])]
    if uneven:
        yield f"{', '.join(uneven)} tell chosen from rejected answers: balance: style takes other pairs"
    far = [
        name
        for name, of in result["style"].items()
        if of["pool"] is not None and abs(of["chosen"] - of["pool"]) > 15 and name not in uneven
    ]
    if far:
        yield f"chosen answers differ from all answers in {', '.join(far)}: training moves the model's style there"
    text = result["shortcut"]["rules"].get("text")
    if text and (text["accuracy"] or 0) > 70 and (text["low"] or 0) > 50:  # and not by chance
        yield (
            f"a rule that reads only the text is right in {text['accuracy']:.0f} % of pairs: they can be learnt "
            "without looking"
        )
    lost: Mapping[str, int] = result["funnel"].get("answers_lost", {})
    answers: int = result["funnel"].get("answers", 0)
    if answers and lost.get(CUT, 0) > 0.1 * answers:
        limit = result["sampler"]["settings"].get("max_new_tokens")
        yield (
            f"{lost[CUT]:,} of {answers:,} answers were cut off at {limit:,} tokens and make no pair: a higher "
            "max_new_tokens, in another folder, lets them end"
        )
    repeats = lost.get(DUPLICATE, 0) + lost.get(NEAR_DUPLICATE, 0)
    if answers and repeats > 0.5 * answers:
        yield (
            f"{repeats:,} of {answers:,} answers repeat another one to their prompt: a higher temperature, in another "
            "folder, gives others"
        )
    if result["funnel"]["yield"] < 0.1:
        yield (
            f"{result['funnel']['pairs']:,} pairs of {result['funnel']['prompts']:,} prompts, fewer than one in ten: "
            "there is little left to learn from these prompts"
        )
