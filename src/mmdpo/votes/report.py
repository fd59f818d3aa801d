"""What votes come to: win, tie and lose with intervals and a sign test, agreement among raters, Bradley–Terry.

A share is over votes; its interval resamples images, each with all its items and all votes on them. The sign test is
over images too. Both bad says that neither answer is better: it is a share and a category of its own, counts as "same"
beside the paper's figure, and as half a win for each in Bradley–Terry.

votes.json   everything, unrounded
votes.md     the tables
votes.csv    win, tie and lose of every pair and question type, unrounded
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmdpo.benchmarks.definitions import Metric, Sums, Values, divide
from mmdpo.benchmarks.stats import (
    LEVEL,
    RESAMPLES,
    CountTable,
    bootstrap,
    check_bootstrap,
    find_interval,
    resample,
)
from mmdpo.files import clean, write_json, write_whole
from mmdpo.folders import make_folder
from mmdpo.tables import MISSING, Table, show_ends, show_interval, show_number
from mmdpo.votes.store import Vote, Votes, VoteStore
from mmdpo.votes.study import CHOICES, Study, StudyItem

if TYPE_CHECKING:
    from rich.console import Console

Content: TypeAlias = Mapping[str, Any]
"""The content of a votes.json."""
PAPER = {
    "better_or_same": 89.0,
    "worse": 11.0,
    "source": "Wang et al., mDPO, 2024, Figure 4: people on mDPO's answers against DPO's",
}
OUTCOMES = ("win", "tie", "lose", "both_bad")
"""Of the second run of a pair against the first."""
_MEANINGS = {"win": "better", "tie": "same", "both_bad": "both bad", "lose": "worse"}
_ITERATIONS = 1000
"""Iterations within which the strengths of Bradley–Terry converge, or count as not found."""


def _share(counts: Sequence[str]) -> Any:
    return lambda sums: 100 * divide(sum((sums[name] for name in counts), np.zeros_like(sums["n"])), sums["n"])


def _lead(sums: Sums) -> Values:
    return 100 * divide(sums["win"] - sums["lose"], sums["n"])


METRICS = (
    *(Metric(name, _share((name,)), ("n",), "neither", "%", 1) for name in OUTCOMES),
    Metric("better_or_same", _share(("win", "tie", "both_bad")), ("n",), "higher", "%", 1),
    Metric("win_minus_lose", _lead, ("n",), "higher", "%", 1),
)
"""Per cent of the votes."""


def _alpha(sums: Sums) -> Values:
    """Returns 1 − D_o / D_e over the votes of all items; NaN where all are the same."""
    expected = sums["n"] ** 2 - sum((sums[name] ** 2 for name in OUTCOMES), np.zeros_like(sums["n"]))
    return 1 - divide((sums["n"] - 1) * sums["disagreement"], expected)


ALPHA = Metric("alpha", _alpha, ("n",), "higher", "", 3)
"""Krippendorff's α for nominal categories."""


def make_report(store: VoteStore, *, resamples: int = RESAMPLES, seed: int = 0) -> Content:
    """Returns what the votes of a store come to."""
    check_bootstrap(resamples, seed)
    study, votes = store.study, store.votes()
    results, agreement = [], []
    kinds = list(dict.fromkeys(item.type for item in study.items))
    for key, (first, second) in study.pairs.items():
        about = {"first": study.labels[first], "second": study.labels[second]}
        found = list(_judge(study, key, votes.counting))
        for kind in (None, *(kinds if len(kinds) > 1 else ())):
            items = [item for item in study.items if kind in (None, item.type)]
            results.append(about | {"type": kind} | _result(study, key, items, found, resamples, seed))
        agreement.append(about | _agree(study, found, resamples, seed))
    return dict(
        clean(
            {
                "study": study.digest,
                "benchmark": study.benchmark,
                "runs": study.labels,
                "votes": len(votes.counting),
                "votes_changed": len(votes.replaced),
                "results": results,
                "agreement": agreement,
                "bradley_terry": _bradley_terry(study, votes.counting, resamples, seed),
                "raters": _raters(votes),
                "paper": PAPER,
                "notes": study.notes,
                "statistics": {"level": LEVEL, "resamples": resamples, "seed": seed, "resampled": "image"},
            }
        )
    )


def write_report(content: Content, out: Path) -> None:
    """Writes votes.json, votes.md and votes.csv into a folder."""
    make_folder(out)
    write_json(out / "votes.json", content)
    write_whole(out / "votes.md", markdown_report(content))
    write_whole(out / "votes.csv", Table((), (), records=tuple(_flat(row) for row in content["results"])).csv())


# -- win, tie, lose ---------------------------------------------------------------------------------------------------


