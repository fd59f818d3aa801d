"""A folder of an evaluation has one writer: a second run is refused before it asks, and pays for nothing."""

import subprocess
import sys

from mmdpo.cli import main

HOLD = """
import sys, time
from pathlib import Path
from mmdpo.folders import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_second_evaluation_of_a_folder_is_refused_by_the_process_that_has_it(tmp_path, capsys):
    out = tmp_path / "answers"
    out.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert main(["eval", "world", "--model", "world", "--limit", "2", "--out", str(out)]) == 2
        assert f"is in use by process {holder.pid}" in capsys.readouterr().err
        assert not list(out.glob("*.jsonl"))
    finally:
        holder.kill()
        holder.wait()
    assert main(["eval", "world", "--model", "world", "--limit", "2", "--out", str(out)]) == 0
    assert (out / "result.json").is_file()
