"""Results of benchmarks on a page: what they come to, every metric with the difference to the first run, answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mmdpo.files import clean
from mmdpo.report.comparison import DIGITS, csv_comparison, draw_comparison, markdown_comparison
from mmdpo.report.evaluated import LOOKED_AT, EvaluatedRun, ItemPictures, choose_examples
from mmdpo.report.labels import label_benchmark, label_metric
from mmdpo.report.layout import File, Headline, Section, identify, render, table_files
from mmdpo.tables import ARROWS, MISSING, NO_BREAK, Table, show_interval, show_number

MOST_KEY = 4
"""Metrics that are seen first of a benchmark which names none as its main ones."""
MOST_NAMED = 3
"""Runs whose differences are said one by one in a sentence."""

Compare: TypeAlias = Callable[[Sequence[Path], Sequence[str]], Mapping[str, Any]]
"""Folders of results of one benchmark, and their labels → the content of a compare.json; raises ValueError."""
Results: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By run and benchmark: `metrics`, `made_by` and `partial` of a result.json."""


@dataclass(frozen=True)
class PublishedTable:
    """Results of runs beside published ones."""

    table: Table
    published: frozenset[str]
    """Its rows that are not of runs."""
    metrics: frozenset[str]
    """What its columns may show."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Benchmarks:
    """What a page is told of benchmarks by those who know them.

    `compare` takes paired differences, `main` names the main ones among the metrics of a benchmark that were measured,
    and `publish` sets runs beside published results, None where no column of the published table was measured.
    """

    compare: Compare | None = None
    main: Callable[[str, Collection[str]], Sequence[str]] = lambda benchmark, measured: ()
    publish: Callable[[Results], PublishedTable | None] = lambda results: None


@dataclass(frozen=True)
class Scored:
    """The results of one benchmark, with the differences to the first run where there are any."""

    benchmark: str
    runs: tuple[EvaluatedRun, ...]
    main: tuple[str, ...]
    content: Mapping[str, Any] | None
    """Of a compare.json."""
    remarks: tuple[str, ...]

    @property
    def anchor(self) -> str:
        """The id of its section."""
        return f"eval-{identify(self.benchmark)}"

    @property
    def differences(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """The rows of the comparison that have a difference, by run and metric."""
        rows = [] if self.content is None else self.content["rows"]
        return {(row["run"], row["metric"]): row for row in rows if row["difference"] is not None}


def score_benchmark(benchmark: str, runs: Sequence[EvaluatedRun], known: Benchmarks) -> Scored:
    """Returns the results of runs on one benchmark; differences are taken to the first, where the data is the same."""
    comparable, remarks = _split(benchmark, runs)
    content: Mapping[str, Any] | None = None
    if known.compare is not None and len(comparable) > 1:
        try:
            content = clean(known.compare([run.folder for run in comparable], [run.label for run in comparable]))
        except Exception as error:  # what a folder holds may surprise who calculates with it
            remarks.append(f"no differences: {error}")
        else:
            remarks += [f"missing: {piece}" for piece in content["missing"]] + list(content["notes"])
    measured = list(dict.fromkeys(metric for run in runs for metric in run.metrics))
    main = [metric for metric in known.main(benchmark, measured) if metric in measured] or measured[:MOST_KEY]
    return Scored(
        benchmark, tuple(runs), tuple(main), content, tuple(_name_metrics(line, benchmark) for line in remarks)
    )


def _name_metrics(text: str, benchmark: str) -> str:
    """Returns a remark with the names of a benchmark's metrics in words."""
    return re.sub(rf"\b{re.escape(benchmark)}/[\w/]+", lambda found: label_metric(found[0], benchmark), text)


