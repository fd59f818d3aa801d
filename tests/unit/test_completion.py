"""Words that a shell completes: asked as the shell asks, in a process of its own."""

import os
import subprocess
import sys

import pytest

from mmdpo.cli import main


def complete(line, tmp_path):
    """Returns what is offered at the end of a line, and what the process has imported that takes seconds."""
    code = (
        "import atexit, os, sys; from mmdpo import cli, commands\n"
        "real = os._exit\n"
        "def end(status):\n"
        "    print({'torch', 'transformers', 'datasets', 'rich'} & set(sys.modules), flush=True)\n"
        "    real(status)\n"
        "os._exit = end\n"
        "cli.main([])"
    )
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"),
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "set()"
    return (tmp_path / "offered").read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mmdpo di", ["diagnose"]),
        ("mmdpo --inst", ["--install-completion"]),
        ("mmdpo eval pop", ["pope"]),
        ("mmdpo eval pope --backend ", ["transformers", "vllm", "endpoint"]),
        ("mmdpo eval pope --judge_mod", [""]),  # which POPE has no use for
        ("mmdpo eval mmhal --judge_mod", ["--judge_model"]),
        ("mmdpo recipes world-", ["world-mdpo"]),
        ("mmdpo train --config world-", ["world-mdpo"]),
        ("mmdpo train --config m", ["mine.yaml"]),
        ("mmdpo train --objective mdpo_o", ["mdpo_other_image"]),
        ("mmdpo train --on_bad_row ", ["error", "skip"]),
        ("mmdpo train --use_peft ", ["true", "false"]),
        ("mmdpo train --ref_cache", ["--ref_cache_dir"]),
        ("mmdpo eval suite compare --lab", ["--labels"]),
        ("mmdpo study compar", ["comparative"]),
        ("mmdpo eval download repo", ["repope"]),
        ("mmdpo diagnose --corruption moc", ["moco_v2"]),
        ("mmdpo diagnose --dataset min", ["mine.yaml"]),
        ("mmdpo diagnose --pairs ", [""]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_line_goes_on_with_what_there_is(line, offered, tmp_path):
    (tmp_path / "mine.yaml").write_text("beta: 0.1\n")
    assert [word.strip() for word in complete(line, tmp_path)] == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_taught_once(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    profile = tmp_path / {"bash": ".bashrc", "zsh": ".zshrc", "fish": "absent"}[shell]
    if shell != "fish":
        profile.write_text("alias l=ls")  # without the end of its line
    assert main(["--install-completion"]) == 0
    first = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["--install-completion", shell]) == 0
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == first
    (script,) = [path for path in first if path != profile]
    assert str(script) in capsys.readouterr().out
    assert main(["--show-completion", shell]) == 0
    assert capsys.readouterr().out == first[script]
    if shell != "fish":
        assert first[profile] == f"alias l=ls\nsource {script}\n"


def test_another_shell_is_refused_and_none_is_guessed(monkeypatch, capsys):
    monkeypatch.delenv("SHELL", raising=False)
    assert main(["--install-completion"]) == 2
    assert main(["--install-completion", "tcsh"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "bash, zsh, fish, and the shell is not known" in told[0]
    assert "the shell is tcsh" in told[1]
