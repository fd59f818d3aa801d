"""Every fenced block of README and docs is run, or says why not; every command of theirs is one that mmdpo understands.

In front of a block that is not run stands `<!-- not run: REASON -->`. Its commands are parsed all the same.
"""

import importlib.util
import json
import re
from functools import partial
from pathlib import Path

import datasets
import pytest
import yaml

import mmdpo
from chat_server import Act, serve
from mmdpo.checkpoints import bunny
from mmdpo.cli import main
from mmdpo.commands import Verbs, all_verbs
from mmdpo.evaluation.download import default_folder
from mmdpo.options import parse_options
from mmdpo.pairs.options import IterateOptions, PairsOptions
from mmdpo.shipped import RECIPES
from mmdpo.study.study_file import read_study
from mmdpo.training.recipe import parse_recipe
from page_blocks import PAGES, ROOT, PageShell, as_typed, read_blocks, set_flags
from page_workplace import MAKERS, TINY, fill_benchmarks, paint, prepare, stand_in, write_rows
from tiny_bunny import TOWER, TOWER_SETTINGS

RUN_BY = {
    "docs/pairs.md": "tests/integration/test_guide_of_pairs.py",
    "docs/python.md": "tests/integration/test_python_page.py",
    "docs/reproduce.md": "tests/integration/test_reproduce.py",
}
"""Pages whose blocks another test runs as they stand."""

PARSED_ALONE = {
    ("app",): "it serves a page until it is stopped",
    ("data", "download"): "it needs the network",
    ("eval", "download"): "it needs the network",
    ("eval", "world_large"): "its model is built for minutes first",
    ("iterate",): "it takes minutes and a judge",
    ("pairs",): "it takes a policy and a judge; docs/pairs.md is run as a whole",
    ("quickstart",): "it takes minutes",
    ("study",): "it takes minutes",
    ("@launch",): "it starts several processes",
    ("@make",): "it makes an environment",
    ("@python",): "it takes minutes, or the network",
    ("@sbatch",): "it needs a cluster",
}
"""Beginning of a command → why it is not run where it stands among others."""

NAMES = {str(page.relative_to(ROOT)): page for page in PAGES if read_blocks(page)}
TUTORIALS = "docs/tutorials/"


def page_script(page, *, with_marked):
    blocks = [block for block in read_blocks(page) if block.language == "bash"]
    return "\n".join(block.text for block in blocks if with_marked or block.reason is None)


# -- every block ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_of_a_kind_that_is_run_or_read(name):
    unknown = [
        block.name
        for block in read_blocks(NAMES[name])
        if block.language not in ("bash", "python", "yaml", "json", "", "text") and block.reason is None
    ]
    assert unknown == [], "say why they are not run: <!-- not run: REASON --> in front"


@pytest.mark.parametrize("name", RUN_BY)
def test_a_page_that_another_test_runs_is_named_there(name):
    assert Path(name).name in (ROOT / RUN_BY[name]).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_data_and_options_can_be_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in read_blocks(NAMES[name]):
        if block.language == "json":
            read_json(block.text)
        elif block.language == "yaml" and block.reason is None:
            read_options(block.text, tmp_path)


def read_json(text):
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


def read_options(text, folder):
    """Reads a YAML block by what reads such a file: a study, pairs, rounds, or else a recipe, whole or a part."""
    content, file = yaml.safe_load(text), folder / "block.yaml"
    file.write_text(text)
    if "variants" in content:
        assert read_study(str(file)).name == content["name"]
    elif "train" in content:
        parse_options(IterateOptions, ["--config", str(file)], "iterate")
    elif "prompts" in content:
        parse_options(PairsOptions, ["--config", str(file)], "pairs all")
    else:
        needed = {"model_name_or_path": "some/model", "dataset_name": "pairs.jsonl", "output_dir": "out"}
        flags = [word for key, value in needed.items() if key not in content for word in (f"--{key}", value)]
        assert parse_recipe(["--config", str(file), *flags, "--use_cpu", "true"])


# -- every command is one that mmdpo understands ----------------------------------------------------------------------


def parse(words):
    """Reads a command by the parser of its verb; raises what that raises. Returns 0."""
    if words[0] == "@make":
        makefile = (ROOT / "Makefile").read_text()
        missing = [target for target in words[1:] if f"\n{target}:" not in makefile]
        assert missing == [], f"the Makefile has no target {missing}"
        return 0
    if words[0] == "@python":
        assert words[1] == "-m", words
        if words[2].partition(".")[0] != "nltk":
            assert importlib.util.find_spec(words[2]) is not None, f"there is no module {words[2]}"
        return 0
    if words[0] == "@sbatch":
        assert words[1].endswith(".sbatch"), words
        words = ["train", "--config", *words[2:]]
    typed = as_typed(words[1:] if words[0] == "@launch" else words)
    if typed == ["--version"]:
        return main(typed)
    if typed[0] == "recipes":
        return main(typed)  # prints the path that the line goes on with
    verb, command = all_verbs(), ""
    while typed and typed[0] in getattr(verb, "verbs", {}):
        verb, command = verb.verbs[typed[0]], f"{command} {typed[0]}".lstrip()
        typed = typed[1:]
    if isinstance(verb, Verbs):
        return verb(typed, command)  # prints its help, or says that there is no such verb
    if verb.options is not None:
        parse_options(verb.options, typed, command)
    elif not {"--help", "--help_all"} & set(typed):
        read_recipe_flags(typed)
    return 0


