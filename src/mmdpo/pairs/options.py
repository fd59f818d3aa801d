"""What the data engine can be told: on the command line, or in one YAML file with the same names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmdpo.evaluation.options import BatchOptions, EndpointOptions
from mmdpo.files import read_mapping
from mmdpo.generation import CheckpointOptions
from mmdpo.generation.http_client import show_address
from mmdpo.options import REQUIRED, Options, group, option

if TYPE_CHECKING:
    from mmdpo.generation.questions import GenerationSettings
    from mmdpo.pairs.asking import Prices
    from mmdpo.pairs.judging import JudgeChoice
    from mmdpo.pairs.plan import BuildPlan
    from mmdpo.pairs.samples import SamplingPlan

FILE = "pairs.yaml"
"""The resolved options in the folder of a run."""


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """prompts"""

    prompts: str = option(REQUIRED, "Prompts with images: any dataset that is trained on, or a folder of images.")
    ask: tuple[str, ...] = option((), "What is asked of each image of a folder.")
    split: str = option("train", "Split of the dataset.")
    dataset_config: str | None = option(None, "Configuration of a hub dataset.")
    image_root: Path | None = option(None, "Folder that relative image paths start from.")
    ids: Path | None = option(None, "File of prompt ids, one a line: use only these.")
    limit: int | None = option(None, "Use only the first N prompts.", least=1)
    held_out: tuple[str, ...] = option((), "Images that no pair may have: folders, files or datasets.")
    vocabulary: Path | None = option(None, "JSON file of words and the object that each names, for judges of objects.")
    licence: str = option("", "Licence of the images, for the dataset's card.")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Options):
    """answers of the policy"""

    model: str = option(REQUIRED, "The policy: a hub name, a folder, a run of mmdpo train, or its name on a server.")
    backend: Literal["transformers", "vllm", "endpoint"] | None = option(
        None,
        "What asks the policy: transformers here, vLLM here, or an endpoint.",
        unset="endpoint with --base_url, else transformers",
    )
    num_samples: int = option(8, "Answers to each prompt.", least=1)
    no_greedy: bool = option(False, "Leave out the greedy answer, which is one more.")
    negatives: tuple[str, ...] = option(
        (), "Also write answers that are meant to be rejected: no_image, corrupted:NAME."
    )
    start_share: float = option(
        0.5, "Share of the words of such an answer that the policy wrote having seen the image."
    )
    temperature: float = option(1.0, "Temperature of sampling.")
    top_p: float = option(1.0, "Sample from the most probable tokens up to this share.")
    max_new_tokens: int = option(512, "Limit of tokens of an answer; answers that reach it are in no pair.", least=1)
    system_prompt: str | None = option(None, "Begin every conversation with this text, those of the pairs too.")
    seed: int = option(0, "Seed of all that is drawn.")


@dataclass(frozen=True, kw_only=True)
class JudgingOptions(Options):
    """judges"""

    judges: tuple[str, ...] = option(
        ("claims",), "One or several; a name, or a mapping in JSON with judge and its own options."
    )
    judge_model: str | None = option(None, "Model that the judges ask, unless one names its own. It is not the policy.")
    judge_base_url: str | None = option(None, "Address of an endpoint that has it.")
    judge_backend: Literal["transformers", "vllm", "endpoint"] | None = option(
        None,
        "What asks the judge: transformers here, vLLM here, or an endpoint.",
        unset="endpoint with --judge_base_url, else transformers",
    )
    prices: str | None = option(None, "Price of a million tokens read and written by model, as JSON: {NAME: [1, 4]}.")
    budget: float | None = option(
        None, "Ask no more once so much is spent, in the currency of the prices; what is on its way comes on top."
    )


@dataclass(frozen=True, kw_only=True)
class BuildOptions(Options):
    """pairs"""

    rule: str = option(
        "clean_near", "Which two answers become a pair; `mmdpo pairs rules` lists them. Or package.module:NAME."
    )
    margin: float = option(
        1.0, "Least margin, in wrong claims or points of score as the rule counts.", within="(-inf, inf)"
    )
    max_margin: float | None = option(None, "Greatest margin.")
    per_prompt: int = option(1, "Most pairs from one prompt.", least=1)
    per_image: int = option(3, "Most pairs from one image.", least=1)
    near_duplicate: float = option(
        0.9, "Two answers with more than this share of pieces in common count as one.", within="(0, 1]"
    )
    mistakes: Literal["drop", "weigh", "keep"] = option(
        "drop", "Pairs whose chosen answer has a wrong claim: drop, weigh in the recipe, or keep."
    )
    max_ratio: float | None = option(
        None, "How many times as long the longer answer of a pair may be.", within="[1, inf]"
    )
    balance: Literal["mean", "style", "none"] = option(
        "mean", "What is equal in the mean of chosen and rejected answers: length (mean), style too, or nothing."
    )
    combine: Literal["both", "first_then", "mean"] = option(
        "both",
        "How several judges decide: all agree; later ones judge only what would be in a pair; by the mean score.",
    )
    eval_share: float = option(0.0, "Share of the images whose pairs are set aside for evaluation.", within="[0, 1)")
    round: int = option(1, "Which round these pairs are of, for their column `round`.", least=1)
    to: Literal["trl", "ms_swift", "llama_factory", "mdpo_json"] = option(
        "trl", "Also write this format; TRL's is always written."
    )


@dataclass(frozen=True, kw_only=True)
class PairsOptions(Options):
    """One run of the data engine. Raises ValueError for options that do not go together."""

    HAS_FILE: ClassVar[bool] = True

    out: Path = option(REQUIRED, "Folder of the run; what was begun there is resumed.")
    input: PromptOptions = group(PromptOptions)
    sampling: SamplingOptions = group(SamplingOptions)
    judging: JudgingOptions = group(JudgingOptions, use="judging")
    build: BuildOptions = group(BuildOptions, use="building")
    checkpoint: CheckpointOptions = group(CheckpointOptions, use="asking")
    batches: BatchOptions = group(BatchOptions, use="asking")
    endpoint: EndpointOptions = group(EndpointOptions, use="asking")
    dry_run: bool = option(False, "Say what is left to do and what it will cost, and do nothing.")
    yes: bool = option(False, "Do not ask, at a terminal, before a step that will cost more than the budget leaves.")

    def __post_init__(self) -> None:
        super().__post_init__()
        # All of it is read once here, so that a mistake in what comes last is found before anything is sampled.
        self.plan_sampling()
        self.settings()
        self.choose_judges()
        self.plan_build()
        self.read_prices()

    @property
    def policy_backend(self) -> Literal["transformers", "vllm", "endpoint"]:
        """How the policy is asked."""
        return self.sampling.backend or ("transformers" if self.endpoint.base_url is None else "endpoint")

    def plan_sampling(self) -> SamplingPlan:
        """Returns how many answers each prompt gets."""
        from mmdpo.pairs.samples import SamplingPlan

        chosen = self.sampling
        if chosen.negatives and chosen.start_share and self.policy_backend == "endpoint":
            raise ValueError(
                "--negatives: an endpoint goes on from no answer that is begun: ask a model loaded here, or give "
                "--start_share 0"
            )
        return SamplingPlan(chosen.num_samples, not chosen.no_greedy, chosen.negatives, chosen.start_share)

    def settings(self) -> GenerationSettings:
        """Returns how the answers are generated."""
        from mmdpo.generation.questions import GenerationSettings

        chosen = self.sampling
        if chosen.temperature <= 0:
            raise ValueError(f"--temperature is {chosen.temperature}: at 0 all answers to a prompt are the same one")
        names = ("max_new_tokens", "temperature", "top_p", "seed")
        return GenerationSettings(**{name: getattr(chosen, name) for name in names})

    def choose_judges(self) -> tuple[JudgeChoice, ...]:
        """Returns the judges. Raises ValueError for what is none, and for two of one name."""
        from mmdpo.pairs.asking import JudgeError
        from mmdpo.pairs.judging import JudgeChoice

        found = tuple(map(JudgeChoice.read, self.judging.judges))
        labels = [choice.label for choice in found]
        if len(set(labels)) < len(labels):
            raise JudgeError(f"judges: two are called {max(labels, key=labels.count)!r}; give one of them a `name`")
        return found

    def plan_build(self) -> BuildPlan:
        """Returns how pairs are made."""
        from mmdpo.pairs.plan import BuildPlan

        own = {each.name: getattr(self.build, each.name) for each in fields(BuildOptions)}
        return BuildPlan(**own, seed=self.sampling.seed, licence=self.input.licence)

    def read_prices(self) -> dict[str, Prices]:
        """Returns what models cost. Raises ValueError for what is no price, and for a budget without one."""
        from mmdpo.pairs.asking import Prices

        found = read_mapping("--prices", self.judging.prices) or {}
        for name, of in found.items():
            if not (isinstance(of, list) and len(of) == 2 and all(isinstance(n, int | float) and n >= 0 for n in of)):
                raise ValueError(f"--prices: {name} costs {of!r}; give two numbers, [for reading, for writing]")
        if self.judging.budget is not None and not (found and self.judging.budget >= 0):
            raise ValueError(
                f"--budget is {self.judging.budget:g}: give 0 or more, and --prices, what a million tokens of each "
                "model cost"
            )
        judging = self.judging
        asked = {self.sampling.model} if self.policy_backend == "endpoint" else set[str | None]()
        asked |= {
            choice.model or judging.judge_model
            for choice in self.choose_judges()
            if choice.asks_model and (choice.base_url or judging.judge_base_url)
        }
        if judging.budget is not None and asked and asked.isdisjoint(found):
            raise ValueError(
                f"--budget is {judging.budget:g}, and --prices names {', '.join(found)}, none of the models that are "
                f"asked at an endpoint ({', '.join(sorted(map(str, asked)))}): it would never be spent"
            )
        return {name: Prices(float(of[0]), float(of[1])) for name, of in found.items()}

    def resolved(self) -> dict[str, Any]:
        """Returns the options as the YAML file of the run holds them: those of every step, and no secret of theirs."""
        known = {each.name for each in fields(PairsOptions)}
        found = dict(_flatten({name: value for name, value in asdict(self).items() if name in known}))
        for of in (found, *(judge for judge in found.get("judges", ()) if isinstance(judge, dict))):
            for name in {"base_url", "judge_base_url"} & of.keys():
                of[name] = show_address(of[name])
        return found


@dataclass(frozen=True, kw_only=True)
class IterateOptions(Options):
    """Rounds of pairs and training. Raises ValueError for options that do not go together."""

    HAS_FILE: ClassVar[bool] = True

    pairs: Path = option(REQUIRED, "YAML file of `mmdpo pairs`: prompts, policy, judges, rule.")
    train: Path | None = option(None, "Recipe of `mmdpo train`.", unset="what `mmdpo pairs` writes")
    out: Path = option(REQUIRED, "Folder of the rounds; what was begun there is resumed.")
    rounds: int = option(2, "How many rounds.", least=1)
    start: Literal["previous", "base"] = option("previous", "What a round's training starts from.")
    reference: Literal["previous", "base"] = option("previous", "The reference of a round's training.")
    prompts_per_round: int = option(4000, "Fresh prompts of a round; each is seen once.", least=1)
    mix_previous: float = option(0.0, "Pairs of earlier rounds, as a share of a round's own.", within="[0, 1]")
    held_out: int = option(200, "Prompts, with all others about their images, that no round trains on.", least=10)
    held_out_judges: tuple[str, ...] = option(
        (), "Judges of their answers, and of 50 pairs of each round again.", unset="those of the pairs"
    )
    evaluate: tuple[str, ...] = option(
        (), "Benchmarks that the start and every round's model are measured by: words of `mmdpo eval`, in quotes."
    )
    gate: Literal["f1", "wrong"] = option("f1", "What has to be better for a round to be kept.")
    guard_cover: float = option(
        -15.0, "Most that right claims may change, in per cent of the start's; below 0.", within="[-inf, 0]"
    )
    guard_words: float = option(25.0, "Most that the length may change, in per cent of the start's.", least=0)
    guard_useless: float = option(
        2.0, "Most that the share of empty, cut and looping answers may rise, in points.", least=0
    )
    launch: str = option("", "What starts training in place of this Python, such as `accelerate launch -m mmdpo`.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "base" and self.reference == "previous":
            raise ValueError("--start base takes the base as its reference: give --reference base too")


def _flatten(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if name in ("dry_run", "yes"):
            continue
        if isinstance(value, Mapping):
            found += _flatten(value)
        elif value not in (None, (), "") and value is not False:
            entries = (
                [json.loads(v) if isinstance(v, str) and v.startswith("{") else v for v in value]
                if (isinstance(value, tuple))
                else value
            )
            found.append((name, str(value) if isinstance(value, Path) else entries))
    return found
