"""Wheel and source archive: all that belongs in them, and mmdpo works where nothing but them is installed."""

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

import mmdpo
from small_trainer import write_pairs

ROOT = Path(__file__).parents[2]
MINORS = (11, 12, 13)


def call(*words, **options):
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **options)


def build(source, target, *options, **environment):
    """Builds both archives of a source tree, and returns their paths; without one that options leave out."""
    told = {name: value for name, value in os.environ.items() if name not in ("REPOSITORY_URL", "SITE_URL")}
    done = call(sys.executable, "-m", "hatchling", "build", "-d", target, *options, cwd=source, env=told | environment)
    assert done.returncode == 0, done.stderr
    return next(target.glob("*.whl")), next(target.glob("*.tar.gz"), None)


def find_pythons():
    """Returns a Python of each version that mmdpo is for, where this machine has one, by its minor number."""
    found = {sys.version_info.minor: sys.executable}
    for minor in MINORS:
        own = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3.{minor}")
        for candidate in filter(None, (shutil.which(f"python3.{minor}"), *own)):
            if call(candidate, "-c", "import venv").returncode == 0:
                found.setdefault(minor, candidate)
    return found


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def install(archives, tmp_path_factory):
    """Installs the wheel alone into an empty environment of a Python, once; returns the environment's programs."""

    @functools.cache
    def make(python):
        folder = tmp_path_factory.mktemp("alone") / "venv"
        assert call(python, "-m", "venv", "--without-pip", folder).returncode == 0
        pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-index", "--no-deps")
        pip += ("--no-compile",)  # a test compiles all, to hear what is said of it
        done = call(*pip, archives[0])
        assert done.returncode == 0, done.stderr
        return folder / "bin"

    return make


def read_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_nothing_else(archives):
    with zipfile.ZipFile(archives[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    listed = call("git", "ls-files", "--cached", "--others", "--exclude-standard", "src/mmdpo", cwd=ROOT)
    package = ROOT / "src" / "mmdpo"
    if listed.returncode == 0:
        wanted = {name for name in listed.stdout.split() if (ROOT / name).is_file()}
    else:
        wanted = {
            str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"
        }
    assert names == {name.removeprefix("src/") for name in wanted}
    assert {"mmdpo/py.typed", "mmdpo/recipes/vlm-mdpo-lora.yaml", "mmdpo/study/studies/comparative.yaml"} <= names


def test_the_source_archive_makes_the_same_wheel_and_can_be_worked_on(archives, tmp_path):
    with tarfile.open(archives[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again, _ = build(source, tmp_path / "dist", "-t", "wheel")
    with zipfile.ZipFile(archives[0]) as one, zipfile.ZipFile(again) as other:
        assert {info.filename: info.CRC for info in one.infolist()} == {
            info.filename: info.CRC for info in other.infolist()
        }
    for name in (
        "Makefile", "constraints.txt", ".importlinter", "requirements/locked.txt", "tests/conftest.py", "perf/cpu.py",
        "website/zensical.toml", "docs/training.md", "examples/real_photographs.py", "LICENSE", "CITATION.cff",
    ):  # fmt: skip
        assert (source / name).is_file(), name


def test_links_of_the_readme_lead_to_the_repository_that_publishes_it(tmp_path):
    code = "https://code.example/a/mmdpo"
    wheel, _ = build(ROOT, tmp_path, "-t", "wheel", REPOSITORY_URL=code, SITE_URL="https://docs.example/")
    metadata = read_metadata(wheel)
    assert set(metadata.get_all("Project-URL")) == {
        f"Repository, {code}", f"Issues, {code}/issues", f"Changelog, {code}/blob/main/CHANGELOG.md",
        "Documentation, https://docs.example",
    }  # fmt: skip
    text = metadata.get_payload()
    assert f"]({code}/blob/v{mmdpo.__version__}/docs/training.md" in text
    assert re.findall(r"\]\((?![a-z]+:|#)[^)]*\)", text) == []
    assert all("/raw/" in link for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text))


def test_without_a_repository_the_readme_is_as_it_is(archives):
    metadata = read_metadata(archives[0])
    assert metadata.get_all("Project-URL") is None
    assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text()


def test_one_version_everywhere(archives):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, day = re.search(r"^## ([\d.]+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    assert (str(citation["version"]), str(citation["date-released"])) == (version, day)
    assert version == read_metadata(archives[0])["Version"] == mmdpo.__version__


@pytest.mark.parametrize("minor", MINORS)
def test_the_wheel_installs_on_every_python(minor, install, tmp_path):
    pythons = find_pythons()
    if minor not in pythons:
        pytest.skip(f"there is no Python 3.{minor} here")
    programs = install(pythons[minor])
    # What answers at once needs PyYAML alone, which works without its part in C; the workflows install the others too.
    (tmp_path / "yaml").symlink_to(Path(yaml.__file__).parent)
    told = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = call(programs / "mmdpo", "--version", cwd=tmp_path, env=told)
    assert (done.stdout, done.stderr) == (f"mmdpo {mmdpo.__version__}\n", "")
    for words in (
        ["--help"],
        ["recipes", "vlm-mdpo-lora", "--print"],
        ["merge", "--help"],
        ["data", "check", "--help"],
    ):
        done = call(programs / "mmdpo", *words, cwd=tmp_path, env=told)
        assert (done.returncode, done.stderr) == (0, ""), words
    package = next(programs.parent.glob("lib/python*/site-packages/mmdpo"))
    done = call(programs / "python", "-W", "error", "-m", "compileall", "-q", "-f", package)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_an_installed_mmdpo_trains_away_from_the_repository(install, tmp_path):
    """Its dependencies come from the environment of the tests, mmdpo itself from the wheel."""
    programs = install(sys.executable)
    told = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"}
    listed = call(programs / "mmdpo", "recipes", cwd=tmp_path, env=told)
    assert "vlm-mdpo-lora" in listed.stdout, listed.stderr
    where = call(programs / "python", "-c", "import mmdpo; print(mmdpo.__file__)", cwd=tmp_path, env=told)
    assert Path(where.stdout.strip()).is_relative_to(programs.parent)
    quick = ("--precompute_ref_log_probs", "false", "--check_data", "text", "--eval_strategy", "no")
    data = ("--dataset_name", write_pairs(tmp_path, 4).name)
    words = ("--max_steps", "1", "--use_cpu", "true", "--output_dir", "run", *data, *quick)
    done = call(programs / "mmdpo", "train", "--config", "world-mdpo", *words, cwd=tmp_path, env=told)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "model.safetensors").is_file()