def read_recipe_flags(words):
    words = [word for word in words if word not in ("--key", "value", "--dry_run")]
    if "--config" in words and words[words.index("--config") + 1] not in RECIPES.all_names():
        words[words.index("--config") + 1] = "vlm-mdpo-lora"  # a file that the reader has written
    parse_recipe(set_flags(words, ["--use_cpu", "true"]))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_understood(name, tmp_path, monkeypatch):
    script = page_script(NAMES[name], with_marked=True)
    monkeypatch.chdir(tmp_path)
    problems = []

    def understand(words):
        try:
            return parse(words)
        except (AssertionError, ValueError, TypeError) as error:
            problems.append(f"{' '.join(words)}: {error}")
            return 2

    for file in ("pairs.yaml", "iterate.yaml"):
        if file in script:
            MAKERS[file](Path(file))
    monkeypatch.syspath_prepend(tmp_path)
    for block in read_blocks(NAMES[name]):
        if block.text.startswith("%%writefile "):  # a cell of a tutorial
            first, _, content = block.text.partition("\n")
            file = tmp_path / first.split()[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
    shell = PageShell(tmp_path, understand)
    _, said = shell.execute(script, stops=False)
    assert problems == []
    assert "command not found" not in said
    assert len(shell.lines) >= len(re.findall(r"^ *mmdpo ", script, re.MULTILINE)), said


# -- blocks are run ---------------------------------------------------------------------------------------------------


def why_not(words):
    """Returns why a command is not run; None for one that is."""
    if words[:1] == ["study"] and {"--list", "--print"} & set(words):
        return None
    if "--push_to_hub" in words:
        return "it needs the network"
    return next((reason for start, reason in PARSED_ALONE.items() if tuple(words[: len(start)]) == start), None)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setitem(bunny.VISION_TOWERS, TOWER, TOWER_SETTINGS)
    fill_benchmarks(tmp_path / "benchmarks")
    fill_benchmarks(default_folder(), downloaded=True)
    return tmp_path


def is_run_here(name):
    return name not in RUN_BY and not name.startswith(TUTORIALS) and page_script(NAMES[name], with_marked=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", filter(is_run_here, NAMES))
def test_the_commands_of_a_page_run(name, workplace):
    script = page_script(NAMES[name], with_marked=False)
    prepare(workplace, script)
    unrun = []

    def run(words):
        typed = as_typed(words)
        if reason := why_not(typed):
            unrun.append(f"{' '.join(typed)}: {reason}")
            return 0
        if typed[0] == "recipes" and "--path" in typed:
            return main(typed)
        return main(stand_in(typed, server.url))

    with serve(lambda request, number: Act('["dog"]\nRating: 3')) as server:
        shell = PageShell(workplace, run)
        status, said = shell.execute(script)
    assert status == 0, f"{name}, {shell.lines[-1]}:\n{said[-3000:]}"
    print("\n".join(unrun))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in (*RUN_BY, "README.md") and TUTORIALS not in name]
)
def test_a_block_of_which_nothing_is_run_says_so(name, tmp_path):
    for block in read_blocks(NAMES[name]):
        if block.language == "bash" and block.reason is None:
            shell = PageShell(tmp_path, lambda words: 0)
            shell.execute(block.text, stops=False)
            ran = [words for words, _ in shell.lines if why_not(as_typed(words)) is None]
            assert ran, f"{block.name}: none of its commands is run; say why: <!-- not run: REASON --> in front"


def python_blocks(name):
    return [block for block in read_blocks(NAMES[name]) if block.language == "python" and block.reason is None]


def is_python_run_here(name):
    return name not in RUN_BY and not name.startswith(TUTORIALS) and python_blocks(name)


def tiny_config(**options):
    """Returns the options of a page's example, for two steps on a CPU."""
    small = dict(max_steps=2, use_cpu=True, report_to="none", save_strategy="no", per_device_train_batch_size=2)
    return mmdpo.MDPOConfig(**(options | small | dict(disable_tqdm=True, dataset_num_proc=1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", filter(is_python_run_here, NAMES))
def test_the_python_of_a_page_runs(name, workplace, monkeypatch):
    from mmdpo.models.load import load_model, load_processor
    from mmdpo.models.start import resolve_start

    blocks = python_blocks(name)
    prepare(workplace, "pairs.jsonl " + "\n".join(block.text for block in blocks))
    paint(workplace / "street.jpg")
    write_rows(workplace / "published.json")
    published = partial(datasets.load_dataset, "json", data_files=str(workplace / "published.json"))
    rows = published(split="train").cast_column("images", datasets.Sequence(datasets.Image()))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    start = resolve_start(TINY)
    given = {"mmdpo": mmdpo, "model": load_model(start), "processor": load_processor(start), "tiny_config": tiny_config}
    for block in blocks:
        text = re.sub(r'"[\w-]+/[\w.-]*(VL|llava)[\w.-]*"', repr(TINY), block.text).replace(
            "MDPOConfig(", "tiny_config("
        )
        exec(compile("\n" * block.line + text, str(block.page), "exec"), given)