def _judge(study: Study, key: str, votes: Iterable[Vote]) -> Iterator[tuple[Vote, str]]:
    """Yields the votes on a pair of runs, each with what it says of the second run."""
    first, second = study.pairs[key]
    for vote in votes:
        if vote.pair == key:
            chosen = study.preferred(vote.rater, vote.task, vote.choice)
            yield vote, {first: "lose", second: "win"}.get(-1 if chosen is None else chosen, vote.choice)


def _result(
    study: Study,
    key: str,
    items: Sequence[StudyItem],
    judged: Sequence[tuple[Vote, str]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    first, second = study.pairs[key]
    by_id = {item.id: item for item in items}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for vote, outcome in judged:
        if vote.item in by_id:
            counts[vote.item][outcome] += 1
    rows = [(item, _group(by_id[item]), {**found, "n": found.total()}) for item, found in counts.items()]
    table = CountTable.build(rows)
    result: dict[str, Any] = {
        "items": len(items),
        "items_equal": sum(item.answers[first] == item.answers[second] for item in items),
        "items_voted": len(rows),
        "votes": int(table.values[:, table.names.index("n")].sum()) if rows else 0,
        "counts": {name: sum(found[name] for found in counts.values()) for name in OUTCOMES},
    }
    intervals = bootstrap(table, METRICS, resamples=resamples, seed=seed) if rows else {}
    for metric in METRICS:
        interval = intervals.get(metric.name)
        result[metric.name] = {
            "value": float(metric.compute(table.sums())[0]) if rows else None,
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
        }
    return result | {"sign_test": sign_test(rows)}


def _group(item: StudyItem) -> str:
    return item.image or item.id


def sign_test(rows: Sequence[tuple[str, str, Mapping[str, float]]]) -> dict[str, Any]:
    """Tests whether as many images have more wins than losses as the other way round; two-sided, exact.

    Rows are (item, image, counts). Images with as many wins as losses are left out; p is None where all are.
    """
    lead: Counter[str] = Counter()
    for _, image, counts in rows:
        lead[image] += int(counts.get("win", 0) - counts.get("lose", 0))
    wins, losses = sum(of > 0 for of in lead.values()), sum(of < 0 for of in lead.values())
    n = wins + losses
    tail = sum(math.comb(n, count) for count in range(min(wins, losses) + 1))
    p = min(1.0, 2 * tail / 2**n) if n else None
    return {"wins": wins, "losses": losses, "undecided": len(lead) - n, "p": p}


# -- raters -----------------------------------------------------------------------------------------------------------


def _agree(study: Study, judged: Sequence[tuple[Vote, str]], resamples: int, seed: int) -> dict[str, Any]:
    """Returns how far raters agree on the items that several of them have voted on."""
    by_item: dict[str, dict[str, str]] = defaultdict(dict)
    for vote, outcome in judged:
        by_item[vote.item][vote.rater] = outcome
    shared = {item: found for item, found in by_item.items() if len(found) > 1}
    twos = [one == other for found in shared.values() for one, other in combinations(found.values(), 2)]
    by_id = {item.id: item for item in study.items}
    table = CountTable.build([(of, _group(by_id[of]), _disagree(found.values())) for of, found in shared.items()])
    alpha = float(ALPHA.compute(table.sums())[0]) if shared else math.nan
    reason = ""
    if not shared:
        reason = "no item has the votes of two raters"
    elif math.isnan(alpha):
        reason = "all votes are the same, so there is nothing that chance could have made agree"
    interval = None if reason else bootstrap(table, (ALPHA,), resamples=resamples, seed=seed).get(ALPHA.name)
    return {
        "raters": len({rater for found in shared.values() for rater in found}),
        "items": len(shared),
        "equal": 100 * sum(twos) / len(twos) if twos else None,
        "alpha": None if reason else alpha,
        "alpha_low": None if interval is None else interval.low,
        "alpha_high": None if interval is None else interval.high,
        "reason": reason,
    }


def _disagree(votes: Collection[str]) -> dict[str, float]:
    """Returns how often an item got each outcome, and its pairs of unequal votes, as one vote of each counts them."""
    found = Counter(votes)
    unequal = len(votes) ** 2 - sum(count**2 for count in found.values())
    return {**found, "n": len(votes), "disagreement": unequal / (len(votes) - 1)}


def _raters(votes: Votes) -> list[dict[str, Any]]:
    """Returns how often each rater chose what; one who takes a side without looking shows here."""
    chosen: dict[str, Counter[str]] = defaultdict(Counter)
    for vote in votes.counting:
        chosen[vote.rater][vote.choice] += 1
    changed = Counter(vote.rater for vote in votes.replaced)
    return [
        {"rater": rater, "votes": found.total(), "changed": changed[rater]}
        | {str(choice): found[choice] for choice in CHOICES}
        for rater, found in sorted(chosen.items())
    ]


# -- Bradley–Terry ----------------------------------------------------------------------------------------------------


def _bradley_terry(study: Study, votes: Sequence[Vote], resamples: int, seed: int) -> dict[str, Any]:
    """Returns each run's strength in log-odds, 0 on average: P(i is preferred to j) = σ(strength_i − strength_j)."""
    if len(study.runs) < 3:
        return {"strengths": [], "reason": "two runs alone: win and lose say it all"}
    try:
        import choix  # noqa: F401
    except ImportError:
        return {"strengths": [], "reason": 'choix is not installed: pip install "mmdpo[app]"'}
    table = _wins(study, votes)
    whole = _strengths(study, table.sums())[:, 0]
    if not np.isfinite(whole).all():
        reason = "no finite strengths: of some runs, none was ever preferred to, or level with, one of the others"
        return {"strengths": [], "reason": reason}
    sums = resample(table, resamples=resamples, seed=seed)
    drawn = np.zeros((len(study.runs), 0)) if sums is None else _strengths(study, sums)
    rows = []
    for label, strength, values in zip(study.labels, whole, drawn, strict=True):
        interval = find_interval(values)
        ends = (None, None) if interval is None else (interval.low, interval.high)
        rows.append({"run": label, "strength": float(strength), "low": ends[0], "high": ends[1]})
    return {"strengths": rows, "reason": "", "resamples_without": int(np.isnan(drawn[0]).sum())}


def _wins(study: Study, votes: Sequence[Vote]) -> CountTable:
    """Counts by item how often each run was preferred to each other one, half a win for each where neither was."""
    by_id = {item.id: item for item in study.items}
    counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for vote in votes:
        first, second = study.pairs[vote.pair]
        chosen = study.preferred(vote.rater, vote.task, vote.choice)
        for one, other in ((first, second), (second, first)):
            counts[vote.item][f"{one}>{other}"] += 0.5 if chosen is None else float(chosen == one)
    return CountTable.build([(item, _group(by_id[item]), found) for item, found in counts.items()])


def _strengths(study: Study, sums: Sums) -> Values:
    """Returns strengths, (runs, resamples), NaN where the data allow no finite ones."""
    import choix

    count, columns = len(study.runs), next(iter(sums.values()), np.zeros(1)).shape[0]
    wins = np.zeros((columns, count, count))
    for one in range(count):
        for other in range(count):
            if one != other:
                wins[:, one, other] = sums[f"{one}>{other}"]
    found = np.full((columns, count), np.nan)
    for place, matrix in enumerate(wins):
        # A finite maximum of the likelihood takes a chain of wins from every run to every other one.
        if (np.linalg.matrix_power((matrix > 0) + np.eye(count), count) > 0).all():
            try:
                found[place] = choix.ilsr_pairwise_dense(matrix, max_iter=_ITERATIONS)
            except (RuntimeError, ValueError):
                continue
    return found.T


# -- shown ------------------------------------------------------------------------------------------------------------


def report_tables(content: Content) -> list[Table]:
    """Returns the tables in the order in which they are shown."""
    tables = []
    for row in content["results"]:
        if row["type"] is None:
            tables.append(_pair_table(row, content["paper"]))
            typed = [of for of in content["results"] if of["type"] and _pair(of) == _pair(row)]
            tables += [_type_table(row, typed)] if typed else []
    tables.append(_agreement_table(content["agreement"]))
    if content["bradley_terry"]["strengths"]:
        tables.append(_strength_table(content["bradley_terry"]["strengths"]))
    return [*tables, _rater_table(content["raters"])] if content["raters"] else tables


def markdown_report(content: Content) -> str:
    """Returns the report in GitHub's Markdown, ending with a newline."""
    head = f"# Votes on {content['benchmark']}: {', '.join(content['runs'])}\n"
    tables = (table.markdown() for table in report_tables(content))
    return "\n".join([head, *tables, "".join(f"- {line}\n" for line in _remarks(content))])


def print_report(content: Content, console: Console) -> None:
    """Prints the tables, in 80 columns, and what a reader should know."""
    from rich.text import Text

    said = f"{content['votes']:,} votes of {len(content['raters'])} raters on {content['benchmark']}"
    console.print(Text(said), soft_wrap=True)
    for table in report_tables(content):
        console.print()
        console.print(table.terminal(wrap=12, padding=(0, 1, 0, 0)))
    console.print()
    for line in _remarks(content):
        console.print(Text(line), soft_wrap=True)


def _pair(row: Content) -> tuple[str, str]:
    return row["first"], row["second"]


def _pair_table(row: Content, paper: Content) -> Table:
    rows = []
    for name, meaning in _MEANINGS.items():
        rows.append((meaning, show_number(row["counts"][name], ",.0f"), *_cells(row[name]), MISSING))
    better = sum(row["counts"][name] for name in ("win", "tie", "both_bad"))
    said = (show_number(better, ",.0f"), *_cells(row["better_or_same"]), show_number(paper["better_or_same"], 0))
    rows[-1] = (*rows[-1][:-1], show_number(paper["worse"], 0))
    rows.append(("better or same", *said))
    lead = ("better − worse", MISSING, *_cells(row["win_minus_lose"], signed=True), MISSING)
    title = f"{row['second']} against {row['first']}"
    return Table(("", "votes", "%", "95 % interval", "paper, %"), (*rows, lead), title)


def _cells(value: Content, digits: int = 1, *, signed: bool = False) -> tuple[str, str]:
    ends = show_ends(value["low"], value["high"], digits, signed=signed)
    return show_number(value["value"], digits, signed=signed), ends


def _type_table(whole: Content, rows: Sequence[Content]) -> Table:
    shown = []
    for row in rows:
        shares = [show_interval(of["value"], of["low"], of["high"], 0) for of in (row["win"], row["tie"], row["lose"])]
        both = show_number(row["both_bad"]["value"], 0)
        shown.append((row["type"], show_number(row["votes"], ",.0f"), *shares, both, _show_p(row["sign_test"]["p"])))
    title = f"{whole['second']} against {whole['first']}, by question type"
    headers = ("type", "votes", "better, %", "same, %", "worse, %", "both bad, %", "p")
    return Table(headers, tuple(shown), title)


def _agreement_table(rows: Sequence[Content]) -> Table:
    shown = (
        (
            f"{row['second']} against {row['first']}",
            *(show_number(row[key], ",.0f") for key in ("raters", "items")),
            show_number(row["equal"], 1),
            show_number(row["alpha"], 3),
            show_ends(row["alpha_low"], row["alpha_high"], 3),
        )
        for row in rows
    )
    headers = ("", "raters", "shared items", "equal, %", "Krippendorff's α", "95 % interval")
    return Table(headers, tuple(shown), "Agreement on items that several raters have voted on")


def _strength_table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = ((of["run"], *_cells(of | {"value": of["strength"]}, 2, signed=True)) for of in rows)
    return Table(("run", "strength, log-odds", "95 % interval"), tuple(shown), "Bradley–Terry")


def _rater_table(rows: Sequence[Content]) -> Table:
    keys = ("votes", *CHOICES, "changed")
    shown = ((row["rater"], *(show_number(row[key], ",.0f") for key in keys)) for row in rows)
    return Table(("rater", *(key.replace("_", " ") for key in keys)), tuple(shown))


def _show_p(p: float | None) -> str:
    return MISSING if p is None else "< 0.001" if p < 0.001 else show_number(p, 3)


def _remarks(content: Content) -> Iterator[str]:
    statistics = content["statistics"]
    whole = [row for row in content["results"] if row["type"] is None]
    for row in whole:
        test, pair = row["sign_test"], f"{row['second']} against {row['first']}"
        yield (
            f"{pair}: sign test over images: {test['wins']} better, {test['losses']} worse, {test['undecided']} "
            f"undecided, p = {_show_p(test['p'])}. Votes on {row['items_voted']:,} of {row['items']:,} items."
        )
        if row["items_equal"]:
            yield f"{pair}: {row['items_equal']:,} items have the same answer in both, and are not shown or counted."
    for row in content["agreement"]:
        if row["reason"]:
            yield f"{row['second']} against {row['first']}: no α: {row['reason']}."
    terry = content["bradley_terry"]
    if terry["reason"] and len(content["runs"]) > 2:
        yield f"No Bradley–Terry: {terry['reason']}."
    elif terry.get("resamples_without"):
        yield f"Bradley–Terry: {terry['resamples_without']:,} resamples allow no finite strengths and are left out."
    yield (
        f"Shares are of votes; intervals by a bootstrap over {statistics['resampled']}s with all votes on them, "
        f"{statistics['resamples']:,} resamples, seed {statistics['seed']}."
    )
    yield (
        "Both bad: neither is better, so it counts as the same beside the paper, and as half a win for each in "
        "Bradley–Terry; for α it is a category of its own, and the sign test leaves it out like a tie."
    )
    yield f"Paper: {content['paper']['source']}; other models, raters, and perhaps another benchmark than here."
    if content["votes_changed"]:
        yield f"{content['votes_changed']:,} votes were changed by their raters; the last one counts."
    yield from content["notes"]


def _flat(row: Content) -> dict[str, Any]:
    """Returns a result as one record: `win.low` for what lies inside `win`."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= (
            {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return flat
