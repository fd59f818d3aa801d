"""`mmdpo pairs build`: pairs from answers and verdicts, by a rule and filters. No model, and the same again and again.

dataset/train.parquet   the pairs in TRL's form, images inside, each with where it comes from; eval.parquet beside it
pairs.json              what became of every prompt and answer, and what the pairs are like
dropped.jsonl           every prompt and answer that is in no pair for a reason, with the reason
README.md               the dataset's card
train.yaml              a recipe for `mmdpo train --config`
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from xxhash import xxh3_128_digest

from mmdpo.data.convert import write_examples
from mmdpo.files import digest_of, make_folder, read_json, to_json, write_json, write_rows
from mmdpo.pairs.balance import MARKS, UNEVEN, Values, area_under_curve, balance, count_words
from mmdpo.pairs.filters import find_repeats, why_useless
from mmdpo.pairs.judges import Verdict, load
from mmdpo.pairs.judging import join_rows, to_row
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.rules import RULES, Candidate, Proposal
from mmdpo.pairs.samples import SAMPLER, SAMPLES, Sample, explain_changed, list_parts, read_prompt_digests
from mmdpo.records import CHOSEN, REJECTED, PreferenceExample, derive_generator
from mmdpo.registry import name_nearest

DATASET, PAIRS, DROPPED = "dataset", "pairs.json", "dropped.jsonl"
TRAIN, EVAL = "train.parquet", "eval.parquet"
FALLBACK = "best_worst"
LEAST_CLEAN = 1 / 3
"""Share of prompts with an answer without a wrong claim below which rules that look for one are not followed."""
MOST_OFFERS, MOST_PROPOSALS = 24, 240
"""Pairs that a prompt is asked for, of which one is taken, and those that are looked at for so many."""
SHOWN_CLAIMS = 20
LOOKED_AT = 4_000
"""Pairs that the shortcut test looks at, and prompts by which shares of all answers are estimated."""
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


class BuildError(ValueError):
    """Pairs that cannot be built: says what is missing and what to do."""


@dataclass(frozen=True)
class BuildPlan:
    """How pairs are made. Raises BuildError for a rule that is none, or a number out of range."""

    rule: str = "clean_near"
    margin: float = 1.0
    """Least margin: wrong claims or points of score, as the rule counts."""
    max_margin: float | None = None
    """Most margin: what is too easy teaches little."""
    per_prompt: int = 1
    per_image: int = 3
    near_duplicate: float = 0.9
    """Share of common pieces from which two answers to a prompt are one."""
    mistakes: str = "drop"
    """Chosen answers with a wrong claim: `drop` them, `weigh` them (column `clean` is 0), or `keep` them."""
    max_ratio: float | None = None
    """How many times as long, at most, the longer answer of a pair is."""
    balance: str = "mean"
    """`mean`: chosen and rejected answers have as many words in the mean; `style`: marks of style too; `none`."""
    combine: str = "both"
    """Several judges: `both` (all agree on a pair, or it is dropped), `first_then` (the later ones judge only answers
    that would be in a pair), `mean` of their scores."""
    eval_share: float = 0.0
    """Share of the images whose pairs are kept apart."""
    seed: int = 0
    round: int = 1
    licence: str = ""
    """Of the images, where their rows do not say it."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BuildError(
                f"there is no rule {self.rule!r}{name_nearest(self.rule, RULES)} There are {', '.join(RULES)}"
            )
        choices = {
            "mistakes": ("drop", "weigh", "keep"),
            "balance": ("mean", "style", "none"),
            "combine": ("both", "first_then", "mean"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise BuildError(f"{name} is {getattr(self, name)!r}; give {', '.join(known)}")
        for name in ("per_prompt", "per_image"):
            if getattr(self, name) < 1:
                raise BuildError(f"{name} is {getattr(self, name)}; give 1 or more")
        if not 0 < self.near_duplicate <= 1:
            raise BuildError(f"near_duplicate is {self.near_duplicate}; give a share above 0 and at most 1")
        if not 0 <= self.eval_share < 1:
            raise BuildError(f"eval_share is {self.eval_share}; give a share from 0 to below 1")
        if self.max_ratio is not None and not self.max_ratio >= 1:
            raise BuildError(f"max_ratio is {self.max_ratio}; give 1 or more")
        if not math.isfinite(self.margin):
            raise BuildError(f"margin is {self.margin}; give a number")
        if self.max_margin is not None and not self.max_margin >= self.margin:
            raise BuildError(f"max_margin is {self.max_margin}; give no less than the margin, {self.margin:g}")


class RunFiles:
    """The answers and verdicts of a run, read prompt by prompt: a million of them need not fit into memory."""

    def __init__(
        self, folder: Path, labels: Sequence[str], is_planned: Callable[[Sample], bool] = lambda sample: True
    ) -> None:
        """Looks where the lines of each prompt stand. Raises BuildError where a file is missing.

        Answers that are not planned any more are none of the run's.
        """
        self.folder, self.labels, self._is_planned = folder, tuple(labels), is_planned
        self._asked = read_prompt_digests(folder)
        self._samples = _Lines(list_parts(folder, SAMPLES))
        if not self._samples.count:
            raise BuildError(f"{folder} holds no answers: run `mmdpo pairs sample` first")
        self._verdicts = {}
        for label in labels:
            path = folder / f"verdicts-{label}.jsonl"
            if not path.is_file():
                raise BuildError(f"{folder} holds no verdicts of {label}: run `mmdpo pairs judge` first")
            self._verdicts[label] = _Lines([path])
        judges = [read_json(folder / f"judge-{label}.json")["judge"] for label in labels]
        self.versions = {label: f"{of['judge']}@{of['words']}" for label, of in zip(labels, judges, strict=True)}
        self.strikes = bool(judges) and bool(load(judges[0]["judge"]).STRIKES)
        self.judge = judges[0]["judge"] if judges else ""

    @lru_cache(maxsize=2)  # noqa: B019 - it lives as long as the build
    def samples(self, prompt: str) -> list[Sample]:
        """Returns the answers to a prompt, by number."""
        found = {sample.k: sample for sample in map(_to_sample, self._samples.of(prompt)) if self._is_planned(sample)}
        return [found[k] for k in sorted(found)]

    def read(self, prompt: str, answers: Collection[int]) -> tuple[dict[int, Sample], dict[str, dict[int, Verdict]]]:
        """Returns some answers to a prompt by number, and their verdicts by judge and number."""
        samples = {row["k"]: _to_sample(row) for row in self._samples.of(prompt) if row["k"] in answers}
        return samples, {label: join_rows(list(of.of(prompt)), answers) for label, of in self._verdicts.items()}

    def images(self, prompt: Prompt) -> tuple[str, ...]:
        """Returns the digests of a prompt's pictures, of those that were asked about, without opening any."""
        asked = self._asked.get(prompt.id)
        return prompt.image_digests if asked is None else asked[1]

    def digest(self, prompt: Prompt) -> str:
        """Returns the digest of what was asked, pictures too, without opening any."""
        asked = self._asked.get(prompt.id)
        return prompt.digest if asked is None else asked[0]

    @lru_cache(maxsize=2)  # noqa: B019
    def verdicts(self, prompt: str) -> dict[str, dict[int, Verdict]]:
        """Returns the verdicts of the answers to a prompt, by judge and number."""
        return {label: join_rows(list(lines.of(prompt))) for label, lines in self._verdicts.items()}


def _to_sample(row: Mapping[str, Any]) -> Sample:
    return Sample(**{name: value for name, value in row.items() if name in Sample.__dataclass_fields__})


class _Lines:
    """Lines of JSON by the id that they begin with."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._places: dict[str, list[tuple[int, int]]] = {}
        self.count = 0
        for number, file in enumerate(self._files):
            place = 0
            for line in file:
                found = _ID.match(line)
                if found is not None and line.endswith(b"\n"):
                    self._places.setdefault(json.loads(found[1]), []).append((number, place))
                    self.count += 1
                place += len(line)

    def of(self, name: str) -> Iterator[dict[str, Any]]:
        for number, place in self._places.get(name, ()):
            file = self._files[number]
            file.seek(place)
            yield json.loads(file.readline())


class Offer(NamedTuple):
    """A pair that a prompt would give: what is known of it while not all prompts have been read."""

    chosen: int
    rejected: int
    """Numbers of the answers."""
    margin: float
    is_clean: bool
    texts: tuple[str, str] | None
    """Where they are not the answers'."""
    words: tuple[int, int]
    marks: tuple[Values, ...]
    """Of style, where pairs are chosen by it."""


class Pool:
    """What answers of the policy are like on the whole: words, and marks of style."""

    def __init__(self) -> None:
        self.answers, self._words, self._marks = 0, 0.0, [0.0] * len(MARKS)

    def add(self, text: str) -> None:
        """Counts an answer."""
        self.answers += 1
        self._words += count_words(text)
        for place, measure in enumerate(MARKS.values()):
            self._marks[place] += measure(text)

    @property
    def words(self) -> float | None:
        """Of an answer, in the mean; None without one."""
        return self._words / self.answers if self.answers else None

    @property
    def marks(self) -> dict[str, float | None]:
        """The share of answers that have each, in per cent; None without an answer."""
        shares = (100 * of / self.answers if self.answers else None for of in self._marks)
        return dict(zip(MARKS, shares, strict=True))


@dataclass
class Tally:
    """What became of prompts and answers."""

    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, prompt: str, reason: str, k: int | None = None) -> None:
        """Counts and keeps what is in no pair."""
        self.counts[f"{'prompt' if k is None else 'answer'}: {reason}"] += 1
        self.dropped.append({"id": prompt} | ({} if k is None else {"k": k}) | {"reason": reason})


def build_pairs(
    prompts: Sequence[Prompt],
    folder: Path,
    labels: Sequence[str],
    plan: BuildPlan,
    *,
    left_out: Sequence[tuple[Prompt, str]] = (),
    is_planned: Callable[[Sample], bool] = lambda sample: True,
    resamples: int = 500,
) -> dict[str, Any]:
    """Builds the pairs of a run and returns what pairs.json holds.

    `labels` name the judges, the one whose verdicts the rule reads first. `left_out` are prompts that were not asked;
    `is_planned` says which answers on disk are the run's. `resamples` are those of the intervals of the shortcut test;
    0 leaves it out.

    Raises:
        BuildError: something is missing, the judge does not go with the rule, or no pair is left.
        SamplesError: the picture of a pair is not the one that was asked about.
    """
    files, tally = RunFiles(folder, labels, is_planned), Tally()
    maker, note = _open_maker(prompts, files, plan, tally)
    rule = maker.rule
    for prompt, reason in left_out:
        tally.drop(prompt.id, reason)
    slots: list[tuple[Prompt, list[Offer]]] = []
    for prompt in prompts:
        slots += [(prompt, offers) for offers in maker.offer(prompt)]
    taken = _take(slots, files, plan, tally)
    chosen = [(prompt, offers[n]) for (prompt, offers), n in zip(slots, taken, strict=True) if n is not None]
    del slots  # most of what is held in memory: offers that are not taken
    pairs = [(prompt, maker.make(prompt, offer)) for prompt, offer in chosen]
    if not pairs:
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in tally.counts.most_common(6))
        write_rows(folder / DROPPED, tally.dropped)
        raise BuildError(
            f"no pair is left of {len(prompts):,} prompts: {reasons or 'nothing was judged'}. Look at "
            f"{folder / DROPPED}; "
            "another rule, a margin of 0 or more answers at a higher temperature may do"
        )
    facts = describe_pairs(pairs, maker, files, plan, resamples=resamples)
    sizes = write_dataset(pairs, files, plan, rule, folder / DATASET)
    result = {
        "rule": rule,
        "asked_rule": plan.rule,
        "about": RULES[rule].about,
        "notes": [note] if note else [],
        "plan": asdict(plan),
        "judges": files.versions,
        "sampler": read_json(folder / SAMPLER),
        "funnel": maker.funnel(len(prompts) + len(left_out), len(pairs)),
        "pairs": sizes,
        "images": len({digest for prompt, _ in pairs for digest in files.images(prompt)}),
        **facts,
    }
    result["notes"] += list(warn(result))
    write_rows(folder / DROPPED, tally.dropped)
    write_json(folder / PAIRS, result)
    return result


