"""The tables of a run of `mmdpo pairs`, for its card, the terminal and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdpo.files import find_inside
from mmdpo.report.reading import PAIRS, fit, read_object
from mmdpo.tables import MISSING, Table, show_interval, show_number

FUNNEL = "From prompts to pairs"
COST, CHECK = "cost.json", "check-{}.json"
SIDES = ("chosen", "rejected", "pool")
"""What is measured: both answers of the pairs, and all that were judged."""
MEASURED = dict.fromkeys((*SIDES, "difference", "auc"), float)
STEPS = {
    "prompts": "prompts",
    "answers": "answers",
    "answers_judged": "answers with a verdict",
    "candidates": "answers that may be in a pair",
    "pairs": "pairs",
    "prompts_without_mistakes": "prompts whose own answers have no mistake",
}
LOST = ("prompts", "answers", "pairs")
RESULT_SHAPE = {
    **dict.fromkeys(("rule", "asked_rule", "about"), str),
    "notes": [str],
    "plan": {"mistakes": str, "balance": str, **dict.fromkeys(("margin", "seed"), float)},
    "judges": {str: str},
    "sampler": {"sampler": {"model": str}, "settings": dict.fromkeys(("temperature", "top_p", "seed"), float)},
    "funnel": {
        **dict.fromkeys((*STEPS, "prompts_judged", "yield"), float),
        **{f"{kind}_lost": {str: float} for kind in LOST},
    },
    "pairs": {str: float},
    "images": float,
    "clean": float,
    "errors": {str: float},
    "by_judge": {str: float},
    "words": MEASURED,
    "margins": {str: float},
    "style": {str: MEASURED},
    "struck": {str: float},
    "shortcut": {"rules": {str: {"label": str, "accuracy": float}}, "notes": [str]},
}
"""What is read of pairs.json."""
SPENT = {
    "requests": "requests", "read": "tokens read", "written": "tokens written", "price": "price", "seconds": "seconds",
}  # fmt: skip
CHECKED = {
    "pairs": {"accuracy": "pairs ranked rightly, ties as half", "ties": "pairs that it ties"},
    "margin": {
        "narrow": "right where its scores differ by less than 2",
        "wide": "right where its scores differ by 2 or more",
    },
    "length": {
        "better_longer": "right where the better answer is longer",
        "better_shorter": "right where the better answer is shorter",
        "difference": "moved by length: the difference",
    },
    "order": {"turned": "comparisons that turn with the order"},
    "claims": {
        "accuracy": "claims judged rightly",
        "wrongly_struck": "true claims struck",
        "wrongly_believed": "wrong claims believed",
    },
    "author": {
        "better_own": "right where the better answer is the policy's",
        "worse_own": "right where the worse answer is the policy's",
        "difference": "moved by the author: the difference",
    },
}
"""What `check-judge` finds, by part and key: shares with an interval, and differences of two of them."""
_SHARE = dict.fromkeys(("value", "low", "high", "n"), float)
_CHECK_SHAPE = {
    part: {key: float if key == "difference" else _SHARE for key in names} for part, names in CHECKED.items()
}
MISTAKES = {"drop": "dropped", "weigh": "column `clean` is 0", "keep": "kept"}


def make_tables(folder: Path, result: Mapping[str, Any]) -> list[Table]:
    """Returns how the pairs were made, what was lost, what they are like, and the cost, each as a table.

    `result` is the content of pairs.json; what it lacks is left out.
    """
    fitted = fit(result, RESULT_SHAPE, PAIRS, [])
    return [*funnel_tables(fitted), *like_tables(fitted), *cost_tables(folder, fitted, [])]


def funnel_tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns how the pairs were made, how many prompts and answers came how far, and why the others did not."""
    plan, funnel, settings = result["plan"], result["funnel"], result["sampler"]["settings"]
    drawn = (show_number(settings[key], form) for key, form in (("temperature", "g"), ("top_p", "g"), ("seed", 0)))
    made = {
        "policy": result["sampler"]["sampler"]["model"] or MISSING,
        "answers": "temperature {}, top_p {}, seed {}".format(*drawn),
        "judges": ", ".join(f"{label} ({version})" for label, version in result["judges"].items()),
        "rule": result["rule"] or MISSING,
        "margin": f"{show_number(plan['margin'], 'g')} or more",
        "chosen answers with mistakes": MISTAKES.get(plan["mistakes"], MISSING),
        "balance": plan["balance"] or MISSING,
    }
    counts = [{"step": name, "number": funnel[key]} for key, name in STEPS.items()]
    lost = [
        {"not in a pair": f"{kind}: {reason}", "number": count}
        for kind in LOST
        for reason, count in funnel[f"{kind}_lost"].items()
    ]
    records = tuple({"what": what, "how": how} for what, how in made.items())
    tables = [
        Table(("", ""), tuple(made.items()), "How they were made", records),
        _counts(("", "number"), counts, FUNNEL),
        _counts(("not in a pair", "number"), lost, "What was lost"),
    ]
    return [table for table in tables if table.rows]


