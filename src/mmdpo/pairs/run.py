"""The steps of a run of the data engine, each from its options: sample, judge, build; what is left, and its cost."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from mmdpo.data.export import WRITERS, export_examples
from mmdpo.data.read import read_dataset
from mmdpo.evaluation.options import EndpointOptions, open_answerer
from mmdpo.files import read_json, write_json, write_whole
from mmdpo.folders import check_kind, hold_folder, make_folder
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.endpoint import BudgetSpentError
from mmdpo.generation.questions import Answerer, Processes
from mmdpo.options import parse_options
from mmdpo.pairs.asking import Asker, JudgeError
from mmdpo.pairs.build import build_pairs, find_offered
from mmdpo.pairs.card import write_card
from mmdpo.pairs.check_judge import Gold, check_judge
from mmdpo.pairs.cost import CHECK_REPLIES, COST, Estimate, Ledger, Spent
from mmdpo.pairs.dataset import DATASET
from mmdpo.pairs.filters import why_useless
from mmdpo.pairs.judges import Context
from mmdpo.pairs.judging import (
    JUDGE,
    PROOF,
    JudgeChoice,
    Unjudged,
    check_needs,
    describe,
    judge_samples,
    read_verdicts,
)
from mmdpo.pairs.options import FILE, PairsOptions
from mmdpo.pairs.prompts import (
    Prompt,
    PromptsError,
    find_held_out,
    read_held_out,
    read_prompts,
    read_vocabulary,
)
from mmdpo.pairs.rewards import make_rewards
from mmdpo.pairs.samples import SAMPLER, Sample, SamplingPlan, check_asked, kind_of, numbers_of, read_samples, sample
from mmdpo.pairs.show import read_dropped, read_taken, show_prompt
from mmdpo.records import Message
from mmdpo.registry import name_nearest

MARKS = (SAMPLER, "samples*.jsonl", "judge-*.json", "verdicts-*.jsonl", "check-*.json*", COST)
"""Names of files that a run alone has; a user's own prompts may be called prompts.jsonl."""
PROPOSED = 3
"""Pairs of a prompt whose answers a second judge is asked about, with `first_then`."""


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Lets Python look less often for objects that hold each other: building makes millions, none of them such."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], 100_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class PairsRun:
    """A run of the data engine: its options, its prompts, and what is on disk of it."""

    def __init__(self, options: PairsOptions, prompts: Sequence[Prompt] | None = None) -> None:
        """Reads nothing yet. `prompts` are those of the options unless given."""
        self.options, self.folder = options, options.out
        self._given = prompts

    @cached_property
    def _read(self) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
        chosen = self.options.input
        found = self._given
        if found is None:
            found = read_prompts(
                chosen.prompts,
                split=chosen.split,
                config=chosen.dataset_config,
                image_root=chosen.image_root,
                ask_of_images=chosen.ask,
                limit=chosen.limit if chosen.ids is None else None,
            )
        if chosen.ids is not None:
            found = choose_ids(found, chosen.ids)
        found = found[: chosen.limit]
        said = self.options.sampling.system_prompt
        if said is not None:  # part of what is asked: judges with rewards and the pairs need it too
            system: Message = {"role": "system", "content": [{"type": "text", "text": said}]}
            found = [replace(prompt, turns=(system, *prompt.turns)) for prompt in found]
        if not found:
            raise PromptsError(f"{chosen.ids} names no prompts")
        left_out = list(find_held_out(found, read_held_out(chosen.held_out)))
        out = {prompt.id for prompt, _ in left_out}
        kept = [prompt for prompt in found if prompt.id not in out]
        if not kept:
            raise PromptsError(f"{chosen.prompts}: all {len(found):,} prompts are left out ({left_out[0][1]})")
        return kept, left_out

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts that are asked. Raises what reading them raises."""
        return self._read[0]

    @property
    def left_out(self) -> list[tuple[Prompt, str]]:
        """The prompts that are not, with the reason."""
        return self._read[1]

    @cached_property
    def plan(self) -> SamplingPlan:
        """How many answers each prompt gets."""
        return self.options.plan_sampling()

    @cached_property
    def judges(self) -> tuple[JudgeChoice, ...]:
        """The judges, each with the model that it asks."""
        chosen = self.options.judging
        return tuple(
            replace(choice, model=choice.model or chosen.judge_model, base_url=choice.base_url or chosen.judge_base_url)
            if choice.asks_model
            else choice
            for choice in self.options.choose_judges()
        )

    @cached_property
    def ledger(self) -> Ledger:
        """What the steps have used so far."""
        chosen = self.options
        models = {"sample": chosen.sampling.model}
        # Judges that were asked before and are none of the run's any more were paid for as well.
        for pattern, step, key in ((JUDGE, "judge", "judge"), (PROOF, "check", "of")):
            for path in self.folder.glob(pattern.format("*")):
                model = read_json(path).get(key, {}).get("model", {})
                models[f"{step} {path.stem.partition('-')[2]}"] = model.get("model", "")
        for step in ("judge", "check"):
            models |= {f"{step} {choice.label}": choice.model or "" for choice in self.judges if choice.asks_model}
        return Ledger.read(self.folder, chosen.read_prices(), chosen.judging.budget, models)

    def open_policy(self) -> Answerer:
        """Returns the policy, not loaded yet."""
        options = self.options
        opened = open_answerer(
            options.sampling.model, options.policy_backend, options.checkpoint, options.batches, options.endpoint
        )
        return self.ledger.watch(opened)

    def open_judge(self, choice: JudgeChoice) -> Answerer | None:
        """Returns the model that a judge asks, not loaded yet; None for a judge that asks none, or has none."""
        if not choice.asks_model or choice.model is None:
            return None
        options = self.options
        backend = options.judging.judge_backend or ("transformers" if choice.base_url is None else "endpoint")
        checkpoint = CheckpointOptions(trust_remote_code=options.checkpoint.trust_remote_code)
        endpoint: EndpointOptions = replace(options.endpoint, base_url=choice.base_url)
        return self.ledger.watch(open_answerer(choice.model, backend, checkpoint, options.batches, endpoint))

    def make_context(self, choice: JudgeChoice) -> Context:
        """Returns what a judge knows beside the prompts."""
        return Context(
            vocabulary=self.vocabulary,
            agreement=choice.agreement,
            threshold=choice.threshold,
            votes=choice.votes,
            opponents=choice.opponents,
            splits=choice.splits,
            seed=self.options.sampling.seed,
            rewards=None if choice.run is None else make_rewards(choice, self.options.checkpoint),
        )

    @cached_property
    def vocabulary(self) -> Mapping[str, str]:
        """Word → object, of the file that the options name; an embedded world has its own."""
        return read_vocabulary(self.options.input.vocabulary, self.options.input.prompts)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def sample(self) -> int:
        """Samples what is missing, and returns how many requests the policy refused."""
        plan, policy, prompts = self.plan, self.open_policy(), self.prompts
        with self._step("sample", policy.processes):
            known = self.read_samples()
            missing = sum(len(numbers_of(plan)) - len(known.get(prompt.id, ())) for prompt in prompts)
            with tqdm(total=missing, desc="answers", unit="answer", disable=None if missing else True) as bar:

                def count(answer: Sample) -> None:
                    bar.update()
                    if not policy.processes.rank:
                        self.ledger.add(
                            "sample", self.options.sampling.model, answer.prompt_tokens or 0, answer.tokens or 0
                        )

                return sample(prompts, policy, self.options.settings(), self.folder, plan, count)

    def choose_judges(self, only: Collection[str] = ()) -> list[tuple[int, JudgeChoice]]:
        """Returns the judges of those names, all without one, with their places. Raises JudgeError for no such name."""
        known = [choice.label for choice in self.judges]
        for name in only:
            if name not in known:
                there = f"There are {', '.join(known)}"
                raise JudgeError(f"--only: there is no judge {name!r} here{name_nearest(name, known)} {there}")
        return [(place, choice) for place, choice in enumerate(self.judges) if not only or choice.label in only]

    def check_judges_needs(self, proofs: Path | None = None) -> None:
        """Raises JudgeError for what a judge needs and does not have, before anything is asked.

        `proofs` is the folder with what `check-judge` has found, the run's own unless given.
        """
        for choice in self.judges:
            folder = proofs or self.folder
            check_needs(self.prompts, choice, self.make_context(choice), self.open_judge(choice), folder)

    def judge(self, only: Collection[str] = ()) -> dict[str, Unjudged]:
        """Judges what has no verdict yet, judge by judge, and returns what could not be judged."""
        self._check_folder()  # before a file of it is read, whose last line may be mended
        prompts, chosen = self.prompts, self.choose_judges(only)
        check_asked(self.folder, prompts)
        samples, found = self.read_samples(), dict[str, Unjudged]()
        for place, choice in chosen:
            answerer, step = self.open_judge(choice), f"judge {choice.label}"
            wanted = self._find_offered() if self._judges_offered(place, choice) else None
            with (
                self._step(step, Processes()),
                tqdm(total=len(prompts), desc=choice.label, unit="prompt", disable=None) as bar,
            ):
                found[choice.label] = judge_samples(
                    prompts,
                    samples,
                    choice,
                    self.make_context(choice),
                    self.folder,
                    answerer,
                    wanted=wanted,
                    on_reply=partial(self.ledger.add, step, choice.model or ""),
                    on_prompt=bar.update,
                )
        return found

    @collecting_rarely()
    def build(self) -> dict[str, Any]:
        """Builds the pairs, card, recipe and page; returns what pairs.json holds."""
        from mmdpo.pairs.unpaired import write_unpaired
        from mmdpo.report.pairs import write_pairs

        self._check_folder()
        labels = [choice.label for choice in self.judges]
        check_asked(self.folder, self.prompts)
        with self._step("build", Processes()):
            result = build_pairs(
                self.prompts,
                self.folder,
                labels,
                self.options.plan_build(),
                left_out=self.left_out,
                is_planned=self._is_planned,
            )
        for left in [self.folder / DATASET / f"{of}-{part}" for of in WRITERS for part in ("train", "eval")]:
            shutil.rmtree(left, ignore_errors=True)  # of an earlier build, whose pairs were others
        if self.options.build.to != "trl":
            for name in result["pairs"]:
                pairs = read_dataset(self.folder / DATASET / f"{name}.parquet")
                export_examples(pairs, self.folder / DATASET / f"{self.options.build.to}-{name}", self.options.build.to)
        write_card(self.folder, result, self.options)
        write_unpaired(self.folder, self.prompts, result["plan"]["seed"])
        write_pairs(self.folder)
        return result

    def check_judges(self, golds: Sequence[Gold], only: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """Returns what labelled answers say of the judges, and writes it down. Replies are kept, and count as cost."""
        found = {}
        for _, choice in self.choose_judges(only):
            answerer, step, model = self.open_judge(choice), f"check {choice.label}", choice.model or ""
            context = self.make_context(choice)
            check_needs([gold.prompt for gold in golds], choice, context, answerer, None)
            with self._step(step, Processes()):
                asker = None
                if answerer is not None:
                    replies = self.folder / CHECK_REPLIES.format(choice.label)
                    asker = Asker(answerer, replies, on_reply=partial(self.ledger.add, step, model))
                try:
                    checked = check_judge(golds, choice, context, asker, own=self.options.sampling.model)
                finally:
                    if asker is not None:
                        asker.close()
            checked["of"] = describe(choice, context, answerer)
            write_json(self.folder / PROOF.format(choice.label), checked)  # which the card of the pairs then says
            found[choice.label] = checked
        return found

    def read_samples(self) -> dict[str, list[Sample]]:
        """Returns the answers that belong to the plan, by prompt and number."""
        found: dict[str, dict[int, Sample]] = {}
        for each in read_samples(self.folder):
            if self._is_planned(each):
                found.setdefault(each.id, {})[each.k] = each
        return {name: [of[k] for k in sorted(of)] for name, of in found.items()}

    @cached_property
    def _kinds(self) -> dict[int, str]:
        """The kinds of a prompt's answers, by number."""
        return {k: kind_of(k, self.plan) for k in numbers_of(self.plan)}

    def _is_planned(self, answer: Sample) -> bool:
        return self._kinds.get(answer.k) == answer.kind

    def estimate(self) -> list[Estimate]:
        """Returns what is left of every step, by what was used of it so far."""
        count, known = len(numbers_of(self.plan)), self.read_samples()
        missing = {prompt.id: count - len(known.get(prompt.id, ())) for prompt in self.prompts}
        done, spent = list(missing.values()).count(0), self.ledger.steps.get("sample", Spent())
        share = sum(missing.values()) / spent.requests if spent.requests else None
        found = [Estimate("sample", done, len(missing) - done, spent, share)]
        for place, choice in enumerate(self.judges):
            judged = read_verdicts(self.folder, choice.label)
            wanted = self._find_offered() if judged and self._judges_offered(place, choice) else None
            left = 0
            for prompt in self.prompts:
                useful = {each.k for each in known.get(prompt.id, ()) if why_useless(each) is None}
                is_over = not missing[prompt.id] and not (useful if wanted is None else useful & wanted(prompt))
                left += prompt.id not in judged and not is_over
            step = f"judge {choice.label}"
            share = left / len(judged) if judged else None
            found.append(Estimate(step, len(self.prompts) - left, left, self.ledger.steps.get(step, Spent()), share))
        return found

    # -- help ----------------------------------------------------------------------------------------------------------

    def _judges_offered(self, place: int, choice: JudgeChoice) -> bool:
        """Says whether a judge looks only at what the first one would put into a pair: one that costs nothing does not,
        since it may hold answers against each other."""
        is_dear = choice.asks_model or choice.run is not None
        return bool(place) and is_dear and self.options.build.combine == "first_then"

    def _find_offered(self) -> Callable[[Prompt], set[int]]:
        """Returns what says which answers the first judge would put into a pair: those are worth a second judge."""
        plan, first = self.options.plan_build(), self.judges[0].label
        return find_offered(self.prompts, self.folder, first, plan, PROPOSED, is_planned=self._is_planned)

    def _check_folder(self) -> None:
        """Raises UnusableFileError for a folder that holds something else than a run."""
        check_kind(self.folder, MARKS, "run of `mmdpo pairs`")

    def _write_options(self) -> None:
        """Writes the options of the run, unless a file there says the same: it may be the user's, with comments."""
        path, own = self.folder / FILE, self.options.resolved()
        with suppress(ValueError, OSError):
            if parse_options(PairsOptions, ["--config", str(path)], "pairs").resolved() == own:
                return
        write_whole(path, yaml.safe_dump(own, sort_keys=False, allow_unicode=True))

    @contextmanager
    def _step(self, step: str, processes: Processes) -> Iterator[None]:
        """Holds the folder, measures the time, and writes what was spent whatever ends the step."""
        if processes.rank:
            yield
            return
        self._check_folder()
        make_folder(self.folder)
        with hold_folder(self.folder):
            self._write_options()
            began = time.perf_counter()
            try:
                yield
            except BudgetSpentError as error:
                raise BudgetSpentError(
                    f"{error}; what was paid for is kept in {self.folder}, and with a higher limit the same command "
                    "goes on"
                ) from error
            finally:
                if processes.count > 1:  # what the others have used is on disk
                    del self.ledger
                self.ledger.steps.setdefault(step, Spent()).seconds += time.perf_counter() - began
                self.ledger.write()


