"""Writes the table of docs/training.md from the list of tiny models: what is tested, and how its rows are scored.

    python tests/contract/families_table.py

It is run after the contract tests have passed, and notes the day and the versions; a test says when it has to be.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cases import SEPARATE_ALONE  # noqa: E402
from tiny_models import MODELS  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- families: written by tests/contract/families_table.py -->", "<!-- end of families -->"


def render_table() -> str:
    """Returns a row for each class: `model_type`, class, text decoders, whether rows are shared, and of experts."""
    found: dict[str, tuple[str, list[str], bool, bool]] = {}
    for name, make in MODELS.items():
        model = make().model
        kind, decoder = type(model).__name__, model.get_decoder().config.model_type
        has_experts = any("experts" in path for path, _ in model.named_parameters())
        decoders = found.get(model.config.model_type, (kind, [], False, False))
        found[model.config.model_type] = (
            kind,
            decoders[1] + [decoder] * (decoder not in decoders[1]),
            name not in SEPARATE_ALONE,
            has_experts or decoders[3],
        )
    rows = [
        f"| `{model_type}` | {kind} | {', '.join(decoders)}{', with experts' * has_experts} | "
        f"{'shared' if shares else 'separate'} |"
        for model_type, (kind, decoders, shares, has_experts) in sorted(found.items())
    ]
    return "\n".join(["| `model_type` | class | text decoder in the test | rows |", "|---|---|---|---|", *rows])


def read_table() -> str:
    """Returns the table as the page has it."""
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    return written[written.index("| `model_type`") :].strip()


def write() -> None:
    """Writes table, day and versions into the page."""
    versions = ", ".join(f"{name} {re.sub('[+].*', '', version(name))}" for name in ("transformers", "peft", "torch"))
    when = f"Written on {datetime.now(UTC):%Y-%m-%d} with {versions}."
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    page = f"{before}{BEGIN}\n\n{when}\n\n{render_table()}\n\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
