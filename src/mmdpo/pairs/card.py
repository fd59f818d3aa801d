"""The card of a dataset of own pairs, and the recipe that trains on it: what pairs.json says, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template

from mmdpo.files import printable, read_mapping, write_text
from mmdpo.pairs.dataset import DATASET
from mmdpo.pairs.options import PairsOptions
from mmdpo.report.pair_tables import make_tables

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
        about=result["about"].replace("; ", ", the rejected one ", 1),
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
    own = {
        "model_revision": None if checkpoint.revision == "main" else checkpoint.revision,
        "adapter_name_or_path": checkpoint.adapter,
        "chat_template": checkpoint.chat_template,
        "chat_template_kwargs": read_mapping("chat_template_kwargs", checkpoint.chat_template_kwargs),
        "pad_to_square": checkpoint.pad_to_square,
        "trust_remote_code": checkpoint.trust_remote_code,
        "allow_pickle": checkpoint.allow_pickle,
    }
    return recipe | {name: value for name, value in own.items() if value}


def _size(count: int) -> str:
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for most, name in sizes if count < most), "n>1M")
