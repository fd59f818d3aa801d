"""The options that choose a model and how it answers, and the run that they describe."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmdpo.benchmarks.records import Tools
    from mmdpo.benchmarks.tasks import Benchmark
    from mmdpo.evaluation.answer import Outcome
    from mmdpo.generation.records import Answerer, GenerationSettings

BACKENDS = ("transformers", "vllm", "endpoint")
_SETTINGS = ("max_new_tokens", "num_beams", "temperature", "top_p", "generation_seed", "system_prompt")
_OF_CHECKPOINTS: Mapping[str, Any] = {
    "adapter": None,
    "dtype": None,
    "revision": "main",
    "chat_template": None,
    "chat_template_kwargs": None,
    "pad_to_square": False,
    "trust_remote_code": False,
    "allow_pickle": False,
}
_OF_BACKENDS: Mapping[str, Mapping[str, Any]] = {
    "transformers": {**_OF_CHECKPOINTS, "batch_size": 32, "num_workers": None, "no_probe": False},
    "vllm": _OF_CHECKPOINTS,
    "endpoint": {
        "base_url": None,
        "concurrency": 8,
        "timeout": 120.0,
        "tries": 7,
        "max_requests": None,
        "max_tokens_total": None,
    },
}
"""Options of each backend, and what they are unless given. One that is given to another backend is an error."""


def add_answer_options(parser: argparse.ArgumentParser) -> argparse.Action:
    """Adds the options of answers from a model, and returns the one for benchmarks whose pictures are files.

    `--model` itself stands beside `--answers`.
    """
    group = parser.add_argument_group("answers from a model", "with --model; what a benchmark asks for is the default")
    image_dir = group.add_argument(
        "--image_dir",
        metavar="FOLDER",
        help="Folder of the pictures. The default is images, image or val2014 in the folder of the data.",
    )
    group.add_argument(
        "--limit", type=int, metavar="N", help="Ask the first N items of every part; the result is partial."
    )
    group.add_argument("--answers_only", action="store_true", help="Score nothing; --answers does so later, anywhere.")
    group.add_argument(
        "--backend", choices=BACKENDS, help="The default is endpoint with --base_url, else transformers."
    )
    group.add_argument("--max_new_tokens", type=int, help="Limit of tokens of an answer.")
    group.add_argument("--num_beams", type=int, help="Number of beams; only transformers searches them.")
    group.add_argument("--temperature", type=float, help="Temperature of sampling; 0 is greedy.")
    group.add_argument("--top_p", type=float, help="Sample from the most probable tokens up to this share.")
    group.add_argument("--generation_seed", type=int, help="Seed of sampling.")
    group.add_argument("--system_prompt", metavar="TEXT", help="Begin every conversation with this text.")
    local = parser.add_argument_group("answers by transformers or vLLM")
    local.add_argument("--adapter", metavar="RUN", help="Put the adapter of this run onto --model.")
    local.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="Precision. The default is bfloat16 on a GPU that has it.",
    )
    local.add_argument(
        "--batch_size", type=int, help="transformers: questions at once in each process. The default is 32."
    )
    local.add_argument("--num_workers", type=int, help="transformers: processes that read pictures ahead.")
    local.add_argument(
        "--no_probe",
        action="store_true",
        default=None,
        help="transformers: do not compare two questions with the same questions alone before answering.",
    )
    local.add_argument("--revision", help="Branch, tag or commit of a hub name.")
    local.add_argument(
        "--chat_template", metavar="FILE", help="Template instead of the processor's; vicuna is LLaVA-1.5's."
    )
    local.add_argument("--chat_template_kwargs", metavar="JSON", help="Variables of the chat template, by name.")
    local.add_argument(
        "--pad_to_square", action="store_true", default=None, help="Pad pictures as LLaVA-1.5 was trained to see them."
    )
    local.add_argument(
        "--trust_remote_code", action="store_true", default=None, help="Run the checkpoint's Python code."
    )
    local.add_argument(
        "--allow_pickle", action="store_true", default=None, help="Open pickled weights, which can run code."
    )
    remote = parser.add_argument_group("answers from an endpoint", "its key is OPENAI_API_KEY")
    remote.add_argument("--base_url", metavar="URL", help="Address, such as http://localhost:8000/v1.")
    remote.add_argument("--concurrency", type=int, help="How many requests are sent at once. The default is 8.")
    remote.add_argument("--timeout", type=float, help="Seconds for one try, from start to end. The default is 120.")
    remote.add_argument("--tries", type=int, help="Tries after which a request has failed. The default is 7.")
    remote.add_argument("--max_requests", type=int, help="Stop after so many requests, failed tries included.")
    remote.add_argument("--max_tokens_total", type=int, help="Stop after so many tokens, as the server counts them.")
    return image_dir


def check_unused(options: argparse.Namespace) -> None:
    """Raises ValueError for an option of answers from a model where none is asked."""
    names = {"image_dir", "limit", "answers_only", "backend", *_SETTINGS}.union(*_OF_BACKENDS.values())
    for name in sorted(names):
        if getattr(options, name) is not None and getattr(options, name) is not False:
            raise ValueError(
                f"--{name} goes with --model; answers that exist already (--answers) are scored as they are"
            )


def answer_benchmark(
    benchmark: Benchmark, data_dir: Path, options: argparse.Namespace, tools: Tools, answerer: Answerer
) -> Outcome:
    """Asks a model as the options say. `data_dir` is the benchmark's own folder.

    Without `--answers_only` the scoring is tried out first with `tools`, which have no judge.
    """
    from mmdpo.evaluation.answer import answer_items, check_scoring, choose_items, make_image_finder

    settings = make_settings(benchmark, options)
    items = benchmark.read_items(data_dir, tools)
    if not options.answers_only and not benchmark.needs_judge:
        check_scoring(benchmark, items, data_dir, tools)
    chosen = choose_items(items, options.limit)
    finder = make_image_finder(benchmark, items, data_dir, options.image_dir)
    return answer_items(benchmark, items, chosen, finder, answerer, settings, Path(options.out))


def make_settings(benchmark: Benchmark, options: argparse.Namespace) -> GenerationSettings:
    """Returns the settings that are given, else the benchmark's; raises ValueError for one that is none."""
    from mmdpo.generation.records import GenerationSettings

    given = {name.removeprefix("generation_"): getattr(options, name) for name in _SETTINGS}
    return GenerationSettings(**{**benchmark.generation, **{name: v for name, v in given.items() if v is not None}})


