"""The command line: finds the verb, runs it, and turns errors into one line and an exit status."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence

from mmdpo.commands import COMMANDS, explain_verb, list_verbs
from mmdpo.files import printable
from mmdpo.options import UsageError

ABOUT = "Preference optimisation that makes vision-language models look at the image."
EXPECTED_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
"""Errors that say all there is to say: shown without a traceback unless MMDPO_DEBUG is set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status.

    0; 1 for bad rows in a checked dataset; 2 for an error; 75 for training that SIGTERM has stopped, checkpoint saved.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a verb
    try:
        return _run(words)
    except EXPECTED_ERRORS as error:
        if os.environ.get("MMDPO_DEBUG"):
            raise
        # A URL may hold a user's password, whoever quotes it.
        told = re.sub(r"(://)[^/\s@]*:[^/\s@]*@", r"\1…@", str(error))
        print(f"mmdpo: {printable(told)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmdpo: interrupted", file=sys.stderr)
        return 130


def train_main() -> int:
    """Runs `mmdpo train` with the process's arguments as its flags."""
    return main(["train", *sys.argv[1:]])


def _run(words: Sequence[str]) -> int:
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        abouts = {name: COMMANDS.load(name).__doc__.partition("\n")[0] for name in COMMANDS.names()}
        print(list_verbs("", ABOUT, abouts))
        return 0
    if verb == "--version":
        from mmdpo import __version__

        print(f"mmdpo {__version__}")
        return 0
    if verb not in COMMANDS.names():
        raise UsageError(explain_verb("", verb, COMMANDS.names()))
    return int(COMMANDS.load(verb).VERB(words[1:], verb))


if __name__ == "__main__":
    sys.exit(main())