def find_offered(
    prompts: Sequence[Prompt],
    folder: Path,
    label: str,
    plan: BuildPlan,
    most: int,
    is_planned: Callable[[Sample], bool] = lambda sample: True,
) -> Callable[[Prompt], set[int]]:
    """Returns what says which answers would be in the first few pairs of a prompt by one judge's verdicts.

    Raises BuildError as `build_pairs` does.
    """
    maker, _ = _open_maker(prompts, RunFiles(folder, [label], is_planned), plan, Tally())

    def find(prompt: Prompt) -> set[int]:
        maker.seen.clear()  # whether another prompt gives the same pair is not known yet
        offers = maker.offer(prompt)
        return {k for of in offers for offer in of[:most] for k in (offer.chosen, offer.rejected)}

    return find


def _open_maker(prompts: Sequence[Prompt], files: RunFiles, plan: BuildPlan, tally: Tally) -> tuple[_Maker, str]:
    """Returns what makes the pairs, and what to say of its rule. Raises BuildError if the judge does not go with it."""
    rule, note = _choose_rule(prompts, files, plan)
    if RULES[rule].needs_strikes and not files.strikes:
        raise BuildError(
            f"the rule {rule} looks for wrong claims, and {files.judge} only ranks answers: take best_worst, ranked or "
            "same_length"
        )
    return _Maker(prompts, files, plan, rule, "weigh" if rule != plan.rule else plan.mistakes, tally), note


