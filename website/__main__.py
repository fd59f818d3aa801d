"""Builds the site into build/site/html, and ends with 1 where something is wrong with it.

    [SITE_URL=…] [REPOSITORY_URL=…] python -m website

Pages are laid out in build/site/docs as the site shows them (`pages`, `reference`), Zensical makes HTML of them
with warnings as errors, and `links` follows every link of what came out.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from website.links import find_problems
from website.pages import Layout, lay_out, write_config
from website.reference import write_reference

ROOT = Path(__file__).parents[1]
STAGE = ROOT / "build" / "site"
SITE = STAGE / "html"


def main() -> int:
    """Builds and checks."""
    shutil.rmtree(STAGE, ignore_errors=True)
    layout = Layout(ROOT, STAGE / "docs")
    write_reference(layout.target)
    problems = lay_out(layout)
    addresses = {name: os.environ.get(f"{name.upper()}_URL", "") for name in ("site", "repository")}
    write_config(layout, STAGE / "zensical.toml", address=addresses["site"], repository=addresses["repository"])
    if not problems:
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file"]
        done = subprocess.run([*command, str(STAGE / "zensical.toml")], capture_output=True, text=True, check=False)
        problems = [(done.stdout + done.stderr).strip()] if done.returncode else find_problems(SITE)
    folder = SITE.relative_to(ROOT)
    print("\n".join(problems) or f"Site: {folder}; python3 -m http.server --directory {folder} shows it")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
