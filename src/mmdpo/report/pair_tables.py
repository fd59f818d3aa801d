"""The tables of a run of `mmdpo pairs`, for its card, the terminal and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.files import find_inside
from mmdpo.report.reading import NUMBER, fit, read_object
from mmdpo.tables import MISSING, Table, show_interval, show_number

FUNNEL = "From prompts to pairs"
COST, CHECK = "cost.json", "check-{}.json"
_SHARE = ({"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": float}, None)
COST_SHAPE = {"steps": {str: {str: NUMBER}}}
CHECK_SHAPE = {
    "pairs": {"accuracy": _SHARE, "ties": _SHARE},
    "length": {"better_longer": _SHARE, "better_shorter": _SHARE, "difference": NUMBER},
    "order": ({"turned": _SHARE}, None),
    "claims": ({"accuracy": _SHARE, "wrongly_struck": _SHARE, "wrongly_believed": _SHARE}, None),
    "author": ({"better_own": _SHARE, "worse_own": _SHARE, "difference": NUMBER}, None),
}
SIDES = ("chosen", "rejected", "pool")
"""What is measured: both answers of the pairs, and all that were judged."""
SPENT = ("requests", "read", "written", "price", "seconds")
MISTAKES = {"drop": "dropped", "weigh": "column `clean` is 0", "keep": "kept"}


def make_tables(folder: Path, result: Mapping[str, Any], problems: list[str] | None = None) -> list[Table]:
    """Returns how the pairs were made, what was lost, what they are like, and the cost, each as a table.

    `result` is the content of pairs.json; what it lacks is left out. What cannot be used of the files beside it is
    named in `problems`, where such a list is given.
    """
    found: list[str] = [] if problems is None else problems
    return [*funnel_tables(result), *like_tables(result), *cost_tables(folder, result, found)]


def funnel_tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns how the pairs were made, how many prompts and answers came how far, and why the others did not."""
    plan, funnel = result.get("plan", {}), result.get("funnel", {})
    sampler = result.get("sampler", {})
    settings = sampler.get("settings", {})
    drawn = (show_number(settings.get(key), form) for key, form in (("temperature", "g"), ("top_p", "g"), ("seed", 0)))
    made = [
        ("policy", str(sampler.get("sampler", {}).get("model", MISSING))),
        ("answers", "temperature {}, top_p {}, seed {}".format(*drawn)),
        ("judges", ", ".join(f"{label} ({version})" for label, version in result.get("judges", {}).items())),
        ("rule", result.get("rule", MISSING)),
        ("margin", f"{show_number(plan.get('margin'), 'g')} or more"),
        ("chosen answers with mistakes", MISTAKES.get(plan.get("mistakes", ""), MISSING)),
        ("balance", plan.get("balance", MISSING)),
    ]
    steps = {
        "prompts": "prompts",
        "answers": "answers",
        "answers with a verdict": "answers_judged",
        "answers that may be in a pair": "candidates",
        "pairs": "pairs",
        "prompts whose own answers have no mistake": "prompts_without_mistakes",
    }
    counts = [{"step": name, "number": funnel.get(key)} for name, key in steps.items()]
    lost = [
        {"not in a pair": f"{kind}: {reason}", "number": count}
        for kind in ("prompts", "answers", "pairs")
        for reason, count in funnel.get(f"{kind}_lost", {}).items()
    ]
    tables = [
        Table(("", ""), tuple(made), "How they were made", tuple({"what": name, "how": how} for name, how in made)),
        Table(("", "number"), tuple((of["step"], _count(of["number"])) for of in counts), FUNNEL, tuple(counts)),
        _counts(("not in a pair", "number"), lost, "What was lost"),
    ]
    return [table for table in tables if table.rows]


