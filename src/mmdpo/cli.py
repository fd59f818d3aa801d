"""The command line: finds the verb, runs it, and turns errors into one line and an exit status."""

import io
import os
import re
import select
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from mmdpo.commands import all_verbs
from mmdpo.files import printable
from mmdpo.terminal import leave_out_noise


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status.

    0; 1 for bad rows in a checked dataset; 2 for an error; 75 for training or rounds that SIGTERM has stopped,
    checkpoint saved; 130 after Ctrl-C; 141 where nobody reads what is printed any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how the line goes on
        from mmdpo.commands._shell import complete_line

        complete_line(all_verbs())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a verb
    leave_out_noise()
    try:
        status = all_verbs()(words or ["--help"], "")
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if _has_reader(sys.stdout):
            return _tell(error)
        return 128 + signal.SIGPIPE  # `| head` has read what it wanted
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # as rich leaves, which was printing a table
            return 128 + signal.SIGPIPE
        raise
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        return _tell(error)
    except KeyboardInterrupt as stop:
        print(printable(": ".join(["mmdpo: interrupted", *map(str, stop.args)])), file=sys.stderr)
        return 130


def _tell(error: Exception) -> int:
    """Prints an error, which says all there is to say: a traceback is for MMDPO_DEBUG."""
    if os.environ.get("MMDPO_DEBUG"):
        raise error
    # A URL may hold a user's password, whoever quotes it.
    told = re.sub(r"(://)[^/\s@]*:[^/\s@]*@", r"\1…@", _word(error))
    print(f"mmdpo: {printable(told)}", file=sys.stderr)
    return 2


def _word(error: Exception) -> str:
    """Returns what an error says; one of the system, which nobody has put into words, by file and reason."""
    if isinstance(error, OSError) and error.filename is not None and str(error).startswith("[Errno"):
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _has_reader(stream: TextIO) -> bool:
    """Says whether what is printed still arrives; where it does not, the rest of it goes nowhere."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLERR)
    if not poll.poll(0):
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return False


if __name__ == "__main__":
    sys.exit(main())
