"""Measures the app's page of pairs on 100,000 rows: `python -m perf.app`.

The rows are written as JSON lines, each with a picture of its own that is not there: nothing may open one. `mmdpo app`
then serves them, and Chromium opens the page. Idle is the same app on ten rows. Needs what the tests in a browser need.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.app_browser import open_browser, open_page, serve

ROWS = 100_000
WORDS = (20, 120)
"""Least and most words of an answer."""
VOCABULARY = (
    "a", "the", "red", "blue", "small", "wooden", "cup", "dog", "table", "man", "street", "light", "holds", "stands",
    "lies", "near", "behind", "under", "with", "on",
)  # fmt: skip


def write_rows(path: Path, rows: int) -> Path:
    """Writes pairs whose rejected answer differs in one word, and in every third row in all."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(rows):
            chosen = draw.choices(VOCABULARY, k=draw.randint(*WORDS))
            rejected = list(chosen) if number % 3 else draw.choices(VOCABULARY, k=60)
            rejected[draw.randrange(len(rejected))] = "elephant"
            row = dict(id=f"q{number}", prompt=f"<image>What is in picture {number}?", images=[f"{number}.jpg"])
            file.write(json.dumps(row | dict(chosen=" ".join(chosen), rejected=" ".join(rejected))) + "\n")
    return path


def measure(path: Path, *, searches: bool) -> dict[str, float]:
    """Returns seconds until the first rows show, and until a search does; and the server's MiB at its most."""
    began = time.perf_counter()
    with serve("--data", path.name, cwd=path.parent) as address, open_browser() as browser:
        found = {"start": time.perf_counter() - began}
        began = time.perf_counter()
        with open_page(browser, address) as page:
            page.locator(".rows button").first.wait_for()
            found["first page"] = time.perf_counter() - began
            page.get_by_text("rows are read").wait_for(timeout=600_000)
            found["all rows read"] = time.perf_counter() - began
            if searches:
                began = time.perf_counter()
                page.get_by_label("Search").fill("elephant near")
                page.locator(".count", has_text="(all:").wait_for()
                found["search"] = time.perf_counter() - began
        found["MiB"] = peak_memory(address)
    return found


def peak_memory(address: str) -> float:
    """Returns the most memory (VmHWM, in MiB) of the process that serves an address."""
    port = address.rpartition(":")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"app" in words and port.encode() in words:
                status = (folder / "status").read_text()
                return int(status.partition("VmHWM:")[2].split()[0]) / 1024
        except (OSError, IndexError):
            continue
    raise RuntimeError(f"no process serves {address}")


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        idle: Any = measure(write_rows(folder / "few.jsonl", 10), searches=False)
        found = measure(write_rows(folder / "many.jsonl", rows), searches=True)
    for what, value in found.items():
        print(f"{what:>14}: {value:8.2f}{'' if what == 'MiB' else ' s'}")
    print(f"MiB above idle: {found['MiB'] - idle['MiB']:8.2f}   (idle: {idle['MiB']:.0f} MiB, ten rows)")


if __name__ == "__main__":
    main()
