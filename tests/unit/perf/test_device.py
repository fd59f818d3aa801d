"""The script for a machine with a GPU runs through in miniature without one."""

import json
import os
import subprocess
import sys

import pytest

import forked
from perf import smoke
from perf.record import ROOT


def run(*arguments, **variables):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [ROOT / "perf" / "device.sh", *map(str, arguments)], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.rest
def test_it_checks_and_measures_in_miniature(tmp_path):
    with forked.command_in(tmp_path, real=None, name="python"):
        done = run(tmp_path / "out", "--dry", LIMIT="1500", SMOKE="900", PYTHON=str(tmp_path / "python"))
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((tmp_path / "out" / "smoke.json").read_text())
    assert all(check["passed"] for check in checks)
    assert {check["name"].partition(":")[0] for check in checks} == {"llava", "bunny", "qwen", "world"}
    (path,) = [path for path in (tmp_path / "out").glob("*.json") if path.name != "smoke.json"]
    measured = json.loads(path.read_text())
    assert measured["miniature"]
    assert measured["cases"]


def test_what_has_no_time_left_is_left_out_and_said(tmp_path):
    done = run(tmp_path / "out", "--dry", LIMIT="1", SMOKE="1")
    assert done.returncode == 1
    assert "no time is left for" in done.stdout
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_wrong_option_is_named(tmp_path):
    done = run(tmp_path / "out", "--fast")
    assert (done.returncode, "--fast" in done.stderr) == (2, True)
    assert run().returncode == 2


def test_a_check_that_fails_is_a_finding_and_the_next_is_tried(tmp_path, monkeypatch, capsys):
    def fail():
        raise AssertionError("gradients are off by 1")

    monkeypatch.setattr(smoke, "list_checks", lambda device: {"one": fail, "two": lambda: "off by 0"})
    monkeypatch.setattr("sys.argv", ["smoke", "--cpu", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        smoke.main()
    assert ended.value.code == 1
    found = json.loads((tmp_path / "smoke.json").read_text())
    assert [check["passed"] for check in found] == [False, True]
    assert "gradients are off by 1" in found[0]["told"]
    assert "FAIL one" in capsys.readouterr().out


def test_a_gpu_has_the_checks_of_a_cpu_and_flex_attention():
    assert set(smoke.list_checks("cuda")) - set(smoke.list_checks("cpu")) == {
        "llava: FlexAttention against SDPA, forward and backward"
    }