def evaluation_heads(scored: Sequence[Scored], known: Benchmarks, missing: list[str]) -> list[Headline]:
    """Returns what the results come to: beside published ones first, then benchmark by benchmark those that are not.

    Results that cannot be set beside published ones are named in `missing`, and stand benchmark by benchmark.
    """
    results: dict[str, dict[str, Mapping[str, Any]]] = {}
    for of in scored:
        for run in of.runs:
            results.setdefault(run.label, {})[of.benchmark] = {
                "metrics": run.metrics,
                "made_by": run.made_by,
                "partial": False,  # each section says why
            }
    table: PublishedTable | None = None
    try:
        table = known.publish(results) if scored else None
    except Exception as error:  # what a folder holds may surprise who reads it
        missing.append(f"the table of published results: cannot be shown ({type(error).__name__}: {error})")
    inside = [of for of in scored if table is not None and table.metrics & set(of.main)]
    heads = []
    if table is not None and inside:
        text = _say_differences(inside, table.metrics) or _say_values(inside, table.metrics)
        notes = (*_name_partial(inside), *table.notes)
        title, files = table.table.title, table_files("beside_published", table.table)
        heads.append(Headline(title, inside[0].anchor, text, table.table, table.published, notes, files))
    others = [of for of in scored if of not in inside]
    for of in others:
        text = _say_differences([of], frozenset(of.main)) or _say_values([of], frozenset(of.main))
        notes = (*_name_partial([of]), *(explain(of) if of is others[-1] else ()))  # said once for all
        heads.append(Headline(label_benchmark(of.benchmark), of.anchor, text, key_table(of), notes=notes))
    return heads


def _name_partial(scored: Sequence[Scored]) -> tuple[str, ...]:
    """Returns which results stand on less than the whole benchmark; their sections say why."""
    found = [f"{label_benchmark(of.benchmark)} ({run.label})" for of in scored for run in of.runs if run.partial]
    return (f"partial results: {', '.join(found)}",) if found else ()


def evaluation_section(of: Scored, pictures: ItemPictures, *, has_key: bool = True) -> Section:
    """Returns the section of a benchmark; its main metrics stand in it unless they stand on top of the page."""
    metrics = all_metrics(of)
    files: dict[str, File] = table_files(of.anchor, metrics)
    if of.content is not None:
        files[f"{of.anchor}_differences.csv"] = csv_comparison(of.content)
        files[f"{of.anchor}_differences.md"] = markdown_comparison(of.content)
        files[f"{of.anchor}_differences.png"] = partial(draw_comparison, of.content)
    html = render(
        "evaluation.html",
        key=key_table(of) if has_key else None,
        explanation=explain(of),
        remarks=[*dict.fromkeys(reason for run in of.runs for reason in run.partial), *of.remarks],
        scorer_notes=[note for run in of.runs for note in run.notes],
        metrics=metrics,
        examples=choose_examples(of.benchmark, of.runs, pictures),
    )
    return Section(of.anchor, f"Evaluation: {label_benchmark(of.benchmark)}", html, files)


def key_table(of: Scored) -> Table:
    """Returns a row for each run with the main metrics."""
    heads = [_head(of, metric) for metric in of.main]
    rows = tuple((run.label, *(_cell(of, run, metric) for metric in of.main)) for run in of.runs)
    return Table(("run", *heads), rows, f"{label_benchmark(of.benchmark)}: main metrics")


def all_metrics(of: Scored) -> Table:
    """Returns a row for each metric with all runs."""
    names = list(dict.fromkeys(metric for run in of.runs for metric in run.metrics))
    rows = tuple((_head(of, name), *(_cell(of, run, name) for run in of.runs)) for name in names)
    records = tuple(
        {"run": run.label, "metric": metric, **value} for run in of.runs for metric, value in run.metrics.items()
    )
    return Table(("metric", *(run.label for run in of.runs)), rows, f"{of.benchmark}: metrics", records)


def explain(of: Scored) -> tuple[str, ...]:
    """Returns how to read the cells of the tables."""
    said = ["the value that the official rule prints [its 95 % interval]; ↑ higher is better, ↓ lower"]
    if of.content is not None:
        made = of.content["statistics"]
        said.append(
            f"below it the difference to {of.content['runs'][0]}, by a paired bootstrap over {made['resampled']}s that "
            f"both have scored ({made['resamples']:,} resamples); * its 95 % interval excludes 0"
        )
    return tuple(said)


def _head(of: Scored, metric: str) -> str:
    value = next(run.metrics[metric] for run in of.runs if metric in run.metrics)
    unit = f" ({value['unit']})" if value["unit"] else ""
    return f"{label_metric(metric, of.benchmark)}{unit}{ARROWS.get(value['better'], '')}"


