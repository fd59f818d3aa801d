"""The card of a dataset of own pairs, and the recipe that trains on it: what pairs.json says, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template

from mmdpo.files import printable, read_json, write_text
from mmdpo.pairs.build import DATASET
from mmdpo.pairs.cost import COST
from mmdpo.pairs.judging import PROOF
from mmdpo.pairs.options import PairsOptions
from mmdpo.pairs.rules import RULES
from mmdpo.tables import Table, show_number

CARD, RECIPE = "README.md", "train.yaml"
OBJECTIVE = "dpo_anchor"
"""Keeps chosen answers likely; DPO without the anchor makes a model that loops on its own samples."""

_TEMPLATE = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
_CARD = Template(_TEMPLATE, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)


def write_card(folder: Path, result: Mapping[str, Any], options: PairsOptions) -> None:
    """Writes README.md and train.yaml into the folder of a run."""
    licence = options.input.licence
    front = {
        "task_categories": ["image-text-to-text"],
        "tags": ["preference", "dpo", "on-policy", "mmdpo"],
        **({"license": licence} if licence else {}),
        "size_categories": [_size(sum(result["pairs"].values()))],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{DATASET}/{split}.parquet"} for split in result["pairs"]],
            }
        ],
    }
    text = _CARD.render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=folder.resolve().name,
        pairs=f"{sum(result['pairs'].values()):,}",
        images=f"{result['images']:,}",
        about=f"{RULES[result['rule']].about.replace('; ', ', the rejected one ', 1)}",
        files={split: f"{DATASET}/{split}.parquet" for split in result["pairs"]},
        notes=[note.rstrip(".") for note in result["notes"]],
        sections=[table.markdown() for table in make_tables(folder, result)],
    )
    write_text(folder / CARD, printable(text))
    recipe = make_recipe(folder, result, options)
    head = "# Written by `mmdpo pairs build`. mmdpo train --config train.yaml\n"
    write_text(folder / RECIPE, head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))


def make_recipe(folder: Path, result: Mapping[str, Any], options: PairsOptions) -> dict[str, Any]:
    """Returns a recipe that trains the policy on the pairs; an anchored one, and weighted where pairs have mistakes."""
    where = folder / DATASET
    objective: Any = OBJECTIVE
    if result["clean"] is not None and result["clean"] < 100:
        # What holds a chosen answer must not hold its mistakes.
        objective = [
            {"rank": [["original", "chosen"], ["original", "rejected"]]},
            {"anchor": ["original", "chosen"], "weight_column": "clean"},
        ]
    recipe = {
        "model_name_or_path": options.sampling.model,
        "dataset_name": str(where / "train.parquet"),
        **({"eval_dataset_name": str(where / "eval.parquet")} if "eval" in result["pairs"] else {}),
        "objective": objective,
        "output_dir": str(folder / "run"),
    }
    checkpoint = options.checkpoint
    own = {"adapter_name_or_path": checkpoint.adapter, "chat_template": checkpoint.chat_template}
    return recipe | {name: value for name, value in own.items() if value is not None}


def make_tables(folder: Path, result: Mapping[str, Any]) -> list[Table]:
    """Returns what pairs.json says as tables: how the pairs were made, what was lost, what they are like, the cost."""
    funnel, plan = result["funnel"], result["plan"]
    settings = result["sampler"]["settings"]
    made = [
        ("policy", str(result["sampler"]["sampler"]["model"])),
        ("answers", f"temperature {settings['temperature']:g}, top_p {settings['top_p']:g}, seed {settings['seed']}"),
        ("judges", ", ".join(f"{label} ({version})" for label, version in result["judges"].items())),
        ("rule", result["rule"]),
        ("margin", f"{plan['margin']:g} or more"),
        (
            "chosen answers with mistakes",
            {"drop": "dropped", "weigh": "column `clean` is 0", "keep": "kept"}[plan["mistakes"]],
        ),
        ("balance", plan["balance"]),
    ]
    steps = [
        ("prompts", funnel["prompts"]),
        ("answers", funnel["answers"]),
        ("answers with a verdict", funnel["answers_judged"]),
        ("answers that may be in a pair", funnel["candidates"]),
        ("pairs", funnel["pairs"]),
        ("prompts whose own answers have no mistake", funnel["prompts_without_mistakes"]),
    ]
    lost = [
        (f"{kind}: {reason}", count)
        for kind in ("prompts", "answers", "pairs")
        for reason, count in funnel[f"{kind}_lost"].items()
    ]
    words = result["words"]
    like = [
        (
            "words, chosen / rejected / all answers",
            " / ".join(_show(words[key]) for key in ("chosen", "rejected", "pool")),
        ),
        ("chosen longer or shorter, %", _show(words["difference"])),
        ("the longer answer is the chosen one, %", _show(100 * words["auc"])),
    ]
    if result["errors"]:
        errors = " / ".join(_show(result["errors"][key]) for key in ("chosen", "rejected", "pool"))
        like += [
            ("wrong claims, chosen / rejected / all answers, %", errors),
            ("pairs whose chosen answer has no mistake, %", _show(result["clean"])),
        ]
    like += [
        (f"chosen answers with a mistake by {label}, %", _show(share)) for label, share in result["by_judge"].items()
    ]
    like += [
        (f"told apart by {rule['label']}, %", _show(rule["accuracy"])) for rule in result["shortcut"]["rules"].values()
    ]
    style = [
        (name, *(_show(of[key]) for key in ("chosen", "rejected", "pool")), _show(100 * of["auc"]))
        for name, of in result["style"].items()
        if max(of["chosen"], of["rejected"]) > 0
    ]
    tables = [
        Table(("", ""), tuple(made), "How they were made"),
        Table(("", "number"), tuple((name, f"{count:,}") for name, count in steps), "From prompts to pairs"),
        Table(("not in a pair", "number"), tuple((name, f"{count:,}") for name, count in lost), "What was lost"),
        Table(("", ""), tuple(like), "What the pairs are like"),
        Table(("mark of style", "chosen %", "rejected %", "all %", "chosen has more, %"), tuple(style), "Style"),
        Table(
            ("claim", "times"),
            tuple((text, f"{count:,}") for text, count in result["struck"].items()),
            "Claims of rejected answers that are most often wrong",
        ),
        _costs(folder),
        *_checks(folder, result),
    ]
    return [table for table in tables if table.rows]


def _costs(folder: Path) -> Table:
    path = folder / COST
    steps = read_json(path)["steps"] if path.is_file() else {}
    rows = tuple(
        (
            step,
            f"{of['requests']:,}",
            f"{of['read']:,}",
            f"{of['written']:,}",
            f"{of['price']:.2f}",
            f"{of['seconds']:.0f}",
        )
        for step, of in steps.items()
        if step != "build"
    )
    return Table(("step", "requests", "tokens read", "tokens written", "price", "seconds"), rows, "What it cost")


def _checks(folder: Path, result: Mapping[str, Any]) -> list[Table]:
    """Returns what `check-judge` found of the judges, where it was asked."""
    found = []
    for label in result["judges"]:
        path = folder / PROOF.format(label)
        if path.is_file():
            from mmdpo.pairs.check_judge import make_table

            found.append(make_table(label, read_json(path)))
    return found


def _show(value: float | None) -> str:
    return "–" if value is None else show_number(float(value), 1)


def _size(count: int) -> str:
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for most, name in sizes if count < most), "n>1M")
