"""What an evaluation can be told: where answers come from, how a model is asked, which judge and which tools score."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mmdpo.benchmarks.tasks import BENCHMARKS
from mmdpo.generation import CheckpointOptions
from mmdpo.judges import JudgeOptions
from mmdpo.options import REQUIRED, Options, group, option

if TYPE_CHECKING:
    from mmdpo.benchmarks.tasks import Benchmark
    from mmdpo.generation.questions import Answerer, GenerationSettings


@dataclass(frozen=True, kw_only=True)
class AskingOptions(Options):
    """answers from a model (with --model; what a benchmark asks for is the default)"""

    image_dir: Path | None = option(
        None, "Folder of the pictures.", use="files", unset="images, image or val2014 in the folder of the data"
    )
    limit: int | None = option(None, "Ask the first N items of every part; the result is partial.", least=1)
    answers_only: bool = option(False, "Score nothing; --answers does so later, anywhere.")
    backend: Literal["transformers", "vllm", "endpoint"] | None = option(
        None,
        "What asks the model: transformers here, vLLM here, or an endpoint.",
        unset="endpoint with --base_url, else transformers",
    )
    max_new_tokens: int | None = option(None, "Limit of tokens of an answer.", unset="the benchmark's")
    num_beams: int | None = option(None, "Number of beams; only transformers searches them.", unset="the benchmark's")
    temperature: float | None = option(None, "Temperature of sampling; 0 is greedy.", unset="the benchmark's")
    top_p: float | None = option(None, "Sample from the most probable tokens up to this share.", unset="all")
    generation_seed: int | None = option(None, "Seed of sampling.", unset="0")
    system_prompt: str | None = option(None, "Begin every conversation with this text.")
    prompt_suffix: str | None = option(
        None, "Add this text to every question, or a named one that others add (docs/evaluation.md lists them)."
    )


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Options):
    """answers by transformers"""

    batch_size: int = option(32, "Questions at once in each process.")
    num_workers: int | None = option(
        None, "Number of processes that read pictures ahead.", unset="0 on a CPU, else up to 4"
    )
    no_probe: bool = option(False, "Do not compare two questions with the same questions alone before answering.")


@dataclass(frozen=True, kw_only=True)
class EndpointOptions(Options):
    """answers from an endpoint (its key is OPENAI_API_KEY)"""

    base_url: str | None = option(None, "Address, such as http://localhost:8000/v1.")
    concurrency: int = option(8, "How many requests are sent at once.", least=1)
    timeout: float = option(120.0, "Seconds for one try, from start to end.")
    tries: int = option(7, "Tries after which a request has failed.", least=1)
    max_requests: int | None = option(None, "Stop after so many requests, failed tries included.")
    max_tokens_total: int | None = option(None, "Stop after so many tokens, as the server counts them.")


@dataclass(frozen=True, kw_only=True)
class WordOptions(Options):
    """how words are read"""

    linguistics: Literal["nltk", "table"] = option(
        "nltk", "By NLTK, as officially, or by a table that needs nothing installed.", use="linguistics"
    )
    nltk_data: Path | None = option(
        None,
        "Folder of NLTK's data.",
        use="linguistics",
        unset="nltk_data in --data_dir, else NLTK's own places",
    )
    similarity: Literal["model", "exact"] = option(
        "model",
        "amber: words are similar by en_core_web_lg, as officially, or only if they are equal.",
        use="similarity",
    )
    similar_pairs: Path | None = option(
        None,
        "amber: table of similar words. similar_pairs.json in --data_dir is taken where the model is missing.",
        use="similarity",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.linguistics == "table" and self.nltk_data is not None:
            raise ValueError("--nltk_data means nothing to --linguistics table; leave one of them out")
        if self.similarity == "exact" and self.similar_pairs is not None:
            raise ValueError("--similar_pairs means nothing to --similarity exact; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """One evaluation. Raises ValueError unless exactly one of `answers` and `model` is given, and options fit it."""

    USAGE: ClassVar[str] = "(--answers PATH | --model TEXT)"

    answers: Path | None = option(None, "Score these answers, in our format or the official one; a file or a folder.")
    model: str | None = option(None, "Ask this model: a hub name, a folder, a run of mmdpo train, or world.")
    out: Path = option(REQUIRED, "Write answers, scores and result.json into this folder.")
    data_dir: Path | None = option(
        None, "Folder of the benchmark's data.", use="files", unset="what `mmdpo eval download` fetched"
    )
    rule: Literal["official", "peers"] = option(
        "official",
        "With peers, also what lmms-eval and VLMEvalKit would print for the same answers.",
        use="peers",
    )
    strip_thoughts: bool = option(False, "Take a model's thoughts, <think> to </think>, off before scoring.")
    log_samples: bool = option(False, "Also write samples_BENCHMARK.jsonl, with the fields of lm-eval's --log_samples.")
    markdown: bool = option(False, "Print the metrics as a Markdown table, for a model card.")
    push_to_hub: str | None = option(None, "Write the metrics into the card of this model on the hub.", metavar="REPO")
    partial: bool = option(False, "Score what is there though answers are missing.")
    resamples: int = option(2000, "Number of resamples of the bootstrap.")
    seed: int = option(0, "Seed of the bootstrap.")
    words: WordOptions = group(WordOptions)
    asking: AskingOptions = group(AskingOptions)
    checkpoint: CheckpointOptions = group(CheckpointOptions)
    batches: BatchOptions = group(BatchOptions)
    endpoint: EndpointOptions = group(EndpointOptions)
    judge: JudgeOptions = group(JudgeOptions, use="judge")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.answers is None) == (self.model is None):
            raise ValueError("give --answers to score answers that exist, or --model to ask a model; one of the two")
        of_backends = {
            "transformers": self.checkpoint.given | self.batches.given,
            "vllm": self.checkpoint.given,
            "endpoint": self.endpoint.given,
        }
        given = frozenset[str]().union(*of_backends.values(), self.batches.given)
        if self.model is None and given | self.asking.given:
            raise ValueError(
                f"--{min(given | self.asking.given)} goes with --model; answers that exist already (--answers) are "
                "scored as they are"
            )
        if given - of_backends[self.backend]:
            raise ValueError(
                f"--{min(given - of_backends[self.backend])} means nothing to --backend {self.backend}; leave it out"
            )

    @property
    def backend(self) -> Literal["transformers", "vllm", "endpoint"]:
        """How a model is asked."""
        return self.asking.backend or ("transformers" if self.endpoint.base_url is None else "endpoint")


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(EvaluationOptions):
    """All benchmarks, each with these options."""

    benchmarks: tuple[str, ...] = option(
        (),
        "Benchmarks that are run.",
        unset="all that have their data, but for the embedded worlds",
        known=BENCHMARKS.names,
    )


def make_settings(benchmark: Benchmark, asking: AskingOptions) -> GenerationSettings:
    """Returns the settings that are given, else the benchmark's; raises ValueError for one that is none."""
    from mmdpo.generation.questions import GenerationSettings

    names = {field.name: field.name for field in fields(GenerationSettings)} | {"seed": "generation_seed"}
    del names["top_logprobs"]  # no benchmark reads them
    given = {name: getattr(asking, option) for name, option in names.items()}
    return GenerationSettings(**{**benchmark.generation, **{name: v for name, v in given.items() if v is not None}})


