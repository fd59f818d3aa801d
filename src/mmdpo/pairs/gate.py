"""Whether a round is kept: what its model says to held-out prompts, against the best round so far and the start."""

from __future__ import annotations

from dataclasses import dataclass

from mmdpo.pairs.filters import REPEATING, why_useless
from mmdpo.pairs.judging import read_verdicts
from mmdpo.pairs.options import IterateOptions
from mmdpo.pairs.run import PairsRun
from mmdpo.texts import count_words


class IterateError(ValueError):
    """Rounds that cannot be run: says what is wrong and what to do."""


@dataclass(frozen=True)
class Measured:
    """What a model says to the prompts that are held out, greedily; shares in per cent."""

    wrong: float
    """Claims that are held to be wrong."""
    right: float
    """Claims of an answer that are held to be right."""
    words: float
    """Of an answer."""
    useless: float
    """Answers that are empty, cut off, looping or refusals."""
    repeating: float
    """Of these, those that loop."""
    answers: int

    def f1(self, start: Measured) -> float:
        """Returns the harmonic mean of claims that are right and of right claims against the start's, in per cent."""
        precision = 100 - self.wrong
        recall = 100 * self.right / start.right if start.right else 0.0
        return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def measure(run: PairsRun) -> Measured:
    """Returns what the greedy answers of a run come to, by its first judge."""
    verdicts = read_verdicts(run.folder, run.judges[0].label)
    greedy = [of[0] for of in run.read_samples().values() if of and of[0].k == 0]
    if not greedy:
        raise IterateError(f"{run.folder} holds no greedy answers")
    reasons = [why_useless(sample) for sample in greedy]
    found = [of[sample.k] for sample in greedy if sample.k in (of := verdicts.get(sample.id, {}))]
    struck, right = sum(verdict.struck for verdict in found), sum(verdict.right for verdict in found)
    return Measured(
        wrong=100 * struck / (struck + right) if struck + right else 0.0,
        right=right / len(greedy),
        words=sum(count_words(sample.text) for sample in greedy) / len(greedy),
        useless=100 * sum(reason is not None for reason in reasons) / len(greedy),
        repeating=100 * sum(reason == REPEATING for reason in reasons) / len(greedy),
        answers=len(greedy),
    )


def judge_round(new: Measured, best: Measured, start: Measured, options: IterateOptions) -> str:
    """Returns why a round is not kept; nothing where it is."""
    if options.gate == "wrong" and new.wrong >= best.wrong:
        return f"{new.wrong:.1f} % of claims are wrong, not fewer than {best.wrong:.1f} %"
    if options.gate == "f1" and new.f1(start) <= best.f1(start):
        return f"F1 is {new.f1(start):.1f}, no more than {best.f1(start):.1f}"
    cover = 100 * (new.right / start.right - 1) if start.right else 0.0
    if cover < options.guard_cover:
        return f"right claims changed by {cover:+.1f} % against the start, below {options.guard_cover:g} %"
    words = 100 * (new.words / start.words - 1) if start.words else 0.0
    if abs(words) > options.guard_words:
        return f"answers changed their length by {words:+.0f} % against the start, more than {options.guard_words:g} %"
    if new.useless - start.useless > options.guard_useless:
        return (
            f"{new.useless:.1f} % of answers are empty, cut off or looping, {new.useless - start.useless:.1f} points "
            "more than at the start"
        )
    return ""
