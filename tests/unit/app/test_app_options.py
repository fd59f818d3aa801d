"""What `mmdpo app` says before it opens anything: nothing to open, no Gradio, users that cannot be read."""

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from mmdpo.app.sources import DatasetSource, Sources
from mmdpo.cli import main
from mmdpo.commands.app import AUTH, read_auth


def said(capsys, *words):
    assert main(["app", *map(str, words)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("mmdpo.commands.app.find_spec", lambda name: None)
    assert 'pip install "mmdpo[app]"' in said(capsys, "--data", "world")


def test_nothing_to_open_is_an_error(capsys):
    pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
    assert "name --data, --runs or --models, or try --demo" in said(capsys)
    assert "leave out --data, --models, or --demo" in said(capsys, "--demo", "--data", "world", "--models", "world")
    assert "no such folder" in said(capsys, "--runs", "nowhere")


def test_folders_without_anything_to_show_are_an_error(tmp_path, capsys):
    pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
    (tmp_path / "recipe.yaml").write_text("output_dir: x\n")
    (tmp_path / "trainer_state.json").write_text("{}")
    assert f"there is nothing to show in {tmp_path}: name two runs" in said(capsys, "--runs", tmp_path)


def test_an_address_that_cannot_be_opened_is_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
    from mmdpo.app.page import check_address

    told = said(capsys, "--data", tmp_path / "none", "--host", "192.0.2.1")  # kept for documentation: nobody's
    assert "--host 192.0.2.1: cannot be opened on this machine" in told
    assert "--host no.such.host.invalid: cannot" in said(capsys, "--demo", "--host", "no.such.host.invalid")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"--port {port}: cannot be opened" in said(capsys, "--data", tmp_path / "none", "--port", port)
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        check_address(host, None)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    check_address("localhost", None)  # one of its addresses is enough


def test_uploads_lie_in_a_folder_of_their_own_that_goes_with_the_app(monkeypatch):
    pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
    seen = []

    def launch(app, **_):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        seen.append((folder, stat.S_IMODE(folder.stat().st_mode)))

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr("mmdpo.app.page.build_app", lambda sources: None)
    monkeypatch.setattr("mmdpo.app.page.launch", launch)
    assert main(["app", "--data", "world"]) == 0
    ((folder, rights),) = seen
    assert rights == 0o700
    assert not folder.exists()


def test_two_datasets_of_one_name_are_an_error(tmp_path, capsys):
    pytest.importorskip("gradio", reason="the app needs Gradio: pip install mmdpo[app]")
    row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pairs.jsonl").write_text(row)
    paths = [tmp_path / folder / "pairs.jsonl" for folder in ("one", "other")]
    assert "two datasets are called pairs.jsonl" in said(capsys, "--data", *paths)


def test_users_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(AUTH, raising=False)
    assert read_auth(None) == []
    monkeypatch.setenv(AUTH, "ann:pass:word")
    assert read_auth(None) == [("ann", "pass:word")]
    (tmp_path / "users").write_text("ann:one\n\nbea:two\n")
    assert read_auth(tmp_path / "users") == [("ann", "one"), ("bea", "two")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ann", "line 1: write user:password"),
        (":x", "line 1"),
        ("\nbea:two\n\nann", "line 4: write user:password"),
        ("", "no user in it"),
    ],
)
def test_users_without_a_password_are_an_error_that_shows_none(tmp_path, text, told):
    (tmp_path / "users").write_text(f"{text}\n")
    with pytest.raises(ValueError, match=told):
        read_auth(tmp_path / "users")


def test_the_environment_is_named_where_it_is_wrong(monkeypatch):
    monkeypatch.setenv(AUTH, "secret")
    with pytest.raises(ValueError, match="MMDPO_APP_AUTH: write user:password") as caught:
        read_auth(None)
    assert "secret" not in str(caught.value)


def test_sources_say_what_lies_in_the_folders(tmp_path):
    assert Sources().found.runs == ()
    assert DatasetSource("world").name == "world"
    with pytest.raises(ValueError, match="no such folder"):
        _ = Sources(runs=(Path("nowhere"),)).found


def test_help_imports_nothing_heavy():
    import subprocess

    code = "import sys; from mmdpo.cli import main; main(['--help']); assert 'gradio' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
