"""Telling a judge beforehand what it will be asked, so that it can reply to everything at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmdpo.benchmarks.records import AskingJudge, Item, Tools
from mmdpo.benchmarks.tasks import Benchmark


@dataclass
class _Listener:
    """Stands in for a judge, and notes what a scorer asks it."""

    name: str = "nobody yet"
    asked: list[tuple[Item, str]] = field(default_factory=list)

    def reply(self, item: Item, answer: str) -> None:
        self.asked.append((item, answer))


def ask_judge(benchmark: Benchmark, folder: Path, tools: Tools, answers: Iterable[tuple[Item, str]]) -> None:
    """Lets a judge that has to be waited for reply to all answers; does nothing where replies are at hand.

    Which answers a judge is asked about, and in what words, the scorer alone knows: it runs once for that. Raises what
    the judge raises.
    """
    if not isinstance(tools.judge, AskingJudge):
        return
    listener = _Listener()
    score = benchmark.make_scorer(
        folder, replace(tools, make_linguistics=lambda: tools.linguistics, judge=listener, used={})
    )
    for item, answer in answers:
        score(item, answer)
    tools.judge.ask_all(listener.asked)
