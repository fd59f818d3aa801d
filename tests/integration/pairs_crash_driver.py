"""Makes pairs with `mmdpo pairs all`, killed so many times; a script, so that children are forked from one thread.

Leaves attempts.json: how each attempt ended, and how many lines of answers and replies it left.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import mmdpo.pairs.run
import mmdpo.report.pairs  # noqa: F401
from mmdpo.cli import main
from mmdpo.generation import endpoint

LONGEST = 120
endpoint._FIRST_WAIT = 0.02  # how long it waits after a fault is nothing that is looked at here


def count_lines(folder):
    files = [*folder.glob("samples*.jsonl"), *folder.glob("replies-*.jsonl"), *folder.glob("verdicts-*.jsonl")]
    return sum(file.read_bytes().count(b"\n") for file in files)


def attempt(config, folder, kill_at):
    """Runs the command in a child, killed once so many lines are there; returns how it ended."""
    child = os.fork()
    if not child:
        os._exit(main(["pairs", "all", "--config", str(config)]))
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if kill_at is not None and count_lines(folder) >= kill_at:
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    raise TimeoutError(f"no end within {LONGEST} s")


def run(config, folder, kills, last_line):
    folder.mkdir(exist_ok=True)
    targets = sorted(random.Random(5).sample(range(1, last_line), kills))
    attempts = []
    for target in [*targets, None]:
        status = attempt(config, folder, target)
        attempts.append({"status": status, "lines": count_lines(folder)})
    while attempts[-1]["status"] == 1 and len(attempts) < kills + 5:  # requests that were refused are asked again
        attempts.append({"status": attempt(config, folder, None), "lines": count_lines(folder)})
    (folder / "attempts.json").write_text(json.dumps(attempts))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