def like_tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns what the pairs are like: numbers, marks of style, and the claims that are most often struck."""
    words, errors = result["words"], result["errors"]
    like: dict[str, tuple[Any, ...]] = {
        "words, chosen / rejected / all answers": tuple(words[key] for key in SIDES),
        "chosen longer or shorter, %": (words["difference"],),
        "the longer answer is the chosen one, %": (_percent(words["auc"]),),
    }
    if errors:
        like |= {
            "wrong claims, chosen / rejected / all answers, %": tuple(errors.get(key) for key in SIDES),
            "pairs whose chosen answer has no mistake, %": (result["clean"],),
        }
    like |= {f"chosen answers with a mistake by {label}, %": (share,) for label, share in result["by_judge"].items()}
    rules = result["shortcut"]["rules"].items()
    like |= {f"told apart by {rule['label'] or name}, %": (rule["accuracy"],) for name, rule in rules}
    rows = tuple((name, " / ".join(map(_show, values))) for name, values in like.items())
    records = [
        {"measure": name, **dict(zip(("value",) if len(values) == 1 else SIDES, values, strict=True))}
        for name, values in sorted(like.items(), key=lambda of: len(of[1]))
    ]
    style = [
        {"mark of style": name, **{key: of[key] for key in SIDES}, "chosen has more": _percent(of["auc"])}
        for name, of in result["style"].items()
        if max(of["chosen"] or 0, of["rejected"] or 0) > 0
    ]
    struck = [{"claim": text, "times": count} for text, count in result["struck"].items()]
    shown = tuple((str(name), *map(_show, values)) for name, *values in (of.values() for of in style))
    headers = ("mark of style", "chosen %", "rejected %", "all %", "chosen has more, ties as half, %")
    tables = [
        Table(("", ""), rows, "What the pairs are like", tuple(records)),
        Table(headers, shown, "Style", tuple(style)),
        _counts(("claim", "times"), struck, "Claims of rejected answers that are most often wrong"),
    ]
    return [table for table in tables if table.rows]


def key_table(result: Mapping[str, Any]) -> Table:
    """Returns in one row how many pairs there are, how many for a hundred prompts, and what they are like."""
    words, errors = result["words"], result["errors"]
    values = {
        "pairs": _count(sum(result["pairs"].values())),
        "pairs per 100 prompts": _show(_percent(result["funnel"]["yield"])),
        "chosen without a mistake, %": _show(result["clean"]),
        "wrong claims, chosen / rejected, %": " / ".join(_show(errors.get(key)) for key in SIDES[:2]),
        "words, chosen / rejected": " / ".join(_show(words[key]) for key in SIDES[:2]),
        "the longer answer is chosen, %": _show(_percent(words["auc"])),
    }
    return Table(tuple(values), (tuple(values.values()),), "The pairs in a row")


def cost_tables(folder: Path, result: Mapping[str, Any], problems: list[str]) -> list[Table]:
    """Returns what the steps have cost, and what `check-judge` found of the judges where it was asked."""
    tables = []
    if (folder / COST).is_file():
        content = read_object(folder / COST, problems, costs="what it cost is not shown")
        steps = fit(content, {"steps": {str: dict.fromkeys(SPENT, float)}}, COST, problems)["steps"]
        rows = (
            (step, *(show_number(of[key], ".2f" if key == "price" else ",.0f") for key in SPENT))
            for step, of in steps.items()
            if step != "build"
        )
        records = tuple({"step": step, **{key: of[key] for key in SPENT}} for step, of in steps.items())
        tables.append(Table(("step", *SPENT.values()), tuple(rows), "What it cost", records))
    for label in result["judges"]:
        path = find_inside(folder, CHECK.format(label))
        if isinstance(path, Path) and path.is_file():
            content = read_object(path, problems, costs=f"what was found of {label} is not shown")
            tables.append(check_table(label, fit(content, _CHECK_SHAPE, path.name, problems)))
    return [table for table in tables if table.rows]


def check_table(label: str, found: Mapping[str, Any]) -> Table:
    """Returns what `check-judge` found of a judge."""
    fitted, rows, records = fit(found, _CHECK_SHAPE, "", []), list[tuple[str, ...]](), list[dict[str, Any]]()
    for part, names in CHECKED.items():
        for key, name in names.items():
            of = {"value": fitted[part][key]} if key == "difference" else fitted[part][key]
            if of["value"] is not None:
                shown = show_interval(of["value"], of.get("low"), of.get("high"), 1, signed=key == "difference")
                rows.append((name, shown, _count(of["n"]) if "n" in of else ""))
                records.append({"measure": name, **of})
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
