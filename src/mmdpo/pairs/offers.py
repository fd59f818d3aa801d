"""Which pairs every prompt offers, and what its answers lose on the way to them."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, islice
from typing import Any, NamedTuple

from mmdpo.pairs.balance import MARKS, find_marks
from mmdpo.pairs.filters import find_repeats, why_useless
from mmdpo.pairs.judges import Verdict
from mmdpo.pairs.plan import BuildError, BuildPlan
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.rules import Candidate, Proposal, Texts, load
from mmdpo.pairs.run_files import Answers, RunFiles
from mmdpo.pairs.samples import Sample
from mmdpo.records import derive_generator
from mmdpo.texts import count_words

FALLBACK = "best_worst"
SEEN = "the same pair elsewhere"
NO_ANSWER = "no answer, or its picture cannot be read"
LEAST_CLEAN = 1 / 3
"""Share of prompts with an answer without a wrong claim below which rules that look for one are not followed."""
MOST_OFFERS, MOST_PROPOSALS = 24, 240
"""Pairs that a prompt is asked for, of which one is taken, and those that are looked at for so many."""
LOGPS = ("logp_chosen", "logp_rejected")
LOOKED_AT = 4_000
"""Prompts by which shares of all answers are estimated."""


class Offer(NamedTuple):
    """A pair that a prompt would give: what is known of it while not all prompts have been read."""

    chosen: int
    rejected: int
    """Numbers of the answers."""
    margin: float
    is_clean: bool
    own_texts: Texts | None
    """Where they are not the answers'."""
    logps: tuple[str, ...]
    """Which of `LOGPS` are known."""


class Offers:
    """All offers, in columns: there are many more of them than pairs."""

    def __init__(self, *, with_style: bool) -> None:
        self._numbers = array("i"), array("i")
        self._margins, self._flags = array("d"), bytearray()
        self._own_texts: dict[int, Texts] = {}
        self.words = array("i"), array("i")
        """Of chosen and rejected texts."""
        self.marks = {name: (bytearray(), bytearray()) for name in MARKS} if with_style else {}
        """Whether they have a mark of style."""

    def __len__(self) -> int:
        return len(self._margins)

    def extend(self, pairs: Sequence[Proposal]) -> None:
        """Adds pairs."""
        for place, pair in enumerate(pairs, start=len(self)):
            if pair.own_texts is not None:
                self._own_texts[place] = pair.own_texts
        self._flags.extend(map(_flag, pairs))
        self._margins.extend([pair.margin for pair in pairs])
        self._numbers[0].extend([pair.chosen.sample.k for pair in pairs])
        self._numbers[1].extend([pair.rejected.sample.k for pair in pairs])
        words = [pair.words for pair in pairs]
        for side in (0, 1):
            self.words[side].extend([of[side] for of in words])
            if self.marks:
                for text in (pair.texts[side] for pair in pairs):
                    for of, has in zip(self.marks.values(), find_marks(text), strict=True):
                        of[side].append(has)

    def __getitem__(self, place: int) -> Offer:
        flags = self._flags[place]
        return Offer(
            self._numbers[0][place],
            self._numbers[1][place],
            self._margins[place],
            bool(flags & 1),
            self._own_texts.get(place),
            tuple(name for bit, name in zip((2, 4), LOGPS, strict=True) if flags & bit),
        )

    def join(self, other: Offers) -> None:
        """Adds all offers of another one, at places that follow its own."""
        self._own_texts |= {len(self) + place: texts for place, texts in other._own_texts.items()}
        for own, more in zip(self._columns(), other._columns(), strict=True):
            own.extend(more)

    def _columns(self) -> list[Any]:
        marks = [of for sides in self.marks.values() for of in sides]
        return [*self._numbers, self._margins, self._flags, *self.words, *marks]


def _flag(pair: Proposal) -> int:
    """Returns in bits whether a pair is clean, and which of `LOGPS` are known."""
    chosen, rejected = pair.chosen.sample, pair.rejected.sample
    flags = pair.is_clean + 2 * (chosen.logprob is not None) + 4 * (rejected.logprob is not None)
    if pair.own_texts is None:
        return flags
    return flags & (1 + 2 * (pair.own_texts[0] == chosen.text) + 4 * (pair.own_texts[1] == rejected.text))


