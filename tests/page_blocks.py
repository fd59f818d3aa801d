"""The fenced blocks of README and docs, and a shell whose `mmdpo` is this process's: the blocks are run as they stand.

A block that is not run has a mark in front, which a reader of the source sees, with the reason:

    <!-- not run: needs a GPU -->

    ```bash
"""

import contextlib
import io
import os
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from mmdpo.cli import main

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
"""Every page, the tutorials too."""

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its fence, from 1."""
    language: str
    text: str
    reason: str | None
    """Why it is not run, where the page says so."""

    @property
    def name(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page):
    """Returns the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("indent")) + 1
        language = match["language"].strip()
        found.append(Block(page, line, language, match["text"].replace("\n" + match["indent"], "\n"), match["reason"]))
    fences = len(re.findall(r"^ *```", text, re.MULTILINE))
    assert fences == 2 * len(found), f"{page}: a fence is not closed, or stands where none is looked for"
    return found


class PageShell:
    """Runs bash scripts in a folder; `mmdpo …` in them calls `run(words)`, in this process.

    Its output goes where the script sends it, and its status is the shell's. Of other programs `run` is told with an @
    in front (`@launch`, `@make`, `@sbatch`, `@python`); installers do nothing. `lines` are the words of every call,
    with its status.
    """

    PRELUDE = r"""
mmdpo() {
  printf '%s\0' "$@" >&3; printf '\1\0' >&3
  local status said; IFS=' ' read -r status said <&4
  cat "$said"; return "$status"
}
launch() {
  while [ $# -gt 0 ] && [ "$1" != -m ]; do shift; done
  if [ "${2:-}" = mmdpo.train ]; then shift 2; mmdpo @launch train "$@"; else shift 2; mmdpo @launch "$@"; fi
}
accelerate() { launch "$@"; }
torchrun() { launch "$@"; }
srun() { launch -m "$@"; }
make() { mmdpo @make "$@"; }
sbatch() { mmdpo @sbatch "$@"; }
python() { mmdpo @python "$@"; }
pip() { :; }
scontrol() { :; }
"""

    def __init__(self, folder, run=main):
        self.folder, self.run, self.lines = folder, run, []

    def execute(self, script, *, stops=True):
        """Runs a script, to the first command that fails if it `stops`; returns its status and what it printed."""
        asked, to_shell = os.pipe(), os.pipe()
        options = "set -euo pipefail" if stops else ""
        shell = subprocess.Popen(
            ["bash", "-c", f"exec 3>&{asked[1]} 4<&{to_shell[0]}\n{options}\n{self.PRELUDE}{script}"],
            pass_fds=(asked[1], to_shell[0]),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(asked[1])
        os.close(to_shell[0])
        said = []
        reader = threading.Thread(target=lambda: said.append(shell.stdout.read()))
        reader.start()
        with os.fdopen(asked[0], "rb") as requests, os.fdopen(to_shell[1], "w") as replies:
            waiting = b""
            while chunk := requests.read1(65536):
                waiting += chunk
                while b"\1\0" in waiting:
                    call, _, waiting = waiting.partition(b"\1\0")
                    words = [word.decode() for word in call.split(b"\0")[:-1]]
                    with contextlib.suppress(BrokenPipeError):
                        replies.write(f"{self._call(words)}\n")
                        replies.flush()
        reader.join()
        return shell.wait(), said[0]

    def _call(self, words):
        out = io.StringIO()
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = self.run(words)
        except SystemExit as ended:  # --help
            status = ended.code or 0
        finally:
            os.chdir(before)
        self.lines.append((words, status))
        said = self.folder / f".said-{len(self.lines)}"
        said.write_text(out.getvalue(), encoding="utf-8")
        return f"{status} {said}"


def change_flag(words, flag, value):
    """Returns the words of a command with another value of a flag, if it is among them."""
    if flag not in words:
        return words
    place = words.index(flag)
    return [*words[: place + 1], str(value), *words[place + 2 :]]


def set_flags(words, flags):
    """Returns the words of a command with these flags, `--flag value …`, in place of its own or behind them."""
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        words = change_flag(words, flag, value) if flag in words else [*words, flag, value]
    return words


def as_typed(words):
    """Returns the words of a line of usage as one types them: `[--out PATH]` with the flag, `RUN…` once."""
    typed = []
    for word in words:
        if word == "…" and typed and typed[-1].startswith("--"):
            pass  # stands for a value
        elif not word.startswith(("[", "{")) or word.startswith("[--"):
            word = word.removeprefix("[").removesuffix("…]").removesuffix("]").removesuffix("…")
        if word:
            typed.append(word)
    return typed