def _choose_rule(prompts: Sequence[Prompt], files: RunFiles, plan: BuildPlan) -> tuple[str, str]:
    """Returns the rule, another than asked for where too few prompts have a clean answer, and what to say of that."""
    if not (plan.rule.startswith("clean") and files.strikes and plan.mistakes == "drop"):
        return plan.rule, ""
    judged = clean = 0
    for prompt in look_at(prompts):
        verdicts = files.verdicts(prompt.id)[files.labels[0]]
        own = {sample.k for sample in files.samples(prompt.id) if sample.is_own}
        judged += bool(verdicts)
        clean += any(not verdict.struck for k, verdict in verdicts.items() if k in own)
    if not judged or clean >= LEAST_CLEAN * judged:
        return plan.rule, ""
    return FALLBACK, (
        f"{clean:,} of {judged:,} prompts have an answer without a wrong claim, fewer than a third: pairs follow the "
        f"rule "
        f"{FALLBACK}, and the column `clean` says whose chosen answer has no wrong claim. The recipe weighs by it"
    )


def look_at(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Returns the prompts whose answers are looked at where a share is wanted, not a count: all of a few thousand."""
    return prompts[:: math.ceil(len(prompts) / LOOKED_AT)] if prompts else prompts


class _Maker:
    """Makes offers of prompts, and counts what they lose on the way."""

    def __init__(
        self, prompts: Sequence[Prompt], files: RunFiles, plan: BuildPlan, rule: str, mistakes: str, tally: Tally
    ) -> None:
        self.files, self.plan, self.rule, self.mistakes, self.tally = files, plan, rule, mistakes, tally
        self.seen = set[bytes]()
        self.answers = self.judged = self.candidates = self.easy = self.own_claims = self.own_struck = 0
        self.has_verdict = 0
        self.pool = Pool()
        self._looked_at = {prompt.id for prompt in look_at(prompts)}

    def make(self, prompt: Prompt, offer: Offer) -> Proposal:
        """Returns the pair that a prompt has offered."""
        answers = (offer.chosen, offer.rejected)
        samples, verdicts = self.files.read(prompt.id, answers)
        candidates = {k: self._judged(sample, verdicts) for k, sample in samples.items()}
        chosen, rejected = (candidates[k] for k in answers)
        texts = offer.texts or (chosen.sample.text, rejected.sample.text)
        return Proposal(chosen, rejected, offer.margin, texts, offer.is_clean)

    def offer(self, prompt: Prompt) -> list[list[Offer]]:
        """Returns what may be taken for each of the prompt's pairs; counts what falls away."""
        candidates = list(self._candidates(prompt))
        if len(candidates) < 2 and not any(each.verdict.rewrite for each in candidates):
            self.tally.drop(prompt.id, "fewer than two answers to compare")
            return []
        if self.files.strikes and all(each.is_clean for each in candidates if each.sample.is_own):
            self.easy += 1
        kept, reasons = list[Offer](), Counter[str]()
        has_styles = self.plan.balance == "style"
        generator = derive_generator(self.plan.seed, prompt.id, "pairs")
        for proposal in islice(RULES[self.rule].propose(candidates, generator), MOST_PROPOSALS):
            words = proposal.words
            reason = self._why_not(prompt, proposal, words)
            if reason is not None:
                reasons[reason] += 1
                continue
            marks = tuple(map(proposal.measure, MARKS.values())) if has_styles else ()
            own = proposal.chosen.sample.text, proposal.rejected.sample.text
            texts = None if proposal.texts == own else proposal.texts
            numbers = proposal.chosen.sample.k, proposal.rejected.sample.k
            kept.append(Offer(*numbers, proposal.margin, proposal.is_clean, texts, words, marks))
            if len(kept) == MOST_OFFERS:
                break
        if not kept:
            self.tally.drop(prompt.id, reasons.most_common(1)[0][0] if reasons else self._why_nothing(candidates))
            return []
        count = min(self.plan.per_prompt, len(kept))
        return [kept[number::count] for number in range(count)]

    def _candidates(self, prompt: Prompt) -> Iterator[Candidate]:
        """Yields the answers that may be in a pair; counts them and those that may not."""
        samples = self.files.samples(prompt.id)
        useful = []
        for sample in samples:
            reason = why_useless(sample)
            if reason is None:
                useful.append(sample)
            else:
                self.tally.drop(prompt.id, reason, sample.k)
        repeats = find_repeats(useful, self.plan.near_duplicate)
        verdicts = self.files.verdicts(prompt.id)
        self.answers += len(samples)
        self.has_verdict += any(verdicts.values())
        asked = self.files.labels if self.plan.combine == "mean" else self.files.labels[:1]
        for sample in useful:
            own = next((of[sample.k] for of in verdicts.values() if sample.k in of), None)
            if sample.is_own and own is not None:
                self._count(prompt, sample, own)
            if sample.k in repeats:
                self.tally.drop(prompt.id, repeats[sample.k], sample.k)
            elif any(sample.k not in verdicts[label] for label in asked):
                self.tally.drop(prompt.id, "no verdict", sample.k)
            else:
                self.candidates += 1
                yield self._judged(sample, verdicts)

    def _judged(self, sample: Sample, verdicts: Mapping[str, Mapping[int, Verdict]]) -> Candidate:
        if self.plan.combine == "mean":
            return Candidate(sample, _mean([of[sample.k] for of in verdicts.values()]))
        return Candidate(sample, verdicts[self.files.labels[0]][sample.k])

    def _count(self, prompt: Prompt, sample: Sample, verdict: Verdict) -> None:
        self.judged += 1
        self.own_claims += verdict.right + verdict.struck
        self.own_struck += verdict.struck
        if prompt.id in self._looked_at:
            self.pool.add(sample.text)

    def _why_not(self, prompt: Prompt, proposal: Proposal, words: tuple[int, int]) -> str | None:
        """Returns why a pair is not made, None where it is."""
        plan = self.plan
        if words[0] == words[1] and proposal.texts[0].split() == proposal.texts[1].split():
            return "equal texts"
        if proposal.margin < plan.margin:
            return "margin too small"
        if plan.max_margin is not None and proposal.margin > plan.max_margin:
            return "margin too large"
        if self.files.strikes and self.mistakes == "drop" and not proposal.is_clean:
            return "chosen answer has a wrong claim"
        if plan.max_ratio is not None and max(words) > plan.max_ratio * max(1, min(words)):
            return "lengths too different"
        if plan.combine != "mean" and not self._is_agreed(prompt, proposal):
            return "judges disagree"
        key = xxh3_128_digest("\0".join((self.files.digest(prompt), *proposal.texts)).encode())
        if key in self.seen:
            return "the same pair elsewhere"
        self.seen.add(key)
        return None

    def _is_agreed(self, prompt: Prompt, proposal: Proposal) -> bool:
        """Says whether every further judge orders the two alike, and finds no mistake in the chosen one."""
        chosen, rejected = proposal.chosen.sample.k, proposal.rejected.sample.k
        verdicts = self.files.verdicts(prompt.id)
        for label in self.files.labels[1:]:
            of = verdicts[label]
            if chosen not in of or rejected not in of:
                return False
            is_own_pair = chosen == rejected  # a rewrite, which no other judge has seen
            if not is_own_pair and of[chosen].score <= of[rejected].score:
                return False
            if not is_own_pair and self.mistakes == "drop" and of[chosen].struck:
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
    """Returns what several judges hold together: the mean of their scores, and all their claims."""
    rights = [verdict.is_right for verdict in verdicts if verdict.is_right is not None]
    return Verdict(
        sum(verdict.score for verdict in verdicts) / len(verdicts),
        tuple(claim for verdict in verdicts for claim in verdict.claims),
        all(rights) if rights else None,
    )


def _take(
    slots: Sequence[tuple[Prompt, list[Offer]]], files: RunFiles, plan: BuildPlan, tally: Tally
) -> list[int | None]:
    """Returns which of the offers of each slot is taken, None for none; counts what falls away."""
    limited = _limit_per_image(slots, files, plan.per_image)
    taken = limited if plan.balance == "none" else _balance(slots, limited, with_style=plan.balance == "style")
    paired = {prompt.id for (prompt, _), n in zip(slots, taken, strict=True) if n is not None}
    told = set[str]()
    for (prompt, _), before, n in zip(slots, limited, taken, strict=True):
        reason = "too many of an image" if before is None else "lengths and style would differ"
        if n is None and prompt.id in paired:
            tally.counts[f"pair: {reason}"] += 1
        elif n is None and prompt.id not in told:
            tally.drop(prompt.id, reason)
            told.add(prompt.id)
    return taken


def _limit_per_image(slots: Sequence[tuple[Prompt, list[Offer]]], files: RunFiles, most: int) -> list[int | None]:
    counts = Counter[tuple[str, ...]]()
    taken: list[int | None] = []
    for prompt, _ in slots:
        images = files.images(prompt)
        counts[images] += 1
        taken.append(0 if counts[images] <= most else None)
    return taken


def _balance(
    slots: Sequence[tuple[Prompt, list[Offer]]], taken: list[int | None], *, with_style: bool
) -> list[int | None]:
    """Returns what is taken once the mean lengths agree, and with `with_style` the marks of style that decide most."""
    if with_style:
        for mark in range(len(MARKS)):
            values = [offers[n].marks[mark] for (_, offers), n in zip(slots, taken, strict=True) if n is not None]
            if not 1 - UNEVEN <= area_under_curve(values) <= UNEVEN:
                taken = balance([[offer.marks[mark] for offer in offers] for _, offers in slots], taken)
    return balance([[offer.words for offer in offers] for _, offers in slots], taken)


def describe_pairs(
    pairs: Sequence[tuple[Prompt, Proposal]], maker: _Maker, files: RunFiles, plan: BuildPlan, *, resamples: int
) -> dict[str, Any]:
    """Returns what pairs are like: lengths, margins, mistakes, style, and what the text alone gives away."""
    proposals = [proposal for _, proposal in pairs]
    count = len(pairs)
    words = [proposal.words for proposal in proposals]
    means = [sum(of[side] for of in words) / count for side in (0, 1)]
    margins = Counter(round(proposal.margin, 2) for proposal in proposals)
    struck = Counter(
        claim.text for proposal in proposals for claim in proposal.rejected.verdict.claims if not claim.is_true
    )
    pool = maker.pool.marks
    marks = {
        name: {
            "chosen": 100 * sum(measure(p.texts[0]) for p in proposals) / count,
            "rejected": 100 * sum(measure(p.texts[1]) for p in proposals) / count,
            "pool": pool[name],
            "auc": area_under_curve([p.measure(measure) for p in proposals]),
        }
        for name, measure in MARKS.items()
    }
    return {
        "clean": 100 * sum(proposal.is_clean for proposal in proposals) / count if files.strikes else None,
        "errors": _errors(proposals, maker) if files.strikes else None,
        "by_judge": _errors_by_judge(pairs, files, plan) if files.strikes else {},
        "words": {
            "chosen": means[0],
            "rejected": means[1],
            "pool": maker.pool.words,
            "difference": 100 * (means[0] - means[1]) / ((means[0] + means[1]) / 2),
            "auc": area_under_curve([(float(a), float(b)) for a, b in words]),
        },
        "margins": {str(margin): margins[margin] for margin in sorted(margins)},
        "style": marks,
        "struck": dict(struck.most_common(SHOWN_CLAIMS)),
        "shortcut": _find_shortcut(pairs, files, plan.seed, resamples),
    }


def _errors(proposals: Sequence[Proposal], maker: _Maker) -> dict[str, float | None]:
    """Returns which share of the claims is wrong, in per cent: of chosen and rejected answers, and of all judged."""

    def share(verdicts: Sequence[Verdict]) -> float | None:
        struck = sum(verdict.struck for verdict in verdicts)
        claims = struck + sum(verdict.right for verdict in verdicts)
        return 100 * struck / claims if claims else None

    return {
        "chosen": share([p.chosen.verdict for p in proposals if p.chosen is not p.rejected]),
        "rejected": share([p.rejected.verdict for p in proposals]),
        "pool": 100 * maker.own_struck / maker.own_claims if maker.own_claims else None,
    }


def _errors_by_judge(pairs: Sequence[tuple[Prompt, Proposal]], files: RunFiles, plan: BuildPlan) -> dict[str, float]:
    """Returns which share of the chosen answers each judge finds a mistake in: the first has chosen them, so its own
    share is too low."""
    found = {}
    for place, label in enumerate(files.labels):
        if not place and plan.combine != "mean":
            seen = [bool(proposal.chosen.verdict.struck) for _, proposal in pairs]
        else:
            chosen = ((prompt.id, proposal.chosen.sample.k) for prompt, proposal in pairs)
            seen = [bool(of[k].struck) for prompt, k in chosen if k in (of := files.read(prompt, [k])[1][label])]
        if seen:
            found[label] = 100 * sum(seen) / len(seen)
    return found


def _find_shortcut(
    pairs: Sequence[tuple[Prompt, Proposal]], files: RunFiles, seed: int, resamples: int
) -> dict[str, Any]:
    """Returns how well a rule that reads only the text tells chosen from rejected; why not, without scikit-learn."""
    from mmdpo.diagnosis.shortcut import TextPair, measure_shortcut

    if not resamples:
        return {"rules": {}, "notes": ["not measured"]}
    drawn = list(pairs)
    if len(drawn) > LOOKED_AT:
        places = np.random.default_rng(seed).choice(len(drawn), LOOKED_AT, replace=False)
        drawn = [drawn[place] for place in sorted(places.tolist())]
    texts = [TextPair(p.id, p.question, "+".join(files.images(p)), *proposal.texts) for p, proposal in drawn]
    try:
        found = measure_shortcut(texts, resamples=resamples, seed=seed)
    except ImportError as error:
        return {"rules": {}, "notes": [str(error)]}
    return {"rules": found["rules"], "notes": found["notes"], "pairs": len(texts)}


def warn(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the pairs are known to teach besides looking, and what to do."""
    words, errors = result["words"], result["errors"]
    if words["difference"] < -10:
        yield (
            f"chosen answers are {-words['difference']:.0f} % shorter than rejected ones, which teaches brevity: "
            f"balance: "
            "mean, or a rule that compares answers of one length"
        )
    if errors and (errors["chosen"] or 0) > 10:
        yield (
            f"{errors['chosen']:.0f} % of what chosen answers say is held to be wrong, and a model that is trained "
            f"on them "
            "ends not far from that: mistakes: drop, or a rule that starts with clean"
        )
    uneven = [name for name, of in result["style"].items() if not 1 - UNEVEN <= of["auc"] <= UNEVEN]
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
    if text and text["accuracy"] is not None and text["accuracy"] > 70:
        yield (
            f"a rule that reads only the text is right in {text['accuracy']:.0f} % of pairs: they can be learnt "
            "without looking"
        )
    if result["funnel"]["yield"] < 0.1:
        yield (
            f"{result['funnel']['pairs']:,} pairs of {result['funnel']['prompts']:,} prompts, fewer than one in ten: "
            f"there is "
            "little left to learn from these prompts"
        )


def write_dataset(
    pairs: Sequence[tuple[Prompt, Proposal]],
    files: RunFiles,
    plan: BuildPlan,
    rule: str,
    folder: Path,
) -> dict[str, int]:
    """Writes the pairs, those of some images apart, and returns how many are where."""
    make_folder(folder)
    sampler = read_json(files.folder / SAMPLER)
    parts: dict[str, list[tuple[Prompt, Proposal]]] = {TRAIN: [], EVAL: []}
    lead = group_images([files.images(prompt) for prompt, _ in pairs])
    for prompt, proposal in pairs:
        if prompt.image_digests != files.images(prompt):  # they are read for the dataset anyway
            raise explain_changed(files.folder, prompt)
        is_eval = int(digest_of(lead[files.images(prompt)[0]])[:8], 16) < plan.eval_share * 2**32
        parts[EVAL if is_eval else TRAIN].append((prompt, proposal))
    if not parts[TRAIN]:
        parts = {TRAIN: parts[EVAL], EVAL: []}
    sizes = {}
    for name, of in parts.items():
        if not of:
            (folder / name).unlink(missing_ok=True)
            continue
        examples = [_to_example(prompt, proposal, number) for number, (prompt, proposal) in _number(of)]
        rows = [_describe(prompt, proposal, files, plan, rule, sampler) for prompt, proposal in of]
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        known = {column: values for column, values in columns.items() if any(value is not None for value in values)}
        sizes[name.removesuffix(".parquet")] = write_examples(examples, folder / name, columns=known)
    return sizes


def group_images(together: Iterable[Sequence[str]]) -> dict[str, str]:
    """Returns of each picture the first, by its digest, of all that stand with it, one way or another, in a prompt.

    >>> group_images([("b", "c"), ("a", "c"), ("d",)])
    {'b': 'a', 'c': 'a', 'a': 'a', 'd': 'd'}
    """
    parents: dict[str, str] = {}

    def find(image: str) -> str:
        parents.setdefault(image, image)
        while parents[image] != image:
            parents[image] = image = parents[parents[image]]
        return image

    for images in together:
        for image in images:
            first, last = sorted((find(images[0]), find(image)))
            parents[last] = first
    return {image: find(image) for image in parents}


def _number(pairs: Sequence[tuple[Prompt, Proposal]]) -> Iterator[tuple[int, tuple[Prompt, Proposal]]]:
    counts = Counter[str]()
    for prompt, proposal in pairs:
        yield counts[prompt.id], (prompt, proposal)
        counts[prompt.id] += 1


def _to_example(prompt: Prompt, proposal: Proposal, number: int) -> PreferenceExample:
    texts = dict(zip((CHOSEN, REJECTED), proposal.texts, strict=True))
    return PreferenceExample(
        id=prompt.id if not number else f"{prompt.id}/{number}",
        prompt=prompt.turns,
        responses={
            name: ({"role": "assistant", "content": [{"type": "text", "text": text}]},) for name, text in texts.items()
        },
        images=prompt.images,
        source=prompt.source,
    )


def _describe(
    prompt: Prompt,
    proposal: Proposal,
    files: RunFiles,
    plan: BuildPlan,
    rule: str,
    sampler: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns where a pair comes from: the further columns of its row."""
    chosen, rejected = proposal.chosen, proposal.rejected
    is_rewritten = proposal.texts[0] != chosen.sample.text
    is_shortened = proposal.texts[1] != rejected.sample.text

    def claims(candidate: Candidate) -> str:
        return to_json(to_row(candidate.verdict).get("claims", []))

    return {
        "prompt_id": prompt.id,
        "image_sha256": " ".join(files.images(prompt)),
        "round": plan.round,
        "sampler": name_sampler(sampler["sampler"]),
        "seed": int(sampler["settings"]["seed"]),
        "k_chosen": chosen.sample.k,
        "k_rejected": rejected.sample.k,
        "judge": " + ".join(files.versions),
        "judge_version": " + ".join(files.versions.values()),
        "score_chosen": float(chosen.verdict.score),
        "score_rejected": float(rejected.verdict.score),
        "claims_chosen": claims(chosen),
        "claims_rejected": claims(rejected),
        "logp_chosen": None if is_rewritten else chosen.sample.logprob,
        "logp_rejected": None if is_shortened else rejected.sample.logprob,
        "rule": rule,
        "clean": float(proposal.is_clean),
        "margin": float(proposal.margin),
        "length_ratio": proposal.words[0] / max(1, proposal.words[1]),
        "licence": prompt.licence or plan.licence,
    }


def name_sampler(described: Mapping[str, Any]) -> str:
    """Returns the name of the model that gave answers: as it was named, with the digest of its weights."""
    weights = [described.get(key) for key in ("weights", "adapter_weights")]
    known = [str(digest)[:16] for digest in weights if digest]
    return "@".join([str(described["model"]), *known])


def digest_dataset(folder: Path) -> str:
    """Returns the digest of a built dataset's files."""
    return digest_of({path.name: xxh3_128_digest(path.read_bytes()).hex() for path in sorted(folder.glob("*.parquet"))})