class Slot(NamedTuple):
    """One pair of a prompt: places of the offers of which one may be taken, the best first."""

    prompt: Prompt
    offers: range


@dataclass
class Claims:
    """How many claims of answers are held to be right and wrong."""

    right: int = 0
    struck: int = 0

    def add(self, verdict: Verdict | Claims) -> None:
        """Counts the claims of an answer, or of several."""
        self.right += verdict.right
        self.struck += verdict.struck

    @property
    def wrong(self) -> float | None:
        """The share that is held to be wrong, in per cent; None without a claim."""
        claims = self.right + self.struck
        return 100 * self.struck / claims if claims else None


class Pool:
    """What answers of the policy are like on the whole: words, marks of style, claims."""

    def __init__(self) -> None:
        self.answers, self.claims, self._sums = 0, Claims(), Counter[str]()

    def add(self, text: str) -> None:
        """Counts an answer."""
        self.answers += 1
        self._sums["words"] += count_words(text)
        self._sums.update(compress(MARKS, find_marks(text)))

    def join(self, other: Pool) -> None:
        """Counts the answers of another one too."""
        self.answers += other.answers
        self.claims.add(other.claims)
        self._sums.update(other._sums)

    def mean(self, name: str) -> float | None:
        """Returns the `words` of an answer, or the share of answers that have a mark; None without an answer."""
        return self._sums[name] / self.answers if self.answers else None


@dataclass
class Tally:
    """What became of prompts and answers."""

    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, prompt: str, reason: str, k: int | None = None) -> None:
        """Counts and keeps what is in no pair."""
        self._count({"id": prompt} | ({} if k is None else {"k": k}) | {"reason": reason})

    def _count(self, row: dict[str, Any]) -> None:
        self.counts[f"{'answer' if 'k' in row else 'prompt'}: {row['reason']}"] += 1
        self.dropped.append(row)

    def join(self, other: Tally, places: Mapping[str, int]) -> None:
        """Adds what another one has dropped, in the order of prompts; those without a place come first."""
        rows = sorted([*self.dropped, *other.dropped], key=lambda row: places.get(row["id"], -1))
        self.counts, self.dropped = Counter(), []  # the order of reasons is that of the first of each
        for row in rows:
            self._count(row)


def choose_rule(prompts: Sequence[Prompt], files: RunFiles, plan: BuildPlan) -> tuple[str, str]:
    """Returns the rule, another than asked for where too few prompts have a clean answer, and what to say of that.

    Raises BuildError if the judge does not go with it.
    """
    rule, note = plan.rule, ""
    if rule.startswith("clean") and files.strikes and plan.mistakes == "drop":
        judged = clean = 0
        for prompt in look_at(prompts):
            samples, verdicts = files.read(prompt.id)
            first = verdicts[files.labels[0]]
            own = {sample.k for sample in samples if sample.is_own}
            judged += bool(first)
            clean += any(not verdict.struck for k, verdict in first.items() if k in own)
        if judged and clean < LEAST_CLEAN * judged:
            rule = FALLBACK
            note = (
                f"{clean:,} of {judged:,} prompts have an answer without a wrong claim, fewer than a third: pairs "
                f"follow the rule {FALLBACK}, and the column `clean` says whose chosen answer has no wrong claim. The "
                "recipe weighs by it"
            )
    if load(rule).needs_strikes and not files.strikes:
        raise BuildError(
            f"the rule {rule} looks for wrong claims, and {files.judge} only ranks answers: take best_worst, ranked or "
            "same_length"
        )
    return rule, note


