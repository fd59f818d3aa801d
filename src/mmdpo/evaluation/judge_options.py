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


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a judge (mmhal, object_halbench)."""
    group = parser.add_argument_group("judge", "a language model that reads answers (mmhal, object_halbench)")
    group.add_argument("--judge_replies", metavar="FILE", help="recorded replies, instead of a model")
    group.add_argument("--judge_model", metavar="M", help="name on the server; else a local checkpoint or hub name")
    group.add_argument("--judge_url", metavar="URL", help="OpenAI-compatible endpoint; its key is OPENAI_API_KEY")
    group.add_argument("--judge", choices=names(), help="default: endpoint with --judge_url, else local")
    group.add_argument("--judge_cache", metavar="FOLDER", help="where replies are kept and reused; default: --out")
    group.add_argument("--judge_retries", type=int, default=2, help="more replies, where one cannot be read")
    group.add_argument("--judge_temperature", type=float, default=0.0, help="of first attempts; 0 is greedy")
    group.add_argument("--judge_max_new_tokens", type=int, default=1024)
    group.add_argument("--judge_concurrency", type=int, default=8, help="endpoint: requests at once")
    group.add_argument("--judge_timeout", type=float, default=120.0, help="endpoint: seconds for one try")
    group.add_argument("--judge_tries", type=int, default=7, help="endpoint: tries before a request has failed")
    group.add_argument("--judge_batch_size", type=int, default=8, help="local: prompts at once")


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