def _cell(of: Scored, run: EvaluatedRun, metric: str) -> str:
    """Returns a metric of a run with its interval, and in a second line the difference to the first run."""
    value = run.metrics.get(metric)
    if value is None:
        return MISSING
    digits = DIGITS.get(value["unit"], 1)
    shown = show_interval(value["value"], value["low"], value["high"], digits)
    row = of.differences.get((run.label, metric))
    if row is None:
        return shown
    difference = show_interval(row["difference"], row["low"], row["high"], digits, signed=True)
    return f"{shown}\n{difference}" + (f"{NO_BREAK}*" if row["excludes_zero"] else "")


def _say_differences(scored: Sequence[Scored], metrics: frozenset[str]) -> str:
    """Returns on how many of the metrics each run is better and worse than the first; empty where nothing compares.

    Benchmarks that the first run lacks are compared with another one, which has a sentence of its own.
    """
    firsts: dict[str, dict[str, list[int]]] = {}
    for of in scored:
        for (run, metric), row in of.differences.items():
            if metric in metrics and row["better"] in ("higher", "lower") and of.content is not None:
                sign = 1 if row["better"] == "higher" else -1
                of_run = firsts.setdefault(of.content["runs"][0], {}).setdefault(run, [0, 0, 0])
                of_run[0 if not row["excludes_zero"] else 1 if sign * row["difference"] > 0 else 2] += 1
    return " ".join(_say_against(first, counts) for first, counts in firsts.items())


def _say_against(first: str, counts: Mapping[str, Sequence[int]]) -> str:
    """Returns a sentence; `counts` are, by run, the metrics that are unclear, better and worse than the first run's."""
    order = sorted(counts, key=lambda run: counts[run][2] - counts[run][1])
    said = []
    for run in order if len(order) <= MOST_NAMED else (order[0], order[-1]):
        unclear, better, worse = counts[run]
        total = unclear + better + worse
        if unclear == total:
            said.append(f"{run} differs beyond chance on none of {_count(total, 'figure')}")
        else:
            rest = f"; {unclear} cannot be told from chance" if unclear else ""
            said.append(f"{run} is better on {better} of {_count(total, 'figure')} and worse on {worse}{rest}")
    few = "" if len(order) <= MOST_NAMED else f" (best and worst of {len(order)} runs)"
    return f"Against {first}, {'; '.join(said)}{few}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _say_values(scored: Sequence[Scored], metrics: frozenset[str]) -> str:
    """Returns the main metrics of one run in a sentence, or how many runs there are."""
    runs = list(dict.fromkeys(run.label for of in scored for run in of.runs))
    if len(runs) > 1:
        return f"{len(runs)} runs, without differences between them."
    found = []
    for of in scored:
        for metric in of.main:
            value = of.runs[0].metrics.get(metric)
            if metric in metrics and value is not None and value["value"] is not None:
                name = f"{label_benchmark(of.benchmark)} {label_metric(metric, of.benchmark)}"
                shown = show_number(value["value"], DIGITS.get(value["unit"], 1))
                unit = f"{NO_BREAK}%" if value["unit"] == "%" else ""
                found.append(f"{name.replace('CHAIR CHAIR', 'CHAIR')} {shown}{unit}")
    return f"{runs[0]}: {', '.join(found)}." if found else f"{runs[0]} has no main metric."


def _split(benchmark: str, runs: Sequence[EvaluatedRun]) -> tuple[list[EvaluatedRun], list[str]]:
    """Returns the runs on the data of the first one, and what is to be said of the others."""
    comparable, notes = list[EvaluatedRun](), list[str]()
    for run in (run for run in runs if run.metrics and run.items):
        first = comparable[0] if comparable else run
        one, other = (of.made_by.get("ground_truth") or "not named" for of in (first, run))
        common = [item_id for item_id in run.items if item_id in first.items]
        moved = [item_id for item_id in common if first.items[item_id].image != run.items[item_id].image]
        if one != other:
            why = f"the ground truth is {one} in {first.label} and {other} in {run.label}"
        elif not common and max(len(first.items), len(run.items)) < LOOKED_AT:  # else who compares reads them all
            why = f"{first.label} and {run.label} share no item"
        elif moved:
            why = f"item {moved[0]} has another image in {first.label} than in {run.label}"
        else:
            comparable.append(run)
            continue
        notes.append(f"{benchmark}: not the same data, so there is no difference between these runs: {why}")
    return comparable, notes