def choose_ids(prompts: Sequence[Prompt], path: Path) -> list[Prompt]:
    """Returns the prompts that a file names, in its order. Raises PromptsError for a name that is none of theirs."""
    known = {prompt.id: prompt for prompt in prompts}
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except OSError as error:
        raise PromptsError(f"--ids: {path} cannot be read ({error.strerror})") from error
    names = [line if line in known else line.strip() for line in lines]  # blanks may be part of an id
    for name in names:
        if name not in known:
            raise PromptsError(f"{path}: there is no prompt {name!r}{name_nearest(name, known)}")
    return [known[name] for name in names]


def show_run(folder: Path, ids: Collection[str], number: int, *, only_dropped: bool, has_styles: bool) -> Iterator[Any]:
    """Yields the lines that show prompts of a run: those that are named, else the first ones.

    Raises PromptsError for a folder that is no run, or an id that is no prompt of it.
    """
    if not (folder / FILE).is_file():
        raise PromptsError(f"{folder} holds no {FILE}: name the folder of a run of `mmdpo pairs`")
    run = PairsRun(parse_options(PairsOptions, ["--config", str(folder / FILE)], "pairs show"))
    taken, dropped, samples = read_taken(folder), read_dropped(folder), run.read_samples()
    labels = [choice.label for choice in run.judges if (folder / f"verdicts-{choice.label}.jsonl").is_file()]
    verdicts = {label: read_verdicts(folder, label) for label in labels}
    if not samples:
        raise PromptsError(f"{folder} holds no answers yet: run `mmdpo pairs sample --config {folder / FILE}` first")
    known = {prompt.id: prompt for prompt in run.prompts}
    if unknown := [name for name in ids if name not in known]:
        raise PromptsError(f"{folder}: there is no prompt {unknown[0]!r}{name_nearest(unknown[0], known)}")
    shown = (
        [known[name] for name in ids]
        if ids
        else [
            prompt for prompt in run.prompts if prompt.id in samples and (not only_dropped or prompt.id not in taken)
        ][:number]
    )
    for prompt in shown:
        of = {label: found.get(prompt.id, {}) for label, found in verdicts.items()}
        pairs = taken.get(prompt.id, [])
        yield from show_prompt(prompt, samples.get(prompt.id, ()), of, pairs, dropped, has_styles=has_styles)
