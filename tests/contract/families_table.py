"""Writes the table of docs/training.md from the list of tiny models: what is tested, and how its rows are scored.

    python tests/contract/families_table.py

It is run after the contract tests have passed, and notes the day and the versions; a test says when it has to be.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cases import SEPARATE_ALONE  # noqa: E402
from tiny_models import EVERY, MODELS, say_what_is_missing  # noqa: E402
from tiny_models.needing import NEEDS  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- families: written by tests/contract/families_table.py -->", "<!-- end of families -->"
HEAD = "| `model_type` | class | text decoder in the test | rows | needs |\n|---|---|---|---|---|"


def run_all() -> bool:
    """Says whether the installed transformers runs all models whose further packages are there."""
    return all(name in MODELS or (say_what_is_missing(name) or "").endswith(NEEDS.get(name, "?")) for name in EVERY)


def render_table() -> str:
    """Returns a row for each class: `model_type`, class, text decoders, whether rows are shared, and of experts.

    Rows of models that need a package which is not there stay as they are.
    """
    found: dict[str, tuple[str, list[str], bool, bool, str]] = {}
    for name, make in MODELS.items():
        model = make().model
        kind, decoder = type(model).__name__, model.get_decoder().config.model_type
        has_experts = any("experts" in path for path, _ in model.named_parameters())
        decoders = found.get(model.config.model_type, (kind, [], False, False, ""))
        found[model.config.model_type] = (
            kind,
            decoders[1] + [decoder] * (decoder not in decoders[1]),
            name not in SEPARATE_ALONE,
            has_experts or decoders[3],
            NEEDS.get(name, ""),
        )
    rows = [
        f"| `{model_type}` | {kind} | {', '.join(decoders)}{', with experts' * has_experts} | "
        f"{'shared' if shares else 'separate'} | {needs} |"
        for model_type, (kind, decoders, shares, has_experts, needs) in found.items()
    ]
    left_out = tuple(f"| `{name}` |" for name in NEEDS if name not in MODELS)
    rows += [row for row in read_table().splitlines() if row.startswith(left_out)]
    return "\n".join([HEAD, *sorted(rows)])


def read_table() -> str:
    """Returns the table as the page has it."""
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    return written[written.index("| `model_type`") :].strip()


def write() -> None:
    """Writes table, day and versions into the page; those of further packages where they are there."""
    page = PAGE.read_text(encoding="utf-8")
    when = f"Written on {datetime.now(UTC):%Y-%m-%d} with {_list_versions('transformers', 'peft', 'torch')}."
    packages = sorted(set(NEEDS.values()))
    if all(map(find_spec, packages)):
        those = f"Models that need more ran on {datetime.now(UTC):%Y-%m-%d} with {_list_versions(*packages)}."
    else:
        those = next(iter(re.findall(r"Models that need more .*$", page, re.MULTILINE)), "")
    before, _, rest = page.partition(BEGIN)
    page = f"{before}{BEGIN}\n\n{when} {those}\n\n{render_table()}\n\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(page, encoding="utf-8")


def _list_versions(*packages: str) -> str:
    return ", ".join(f"{name} {re.sub('[+].*', '', version(name))}" for name in packages)


if __name__ == "__main__":
    write()