def like_tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns what the pairs are like: numbers, marks of style, and the claims that are most often struck."""
    words, errors = result.get("words", {}), result.get("errors")
    like: dict[str, tuple[Any, ...]] = {
        "words, chosen / rejected / all answers": tuple(words.get(key) for key in SIDES),
        "chosen longer or shorter, %": (words.get("difference"),),
        "the longer answer is the chosen one, %": (_percent(words.get("auc")),),
    }
    if errors:
        like |= {
            "wrong claims, chosen / rejected / all answers, %": tuple(errors.get(key) for key in SIDES),
            "pairs whose chosen answer has no mistake, %": (result.get("clean"),),
        }
    for label, share in result.get("by_judge", {}).items():
        like[f"chosen answers with a mistake by {label}, %"] = (share,)
    for name, rule in result.get("shortcut", {}).get("rules", {}).items():
        like[f"told apart by {rule.get('label', name)}, %"] = (rule.get("accuracy"),)
    rows = tuple((name, " / ".join(map(_show, values))) for name, values in like.items())
    records = [{"measure": name, "value": values[0]} for name, values in like.items() if len(values) == 1]
    records += [
        {"measure": name, **dict(zip(SIDES, values, strict=True))} for name, values in like.items() if len(values) == 3
    ]
    style = [
        {"mark of style": name, **{key: of.get(key) for key in SIDES}, "chosen has more": _percent(of.get("auc"))}
        for name, of in result.get("style", {}).items()
        if max(of.get("chosen") or 0, of.get("rejected") or 0) > 0
    ]
    struck = [{"claim": text, "times": count} for text, count in result.get("struck", {}).items()]
    shown = tuple((str(name), *map(_show, values)) for name, *values in (of.values() for of in style))
    headers = ("mark of style", "chosen %", "rejected %", "all %", "chosen has more, %")
    tables = [
        Table(("", ""), rows, "What the pairs are like", tuple(records)),
        Table(headers, shown, "Style", tuple(style)),
        _counts(("claim", "times"), struck, "Claims of rejected answers that are most often wrong"),
    ]
    return [table for table in tables if table.rows]


def key_table(result: Mapping[str, Any]) -> Table:
    """Returns in one row how many pairs there are, of what share of the prompts, and what they are like."""
    words, errors = result.get("words", {}), result.get("errors") or {}
    values = {
        "prompts that gave a pair, %": _show(_percent(result.get("funnel", {}).get("yield"))),
        "chosen without a mistake, %": _show(result.get("clean")),
        "wrong claims, chosen / rejected, %": " / ".join(_show(errors.get(key)) for key in SIDES[:2]),
        "words, chosen / rejected": " / ".join(_show(words.get(key)) for key in SIDES[:2]),
        "the longer answer is chosen, %": _show(_percent(words.get("auc"))),
    }
    count = _count(sum(result.get("pairs", {}).values()))
    return Table(("pairs", *values), ((count, *values.values()),), "The pairs in a row")


def cost_tables(folder: Path, result: Mapping[str, Any], problems: list[str]) -> list[Table]:
    """Returns what the steps have cost, and what `check-judge` found of the judges where it was asked."""
    tables = []
    if (folder / COST).is_file():
        content = read_object(folder / COST, problems, costs="what it cost is not shown")
        steps = fit(content, COST_SHAPE, COST, problems).get("steps", {})
        forms = dict.fromkeys(SPENT, ",.0f") | {"price": ".2f"}
        rows = (
            (step, *(show_number(of.get(key), form) for key, form in forms.items()))
            for step, of in steps.items()
            if step != "build"
        )
        headers = ("step", "requests", "tokens read", "tokens written", "price", "seconds")
        records = tuple({"step": step, **{key: of.get(key) for key in SPENT}} for step, of in steps.items())
        tables.append(Table(headers, tuple(rows), "What it cost", records))
    for label in result.get("judges", {}):
        path = find_inside(folder, CHECK.format(label))
        if isinstance(path, Path) and path.is_file():
            content = read_object(path, problems, costs=f"what was found of {label} is not shown")
            tables.append(check_table(label, fit(content, CHECK_SHAPE, path.name, problems)))
    return [table for table in tables if table.rows]


def check_table(label: str, found: Mapping[str, Any]) -> Table:
    """Returns what `check-judge` found of a judge."""
    rows: list[tuple[str, ...]] = []
    records: list[dict[str, Any]] = []

    def add(name: str, part: str, key: str) -> None:
        share = (found.get(part) or {}).get(key) or {}
        if share.get("value") is not None:
            shown = show_interval(share["value"], share.get("low"), share.get("high"), 1)
            rows.append((name, shown, _count(share.get("n"))))
            records.append({"measure": name, **{key: share.get(key) for key in ("value", "low", "high", "n")}})

    def contrast(name: str, part: str) -> None:
        difference = (found.get(part) or {}).get("difference")
        if difference is not None:
            rows.append((name, show_number(difference, 1, signed=True), ""))
            records.append({"measure": name, "value": difference})

    add("pairs ranked rightly, ties as half", "pairs", "accuracy")
    add("pairs that it ties", "pairs", "ties")
    add("right where the better answer is longer", "length", "better_longer")
    add("right where the better answer is shorter", "length", "better_shorter")
    contrast("moved by length: the difference", "length")
    add("comparisons that turn with the order", "order", "turned")
    add("claims judged rightly", "claims", "accuracy")
    add("true claims struck", "claims", "wrongly_struck")
    add("wrong claims believed", "claims", "wrongly_believed")
    add("right where the better answer is the policy's", "author", "better_own")
    add("right where the worse answer is the policy's", "author", "worse_own")
    contrast("moved by the author: the difference", "author")
    return Table(("%", "value", "n"), tuple(rows), f"The judge {label} on labelled answers", tuple(records))


def _counts(headers: tuple[str, str], counts: Sequence[Mapping[str, Any]], title: str) -> Table:
    rows = tuple((str(name), _count(count)) for name, count in (of.values() for of in counts))
    return Table(headers, rows, title, tuple(counts))


def _percent(share: Any) -> Any:
    return None if share is None else 100 * share


def _show(value: Any) -> str:
    return show_number(value, 1)


def _count(value: Any) -> str:
    return show_number(value, ",.0f")