def make_answerer(options: argparse.Namespace) -> Answerer:
    """Returns the model that the options name, not loaded yet.

    Raises ValueError for options of another backend, ImportError for a package that is not installed.
    """
    backend = options.backend or ("transformers" if options.base_url is None else "endpoint")
    known = _OF_BACKENDS[backend]
    for name in {name for others in _OF_BACKENDS.values() for name in others} - set(known):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} means nothing to --backend {backend}; leave it out")
    given = {name: getattr(options, name) for name in known}
    chosen = {name: known[name] if value is None else value for name, value in given.items()}
    return _make_remote(options.model, chosen) if backend == "endpoint" else _make_local(options.model, backend, chosen)


def _make_remote(model: str, chosen: Mapping[str, Any]) -> Answerer:
    from mmdpo.generation.endpoint import Budget, ChatEndpoint, EndpointAnswerer

    if chosen["base_url"] is None:
        raise ValueError("--backend endpoint needs an address: --base_url http://localhost:8000/v1")
    for name in ("tries", "concurrency"):
        if chosen[name] < 1:
            raise ValueError(f"--{name} is {chosen[name]}; it is 1 or more")
    endpoint = ChatEndpoint(
        chosen["base_url"],
        model,
        timeout=chosen["timeout"],
        retries=chosen["tries"] - 1,
        budget=Budget(chosen["max_requests"], chosen["max_tokens_total"]),
    )
    return EndpointAnswerer(endpoint, concurrency=chosen["concurrency"])


def _make_local(model: str, backend: str, chosen: Mapping[str, Any]) -> Answerer:
    from transformers.utils import is_torch_bf16_gpu_available, logging

    from mmdpo.generation.checkpoint import Checkpoint

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    precision = chosen["dtype"] or ("bfloat16" if is_torch_bf16_gpu_available() else "float32")
    checkpoint = Checkpoint(model, **{**{name: chosen[name] for name in _OF_CHECKPOINTS}, "dtype": precision})
    if backend == "vllm":
        from mmdpo.generation.vllm import VllmAnswerer

        return VllmAnswerer(checkpoint)
    from mmdpo.generation.transformers import TransformersAnswerer

    return TransformersAnswerer(
        checkpoint, batch_size=chosen["batch_size"], workers=chosen["num_workers"], probe=not chosen["no_probe"]
    )
