"""What `mmdpo` itself is asked: its version, and that a shell completes its words.

Completion is argcomplete's: the shell starts `mmdpo` with the line that is typed, and gets words back. Nothing but
parsers is made for that, so it takes a fifth of a second.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpo import __version__
from mmdpo.commands import NoOptions, Verb, Verbs, verb
from mmdpo.options import Options, fill_parser, option
from mmdpo.shipped import RECIPES

SHELLS = ("bash", "zsh", "fish")
PLACES = {
    "bash": (".local/share/mmdpo/completion.bash", ".bashrc", "source {script}"),
    "zsh": (".local/share/mmdpo/completion.zsh", ".zshrc", "source {script}"),
    "fish": (".config/fish/completions/mmdpo.fish", "", ""),
}
"""By shell: where the script goes in the home folder, the file that is read at the shell's start, and its new line."""
_OF_FILES = ("_path", "_dir", "_name", "_root", "_checkpoint", "chat_template", "decisions", "deepspeed")
"""What the keys of a recipe that name files end with."""


@dataclass(frozen=True, kw_only=True)
class ShellOptions(Options):
    """Which shell."""

    shell: str | None = option(
        None, "The shell.", metavar="SHELL", positional=True, known=lambda: SHELLS, unset="that of the variable SHELL"
    )


@verb("")
def print_version(options: NoOptions) -> int:
    """Print the version."""
    print(f"mmdpo {__version__}")
    return 0


@verb("")
def show_completion(options: ShellOptions) -> int:
    """Print the script that --install-completion writes, for those who keep their own files."""
    print(_write_script(_choose(options.shell)), end="")
    return 0


@verb("")
def install_completion(options: ShellOptions) -> int:
    """Let bash, zsh or fish complete verbs, flags and names: --install-completion SHELL.

    Writes the script of a shell, and the line that reads it at the shell's start; twice is once.
    """
    shell = _choose(options.shell)
    place, profile, line = PLACES[shell]
    script = Path.home() / place
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(_write_script(shell), encoding="utf-8")
    print(f"Written: {script}")
    if profile:
        file, line = Path.home() / profile, line.format(script=script)
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if line not in text.splitlines():
            with file.open("a", encoding="utf-8") as out:
                out.write(f"{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n")
            print(f"Added to {file}: {line}")
    print(f"It works in every {shell} that is started from now on.")
    return 0


def _choose(shell: str | None) -> str:
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        known = ", ".join(SHELLS)
        raise ValueError(
            f"words are completed in {known}, and the shell is {name or 'not known'}: name one of the three"
        )
    return name


def _write_script(shell: str) -> str:
    from argcomplete.shell_integration import shellcode

    text = str(shellcode(["mmdpo"], shell=shell))
    if shell == "zsh":  # its functions for completion have to be there, in whatever order .zshrc loads them
        text = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\n" + text
    return text.rstrip("\n") + "\n"


def complete_line(verbs: Verbs) -> None:
    """Tells the shell that has started this process how the line that is typed may go on, and ends the process."""
    import argcomplete

    parser = argparse.ArgumentParser(prog="mmdpo")
    _add_verbs(parser, verbs, os.environ.get("COMP_LINE", "").split())
    argcomplete.autocomplete(parser, always_complete_options="long")


def _add_verbs(parser: argparse.ArgumentParser, verbs: Verbs, typed: Sequence[str]) -> None:
    """Adds verbs to a parser; of those that are not typed the names alone."""
    for flag in verbs.flags:
        parser.add_argument(flag, action="store_true")
    further = parser.add_subparsers()
    for name, found in verbs.verbs.items():
        own = further.add_parser(name)
        if name not in typed:
            continue
        if isinstance(found, Verbs):
            _add_verbs(own, found, typed)
        elif found.verbs.keys() & set(typed):
            _add_verbs(own, Verbs(found.about, found.verbs), typed)
        elif found.options is not None:
            fill_parser(own, found.options, None if found.uses is None else found.uses())
        else:
            _add_keys(own)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `mmdpo train`: the keys of a recipe."""
    from argcomplete.completers import FilesCompleter

    from mmdpo.keys import known_names, list_keys

    def offer(values: Iterable[str]) -> Callable[..., Iterable[str]]:
        return lambda **_: values

    def offer_recipes(prefix: str, **_: Any) -> Sequence[str]:
        return [*RECIPES.all_names(), *FilesCompleter(("yaml", "yml"))(prefix)]

    parser.add_argument("--config").completer = offer_recipes  # type: ignore[attr-defined]
    for flag in ("dry_run", "help_all"):
        parser.add_argument(f"--{flag}", action="store_true")
    named: Mapping[str, Sequence[str]] = known_names()
    for key in (key for keys in list_keys().values() for key in keys):
        added = parser.add_argument(f"--{key.name}")
        if not key.name.endswith(_OF_FILES):
            switch = ("true", "false") if key.default in ("True", "False") else ()
            added.completer = offer(named.get(key.name) or key.choices or switch)  # type: ignore[attr-defined]


FLAGS: Mapping[str, Verb] = {
    "--version": print_version,
    "--install-completion": install_completion,
    "--show-completion": show_completion,
}
