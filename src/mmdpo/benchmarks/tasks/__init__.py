"""Benchmarks: one file each, whose name is the benchmark's public name. A file dropped in here is found and tested.

A benchmark is a module with a docstring, whose first line is its title, a colon and what it measures, and these names:

    LICENCE     whose data it is, and under which licence
    METRICS     tuple of Metric, named `benchmark/…`
    TRAPS       trap → what it means, for every key of `ItemScore.traps`
    GENERATION  how answers are generated unless somebody says otherwise: fields of
                `mmdpo.generation.questions.GenerationSettings` that differ from its defaults, which are greedy
    read_items(data_dir: Path, tools: Tools) -> tuple[BenchmarkItem, ...]
                the items in their official order; raises EvaluationError for a file that is not the benchmark's. What
                it says about the data it read goes to `tools.used`
    find_id(row: Row, items: Items) -> str
                the item that a row of an official answers file is about; raises EvaluationError, bare problem
    make_scorer(data_dir: Path, tools: Tools) -> Callable[[BenchmarkItem, str], ItemScore]
                how one answer is scored, by the official rule
    score(item: BenchmarkItem, answer: str) -> ItemScore
                in its place, where the rule needs neither data nor tools
    judge_prompt(item: BenchmarkItem, answer: str) -> str
                only where a judge reads the answers: what it is asked, our own wording
    reads(reply: str) -> bool
                only there: whether a judge's reply can be scored; one that cannot is asked for again
    NEEDS_JUDGE only there: True where nothing can be scored without a judge
    judged_ids(items: Sequence[BenchmarkItem]) -> list[str]
                only where a judge is asked about more than items: the ids that its replies may have
    score_together(items, texts, scores, tools) -> Mapping[str, ItemScore]
                only where items count together: the scores with the counts of their groups (`benchmarks.groups`);
                `texts` and `scores` are by the ids of the items that were answered
    ANSWER_FIELDS
                only where the official answers stand elsewhere than others: the fields to look in, the first one first
    DATA_NAME   only where the data is another benchmark's: whose
    ANSWERS_OF  only where the questions are some of another benchmark's, whose answers are read too: its name
    unasked_ids(data_dir: Path) -> frozenset[str]
                only there: its items that this one does not ask; answers to them are left out, and counted
    SETTINGS_TOLD
                only where numbers depend on them: the settings of generation that the result names beside the scorer
    HEADLINE    the metrics that a suite prints of it, where the paper's table has no column for it
    draw_image(item: BenchmarkItem) -> PIL.Image.Image
                only where the pictures are no files
    SIZE        only where everybody takes the same items: how many were published; a result of others says so
    SUFFIXES    only where others ask with more words than the benchmark: name → PromptSuffix, for `--prompt_suffix`
    SUFFIXED_PARTS
                only where some parts take none: the parts whose questions do
    PEERS       only where the rules of others are known: name of the harness → Peer, for `--rule peers`
    LANGUAGE_TOOLS
                only where answers are scored with some: which of Tools' `linguistics` and `similarity` the scorer asks
                for; the help of `mmdpo eval NAME` shows their options
    QUESTION_TYPES
                only where questions have types that are not their parts: an item of a type adds 1 to `TYPE/n`

They may be attributes, in small letters, of an object BENCHMARK. `data_dir` is the benchmark's own folder. Files that
start with an underscore are not benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmdpo.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmdpo.benchmarks.definitions import BenchmarkItem, ItemScore, Metric, Peer, PromptSuffix, Tools
    from mmdpo.benchmarks.reading import FindId

    ScoreTogether: TypeAlias = Callable[
        [Sequence[BenchmarkItem], Mapping[str, str], Mapping[str, ItemScore], Tools], Mapping[str, ItemScore]
    ]


def list_ids(items: Sequence[BenchmarkItem]) -> list[str]:
    """Returns the ids of items, in their order."""
    return [item.id for item in items]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its data, its questions, its rule."""

    name: str
    summary: str
    """First line of the module's docstring."""
    licence: str
    metrics: tuple[Metric, ...]
    traps: Mapping[str, str]
    generation: Mapping[str, Any]
    read_items: Callable[[Path, Tools], tuple[BenchmarkItem, ...]]
    find_id: FindId
    make_scorer: Callable[[Path, Tools], Callable[[BenchmarkItem, str], ItemScore]]
    judge_prompt: Callable[[BenchmarkItem, str], str] | None = None
    reads: Callable[[str], bool] | None = None
    needs_judge: bool = False
    judged_ids: Callable[[Sequence[BenchmarkItem]], list[str]] = list_ids
    score_together: ScoreTogether | None = None
    answer_fields: tuple[str, ...] = ()
    """Empty for those of `mmdpo.benchmarks.reading`."""
    data_name: str = ""
    answers_of: str = ""
    unasked_ids: Callable[[Path], frozenset[str]] | None = None
    settings_told: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    draw_image: Callable[[BenchmarkItem], Image] | None = None
    language_tools: tuple[str, ...] = ()
    suffixes: Mapping[str, PromptSuffix] = field(default_factory=dict)
    suffixed_parts: tuple[str, ...] = ()
    """Empty for all."""
    peers: Mapping[str, Peer] = field(default_factory=dict)
    question_types: tuple[str, ...] = ()
    size: int | None = None

    @property
    def uses(self) -> frozenset[str]:
        """What it knows besides answers: `judge`, `files` (data and pictures on disk), `peers`, its language tools."""
        judge = () if self.judge_prompt is None else ("judge",)
        files = () if self.draw_image is not None else ("files",)
        peers = ("peers",) if self.peers else ()
        return frozenset((*judge, *files, *peers, *self.language_tools))

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """Its own metrics, and those of the peers, which only a result by their rules has."""
        return (*self.metrics, *(metric for peer in self.peers.values() for metric in peer.metrics))


REQUIRED = tuple(of.name for of in fields(Benchmark) if of.default is of.default_factory is MISSING)[2:]
"""What a module has to define: all but its name and summary."""
BENCHMARKS = Registry("benchmarks.tasks", "benchmark")


def names() -> tuple[str, ...]:
    """Returns the names of the benchmarks of this folder, sorted, without importing them."""
    return BENCHMARKS.names()


def load(name: str) -> Benchmark:
    """Returns the benchmark of that name; raises ValueError for an unknown one, naming the nearest."""
    module = BENCHMARKS.load(name)
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    spellings = [(field.name, spelling) for field in fields(Benchmark) for spelling in (field.name, field.name.upper())]
    source = getattr(module, "BENCHMARK", module)
    given = {name: getattr(source, spelling) for name, spelling in spellings if hasattr(source, spelling)}
    if hasattr(source, "score"):
        given["make_scorer"] = lambda data_dir, tools: source.score
    if missing := [name if "_" in name else name.upper() for name in REQUIRED if name not in given]:
        raise ValueError(f"{name} is no benchmark: it has no {' and no '.join(missing)}")
    return Benchmark(**{"name": name, "summary": summary, "data_name": name, **given})
