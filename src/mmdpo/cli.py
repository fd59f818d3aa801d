"""The command line: finds the verb, runs it, and turns errors into one line and an exit status."""

import io
import os
import re
import sys
from collections.abc import Sequence

from mmdpo import __version__
from mmdpo.commands import all_verbs
from mmdpo.files import printable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status.

    0; 1 for bad rows in a checked dataset; 2 for an error; 75 for training that SIGTERM has stopped, checkpoint saved.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a verb
    try:
        if words[:1] == ["--version"]:
            print(f"mmdpo {__version__}")
            return 0
        return all_verbs()(words or ["--help"], "")
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        # They say all there is to say: a traceback is for MMDPO_DEBUG.
        if os.environ.get("MMDPO_DEBUG"):
            raise
        # A URL may hold a user's password, whoever quotes it.
        told = re.sub(r"(://)[^/\s@]*:[^/\s@]*@", r"\1…@", str(error))
        print(f"mmdpo: {printable(told)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmdpo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