def choose_suffix(benchmark: Benchmark, given: str | None) -> str:
    r"""Returns what is added to a benchmark's questions: a suffix that it knows by that name, else the text itself.

    A text stands after a space unless it begins with white space; `\n` in it is a line break. Raises ValueError for a
    single word that names no suffix.
    """
    if given is None:
        return ""
    if given in benchmark.suffixes:
        return benchmark.suffixes[given].text
    text = given.replace("\\n", "\n")
    if len(text.split()) < 2:
        known = "; ".join(f"{name} ({suffix.text.strip()!r})" for name, suffix in benchmark.suffixes.items()) or "none"
        raise ValueError(
            f"--prompt_suffix {given!r} is no suffix that {benchmark.name} knows ({known}); a text of your own has two "
            "words or more"
        )
    return text if text[0].isspace() else f" {text}"


def make_answerer(options: EvaluationOptions) -> Answerer:
    """Returns the model that an evaluation asks; raises as `open_answerer`."""
    assert options.model is not None
    return open_answerer(options.model, options.backend, options.checkpoint, options.batches, options.endpoint)


def open_answerer(
    model: str,
    backend: Literal["transformers", "vllm", "endpoint"],
    own: CheckpointOptions,
    batches: BatchOptions,
    chosen: EndpointOptions,
) -> Answerer:
    """Returns a model, not loaded yet; raises ValueError without an address, ImportError without a package."""
    if backend == "endpoint":
        from mmdpo.generation.endpoint import Budget, ChatEndpoint
        from mmdpo.generation.endpoint_answers import EndpointAnswerer

        if chosen.base_url is None:
            raise ValueError("--backend endpoint needs an address: --base_url http://localhost:8000/v1")
        budget = Budget(chosen.max_requests, chosen.max_tokens_total)
        endpoint = ChatEndpoint(chosen.base_url, model, timeout=chosen.timeout, retries=chosen.tries - 1, budget=budget)
        return EndpointAnswerer(endpoint, concurrency=chosen.concurrency)

    from mmdpo.generation.checkpoint import Checkpoint
    from mmdpo.terminal import quiet_libraries

    quiet_libraries()
    checkpoint = Checkpoint(model, own)
    if backend == "vllm":
        from mmdpo.generation.vllm import VllmAnswerer

        return VllmAnswerer(checkpoint)
    from mmdpo.generation.transformers import TransformersAnswerer

    return TransformersAnswerer(
        checkpoint, batch_size=batches.batch_size, workers=batches.num_workers, probe=not batches.no_probe
    )
