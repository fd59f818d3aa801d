"""`mmdpo pairs build`: pairs from answers and verdicts, by a rule and filters. No model, and the same again and again.

dataset/train.parquet   the pairs in TRL's form, images inside, each with where it comes from; eval.parquet beside it
pairs.json              what became of every prompt and answer, and what the pairs are like
dropped.jsonl           every prompt and answer that is in no pair for a reason, with the reason
README.md               the dataset's card
train.yaml              a recipe for `mmdpo train --config`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mmdpo.files import read_json, write_json, write_rows
from mmdpo.pairs.dataset import DATASET, write_dataset
from mmdpo.pairs.facts import describe_pairs, warn
from mmdpo.pairs.offers import Offering, Tally, choose_rule
from mmdpo.pairs.plan import BuildError, BuildPlan
from mmdpo.pairs.prompts import Prompt
from mmdpo.pairs.rules import load
from mmdpo.pairs.run_files import RunFiles
from mmdpo.pairs.samples import SAMPLER, Sample
from mmdpo.pairs.second_process import offer_all, second_process
from mmdpo.pairs.taking import take
from mmdpo.progress import count
from mmdpo.registry import is_elsewhere

PAIRS, DROPPED = "pairs.json", "dropped.jsonl"


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

    Answers and verdicts are read prompt by prompt and forgotten; those of a pair are read again as it is counted,
    and as it is written.

    Raises:
        BuildError: something is missing, the judge does not go with the rule, or no pair is left.
        SamplesError: the picture of a pair is not the one that was asked about.
    """
    files, tally = RunFiles(folder, labels, is_planned), Tally()
    rule, note = choose_rule(prompts, files, plan)
    for prompt, reason in left_out:
        tally.drop(prompt.id, reason)
    offering = Offering(prompts, files, plan, rule, tally)
    slots = offer_all(offering, prompts)
    taken = take(slots, offering.offers, files, plan, tally)
    write_rows(folder / DROPPED, tally.dropped)
    if not taken:
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in tally.counts.most_common(6))
        raise BuildError(
            f"no pair is left of {len(prompts):,} prompts: {reasons or 'nothing was judged'}. Look at "
            f"{folder / DROPPED}; another rule, a margin of 0 or more answers at a higher temperature may do"
        )
    describe = partial(describe_pairs, offering, taken, resamples)
    allowed = not is_elsewhere(rule)
    with second_process(describe, len(taken), "counting what pairs are like", allowed=allowed) as wait:
        pairs = (offering.read(prompt, offer)[0] for prompt, offer in count(taken, "writing pairs", "pair"))
        sizes = write_dataset(taken, pairs, files, plan, rule, folder / DATASET)
        facts = describe() if wait is None else wait()
    result = {
        "rule": rule,
        "asked_rule": plan.rule,
        "about": load(rule).about,
        "notes": [note] if note else [],
        "plan": {name: value for name, value in asdict(plan).items() if name != "to"},
        "judges": files.versions,
        "sampler": read_json(folder / SAMPLER),
        "funnel": offering.funnel(len(prompts) + len(left_out), len(taken)),
        "pairs": sizes,
        "images": len({digest for prompt, _ in taken for digest in files.images(prompt)}),
        **facts,
    }
    result["notes"] += list(warn(result))
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
    files = RunFiles(folder, [label], is_planned)
    offering = Offering(prompts, files, plan, choose_rule(prompts, files, plan)[0], Tally())

    def find(prompt: Prompt) -> set[int]:
        offering.forget()  # whether another prompt gives the same pair is not known yet
        places = [place for slot in offering.offer(prompt) for place in slot.offers[:most]]
        return {k for place in places for k in offering.offers[place][:2]}

    return find