def look_at(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Returns the prompts whose answers are looked at where a share is wanted, not a count: all of a few thousand."""
    return prompts[:: math.ceil(len(prompts) / LOOKED_AT)] if prompts else prompts


class Offering:
    """Makes offers of prompts, and counts what they lose on the way."""

    COUNTS = ("answers", "judged", "candidates", "easy", "has_verdict")

    def __init__(self, prompts: Sequence[Prompt], files: RunFiles, plan: BuildPlan, rule: str, tally: Tally) -> None:
        self.files, self.plan, self.rule, self.tally = files, plan, rule, tally
        self._propose = load(rule).propose
        self.mistakes = "weigh" if rule != plan.rule else plan.mistakes
        self.offers = Offers(with_style=plan.balance == "style")
        self.answers = self.judged = self.candidates = self.easy = self.has_verdict = 0
        self.pool = Pool()
        self._looked_at = {prompt.id for prompt in look_at(prompts)}
        repeated = Counter(map(files.digest, filter(files.has_answers, prompts)))
        self._seen = {digest: set[Texts]() for digest, count in repeated.items() if count > 1}
        """What prompts have offered that ask the same about the same picture."""

    def offer(self, prompt: Prompt) -> list[Slot]:
        """Returns what may be taken for each of the prompt's pairs; counts what falls away."""
        if not self.files.has_answers(prompt):
            self.tally.drop(prompt.id, NO_ANSWER)
            return []
        answers = self.files.read(prompt.id)
        candidates = list(self._candidates(prompt, answers))
        if len(candidates) < 2 and not any(each.verdict.rewrite for each in candidates):
            self.tally.drop(prompt.id, "fewer than two answers to compare")
            return []
        if self.files.strikes and all(each.is_clean for each in candidates if each.sample.is_own):
            self.easy += 1
        reasons = Counter[str]()
        kept = list[Proposal]()
        seen = self._seen.get(self.files.digest(prompt), set[Texts]())
        draw = partial(derive_generator, self.plan.seed, prompt.id, "pairs")
        for pair in islice(self._propose(candidates, draw), MOST_PROPOSALS):
            texts = pair.texts
            reason = self._why_not(pair, texts, answers.verdicts) or (SEEN if texts in seen else None)
            if reason is not None:
                reasons[reason] += 1
                continue
            seen.add(texts)
            kept.append(pair)
            if len(kept) == MOST_OFFERS:
                break
        start = len(self.offers)
        self.offers.extend(kept)
        count = min(self.plan.per_prompt, len(kept))
        if not count:
            self.tally.drop(prompt.id, reasons.most_common(1)[0][0] if reasons else self._why_nothing(candidates))
        return [Slot(prompt, range(start + number, len(self.offers), count)) for number in range(count)]

    def is_repeated(self, prompt: Prompt) -> bool:
        """Says whether another prompt asks the same about the same picture: offers then depend on which came before."""
        return self.files.has_answers(prompt) and self.files.digest(prompt) in self._seen

    def join(self, places: Mapping[str, int], offers: Offers, tally: Tally, pool: Pool, counts: Sequence[int]) -> None:
        """Adds what other prompts have offered and lost; `places` are those of all prompts, by their ids."""
        self.offers.join(offers)
        self.tally.join(tally, places)
        self.pool.join(pool)
        for name, count in zip(self.COUNTS, counts, strict=True):
            setattr(self, name, getattr(self, name) + count)

    def forget(self) -> None:
        """Takes all offers back."""
        self.offers = Offers(with_style=self.plan.balance == "style")
        for seen in self._seen.values():
            seen.clear()

    def read(self, prompt: Prompt, offer: Offer) -> tuple[Proposal, Mapping[str, Mapping[int, Verdict]]]:
        """Returns the pair that a prompt has offered, and the verdicts of its answers, by judge and number."""
        samples, verdicts = self.files.read(prompt.id, (offer.chosen, offer.rejected))
        found = {
            sample.k: self._judge(sample, [of[sample.k] for of in verdicts.values() if sample.k in of])
            for sample in samples
        }
        chosen, rejected = found[offer.chosen], found[offer.rejected]
        return Proposal(chosen, rejected, offer.margin, offer.is_clean, offer.own_texts), verdicts

    def _candidates(self, prompt: Prompt, answers: Answers) -> Iterator[Candidate]:
        """Yields the answers that may be in a pair; counts them and those that may not."""
        samples, verdicts = answers
        useful = []
        for sample in samples:
            reason = why_useless(sample)
            if reason is None:
                useful.append(sample)
            else:
                self.tally.drop(prompt.id, reason, sample.k)
        repeats = find_repeats(useful, self.plan.near_duplicate)
        self.answers += len(samples)
        self.has_verdict += any(verdicts.values())
        known, needed = list(verdicts.values()), len(verdicts) if self.plan.combine == "mean" else 1
        for sample in useful:
            k = sample.k
            judged = [of[k] for of in known if k in of]
            if sample.is_own and k in known[0]:
                self._count(prompt, sample, known[0][k])
            if k in repeats:
                self.tally.drop(prompt.id, repeats[k], k)
            elif len(judged) < needed or k not in known[0]:
                self.tally.drop(prompt.id, "no verdict", k)
            else:
                self.candidates += 1
                yield self._judge(sample, judged)

    def _judge(self, sample: Sample, verdicts: Sequence[Verdict]) -> Candidate:
        """Returns an answer with what the rule goes by: the first judge's verdict, or all judges' mean."""
        return Candidate(sample, _mean(verdicts) if self.plan.combine == "mean" else verdicts[0])

    def _count(self, prompt: Prompt, sample: Sample, verdict: Verdict) -> None:
        self.judged += 1
        self.pool.claims.add(verdict)
        if prompt.id in self._looked_at:
            self.pool.add(sample.text)

    def _why_not(self, pair: Proposal, texts: Texts, verdicts: Mapping[str, Mapping[int, Verdict]]) -> str | None:
        """Returns why a pair is not made, None where it is."""
        plan, words = self.plan, pair.words
        if words[0] == words[1] and texts[0].split() == texts[1].split():
            return "equal texts"
        if pair.margin < plan.margin:
            return "margin too small"
        if plan.max_margin is not None and pair.margin > plan.max_margin:
            return "margin too large"
        if self.files.strikes and self.mistakes == "drop" and not pair.is_clean:
            return "chosen answer has a wrong claim"
        if plan.max_ratio is not None and max(words) > plan.max_ratio * max(1, min(words)):
            return "lengths too different"
        if len(verdicts) > 1 and plan.combine != "mean" and not self._is_agreed(pair, verdicts):
            return "judges disagree"
        return None

    def _is_agreed(self, pair: Proposal, verdicts: Mapping[str, Mapping[int, Verdict]]) -> bool:
        """Says whether every further judge orders the two alike, and finds no mistake in the chosen one."""
        chosen, rejected = pair.chosen.sample.k, pair.rejected.sample.k
        for label in self.files.labels[1:]:
            of = verdicts[label]
            if chosen not in of or rejected not in of:
                return False
            if chosen == rejected:  # a rewrite, which no other judge has seen
                continue
            if of[chosen].score <= of[rejected].score or (self.mistakes == "drop" and of[chosen].struck):
                return False
        return True

    def _why_nothing(self, candidates: Sequence[Candidate]) -> str:
        """Returns why a rule had nothing to say of answers."""
        own = [each for each in candidates if each.sample.is_own]
        if self.files.strikes and all(each.is_clean for each in candidates):
            return "no answer has a wrong claim"
        if self.files.strikes and not any(each.is_clean for each in own):
            return "every answer has a wrong claim"
        if len({each.verdict.score for each in candidates}) == 1:
            return "all answers have the same score"
        return "no two answers that fit the rule"

    def funnel(self, prompts: int, pairs: int) -> dict[str, Any]:
        """Returns how many prompts and answers came how far, and why the others did not."""
        by_kind: dict[str, dict[str, int]] = {"prompt": {}, "answer": {}, "pair": {}}
        for name, count in self.tally.counts.most_common():
            kind, _, reason = name.partition(": ")
            by_kind[kind][reason] = count
        return {
            "prompts": prompts,
            "prompts_judged": self.has_verdict,
            "answers": self.answers,
            "answers_judged": self.judged,
            "candidates": self.candidates,
            "prompts_without_mistakes": self.easy,
            "pairs": pairs,
            "yield": pairs / prompts if prompts else 0.0,
            "prompts_lost": by_kind["prompt"],
            "answers_lost": by_kind["answer"],
            "pairs_lost": by_kind["pair"],
        }


def _mean(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns what several judges hold together: the mean of their scores, all their claims, and the first rewrite.

    Where one of them looks at an answer as a whole, it is right if none of them finds a mistake.
    """
    is_judged_whole = any(verdict.is_right is not None for verdict in verdicts)
    return Verdict(
        sum(verdict.score for verdict in verdicts) / len(verdicts),
        tuple(claim for verdict in verdicts for claim in verdict.claims),
        not any(verdict.struck for verdict in verdicts) if is_judged_whole else None,
        next((verdict.rewrite for verdict in verdicts if verdict.rewrite is not None), None),
    )
