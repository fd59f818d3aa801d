"""The options that choose a judge, and the judge that they choose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmdpo.judges import JudgeOptions, make_source, names

if TYPE_CHECKING:
    from mmdpo.benchmarks.records import Judge, Tools
    from mmdpo.benchmarks.tasks import Benchmark

REPLIES = "judge_replies.jsonl"


def add_judge_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Adds the options of a judge (mmhal, object_halbench) and returns them."""
    group = parser.add_argument_group("judge: a language model that reads answers (mmhal, object_halbench)")
    add = group.add_argument
    return [
        add("--judge_replies", metavar="FILE", help="Read recorded replies from this file instead of asking a model."),
        add("--judge_model", metavar="M", help="The model's name on the server; else a local folder or a hub name."),
        add("--judge_url", metavar="URL", help="Address of an OpenAI-compatible endpoint; OPENAI_API_KEY is its key."),
        add("--judge", choices=names(), help="How to ask. The default is endpoint with --judge_url, else local."),
        add("--judge_cache", metavar="FOLDER", help="Keep and reuse replies in this folder. The default is --out."),
        add("--judge_retries", type=int, default=2, help="Ask so often again for a reply that can be read."),
        add("--judge_temperature", type=float, default=0.0, help="Temperature of first attempts; 0 is greedy."),
        add("--judge_max_new_tokens", type=int, default=1024, help="Limit of tokens of a reply."),
        add("--judge_concurrency", type=int, default=8, help="Endpoint: how many requests are sent at once."),
        add("--judge_timeout", type=float, default=120.0, help="Endpoint: seconds for one try, from start to end."),
        add("--judge_tries", type=int, default=7, help="Endpoint: tries after which a request has failed."),
        add("--judge_batch_size", type=int, default=8, help="Local: how many prompts are read at once."),
    ]


def has_judge(options: argparse.Namespace) -> bool:
    """Returns whether the options name a judge."""
    return options.judge_replies is not None or options.judge_model is not None


def check_judge(benchmark: Benchmark, options: argparse.Namespace) -> None:
    """Raises ValueError for options of a judge that do not fit together or the benchmark: before hours of answers."""
    if options.judge_model is None and (options.judge_url is not None or options.judge is not None):
        raise ValueError("--judge_url and --judge need the model's name too: --judge_model")
    if has_judge(options) and benchmark.judge_prompt is None:
        given = "--judge_replies" if options.judge_replies is not None else "--judge_model"
        raise ValueError(f"{given}: {benchmark.name} has no judge")
    if options.judge_replies is not None and options.judge_model is not None:
        raise ValueError("--judge_replies stands instead of a model: leave --judge_model out")
    for name in ("judge_max_new_tokens", "judge_concurrency", "judge_batch_size", "judge_tries"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it is 1 or more")


def choose_judge(benchmark: Benchmark, folder: Path, tools: Tools, options: argparse.Namespace) -> Judge | None:
    """Returns the judge that the options name, None if they name none; `folder` holds the benchmark's data.

    Raises what `check_judge` raises, EvaluationError for recorded replies that cannot be used.
    """
    check_judge(benchmark, options)
    if not has_judge(options):
        return None
    if options.judge_replies is None:
        return _make_judge(benchmark, options)
    from mmdpo.benchmarks.replies import RecordedReplies

    items = benchmark.read_items(folder, tools)
    return RecordedReplies.read(options.judge_replies, [item.id for item in items])


def _make_judge(benchmark: Benchmark, options: argparse.Namespace) -> Judge:
    from mmdpo.evaluation.judging import KeepingJudge

    judge_options = JudgeOptions(
        model=options.judge_model,
        url=options.judge_url,
        temperature=options.judge_temperature,
        max_new_tokens=options.judge_max_new_tokens,
        concurrency=options.judge_concurrency,
        batch_size=options.judge_batch_size,
        timeout=options.judge_timeout,
        tries=options.judge_tries,
    )
    source = make_source(options.judge or ("local" if options.judge_url is None else "endpoint"), judge_options)
    cache = Path(options.out) / REPLIES
    if options.judge_cache is not None:  # one folder may serve many runs, and every benchmark has ids of its own
        cache = Path(options.judge_cache) / f"{benchmark.name}.jsonl"
    return KeepingJudge(source, benchmark, cache, retries=options.judge_retries, allow_missing=options.partial)
